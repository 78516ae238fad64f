"""The pod of a uid that is cached."""

from __future__ import annotations

import contextlib
import functools
import random
import time
import types
from typing import TYPE_CHECKING

from benchmarks import plot
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.harness import Case, Goal, Variant
from benchmarks.peers import Filling, missing_module
from benchmarks.peers.caches import OTHERS, TTL_CACHE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from benchmarks.harness import Lab, Round
    from benchmarks.peers import Lookup
    from benchmarks.rows import Row
    from stateful_route import ClientDriver

    Choose = Callable[[], list[str]]

PEEK = "ours, peek"
_CALLS = 4_000
_CALLS_OF_OTHERS = 1_000


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    links = lab.options.pick(100_000, 20_000)
    uids = [f"user-{number:06}" for number in range(links)]
    filling = Filling(
        namespace=NAMESPACE,
        service=SERVICE,
        uids=lambda: _copies(uids),
        pod_index=1,
        ttl=CONFIG.cache_ttl,
        size=CONFIG.cache_size,
    )
    missing = {peer.name: why for peer in OTHERS if (why := missing_module(peer.module)) is not None}
    async with (
        route_with_pods(lab.server()) as route,
        route.client() as client,
        TTL_CACHE.open(filling) as in_ttl_cache,
        contextlib.AsyncExitStack() as stack,
    ):
        lookups = {
            peer.name: await stack.enter_async_context(peer.open(filling))
            for peer in OTHERS
            if peer.name not in missing and not lab.options.alone
        }
        await client.batch_compute_linked_pod("", _copies(uids), SERVICE)
        before = client.statistics()

        def hot(count: int = _CALLS) -> list[str]:
            return [uids[0]] * count

        def fresh(count: int = _CALLS) -> list[str]:
            return _copies(random.sample(uids, count))

        yield [
            Variant(
                choose.__name__,
                _awaited(client, choose),
                _lookup(in_ttl_cache, choose),
                {PEEK: _peeked(client, choose)}
                | {name: _lookup(one, functools.partial(choose, _CALLS_OF_OTHERS)) for name, one in lookups.items()},
                {} if lab.options.alone else missing,
            )
            for choose in (hot, fresh)
        ]
        after = client.statistics()
        assert (before.cached, before.misses) == (links, after.misses), f"not all were hits: {before}, then {after}"


def _copies(uids: Sequence[str]) -> list[str]:
    """Return strings that are equal and not the same objects: none of them knows its hash yet."""
    return [uid.encode().decode() for uid in uids]


# The loops are written out for each way to call, and copied for each side: so each call has an inline cache of the
# interpreter to itself, as it has in an application.


def _awaited(client: ClientDriver, choose: Choose) -> Round:
    async def measure() -> float:
        uids = choose()
        start = time.thread_time_ns()
        for uid in uids:
            await client.compute_linked_pod(NAMESPACE, uid, SERVICE)
        return _per_call(uids, time.thread_time_ns() - start)

    return measure


def _peeked(client: ClientDriver, choose: Choose) -> Round:
    async def measure() -> float:
        uids = choose()
        start = time.thread_time_ns()
        for uid in uids:
            client.peek(NAMESPACE, uid, SERVICE)
        return _per_call(uids, time.thread_time_ns() - start)

    return measure


async def _look_up(lookup: Lookup, choose: Choose) -> float:
    uids = choose()
    start = time.thread_time_ns()
    for uid in uids:
        await lookup(NAMESPACE, uid, SERVICE)
    return _per_call(uids, time.thread_time_ns() - start)


def _lookup(lookup: Lookup, choose: Choose) -> Round:
    own = types.FunctionType(_look_up.__code__.replace(), globals())
    return functools.partial(own, lookup, choose)


def _per_call(uids: list[str], took: int) -> float:
    """Return nanoseconds for one call, with what the bare ``for`` loop took taken off.

    They are of the thread's processor time. A hit waits for nothing, so they are those of the clock too, but for the
    time in which the machine ran something else.
    """
    start = time.thread_time_ns()
    for _ in uids:
        pass
    return (took - (time.thread_time_ns() - start)) / len(uids)


def _draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    path = folder / "hit.png"
    plot.draw_points(rows, path, title="A hit: the pod of a uid that is cached", label="ns for one call")
    return [path]


HIT = Case(
    name="hit",
    title="awaited compute_linked_pod of a cached uid, 100,000 links cached; and peek, which is not awaited",
    reference="an awaited coroutine around cachetools.TTLCache[namespace, uid, service], as full; and other caches",
    versus=TTL_CACHE.name,
    unit="ns",
    goal=Goal(0.3),
    rounds=100,
    quick_rounds=8,
    open=_open,
    draw=_draw,
)
