"""Many uids in one call, none of them cached; each round in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import attrs
from redis.asyncio import Redis

from benchmarks import worker
from benchmarks.cases.pods import CONFIG, SERVICE, route_with_pods
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.placing import record_placing
from benchmarks.resident import peak, resident
from benchmarks.rows import Row
from benchmarks.stalls import watched
from stateful_route.embedded.server import LocalServer
from stateful_route.links import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from benchmarks.rows import Options

_OTHER = "redis.asyncio, pipelines"
_PIPELINE = 1_000
_MOST_MS = 20.0
_MOST_US = 6.0
GOALS = {
    "time for a uid": (Ceiling(_MOST_US),),
    "processor time for a uid": (Ceiling(_MOST_US),),
    "longest stall": (Ceiling(_MOST_MS),),
}
_UNITS = {"time for a uid": "us", "processor time for a uid": "us", "longest stall": "ms", "memory at its peak": "MB"}


def measure(side: str, count: int) -> dict[str, float]:
    """Return the figures of one batch."""
    gc.collect()
    gc.freeze()  # what the interpreter and the imports hold is not the batch's
    return asyncio.run(_ours(count) if side == SUBJECT else _other(count))


async def _ours(count: int) -> dict[str, float]:
    with LocalServer() as server:
        async with route_with_pods(server, attrs.evolve(CONFIG, cache_size=count)) as route, route.client() as client:
            await client.compute_linked_pod("", "warm", SERVICE)

            async def batch(uids: list[str]) -> None:
                by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)
                assert sum(map(len, by_pod.values())) == len(uids)

            return await _measured(batch, count)


async def _other(count: int) -> dict[str, float]:
    with LocalServer() as server:
        async with (
            route_with_pods(server) as route,
            route.client() as client,
            Redis.from_url(server.url) as redis,
        ):
            placing = await record_placing((await client.pods("", SERVICE))[0].life, CONFIG.link_ttl)
            await redis.script_load(placing.recorded.script.source)

            async def batch(uids: list[str]) -> None:
                answers = []
                for start in range(0, len(uids), _PIPELINE):
                    pipeline = redis.pipeline(transaction=False)
                    for uid in uids[start : start + _PIPELINE]:
                        call = placing.call(uid)
                        pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
                    answers += await pipeline.execute()
                assert {Outcome.CREATED} == set(map(placing.outcome, answers))

            return await _measured(batch, count)


async def _measured(batch: Callable[[list[str]], Awaitable[None]], count: int) -> dict[str, float]:
    uids = [f"user-{number:08}" for number in range(count)]
    before = resident()
    used = time.process_time()
    begun = time.perf_counter()
    await batch(uids)
    took = time.perf_counter() - begun
    used = time.process_time() - used
    grown = peak() - before
    others = [f"other-{number:08}" for number in range(count)]
    async with watched() as stall:  # who watches keeps the processor busy, so this one is not timed
        await batch(others)
    figures = (took / count * 1e6, used / count * 1e6, stall.longest, grown / 1e6)
    return dict(zip(_UNITS, figures, strict=True))


def _run(options: Options) -> Iterator[Row]:
    count = options.pick(100_000, 10_000)
    rounds: dict[str, list[dict[str, float]]] = {SUBJECT: [], _OTHER: []}
    for _ in range(options.pick(5, 1)):
        for side, measured in rounds.items():
            measured.append(worker.call("benchmarks.cases.batch:measure", side=side, count=count))
    for name, unit in _UNITS.items():
        yield Row(
            case=BATCH,
            variant=f"{count:,} new uids: {name}",
            unit=unit,
            figures={side: [figures[name] for figures in measured] for side, measured in rounds.items()},
            goals=GOALS.get(name, ()),
        )


BATCH = Comparison(
    name="batch",
    title="batch_compute_linked_pod of many new uids in one call",
    reference=f"one script for each uid, by pipelines of {_PIPELINE:,} of redis.asyncio; it has no cache to fill",
    goal=f"{_MOST_US:g} us for a uid, and no stall of the event loop above {_MOST_MS:g} ms",
    run=_run,
)
