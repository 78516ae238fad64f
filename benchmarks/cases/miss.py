"""The pod of a uid that is not cached, one caller at a time."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import attrs
from redis.asyncio import Redis

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.harness import Case, Goal, Variant
from benchmarks.placing import record_placing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from benchmarks.harness import Lab, Round
    from benchmarks.placing import Placing
    from stateful_route import ClientDriver

_CALLS = 50
_KNOWN = 1_000


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    server = lab.server()
    async with (
        route_with_pods(server) as route,
        route_with_pods(server, attrs.evolve(CONFIG, cache_size=1), pods=0) as forgetful_route,
        route.client() as client,
        forgetful_route.client() as forgetful,
        Redis.from_url(server.url) as redis,
    ):
        placing = await record_placing((await client.pods("", SERVICE))[0].life, CONFIG.link_ttl)
        await redis.script_load(placing.recorded.script.source)
        yield [
            Variant("new", _subject(client, _new("s")), _reference(redis, placing, _new("r"))),
            Variant("known", _subject(forgetful, _known("s")), _reference(redis, placing, _known("r"))),
        ]
        for driver in (client, forgetful):
            statistics = driver.statistics()
            assert statistics.hits == 0, f"not all were misses: {statistics}"


def _new(prefix: str) -> Iterator[str]:
    return (f"{prefix}-{number:06}" for number in itertools.count())


def _known(prefix: str) -> Iterator[str]:
    return itertools.cycle([f"{prefix}-known-{number:06}" for number in range(_KNOWN)])


def _subject(client: ClientDriver, all_uids: Iterator[str]) -> Round:
    async def measure() -> float:
        uids = list(itertools.islice(all_uids, _CALLS))
        start = time.perf_counter_ns()
        for uid in uids:
            await client.compute_linked_pod(NAMESPACE, uid, SERVICE)
        return _per_call(start)

    return measure


def _reference(redis: Redis, placing: Placing, all_uids: Iterator[str]) -> Round:
    async def measure() -> float:
        calls = [placing.call(uid) for uid in itertools.islice(all_uids, _CALLS)]
        commands = [(call.script.sha, len(call.keys), (*call.keys, *call.args)) for call in calls]
        start = time.perf_counter_ns()
        for sha, key_count, keys_and_args in commands:
            await redis.evalsha(sha, key_count, *keys_and_args)
        return _per_call(start)

    return measure


def _per_call(start: int) -> float:
    """Return microseconds for one call; what the loop takes is nothing beside it."""
    return (time.perf_counter_ns() - start) / _CALLS / 1000


MISS = Case(
    name="miss",
    title="compute_linked_pod of a uid that is not cached, one caller at a time",
    reference="one EVALSHA of the same script, with the same arguments, by redis.asyncio.Redis with its own pool",
    versus="redis.asyncio",
    unit="us",
    goal=Goal(1.1),
    rounds=200,
    quick_rounds=8,
    open=_open,
)
