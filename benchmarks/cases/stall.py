"""How long the event loop stands still with many links cached."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import attrs
from cachetools import TTLCache

from benchmarks import worker
from benchmarks.cases.memory import uid_of
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.rows import Row
from benchmarks.stalls import watched
from stateful_route.embedded.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rows import Options
    from stateful_route import ClientDriver

_CALLERS = 50
_BY_HAND = 100
_CHURN = 0.1
_AFTER = 5_000
_OTHER = "TTLCache"
_MOST_MS = 2.0
_SETTLE = 0.5
_LONGEST = 10.0
_TTL = 3_600.0


def measure(side: str, links: int, ttl: float) -> dict[str, float]:
    """Return the longest stall of each phase in milliseconds; ``ttl`` is that of the links that end together."""
    gc.collect()
    gc.freeze()  # what the interpreter and the imports hold is not the cache's
    return asyncio.run(_ours(links, ttl) if side == SUBJECT else _other(links, ttl))


async def _ours(links: int, ttl: float) -> dict[str, float]:
    stalls = {}
    after = min(_AFTER, links // 2)
    config = attrs.evolve(
        CONFIG, cache_size=links, cache_ttl=_TTL, link_ttl=_TTL + 60, heartbeat=1.0, refresh=_SETTLE / 2
    )
    short = attrs.evolve(config, cache_ttl=ttl)
    with LocalServer() as server:
        async with route_with_pods(server, config) as route:
            async with route.client() as client:
                await client.compute_linked_pod("", uid_of(0), SERVICE)
                await asyncio.sleep(_SETTLE)  # what is imported with the first refresh is there
                async with watched() as stall:
                    await _place(client, 0, links)
                assert client.statistics().cached == links
                stalls["filling"] = stall.longest
                stalls["full gc"] = _collect()
                async with watched() as stall:
                    await _place(client, links, int(links * _CHURN))
                assert client.statistics().cached <= links
                stalls["eviction"] = stall.longest
                async with watched() as stall:
                    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
                    await _subscribed_again(client, uid_of(links + int(links * _CHURN) - 1))
                    await _place(client, 0, after)
                stalls["flush, re-subscribed"] = stall.longest
        async with route_with_pods(server, short) as route, route.client() as client:
            await client.compute_linked_pod("", uid_of(0), SERVICE)
            for number in range(links):
                await client.set_cache("", uid_of(number), SERVICE, 1)
                if number % _BY_HAND == 0:
                    await asyncio.sleep(0)
            async with watched() as stall:
                await asyncio.sleep(ttl)
                assert await client.get_linked_in_cache("", uid_of(links - 1), SERVICE) is None
                await _place(client, 0, after)
            stalls["mass expiry"] = stall.longest
    return stalls


async def _place(client: ClientDriver, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async def caller() -> None:
        for number in numbers:
            await client.compute_linked_pod("", uid_of(number), SERVICE)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(caller())


async def _subscribed_again(client: ClientDriver, cached: str) -> None:
    """Return when a uid that was cached is not any more, and others can be cached again."""
    async with asyncio.timeout(_LONGEST):
        while await client.get_linked_in_cache("", cached, SERVICE) is not None:  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0)
        while await client.get_linked_in_cache("", uid_of(0), SERVICE) is None:
            await client.compute_linked_pod("", uid_of(0), SERVICE)
            await asyncio.sleep(0.01)
    assert await client.get_linked_in_cache("", cached, SERVICE) is None


async def _other(links: int, ttl: float) -> dict[str, float]:
    stalls = {}
    after = min(_AFTER, links // 2)
    cache: TTLCache[tuple[str, str, str], int] = TTLCache(links, _TTL)
    async with watched() as stall:
        await _put(cache, 0, links)
    stalls["filling"] = stall.longest
    stalls["full gc"] = _collect()
    async with watched() as stall:
        await _put(cache, links, int(links * _CHURN))
    stalls["eviction"] = stall.longest
    async with watched() as stall:
        cache.clear()
        await _put(cache, 0, after)
    stalls["flush, re-subscribed"] = stall.longest
    cache = TTLCache(links, ttl)
    await _put(cache, 0, links)
    async with watched() as stall:
        await asyncio.sleep(ttl)
        await _put(cache, 0, after)
    stalls["mass expiry"] = stall.longest
    return stalls


async def _put(cache: TTLCache[tuple[str, str, str], int], first: int, count: int) -> None:
    for number in range(first, first + count):
        cache[NAMESPACE, uid_of(number), SERVICE] = 1
        if number % _BY_HAND == 0:
            await asyncio.sleep(0)


def _collect() -> float:
    begun = time.thread_time()
    gc.collect()
    return (time.thread_time() - begun) * 1000


def _run(options: Options) -> Iterator[Row]:
    links = options.pick(1_000_000, 10_000)
    ttl = 10.0 if not options.quick else 0.5
    rounds: dict[str, list[dict[str, float]]] = {SUBJECT: [], _OTHER: []}
    for _ in range(options.pick(3, 1)):
        for side, measured in rounds.items():
            measured.append(worker.call("benchmarks.cases.stall:measure", side=side, links=links, ttl=ttl))
    for phase in rounds[SUBJECT][0]:
        yield Row(
            case=STALL,
            variant=f"{links:,} links: {phase}",
            unit="ms",
            figures={side: [stalls[phase] for stalls in measured] for side, measured in rounds.items()},
            goals=(Ceiling(_MOST_MS),),
        )


STALL = Comparison(
    name="stall",
    title="longest pass of the event loop with many links cached: processor time of its thread",
    reference="cachetools.TTLCache[namespace, uid, service], with the same number of links",
    goal=f"at most {_MOST_MS:g} ms",
    run=_run,
)
