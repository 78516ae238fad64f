"""What it costs to be told, ``instrumentation=``, and to be read, ``/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import attrs
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, generate_latest

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info
from benchmarks.harness import Case, Goal, Variant
from stateful_route import StatefulRoute
from stateful_route.instrumentation import Instrumentation
from stateful_route.metrics.opentelemetry import Spans
from stateful_route.metrics.prometheus import exposition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.harness import Lab, Round
    from stateful_route import ClientDriver, ServerDriver

_HITS = 4_000
_CALLERS = 100
_MISSES = 1_000
_SCRAPES = 10
_ABSENT = "without"
_NUMBERS = itertools.count()


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    server = lab.server()
    hooks = {
        "ours": Instrumentation(),
        _ABSENT: None,
        "ours, spans nobody takes": Spans(),
        "ours, spans that are sampled": Spans(TracerProvider().get_tracer("benchmark")),
    }
    config = attrs.evolve(CONFIG, drain_deadline=0.1, stop_deadline=1.0)
    async with contextlib.AsyncExitStack() as stack:
        open_route = await stack.enter_async_context(StatefulRoute.from_url(server.url, config))
        pods = [await stack.enter_async_context(open_route.server(info(index))) for index in range(4)]
        clients = {}
        for name, hook in hooks.items():
            route = StatefulRoute.from_url(server.url, config, instrumentation=hook)
            clients[name] = await stack.enter_async_context((await stack.enter_async_context(route)).client())
        hits, misses = ({name: make(client) for name, client in clients.items()} for make in (_hits, _misses))
        yield [
            Variant("a cached hit", hits.pop("ours"), hits.pop(_ABSENT), hits, goals=[Goal(1.05, of=_ABSENT)]),
            Variant(f"a miss of a new uid, {_CALLERS} callers", misses.pop("ours"), misses.pop(_ABSENT), misses),
            Variant(
                "/metrics of a client driver and a server driver",
                _read(clients["ours"], pods[0]),
                _counters(exposition(client=clients["ours"], server=pods[0])),
                goals=[Goal(1.0, of=_ABSENT)],
            ),
        ]


def _hits(client: ClientDriver) -> Round:
    async def measure() -> float:
        await client.compute_linked_pod(NAMESPACE, "known", SERVICE)
        began = time.thread_time_ns()
        for _ in range(_HITS):
            await client.compute_linked_pod(NAMESPACE, "known", SERVICE)
        return (time.thread_time_ns() - began) / _HITS / 1000

    return measure


def _misses(client: ClientDriver) -> Round:
    async def ask(uids: list[str]) -> None:
        for uid in uids:
            await client.compute_linked_pod(NAMESPACE, uid, SERVICE)

    async def measure() -> float:
        shares = [[f"new-{next(_NUMBERS)}" for _ in range(_MISSES // _CALLERS)] for _ in range(_CALLERS)]
        began = time.thread_time_ns()
        await asyncio.gather(*map(ask, shares))
        return (time.thread_time_ns() - began) / _MISSES / 1000

    return measure


def _read(client: ClientDriver, server: ServerDriver) -> Round:
    async def measure() -> float:
        began = time.thread_time_ns()
        for _ in range(_SCRAPES):
            exposition(client=client, server=server)
        return (time.thread_time_ns() - began) / _SCRAPES / 1000

    return measure


def _counters(text: bytes) -> Round:
    """Read as many counters of prometheus_client's own as there are samples in that text."""
    registry = CollectorRegistry()
    for number in range(sum(not line.startswith(b"#") for line in text.splitlines())):
        Counter(f"counter_{number}", "Number.", ["source"], registry=registry).labels("x").inc(number)

    async def measure() -> float:
        began = time.thread_time_ns()
        for _ in range(_SCRAPES):
            generate_latest(registry)
        return (time.thread_time_ns() - began) / _SCRAPES / 1000

    return measure


TOLD = Case(
    name="told",
    title="processor time with a hook that hears everything and does nothing, and with one that makes spans",
    reference="the same without a hook; for /metrics, as many counters of prometheus_client itself",
    versus=_ABSENT,
    unit="us",
    goal=Goal(1.3),
    rounds=60,
    quick_rounds=3,
    open=_open,
)
