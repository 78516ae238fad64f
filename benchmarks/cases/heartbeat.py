"""What a pod publishes does not depend on how many links it holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import CONFIG, info
from benchmarks.harness import Case, Goal, Variant
from stateful_route import RoutingState, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.harness import Lab, Round
    from stateful_route import ServerDriver

# At the end nobody waits until all links are handed over.
_CONFIG = attrs.evolve(CONFIG, drain_deadline=0.1)
_FEW = 10
_BEATS = 20
_AT_ONCE = 200


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    many = lab.options.pick(100_000, 2_000)
    async with (
        StatefulRoute.from_url(lab.server().url, _CONFIG) as route,
        route.server(info(0)) as large,
        route.server(info(1)) as small,
    ):
        await _claim(large, many)
        await _claim(small, _FEW)
        yield [Variant(f"{many:,} links", _beats(large), _beats(small))]
        assert large.owned("0-0") is not None


async def _claim(server: ServerDriver, count: int) -> None:
    uids = iter([f"{server.server_info.pod_index}-{number}" for number in range(count)])

    async def claim() -> None:
        for uid in uids:
            assert (await server.claim(uid)).is_owned()

    await asyncio.gather(*(claim() for _ in range(min(count, _AT_ONCE))))


def _beats(server: ServerDriver) -> Round:
    """Return the microseconds of a heartbeat that is published at once, as a change of the routing state is."""

    async def measure() -> float:
        begun = time.perf_counter()
        for _ in range(_BEATS // 2):
            await server.set_routing_state(RoutingState.DENY_NEW_CALL)
            await server.set_routing_state(RoutingState.READY)
        return (time.perf_counter() - begun) / _BEATS * 1e6

    return measure


HEARTBEAT = Case(
    name="heartbeat",
    title="a heartbeat of a pod that holds many links",
    reference=f"one of a pod that holds {_FEW} links",
    versus=f"{_FEW} links",
    unit="us",
    goal=Goal(1.2),
    rounds=100,
    quick_rounds=5,
    open=_open,
)
