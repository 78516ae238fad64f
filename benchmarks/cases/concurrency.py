"""Many callers at once whose uids are not cached, on one server."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from benchmarks import plot
from benchmarks.comparison import Comparison
from benchmarks.goals import Goal
from benchmarks.harness import Lab
from benchmarks.misses import KNOWN, NEW, SCRIPT, measure_rows, open_crowd, uid_of
from benchmarks.peers import benchmark_tool
from benchmarks.peers.coredis_client import COREDIS
from benchmarks.peers.glide_client import GLIDE
from benchmarks.peers.redis_py import REDIS_PY, REDIS_PY_BLOCKING, REDIS_PY_UNTIMED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from benchmarks.rows import Options, Row
    from stateful_route.store.embedded import LocalServer

PEERS = (REDIS_PY, REDIS_PY_UNTIMED, REDIS_PY_BLOCKING, COREDIS, GLIDE)
CALLERS = (1, 16, 100, 1000)
GOALS = {
    (KNOWN, 100): ((8, REDIS_PY.name), (3, GLIDE.name)),
    (KNOWN, 1000): ((18, REDIS_PY.name), (5, GLIDE.name), (0.5, benchmark_tool.NAME)),
}
# Numbers so high that the tool hardly draws one twice; and no other side takes a uid of that kind.
_NEW_BY_TOOL, _NEW_NUMBERS = "new-by-tool", 2_000_000_000
# A script that the server does not have yet is a failure, and the tool makes thousands of calls.
_MOST_FAILED = 100


async def _run(options: Options) -> AsyncIterator[Row]:
    known = options.pick(10_000, 2_000)
    seconds = options.pick(150, 30) / 1000
    rounds = options.pick(15, 1)
    tool_calls = options.pick(50_000, 5_000)
    with Lab(options) as lab:
        server = lab.server(tcp=True)
        assert server.port is not None
        async with open_crowd(server, (server.port,), PEERS, callers=max(CALLERS), known=known, cluster=False) as crowd:
            failed_before = _failed(server)
            missing = dict(crowd.missing)
            if (why := benchmark_tool.missing()) is not None:
                missing[benchmark_tool.NAME] = why
            for kind in (KNOWN, NEW):
                for callers in CALLERS if kind == KNOWN else CALLERS[-2:]:
                    sides = crowd.sides(kind, callers, seconds)
                    if benchmark_tool.NAME not in missing:
                        sides[benchmark_tool.NAME] = functools.partial(
                            benchmark_tool.measure,
                            crowd.placing.call(uid_of(kind if kind == KNOWN else _NEW_BY_TOOL, benchmark_tool.NUMBER)),
                            port=server.port,
                            callers=callers,
                            calls=tool_calls if kind == KNOWN and callers > 1 else tool_calls // 5,
                            numbers=known if kind == KNOWN else _NEW_NUMBERS,
                        )
                    goals = [
                        Goal(ratio, more_is_better=True, of=name, subject=SCRIPT)
                        for ratio, name in GOALS.get((kind, callers), ())
                    ]
                    for row in await measure_rows(
                        CONCURRENCY,
                        _variant(callers, kind),
                        sides,
                        rounds,
                        goals=goals,
                        missing=missing,
                        server=lab.server_version,
                    ):
                        yield row
            assert _failed(server) - failed_before < _MOST_FAILED, (
                "redis-benchmark had failures, which it does not tell"
            )


def _variant(callers: int, kind: str) -> str:
    return f"{callers:,} caller{'s'[: callers > 1]}, {kind} uids"


def _failed(server: LocalServer) -> int:
    """Return how many calls of scripts have failed."""
    lines = server.ask("INFO", "commandstats").splitlines()
    return sum(int(line.rpartition("failed_calls=")[2]) for line in lines if line.startswith("cmdstat_evalsha:"))


def _draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw throughput over callers, and the latencies of many callers, of uids that have a link."""
    by_variant = {row.variant: row for row in rows}
    variants = {callers: _variant(callers, KNOWN) for callers in CALLERS}
    throughput, latency = folder / "throughput.png", folder / "latency.png"
    plot.draw_throughput(
        {callers: by_variant[variant] for callers, variant in variants.items()},
        throughput,
        title="Misses of one Python process",
    )
    plot.draw_latency(
        {
            callers: (by_variant[f"{variants[callers]}, p50"], by_variant[f"{variants[callers]}, p99"])
            for callers in CALLERS[-2:]
        },
        latency,
        title="Latency of a miss among concurrent callers: p50 (dot) to p99 (bar)",
    )
    return [throughput, latency]


CONCURRENCY = Comparison(
    name="concurrency",
    title="compute_linked_pod of uids that are not cached, and its script alone; many callers in one process",
    reference="the same script with the same arguments, by other clients in the same process, and by redis-benchmark",
    goal="the script: 8x redis.asyncio at 100 and 18x at 1000, 3x and 5x valkey-glide, 0.5x redis-benchmark -P 16",
    run=_run,
    draw=_draw,
)
