"""How many commands a miss and a takeover send, as the server sees them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from benchmarks.cases.pods import NAMESPACE, SERVICE, info
from benchmarks.comparison import Comparison
from benchmarks.deaths import QUIET, client_after_a_death
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.harness import Lab
from benchmarks.rows import Row
from stateful_route import StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio.client import Monitor

    from benchmarks.rows import Options
    from stateful_route import ClientDriver
    from stateful_route.embedded.server import LocalServer

_UIDS = 50
_LAST = "last-of-all"


async def _run(options: Options) -> AsyncIterator[Row]:
    with Lab(options) as lab:
        server = lab.server()
        async with StatefulRoute.from_url(server.url, QUIET) as route, route.server(info(0)):
            async with route.client() as client:
                await client.compute_linked_pod("", "warm", SERVICE)
                sent = await _sent(server, client, [f"miss-{number:04}" for number in range(_UIDS)], pod_index=0)
            yield _row("a miss", sent, lab)
            sent = await _taken_over(server, route)
            yield _row("a takeover", sent, lab)


async def _taken_over(server: LocalServer, route: StatefulRoute) -> list[float]:
    """Count for uids whose pod has died."""
    uids = [f"takeover-{number:04}" for number in range(_UIDS)]
    async with client_after_a_death(server.url, route.store, uids, pod_index=1) as client:
        return await _sent(server, client, uids, pod_index=0)


async def _sent(server: LocalServer, client: ClientDriver, uids: list[str], *, pod_index: int) -> list[float]:
    """Return how many commands each call sent; not those inside of a script, which come from no connection."""
    seen: list[str] = []

    async def watch(monitor: Monitor) -> None:
        async for command in monitor.listen():
            if _LAST in command["command"]:
                return
            if command["client_type"] != "lua":
                seen.append(command["command"])

    async with Redis.from_url(server.url) as redis, redis.monitor() as monitor:
        watching = asyncio.create_task(watch(monitor))
        for uid in uids:
            assert await client.compute_linked_pod(NAMESPACE, uid, SERVICE) == pod_index
        server.ask("ECHO", _LAST)
        await asyncio.wait_for(watching, 5.0)
    counts = [float(sum(uid in command for command in seen)) for uid in uids]
    assert sum(counts) == len(seen), (
        f"something else was sent: {[other for other in seen if not any(uid in other for uid in uids)]}"
    )
    return counts


def _row(variant: str, sent: list[float], lab: Lab) -> Row:
    return Row(
        case=COMMANDS,
        variant=variant,
        unit="commands",
        figures={SUBJECT: sent},
        goals=(Ceiling(1.0, quantile=1.0),),
        server=lab.server_version,
    )


COMMANDS = Comparison(
    name="commands",
    title="commands that one call sends to the server, as MONITOR sees them",
    reference="the goal",
    goal="1 for a miss, and 1 for the takeover of a link whose pod has died",
    run=_run,
)
