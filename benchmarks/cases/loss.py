"""What users lose while the replicas of a stateful application come and go."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from benchmarks import plot
from benchmarks.comparison import Comparison
from benchmarks.goals import Ceiling
from benchmarks.harness import Lab
from benchmarks.rows import Row
from benchmarks.web import proxies
from benchmarks.web.apps import REDIS
from benchmarks.web.counting import HEADER, SERVED
from benchmarks.web.fleet import Fleet
from benchmarks.web.proxies import COOKIE, haproxy, round_robin, stick_table
from benchmarks.web.sessions import Users, read_served, sessions_by_phase, two_owners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.goals import Target
    from benchmarks.rows import Options
    from benchmarks.web.proxies import Balancer
    from benchmarks.web.sessions import Phase

_REPLICAS = 3
_STEADY = 1.0
_OWN = "benchmarks.web.sticky_apps"

STEADY = "nothing happens"
RESTART = "rolling restart"
KILL = "kill -9"
SCALE_IN = f"scale-in, {_REPLICAS} to {_REPLICAS - 1}"
SCALE_OUT = f"scale-out, {_REPLICAS - 1} to {_REPLICAS}"
PHASES = (STEADY, RESTART, KILL, SCALE_IN, SCALE_OUT)

LOST = "sessions lost"
FAILED = "requests failed"
FAILED_SAFE = "of those, safe to repeat"
TWO_OWNERS = "sessions with two owners"
LONGEST = "slowest answer"
FIGURES = {LOST: "sessions", FAILED: "requests", FAILED_SAFE: "requests", TWO_OWNERS: "sessions", LONGEST: "ms"}

HAND_OFF = "ours, hand-off"
LINGER = "ours, linger"
TRAVELS = "ours, the state travels"


@attrs.frozen
class Mode:
    """A way to run the application.

    Attributes:
        name: of its column.
        app: "module:name".
        proxy: what is needed on the PATH.
        balanced: runs the proxy, in a folder.

    """

    name: str
    app: str
    proxy: str
    balanced: Callable[[Path], AbstractAsyncContextManager[Balancer]]


_ALONE = "benchmarks.web.counting:alone"
MODES = (
    Mode("nginx, round robin", _ALONE, "nginx", round_robin),
    Mode("HAProxy, stick table", _ALONE, "haproxy", haproxy(stick_table(HEADER))),
    Mode("HAProxy, cookie", _ALONE, "haproxy", haproxy(COOKIE)),
    Mode(LINGER, f"{_OWN}:lingering", "nginx", round_robin),
    Mode(HAND_OFF, f"{_OWN}:handing_off", "nginx", round_robin),
    Mode(TRAVELS, f"{_OWN}:travelling", "nginx", round_robin),
)

_NONE = tuple(Ceiling(0.0, quantile=1.0, subject=subject) for subject in (HAND_OFF, TRAVELS))
GOALS: Mapping[tuple[str, str], Sequence[Target]] = {
    **{(phase, figure): _NONE for phase in (RESTART, SCALE_IN, SCALE_OUT) for figure in (LOST, FAILED)},
    **{(KILL, figure): _NONE for figure in (FAILED_SAFE, TWO_OWNERS)},
}


async def measure(mode: Mode, redis: str, sessions: int, folder: Path) -> dict[tuple[str, str], float]:
    """Let one mode live through all phases; return each figure of each phase."""
    served = folder / "served"
    served.mkdir()
    env = {
        REDIS: redis,
        SERVED: str(served),
        "STATEFUL_ROUTE_NAMESPACE": folder.name,
        "STATEFUL_ROUTE_HEARTBEAT": "0.5",
        "STATEFUL_ROUTE_SECRET": secrets.token_hex(32),
    }
    async with mode.balanced(folder) as balancer, Fleet(mode.app, balancer, folder, env) as fleet:
        await fleet.add(_REPLICAS)
        users = Users(balancer.port, sessions)
        async with users.asking():
            async with users.phase(STEADY):
                await asyncio.sleep(_STEADY)
            async with users.phase(RESTART):
                await fleet.restart()
            async with users.phase(KILL):
                await fleet.crash()
            async with users.phase(SCALE_IN):
                await fleet.retire()
            async with users.phase(SCALE_OUT):
                await fleet.add()
        _explain(mode, users.phases, fleet)
    twice = sessions_by_phase(two_owners(read_served(served)), users.phases)
    figures: dict[tuple[str, str], float] = {}
    for phase in users.phases:
        figures[phase.name, LOST] = len(phase.lost)
        figures[phase.name, FAILED] = phase.failed
        figures[phase.name, FAILED_SAFE] = phase.failed_safe
        figures[phase.name, LONGEST] = phase.longest * 1000
        figures[phase.name, TWO_OWNERS] = len(twice[phase.name])
    return figures


def _explain(mode: Mode, phases: Sequence[Phase], fleet: Fleet) -> None:
    """Say why requests of ours failed, and what the replicas wrote: both are to be seen, and not only counted."""
    for phase in phases:
        for reason, count in phase.reasons.most_common(5):
            print(f"    {mode.name}, {phase.name}: {count}x {reason}", file=sys.stderr)
    if mode.app != _ALONE and (said := fleet.said()):
        print(f"    {mode.name}: {said[-4_000:]}", file=sys.stderr)


async def _run(options: Options) -> AsyncIterator[Row]:
    sessions = options.pick(30, 6)
    missing = {mode.name: why for mode in MODES if (why := proxies.missing(mode.proxy)) is not None}
    rounds: dict[str, list[dict[tuple[str, str], float]]] = {}
    with Lab(options) as lab:
        server = lab.server(tcp=True)
        for _ in range(options.pick(3, 1)):
            for mode in MODES if not options.quick else (MODES[0], MODES[-1]):
                if mode.name not in missing:
                    with tempfile.TemporaryDirectory(prefix="loss-") as folder:
                        measured = await measure(mode, server.url, sessions, Path(folder))
                    rounds.setdefault(mode.name, []).append(measured)
        took_part = ", ".join([str(lab.server_version), *proxies.versions("nginx", "haproxy")])
        for phase in PHASES:
            for figure, unit in FIGURES.items():
                yield Row(
                    case=LOSS,
                    variant=f"{phase}: {figure}" + (", ms" if unit == "ms" else ""),
                    unit=unit,
                    figures={name: [one[phase, figure] for one in of_mode] for name, of_mode in rounds.items()},
                    goals=GOALS.get((phase, figure), ()),
                    missing=missing if (phase, figure) == (STEADY, LOST) else {},
                    server=took_part,
                )


def _draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    path = folder / "loss.png"
    by_name = {row.variant: row for row in rows}
    panels = {figure: {phase: by_name[f"{phase}: {figure}"] for phase in PHASES} for figure in (LOST, FAILED)}
    title = f"A stateful application at {_REPLICAS} replicas, in the worst of the rounds"
    plot.draw_matrix(panels, LOSS.columns, path, title=title)
    return [path]


LOSS = Comparison(
    name="loss",
    title=f"what users lose while {_REPLICAS} replicas of a stateful application come and go, of 30 sessions",
    reference="nginx round robin; HAProxy with a stick table, and with the cookie that it inserts",
    goal="with a hand-off no session lost and no request failed; at kill -9 none safe to repeat, and no two owners",
    run=_run,
    columns=[mode.name for mode in MODES],
    decimals=0,
    draw=_draw,
)
