"""How long a client that uses many services keeps its event loop busy in one turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import CONFIG, NAMESPACE
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.harness import Lab
from benchmarks.rows import Row
from stateful_route import ServerInfo, StatefulRoute
from stateful_route.store import PodReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.rows import Options
    from stateful_route import ClientDriver
    from stateful_route.store import Store

_SERVICES, _PODS = 100, 20
_REFRESH = 1.0
_CONFIG = attrs.evolve(CONFIG, refresh=_REFRESH)


async def _run(options: Options) -> AsyncIterator[Row]:
    seconds = options.pick(10, 1)
    gc.collect()
    gc.freeze()  # a full collection takes milliseconds with what the other cases have imported
    with Lab(options) as lab:
        async with StatefulRoute.from_url(lab.server().url, _CONFIG) as route, route.client() as client:
            lives = await _register(route.store)
            background = asyncio.gather(_beat(route.store, lives), _use(client))
            try:
                await asyncio.sleep(2 * _REFRESH)
                turns = await _busy_turns(seconds)
            finally:
                background.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await background
        gc.unfreeze()
        yield Row(
            case=SERVICES,
            variant=f"{_SERVICES} services in use, {_PODS} pods in each: longest turns",
            unit="ms",
            figures={SUBJECT: sorted(turns)[-seconds:]},
            goals=(Ceiling(3.0),),
            server=lab.server_version,
        )


async def _register(store: Store) -> dict[ServerInfo, int]:
    """Return the pods, each with its incarnation."""
    lives = {}
    for number in range(_SERVICES * _PODS):
        pod = ServerInfo(
            namespace=NAMESPACE,
            service_name=f"room-{number % _SERVICES}",
            pod_name=f"pod-{number}",
            pod_index=number // _SERVICES,
        )
        lives[pod] = (
            await store.register(pod, PodReport(), CONFIG.lease_seconds, CONFIG.retention_seconds)
        ).incarnation
    return lives


async def _beat(store: Store, lives: dict[ServerInfo, int]) -> None:
    """Send a heartbeat of each pod in each period, with another load: all are read each time."""
    sequence = 0
    while True:
        sequence += 1
        for number, (pod, incarnation) in enumerate(lives.items()):
            report = PodReport(load=sequence, links=sequence)
            await store.heartbeat(pod, incarnation, sequence, report, CONFIG.lease_seconds, CONFIG.retention_seconds)
            if number % 20 == 0:
                await asyncio.sleep(_REFRESH * 20 / len(lives))


async def _use(client: ClientDriver) -> None:
    """Look up new uids in all services, again and again."""
    number = 0
    while True:
        number += 1
        await client.compute_linked_pod("", f"uid-{number}", f"room-{number % _SERVICES}")
        await asyncio.sleep(0.001)


async def _busy_turns(seconds: float) -> list[float]:
    """Return for how many milliseconds of processor time each turn of the event loop has run."""
    turns = []
    end = time.monotonic() + seconds
    before = time.thread_time()
    while time.monotonic() < end:
        await asyncio.sleep(0)
        now = time.thread_time()
        turns.append((now - before) * 1000)
        before = now
    return turns


SERVICES = Comparison(
    name="services",
    title="longest turns of the event loop of a client that uses many services, one for each second; processor time",
    reference="the goal",
    goal="the median of them is 3 ms or less: readings of the pods are spread over the period",
    run=_run,
)
