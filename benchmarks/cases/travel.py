"""A rolling restart of an application whose sessions live in memory and travel, with many of them."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.harness import Lab
from benchmarks.rows import Row
from benchmarks.statistics import quantile
from benchmarks.web import proxies
from benchmarks.web.apps import REDIS
from benchmarks.web.counting import PATH, SERVED
from benchmarks.web.fleet import Fleet
from benchmarks.web.processes import LOOPBACK
from benchmarks.web.proxies import round_robin
from benchmarks.web.raw import Connection, RawError, request_bytes
from benchmarks.web.sessions import Users
from benchmarks.web.travelling import read_gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from benchmarks.goals import Target
    from benchmarks.rows import Options

_REPLICAS = 3
_USERS = 30
_CALLERS = 16
_APP = "benchmarks.web.travelling:sticky"

LOST, FAILED, TRAVELLED = "states lost", "requests failed", "states that travelled"
HALF, MOST, ALL = "without an owner, p50", "without an owner, p99", "without an owner, longest"
SLOWEST, TOOK = "slowest answer", "the restart took"
FIGURES = {LOST: "states", FAILED: "requests", TRAVELLED: "states", HALF: "ms", MOST: "ms", ALL: "ms"} | {
    SLOWEST: "ms",
    TOOK: "s",
}
GOALS: Mapping[str, Sequence[Target]] = {
    LOST: (Ceiling(0.0, quantile=1.0),),
    FAILED: (Ceiling(0.0, quantile=1.0),),
    MOST: (Ceiling(50.0),),
}


async def _ask_all(port: int, uids: Sequence[str], method: str) -> dict[str, int]:
    """Ask for each session once; return what each was told, and -1 where there was no answer with 2xx."""
    told: dict[str, int] = {}
    waiting = list(reversed(uids))

    async def ask() -> None:
        while waiting:
            uid = waiting.pop()
            told[uid] = -1
            try:
                async with await Connection.open(LOOPBACK, port) as connection:
                    request = request_bytes(method, PATH + uid, f"{LOOPBACK}:{port}", {"Connection": "close"})
                    answer = await connection.send(request)
            except (OSError, RawError):
                continue
            if answer.is_success:
                told[uid] = int(json.loads(answer.body)["seen"])

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(ask())
    return told


async def measure(redis: str, sessions: int, folder: Path) -> dict[str, float]:
    """Restart all replicas, one after the other, under load; return the figures."""
    served = folder / "served"
    served.mkdir()
    env = {
        REDIS: redis,
        SERVED: str(served),
        "STATEFUL_ROUTE_NAMESPACE": folder.name,
        "STATEFUL_ROUTE_HEARTBEAT": "0.5",
        "STATEFUL_ROUTE_SECRET": secrets.token_hex(32),
    }
    uids = [f"resident-{number:05}" for number in range(sessions)]
    loop = asyncio.get_running_loop()
    async with round_robin(folder) as balancer, Fleet(_APP, balancer, folder, env) as fleet:
        await fleet.add(_REPLICAS)
        before = await _ask_all(balancer.port, uids, "POST")
        users = Users(balancer.port, _USERS)
        async with users.asking(), users.phase("rolling restart"):
            begun = loop.time()
            await fleet.restart()
            took = loop.time() - begun
        after = await _ask_all(balancer.port, uids, "GET")
        for _ in range(_REPLICAS):
            await fleet.retire_quietly()
        if said := fleet.said():
            print(f"    {said[-4_000:]}", file=sys.stderr)
    (phase,) = users.phases
    for reason, count in phase.reasons.most_common(5):
        print(f"    {count}x {reason}", file=sys.stderr)
    gaps = [gap * 1000 for gap in read_gaps(served)] or [0.0]
    unanswered = sum(seen < 0 for told in (before, after) for seen in told.values())
    return {
        LOST: len(phase.lost) + sum(0 <= seen < 1 for seen in after.values()),
        FAILED: phase.failed + unanswered,
        TRAVELLED: len(gaps),
        HALF: quantile(gaps, 0.5),
        MOST: quantile(gaps, 0.99),
        ALL: max(gaps),
        SLOWEST: phase.longest * 1000,
        TOOK: took,
    }


async def _run(options: Options) -> AsyncIterator[Row]:
    sessions = options.pick(10_000, 300)
    why = proxies.missing("nginx")
    rounds: list[dict[str, float]] = []
    with Lab(options) as lab:
        server = lab.server(tcp=True)
        for _ in range(0 if why else options.pick(3, 1)):
            with tempfile.TemporaryDirectory(prefix="travel-") as folder:
                rounds.append(await measure(server.url, sessions, Path(folder)))
        took_part = ", ".join([str(lab.server_version), *proxies.versions("nginx")])
        for figure, unit in FIGURES.items():
            yield Row(
                case=TRAVEL,
                variant=f"{figure}, {unit}" if unit in {"ms", "s"} else figure,
                unit=unit,
                figures={SUBJECT: [one[figure] for one in rounds]} if rounds else {},
                goals=GOALS.get(figure, ()),
                missing={SUBJECT: why} if why and figure == LOST else {},
                server=took_part,
            )


TRAVEL = Comparison(
    name="travel",
    title=f"a rolling restart of {_REPLICAS} replicas with 10,000 sessions of 10 kB in memory, under load, no database",
    reference="nothing: there is no other way without one",
    goal="no state lost, no request failed; a session is without an owner for at most 50 ms (p99)",
    run=_run,
    columns=[SUBJECT],
    decimals=1,
)
