"""What a cached link takes: each cache in a process of its own."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import attrs

from benchmarks import plot, worker
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling, Goal
from benchmarks.peers import Filling, missing_module
from benchmarks.peers.caches import OTHERS, TTL_CACHE
from benchmarks.resident import resident
from benchmarks.rows import Row
from stateful_route.embedded.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.rows import Options

_BATCH = 1_000
_MOST_BYTES = 120.0
_TTL = 3_600.0
_PEERS = {peer.name: peer for peer in (TTL_CACHE, *OTHERS)}


def measure(side: str, links: int) -> float:
    """Return the bytes of one of so many cached links, the string of its uid included."""
    return asyncio.run(_ours(links) if side == SUBJECT else _peer(side, links))


async def _ours(links: int) -> float:
    config = attrs.evolve(CONFIG, cache_size=links + _BATCH, cache_ttl=_TTL, link_ttl=_TTL + 60)
    with LocalServer() as server:
        async with route_with_pods(server, config) as route, route.client() as client:
            await client.batch_compute_linked_pod("", (f"first-{n}" for n in range(_BATCH)), SERVICE)
            before = resident()
            for start in range(0, links, _BATCH):
                uids = [uid_of(number) for number in range(start, start + _BATCH)]
                await client.batch_compute_linked_pod("", uids, SERVICE)
            del uids
            used = resident() - before
            assert client.statistics().cached == links + _BATCH
            for number in (0, links - 1):
                assert await client.get_linked_in_cache("", uid_of(number), SERVICE) is not None
    return used / links


async def _peer(side: str, links: int) -> float:
    before = resident()
    filling = Filling(
        namespace=NAMESPACE,
        service=SERVICE,
        uids=lambda: (uid_of(number) for number in range(links)),
        pod_index=1,
        ttl=_TTL,
        size=links,
    )
    async with _PEERS[side].open(filling) as lookup:
        used = resident() - before
        for number in (0, links - 1):
            assert await lookup(NAMESPACE, uid_of(number), SERVICE) == 1
    return used / links


def uid_of(number: int) -> str:
    """Return the uid with that number."""
    return f"user-{number:08}"


def _measured(side: str, links: int) -> float:
    figure: float = worker.call("benchmarks.cases.memory:measure", side=side, links=links)
    return figure


def _run(options: Options) -> Iterator[Row]:
    links = options.pick(1_000_000, 20_000)
    missing = {name: why for name, peer in _PEERS.items() if (why := missing_module(peer.module)) is not None}
    sides = [SUBJECT, *(name for name in _PEERS if name not in missing)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # each waits for its process
        used = threads.map(lambda side: _measured(side, links), sides)
    yield Row(
        case=MEMORY,
        variant=f"{links:,} links",
        unit="bytes for each",
        figures={side: [figure] for side, figure in zip(sides, used, strict=True)},
        goals=(Ceiling(_MOST_BYTES), Goal(0.6, of=TTL_CACHE.name)),
        missing=missing,
    )


def _draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    path = folder / "memory.png"
    plot.draw_bars(rows, path, title="Memory of a cached link, its uid included", label="bytes")
    return [path]


MEMORY = Comparison(
    name="memory",
    title="resident memory of a cached link, the string of its uid included; each cache in a process of its own",
    reference="cachetools.TTLCache[namespace, uid, service], and other caches",
    goal=f"at most {_MOST_BYTES:g} bytes, and 0.6x of TTLCache",
    run=_run,
    draw=_draw,
)
