"""The pod of a uid that is cached."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, TypeAlias

from cachetools import TTLCache

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.harness import Case, Goal, Variant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from benchmarks.harness import Lab, Round
    from stateful_route import ClientDriver

    Cache: TypeAlias = TTLCache[tuple[str, str, str], int]

_LINKS = 100_000
_CALLS = 4_000


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    uids = [f"user-{number:06}" for number in range(_LINKS)]
    async with route_with_pods(lab.server()) as route, route.client() as client:
        await client.batch_compute_linked_pod("", _copies(uids), SERVICE)
        cache: Cache = TTLCache(CONFIG.cache_size, CONFIG.cache_ttl)
        for uid in _copies(uids):
            cache[NAMESPACE, uid, SERVICE] = 1
        before = client.statistics()

        def hot() -> list[str]:
            return [uids[0]] * _CALLS

        def fresh() -> list[str]:
            return _copies(random.sample(uids, _CALLS))

        yield [Variant(choose.__name__, _subject(client, choose), _reference(cache, choose)) for choose in (hot, fresh)]
        after = client.statistics()
        assert (before.cached, before.misses) == (_LINKS, after.misses), f"not all were hits: {before}, then {after}"


def _copies(uids: Sequence[str]) -> list[str]:
    """Return strings that are equal and not the same objects: none of them knows its hash yet."""
    return [uid.encode().decode() for uid in uids]


# The loops are written out twice, and not one loop given the function to call: so each call has an inline cache of
# the interpreter to itself, as it has in an application.


def _subject(client: ClientDriver, choose: Callable[[], list[str]]) -> Round:
    async def measure() -> float:
        uids = choose()
        start = time.thread_time_ns()
        for uid in uids:
            await client.compute_linked_pod(NAMESPACE, uid, SERVICE)
        return _per_call(uids, time.thread_time_ns() - start)

    return measure


def _reference(cache: Cache, choose: Callable[[], list[str]]) -> Round:
    async def pod_of(namespace: str, uid: str, service_name: str) -> int:
        return cache[namespace, uid, service_name]

    async def measure() -> float:
        uids = choose()
        start = time.thread_time_ns()
        for uid in uids:
            await pod_of(NAMESPACE, uid, SERVICE)
        return _per_call(uids, time.thread_time_ns() - start)

    return measure


def _per_call(uids: list[str], took: int) -> float:
    """Return nanoseconds for one awaited call, with what the bare ``for`` loop took taken off.

    They are of the thread's processor time. A hit waits for nothing, so they are those of the clock too, but for the
    time in which the machine ran something else.
    """
    start = time.thread_time_ns()
    for _ in uids:
        pass
    return (took - (time.thread_time_ns() - start)) / len(uids)


HIT = Case(
    name="hit",
    title=f"awaited compute_linked_pod of a cached uid, {_LINKS:,} links cached",
    reference="an awaited coroutine around cachetools.TTLCache[namespace, uid, service], as full",
    unit="ns",
    goal=Goal(0.5),
    rounds=300,
    open=_open,
)
