"""What the way from one process to the pod costs, in requests, messages and memory."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling, Goal
from benchmarks.harness import Lab, interleave
from benchmarks.rows import Row
from benchmarks.web import hop, processes, proxies
from benchmarks.web.apps import LARGE_BYTES
from benchmarks.web.generator import Work, held_open
from benchmarks.web.hop import DECIDE, GATEWAY, HERE, HTTPX, KEPT, NGINX, OWNER, POD, REPLAY, SHORT
from benchmarks.web.processes import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from benchmarks.goals import Target
    from benchmarks.rows import Options
    from benchmarks.web.hop import Way

_BY_NGINX = (NGINX, OWNER, DECIDE, KEPT, REPLAY)
_ALL = (NGINX, POD, HERE, SUBJECT, SHORT, GATEWAY)
_MOST_US = 10.0
_MOST_KB = 60.0
_SOCKETS = 1_000
_WARM = 50

CPU = "processor time of a request"
CLOCK = "time of a request"


@attrs.frozen(kw_only=True)
class Load:
    """What is sent.

    Attributes:
        name: in words.
        path: with the uid in it.
        ways: who takes it.
        goals: of the rate.
        more: of the microseconds for a request.
        method, upload, websocket, connections: as in ``Work``.
        seconds: of a round.

    """

    name: str
    path: str
    connections: int
    ways: Sequence[str] = _ALL
    method: str = "GET"
    upload: int = 0
    websocket: bool = False
    seconds: float = 1.0
    goals: Sequence[Target] = ()
    added: Sequence[Target] = ()

    def work(self, way: Way) -> Work:
        """Return it for one way."""
        return Work(
            host=LOOPBACK,
            port=way.entry.port,
            paths=way.paths(self.path),
            method=self.method,
            upload=self.upload,
            connections=self.connections,
            seconds=self.seconds,
            websocket=self.websocket,
        )


_AT_LEAST = functools.partial(Goal, more_is_better=True)
_ADDED = (Ceiling(_MOST_US, above=POD, subject=HERE),)
LOADS = (
    Load(name="GET, 1 connection", path=hop.ROOMS, connections=1),
    Load(
        name="GET, 100 connections",
        path=hop.ROOMS,
        connections=100,
        goals=(
            _AT_LEAST(0.6, of=NGINX),
            _AT_LEAST(0.6, of=NGINX, subject=SHORT),
            _AT_LEAST(1.0, of=NGINX, subject=GATEWAY),
        ),
        added=_ADDED,
    ),
    Load(name="GET, 1,000 connections", path=hop.ROOMS, connections=1_000, seconds=2.0),
    Load(
        name="POST of 100 bytes, 100 connections",
        path=hop.ROOMS,
        connections=100,
        method="POST",
        upload=100,
        ways=(NGINX, POD, HTTPX, HERE, SUBJECT, SHORT, GATEWAY),
        goals=(_AT_LEAST(10.0, of=HTTPX),),
    ),
    Load(
        name="answers of 1 MB, 10 connections",
        path=hop.LARGE,
        connections=10,
        goals=(_AT_LEAST(1.0, of=NGINX),),
    ),
    Load(
        name="bodies of 1 MB, 10 connections",
        path=hop.UPLOAD,
        connections=10,
        method="POST",
        upload=LARGE_BYTES,
        goals=(_AT_LEAST(1.0, of=NGINX),),
    ),
    Load(
        name="WebSocket messages of 100 bytes, 100 connections",
        path=hop.SOCKET,
        connections=100,
        upload=100,
        websocket=True,
    ),
)
BY_NGINX = (
    Load(
        name="GET, 64 connections, carried by nginx",
        path=hop.ROOMS,
        connections=64,
        ways=_BY_NGINX,
        goals=(
            _AT_LEAST(0.75, of=OWNER, subject=DECIDE),
            _AT_LEAST(0.75, of=OWNER, subject=KEPT),
            _AT_LEAST(0.7, of=OWNER, subject=REPLAY),
        ),
    ),
)
"""Where nginx is told which pod it is: the way there is its own."""


@attrs.frozen
class Round:
    """What one round of one way showed.

    Attributes:
        rate: answers or messages a second.
        p50, p99: milliseconds.
        cpu_us: microseconds of processor time for each, of all who take part.

    """

    rate: float
    p50: float
    p99: float
    cpu_us: float

    @property
    def clock_us(self) -> float:
        """Microseconds for each, on the clock."""
        return 1e6 / self.rate


async def measure(load: Load, name: str, way: Way, folder: Path, *, quick: bool = False) -> Round:
    """Send a load one way; all answers have to be right, but those of the gateway over httpx."""
    used = way.cpu_seconds()
    seen = await (hop.load_briefly(load.work(way)) if quick else hop.load(load.work(way), folder))
    used = way.cpu_seconds() - used
    ended = [program.tail() for program in way.programs if program.has_ended]
    assert not ended, f"{load.name}, {name}: {ended}"
    assert seen.failed == 0 or name == HTTPX, f"{load.name}, {name}: {seen}; {way.entry.tail()}"
    assert seen.answers > 0, f"{load.name}, {name}: {seen}; {way.entry.tail()}"
    return Round(seen.rate, seen.p50, seen.p99, used / seen.answers * 1e6)


async def memory(way: Way, sockets: int) -> dict[str, float]:
    """Return the kB that each of so many open WebSockets takes, in the first of those who take part and in the last."""
    work = Work(
        host=LOOPBACK,
        port=way.entry.port,
        paths=way.paths(hop.SOCKET),
        upload=100,
        connections=_WARM,
        seconds=0.0,
        websocket=True,
    )
    async with held_open(work):
        pass
    before = [program.memory_kb() for program in way.programs]
    async with held_open(attrs.evolve(work, connections=sockets)):
        after = [program.memory_kb() for program in way.programs]
    each = [(more - less) / sockets for more, less in zip(after, before, strict=True)]
    return {"entry": each[0], "owner": each[-1]}


async def _run(options: Options) -> AsyncIterator[Row]:
    processes.allow_many_files()
    why = proxies.missing(NGINX)
    missing = {} if why is None else dict.fromkeys(_BY_NGINX, why)
    with Lab(options) as lab:
        server = lab.server(tcp=True)
        took_part = ", ".join([str(lab.server_version), *proxies.versions(NGINX)])
        for run, loads in ((hop.ways, LOADS), (hop.ways_by_nginx, BY_NGINX)):
            server.ask("FLUSHALL")  # those of before had another secret
            with tempfile.TemporaryDirectory(prefix="hop-") as folder:
                async with run(server.url, Path(folder)) as ways:
                    async for row in _measured(loads, ways, Path(folder), options, missing):
                        yield attrs.evolve(row, server=took_part)
        kept: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.pick(2, 1)):
            for name in _ALL if not options.quick else (NGINX, SUBJECT):
                # In new processes each time: those that have had so many sockets open keep the memory.
                server.ask("FLUSHALL")
                with tempfile.TemporaryDirectory(prefix="hop-") as folder:
                    async with hop.ways(server.url, Path(folder), uids=options.pick(_SOCKETS, _WARM)) as ways:
                        if name in ways:
                            kept.setdefault(name, []).append(await memory(ways[name], _SOCKETS))
        for row in _memory_rows(kept, missing):
            yield attrs.evolve(row, server=took_part)


async def _measured(
    loads: Sequence[Load], ways: Mapping[str, Way], folder: Path, options: Options, missing: Mapping[str, str]
) -> AsyncIterator[Row]:
    for load in loads:
        sides = {
            name: functools.partial(measure, load, name, ways[name], folder, quick=options.quick)
            for name in load.ways
            if name in ways
        }
        rounds = await interleave(sides, options.pick(10, 1), warm_up=not options.quick) if sides else {}
        for row in _rows(load, rounds, {name: why for name, why in missing.items() if name in load.ways}):
            yield row


def _rows(load: Load, rounds: Mapping[str, Sequence[Round]], missing: Mapping[str, str]) -> list[Row]:
    def row(variant: str, unit: str, figure: str, goals: Sequence[Target] = (), *, is_detail: bool = False) -> Row:
        figures = {name: [getattr(one, figure) for one in of_way] for name, of_way in rounds.items()}
        return Row(
            case=HOP,
            variant=f"{load.name}{variant}",
            unit=unit,
            figures=figures,
            goals=goals,
            missing=missing if not variant else {},
            is_detail=is_detail,
        )

    return [
        row("", "/s", "rate", load.goals),
        row(", p50", "ms", "p50", is_detail=True),
        row(", p99", "ms", "p99", is_detail=True),
        row(f", {CPU}", "us", "cpu_us", load.added, is_detail=not load.added),
        *([row(f", {CLOCK}", "us", "clock_us", load.added, is_detail=True)] if load.added else []),
    ]


def _memory_rows(kept: Mapping[str, Sequence[Mapping[str, float]]], missing: Mapping[str, str]) -> list[Row]:
    rows = []
    for where, words, goals in (
        ("entry", "in the process that is asked", (Ceiling(_MOST_KB, quantile=1.0),)),
        ("owner", "in the owner's process", ()),
    ):
        rows.append(
            Row(
                case=HOP,
                variant=f"memory of each of {_SOCKETS:,} open WebSockets, {words}",
                unit="kB",
                figures={name: [one[where] for one in rounds] for name, rounds in kept.items()},
                goals=goals,
                missing=missing if goals else {},
                is_detail=not goals,
            )
        )
    return rows


HOP = Comparison(
    name="hop",
    title="the way to the pod: from the replica that was asked to the one that owns the uid, and the others",
    reference="nginx, one worker, and the pod called directly; the gateway over httpx that the README had",
    goal=(
        "carried by nginx 0.75x, and 0.7x replayed, of its hop to the same pod; "
        f"forwarded 0.6x of nginx, 10x of httpx, 1 MB as fast as nginx; +{_MOST_US:g} us where it arrived; "
        f"{_MOST_KB:g} kB for a WebSocket"
    ),
    run=_run,
)
