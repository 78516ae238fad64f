"""A pod is killed with -9: how long until each of its uids is routed elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import SERVICE
from benchmarks.harness import Case, Goal, Variant
from stateful_route import BaseConfig, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.harness import Lab, Round
    from stateful_route import ClientDriver

_UIDS = 200
_LEASE = 1.0
_CONFIG = BaseConfig(heartbeat=_LEASE / 5, lease=_LEASE)
_LOOK = 0.01

# The pod that is killed: it claims its uids, says so, and lives until then.
_POD = """
import asyncio, sys
from stateful_route import BaseConfig, ServerInfo, StatefulRoute

async def main(url, namespace, service, uids, heartbeat, lease):
    config = BaseConfig(heartbeat=heartbeat, lease=lease, index_is_exclusive=True)
    info = ServerInfo(namespace=namespace, service_name=service, pod_name="killed", pod_index=0)
    async with StatefulRoute.from_url(url, config) as route, route.server(info) as server:
        for number in range(uids):
            await server.claim(f"user-{number}")
        print("ready", flush=True)
        await asyncio.sleep(60)

url, namespace, service, uids, heartbeat, lease = sys.argv[1:]
asyncio.run(main(url, namespace, service, int(uids), float(heartbeat), float(lease)))
"""


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    url = lab.server().url
    yield [
        Variant("lease ends", _failover(url, reports=False), _bound),
        Variant("reported", _failover(url, reports=True), _bound),
    ]


async def _bound() -> float:
    return _LEASE


def _failover(url: str, *, reports: bool) -> Round:
    async def measure() -> float:
        config = attrs.evolve(_CONFIG, namespace=f"bench-{uuid.uuid4().hex}")
        other = ServerInfo(namespace=config.namespace, service_name=SERVICE, pod_name="other", pod_index=1)
        async with StatefulRoute.from_url(url, config) as route, route.server(other), route.client() as client:
            pod = await _start_pod(url, config.namespace)
            try:
                await _settle(client)
                killed = time.perf_counter()
                pod.kill()
                await pod.wait()
                if reports:
                    await client.report_unreachable("", SERVICE, 0)
                await _all_moved(client)
                return time.perf_counter() - killed
            finally:
                with contextlib.suppress(ProcessLookupError):
                    pod.kill()

    return measure


async def _start_pod(url: str, namespace: str) -> asyncio.subprocess.Process:
    arguments = [url, namespace, SERVICE, str(_UIDS), str(_CONFIG.heartbeat), str(_LEASE)]
    pod = await asyncio.create_subprocess_exec(sys.executable, "-c", _POD, *arguments, stdout=asyncio.subprocess.PIPE)
    assert pod.stdout is not None
    assert await pod.stdout.readline() == b"ready\n"
    return pod


async def _settle(client: ClientDriver) -> None:
    """Route every uid once, and watch the pods for a lease, as a client does that has been up for a while."""
    await client.batch_compute_linked_pod("", [f"user-{number}" for number in range(_UIDS)], SERVICE)
    await asyncio.sleep(_LEASE)


async def _all_moved(client: ClientDriver) -> None:
    waiting = {f"user-{number}" for number in range(_UIDS)}
    while waiting:
        for uid in tuple(waiting):
            if await client.compute_linked_pod("", uid, SERVICE) != 0:
                waiting.discard(uid)
        await asyncio.sleep(_LOOK)


FAILOVER = Case(
    name="failover",
    title=f"kill -9 of a pod until each of its {_UIDS} uids is routed elsewhere",
    reference=f"the lease of {_LEASE:g} s; the goal is lease + 1 s",
    versus="lease",
    unit="s",
    goal=Goal((_LEASE + 1) / _LEASE),
    rounds=10,
    quick_rounds=1,
    warm_up=False,
    open=_open,
)
