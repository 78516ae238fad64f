"""Many callers at once whose uids are not cached, on one server."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from benchmarks import plot
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Goal
from benchmarks.harness import Lab
from benchmarks.misses import CLAIMED, KNOWN, MISSES, NEW, SCRIPT, measure_rows, open_crowd, uid_of
from benchmarks.peers import benchmark_tool
from benchmarks.peers.coredis_client import COREDIS
from benchmarks.peers.glide_client import GLIDE
from benchmarks.peers.redis_py import REDIS_PY, REDIS_PY_BLOCKING, REDIS_PY_UNTIMED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from benchmarks.rows import Options, Row
    from stateful_route.embedded.server import LocalServer

PEERS = (REDIS_PY, REDIS_PY_UNTIMED, REDIS_PY_BLOCKING, COREDIS, GLIDE)
CALLERS = (1, 16, 100, 1000)
GOALS = {
    (KNOWN, 100): (
        (SUBJECT, 5.5, REDIS_PY.name),
        (SUBJECT, 2.5, GLIDE.name),
        (SCRIPT, 12, REDIS_PY.name),
        (SCRIPT, 6, GLIDE.name),
    ),
    (KNOWN, 1000): (
        (SUBJECT, 7, REDIS_PY.name),
        (SUBJECT, 3, GLIDE.name),
        (SCRIPT, 20, REDIS_PY.name),
        (SCRIPT, 6, GLIDE.name),
        (SCRIPT, 0.7, benchmark_tool.NAME),
    ),
    (NEW, 100): ((SUBJECT, 4, REDIS_PY.name),),
    (CLAIMED, 100): ((SUBJECT, 1, MISSES),),
}
COSTS = dict.fromkeys(((KNOWN, 100), (KNOWN, 1000)), (Goal(2.5, of=SCRIPT),))
"""Of the processor time of a call."""

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
            for kind, all_callers in ((KNOWN, CALLERS), (NEW, CALLERS[-2:]), (CLAIMED, (100,))):
                for callers in all_callers:
                    sides = crowd.sides(kind, callers, seconds)
                    if benchmark_tool.NAME not in missing and kind != CLAIMED:
                        sides[benchmark_tool.NAME] = functools.partial(
                            benchmark_tool.measure,
                            crowd.placing.call(uid_of(kind if kind == KNOWN else _NEW_BY_TOOL, benchmark_tool.NUMBER)),
                            port=server.port,
                            callers=callers,
                            calls=tool_calls if kind == KNOWN and callers > 1 else tool_calls // 5,
                            numbers=known if kind == KNOWN else _NEW_NUMBERS,
                        )
                    goals = [
                        Goal(ratio, more_is_better=True, of=name, subject=subject)
                        for subject, ratio, name in GOALS.get((kind, callers), ())
                    ]
                    for row in await measure_rows(
                        CONCURRENCY,
                        _variant(callers, kind),
                        sides,
                        rounds,
                        goals=goals,
                        cpu_goals=[
                            *(goal.of_cost() for goal in goals if goal.of != benchmark_tool.NAME),
                            *COSTS.get((kind, callers), ()),
                        ],
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
    title="compute_linked_pod of uids that are not cached, claim, and the scripts alone; many callers in one process",
    reference="the same script with the same arguments, by other clients in the same process, and by redis-benchmark",
    goal="known uids, 100 / 1,000 callers: all of compute_linked_pod 5.5x / 7x the bare script of redis.asyncio, "
    "2.5x / 3x that of valkey-glide, at 2.5 times the cost of our own; new uids 4x redis.asyncio; claims as fast as "
    "misses; the script 12x / 20x redis.asyncio, 6x valkey-glide, 0.7x redis-benchmark -P 16; and so the costs",
    run=_run,
    draw=_draw,
)
