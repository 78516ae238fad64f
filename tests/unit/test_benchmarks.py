"""The benchmarks: what is computed from the rounds, and that each case measures what it says. No time is judged."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import subprocess
import sys
import types
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import history, loops, plot, record, report, worker
from benchmarks.__main__ import main
from benchmarks.cases import CASES, batch, layout, memory, messages, stall, walks
from benchmarks.cases.concurrency import PEERS
from benchmarks.cases.heartbeat import HEARTBEAT
from benchmarks.cases.mixed import MIXED
from benchmarks.cases.placement import PLACEMENT
from benchmarks.goals import SUBJECT, Ceiling, Goal
from benchmarks.harness import Case, Lab, Variant, interleave, run
from benchmarks.load import under_load
from benchmarks.misses import (
    CLAIMED,
    KNOWN,
    MISSES,
    NEW,
    PROCESSOR_TIME,
    SCRIPT,
    measure_rows,
    open_crowd,
    uid_of,
)
from benchmarks.peers import benchmark_tool, missing_module
from benchmarks.roads import Step, Walk, most_common, recorded
from benchmarks.rows import Options, Row
from benchmarks.statistics import Spread, quantile, ratios, spread
from benchmarks.traffic import Traffic
from stateful_route.testing import cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from benchmarks.goals import Target

ROOT = Path(__file__).parents[2]
SPREAD_FIELDS = {"median", "low", "high"}
QUICK = Options(quick=True)


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """Leave the logger of the package as it was: the command makes it quiet."""
    logger = logging.getLogger("stateful_route")
    level = logger.level
    yield
    logger.setLevel(level)


def side(name: str, figure: float, log: list[str]) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        log.append(name)
        return figure + len(log)

    return measure


@contextlib.asynccontextmanager
async def two_variants(lab: Lab) -> AsyncIterator[list[Variant]]:
    log: list[str] = []
    yield [Variant(name, side("s", 0.0, log), side("r", 0.0, log)) for name in ("one", "other")]


CASE = Case(name="c", title="t", reference="r", unit="ns", goal=Goal(0.5), rounds=20, open=two_variants)


def row(figures: dict[str, list[float]], *goals: Target, missing: dict[str, str] | None = None) -> Row:
    return Row(case=CASE, variant="v", unit="ns", figures=figures, goals=goals, missing=missing or {})


def sides(subject: list[float], reference: list[float]) -> dict[str, list[float]]:
    return {"ours": subject, "reference": reference}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.1, 1.4), (0.5, 3.0), (0.9, 4.6), (1.0, 5.0)], ids=lambda value: f"{value}"
)
def test_quantile_interpolates(share: float, expected: float) -> None:
    """A quantile lies between the two values next to its place, whatever their order."""
    assert pytest.approx(expected) == quantile([5.0, 1.0, 4.0, 2.0, 3.0], share)


def test_quantile_of_one_value() -> None:
    """Each quantile of one value is that value."""
    assert [7.0, 7.0, 7.0] == [quantile([7.0], share) for share in (0.0, 0.5, 1.0)]


def test_spread_leaves_out_the_outliers() -> None:
    """One wild round in eleven moves neither the median nor the ends of the range."""
    values = [float(value) for value in range(10)]

    assert Spread(5.0, 1.0, 9.0) == spread([*values, 1_000_000.0])
    assert pytest.approx(1.6) == Spread(5.0, 1.0, 9.0).relative


def test_ratio_is_of_each_round() -> None:
    """A machine that is ten times slower for some of the rounds changes no ratio."""
    subject, reference = [1.0, 10.0, 1.0, 10.0], [2.0, 20.0, 2.0, 20.0]

    assert [0.5] * 4 == ratios(subject, reference)
    assert Spread(0.5, 0.5, 0.5) == row(sides(subject, reference)).ratio("reference")


def test_no_ratio_to_nothing() -> None:
    """There is no ratio of ours to itself, and none to a side whose figure was 0."""
    judged = row({"ours": [1.0], "ours, too": [2.0], "other": [0.0]})

    assert [None] * 3 == [judged.ratio(name) for name in judged.figures]


def test_noise_is_of_the_reference_alone() -> None:
    """A subject that varies does not make the machine noisy, nor does a third side."""
    assert row({**sides([1.0, 2.0, 9.0], [4.0, 4.0, 4.0]), "other": [1.0, 5.0, 9.0]}).noise == 0.0
    assert row(sides([1.0, 1.0, 1.0], [4.0, 5.0, 6.0])).noise == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(0.5), True),
        (Goal(0.49), False),
        (Goal(8, more_is_better=True), False),
        (Goal(0.5, more_is_better=True), True),
        (Goal(0.25, of="other"), True),
        (Goal(2.0, of="other", subject="reference"), True),
        (Goal(2, more_is_better=True).of_cost(), True),
        (Goal(2.1, more_is_better=True).of_cost(), False),
        (Ceiling(1.0), True),
        (Ceiling(0.9), False),
        (Ceiling(0.5, above="reference"), True),
        (Ceiling(-2.0, above="reference"), False),
    ],
    ids=str,
)
def test_goal(goal: Target, met: bool) -> None:
    """A goal bounds a ratio or a figure; to reach it is enough."""
    judged = row({**sides([1.0, 1.0], [2.0, 2.0]), "other": [4.0, 4.0]}, goal)

    assert met is judged.is_met


def test_goal_for_the_worst_round() -> None:
    """A ceiling may be for another quantile than the middle, and the verdict shows that one."""
    (verdict,) = row(sides([1.0, 2.0, 9.0], [1.0] * 3), Ceiling(5.0, quantile=1.0)).verdicts

    assert (9.0, False) == (verdict.measured.median, verdict.met)


def test_goal_without_its_side() -> None:
    """A goal that is about a side which was not measured is neither met nor missed."""
    assert row({"ours": [1.0]}, Goal(0.5), Ceiling(1.0, above="reference")).is_met is None


async def test_sides_take_turns() -> None:
    """The sides run by turns, the order is turned round each time, and the first round of each does not count."""
    log: list[str] = []

    figures = await interleave({name: side(name, 0.0, log) for name in "abc"}, 2)

    assert list("abcabccba") == log
    assert {"a": [4.0, 9.0], "b": [5.0, 8.0], "c": [6.0, 7.0]} == figures


async def test_sides_may_go_without_warming_up() -> None:
    """Where nothing has to warm up, each round counts."""
    log: list[str] = []

    assert {"a": [1.0]} == await interleave({"a": side("a", 0.0, log)}, 1, warm_up=False)


@pytest.mark.parametrize(("options", "rounds"), [(Options(), 20), (QUICK, 2)])
async def test_run_gives_out_each_variant(options: Options, rounds: int) -> None:
    """A case is run variant by variant, with a tenth of its rounds in a quick run."""
    rows = [one async for one in run(CASE, options)]

    assert ["one", "other"] == [one.variant for one in rows]
    assert [(rounds, rounds)] * 2 == [(len(one.figures["ours"]), len(one.figures["reference"])) for one in rows]


def test_text_shows_ratio_goal_noise_and_who_is_missing() -> None:
    """The lines of a row say each figure with its spread, the ratio, who is missing, the goal, and the noise."""
    judged = row(sides([1200.0] * 3, [1000.0, 1500.0, 2000.0]), Goal(0.5), missing={"glide": "not installed"})

    assert [
        "  v, ns (3 rounds; spread of the reference itself 53%, NOISY)",
        "    ours                          1,200  (1,200 to 1,200)",
        "    reference                     1,500  (1,100 to 1,900)       ours is 0.8x of it (0.64 to 1.12)",
        "    glide                      not installed",
        "    goal: ours / reference 0.8x (0.64 to 1.12), goal <= 0.5x: NOT met",
    ] == report.row_lines(judged)


def test_summary_has_each_goal() -> None:
    """The table at the end has a line for each goal, and says how many are met."""
    rows = [row(sides([1.0], [4.0]), Goal(0.5), Ceiling(0.5)), row({"ours": [1.0]})]

    assert [
        "",
        "goals: 1 of 2 met",
        "  met     c, v: ours / reference 0.25x (0.25 to 0.25), goal <= 0.5x: met",
        "  NOT met c, v: ours 1 ns (1 to 1), goal <= 0.5: NOT met",
    ] == report.summary_lines(rows)
    assert [] == report.summary_lines([row({"ours": [1.0]})])


def test_table() -> None:
    """The rows of a table have a column for each who chooses, empty where there is no figure."""
    figures = {"argmin": [3.0, 2.0, 4.0], "ours": [1.2, 1.1, 1.3], "all-knowing": [1.19, 1.0, 1.19]}
    goal = Ceiling(0.02, above="all-knowing")
    (line,) = report.row_lines(Row(case=PLACEMENT, variant="v", unit="fullest/mean", figures=figures, goals=(goal,)))

    assert ["v", "3.000", "1.200", "1.190", "goal", "<=", "all-knowing", "+", "0.02:", "met"] == line.split()
    head = report.case_lines(PLACEMENT)[-1]
    for name, figure in {"argmin": "3.000", "ours": "1.200", "all-knowing": "1.190"}.items():
        assert head.index(name) + len(name) == line.index(figure) + len(figure)


def test_json_of_rows() -> None:
    """A row in JSON has the figures and the ratio of each side, the verdicts, and who is missing."""
    form = record.as_json(
        [row(sides([1.0], [2.0]), Goal(0.5), missing={"glide": "not installed"}), row({"ours": [0.0], "other": [0.0]})],
        {},
        {},
        options=QUICK,
        started="now",
    )
    judged, without = json.loads(json.dumps(form, allow_nan=False))["results"]

    assert {"reference": {"median": 0.5, "low": 0.5, "high": 0.5}} == judged["ratios"]
    assert {"glide": "not installed"} == judged["missing"]
    (goal,) = judged["goals"]
    assert {"what": "ours / reference", "goal": "<= 0.5x", "unit": "x", "met": True}.items() <= goal.items()
    assert (True, None, {}) == (judged["met"], without["met"], without["ratios"])


def test_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be imported is told to be missing, with what to install."""
    monkeypatch.setitem(sys.modules, "coredis", None)
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert "not installed: pip install --group bench" == missing_module("coredis") == loops.missing("uvloop")
    assert missing_module("redis") is loops.missing("asyncio") is None


@pytest.fixture
def _coredis_may_leave_streams_open() -> Iterator[None]:
    """Let go of them here, and not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unclosed <MemoryObject", ResourceWarning)
        gc.collect()


async def test_row_of_a_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is missing is a row that says so, and the others are measured."""
    for module in ("coredis", "glide"):
        monkeypatch.setitem(sys.modules, module, None)

    rows = await crowd_rows()

    assert {"coredis", "valkey-glide"} == rows[0].missing.keys()
    assert "not installed" in "".join(report.row_lines(rows[0]))


async def crowd_rows() -> list[Row]:
    with Lab() as lab:
        server = lab.server(tcp=True)
        assert server.port is not None
        async with open_crowd(server, (server.port,), PEERS, callers=4, known=50, cluster=False) as crowd:
            rows = []
            for kind in (KNOWN, NEW, CLAIMED):
                measured = crowd.sides(kind, 4, 0.005)
                rows += await measure_rows(CASE, kind, measured, 1, missing=crowd.missing, server=None)
            return rows


@pytest.mark.usefixtures("_coredis_may_leave_streams_open")
async def test_misses_of_a_crowd() -> None:
    """We and all peers that are installed send the same misses, and claims; four figures are told of each."""
    pytest.importorskip("coredis")
    pytest.importorskip("glide")

    rows = await crowd_rows()

    figures = ("", f", {PROCESSOR_TIME}", ", p50", ", p99")
    assert [f"{kind}{figure}" for kind in (KNOWN, NEW, CLAIMED) for figure in figures] == [one.variant for one in rows]
    for one in rows:
        others = {MISSES} if one.variant.startswith(CLAIMED) else set()
        assert {SUBJECT, SCRIPT, *(peer.name for peer in PEERS)} | others == one.figures.keys()
        assert all(figure > 0 for figures in one.figures.values() for figure in figures)


@pytest.mark.usefixtures("_coredis_may_leave_streams_open")
async def test_misses_of_a_crowd_on_a_cluster() -> None:
    """The same on a Redis Cluster, by those who can."""
    peers = [peer for peer in PEERS if peer.open_cluster is not None and missing_module(peer.module) is None]
    with cluster(3) as servers:
        ports = tuple(node.port for node in servers.nodes if node.port is not None)
        async with open_crowd(servers, ports, peers, callers=4, known=50, cluster=True) as crowd:
            rows = await measure_rows(CASE, "v", crowd.sides(KNOWN, 4, 0.005), 1, missing={}, server=None)

    assert {SUBJECT, SCRIPT, *(peer.name for peer in peers)} == rows[0].figures.keys()


async def test_load_looks_at_answers() -> None:
    """A wrong answer under load is an error, and the right ones are counted."""

    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    def calls() -> Iterator[Callable[[], Awaitable[int]]]:
        return iter([answer] * 100)

    load = await under_load(calls(), 10, 5.0, is_right=lambda given: given == 7)

    assert load.kops > 0
    assert 0 < load.p50 <= load.p99
    with pytest.raises(AssertionError, match="10 of 10 callers got a wrong answer, such as 7"):
        await under_load(calls(), 10, 5.0, is_right=lambda given: given == 8)


class Forgetful:
    """Never hears of a move, or always."""

    hits = 0

    def __init__(self, *, hears: bool) -> None:
        self.hears = hears
        self.pods: dict[str, int] = {}

    async def compute(self, uid: str) -> int:
        await asyncio.sleep(0)
        return self.pods.get(uid, -1)

    async def move(self, uid: str, pod_index: int) -> None:
        await asyncio.sleep(0)
        if self.hears:
            self.pods[uid] = pod_index


@pytest.mark.parametrize("hears", [True, False])
async def test_traffic_notices_an_old_pod(hears: bool) -> None:
    """An answer that names the pod from before a move is counted, and wrong when the move is a while ago."""

    def steps() -> Iterator[tuple[bool, str]]:
        yield True, "a"
        while True:
            yield False, "a"

    seen = await Traffic(Forgetful(hears=hears), steps(), pods=4).round(callers=3, seconds=0.2)

    assert seen.kops > 0
    assert (seen.wrong == 0) is hears
    assert (seen.stale == 0) is hears


async def test_benchmark_tool_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without redis-benchmark there is a reason; with it, what it prints is read."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with Lab() as lab:
        server = lab.server(tcp=True)
        assert server.port is not None
        async with open_crowd(server, (server.port,), (), callers=1, known=1, cluster=False) as crowd:
            call = crowd.placing.call(uid_of(KNOWN, benchmark_tool.NUMBER))

    assert "not on the PATH: apt-get install redis-tools" == benchmark_tool.missing()
    tool = tmp_path / "redis-benchmark"
    tool.write_text(
        "#!/bin/sh\n"
        'echo \'"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms"\'\n'
        'echo \'"EVALSHA","50000.00","1.0","0.5","0.9","2.0","3.5"\'\n'
    )
    tool.chmod(0o755)
    load = await benchmark_tool.measure(call, port=1, callers=100, calls=10, numbers=1)

    assert (50.0, 0.9, 3.5) == (load.kops, load.p50, load.p99)
    assert benchmark_tool.missing() is None


@pytest.mark.parametrize("without_hiredis", [False, True])
def test_worker(without_hiredis: bool) -> None:
    """A function runs in a process of its own, and if asked as if hiredis were not installed."""
    found = worker.call("benchmarks.peers:missing_module", without_hiredis=without_hiredis, module="hiredis")

    assert without_hiredis is (found is not None)


def test_worker_that_fails() -> None:
    """What a worker wrote before it failed is in the error."""
    with pytest.raises(RuntimeError, match="ValueError: unknown url type"):
        worker.call("urllib.request:urlopen", url="nowhere")


@pytest.mark.parametrize("side_name", [SUBJECT, "TTLCache", "async_lru", "cashews", "aiocache"])
def test_memory_of_each_cache(side_name: str) -> None:
    """Each cache can be filled, and holds what was put into it."""
    if side_name != SUBJECT:
        pytest.importorskip(side_name.replace("TTLCache", "cachetools"))

    used = memory.measure(side_name, 1_000)

    assert used >= 0


@pytest.mark.parametrize("side_name", [SUBJECT, "TTLCache"])
def test_each_phase_has_a_stall(side_name: str) -> None:
    """Filling, collecting, evicting, flushing and expiring are watched."""
    stalls = stall.measure(side_name, 1_000, 0.2)

    assert {"filling", "full gc", "eviction", "flush, re-subscribed", "mass expiry"} == stalls.keys()
    assert all(longest > 0 for longest in stalls.values())


@pytest.mark.parametrize("side_name", [SUBJECT, "redis.asyncio, pipelines"])
def test_batch(side_name: str) -> None:
    """A batch of new uids is placed, by us and by hand."""
    figures = {"time for a uid", "processor time for a uid", "longest stall", "memory at its peak"}
    assert batch.measure(side_name, 500).keys() == figures


async def test_heartbeat() -> None:
    """The heartbeats of a pod with many links and of one with few are measured."""
    (measured,) = [one async for one in HEARTBEAT.run(QUICK)]

    assert {"ours", "10 links"} == measured.figures.keys()


async def test_mixed() -> None:
    """The mixed traffic is measured, and none of our answers is wrong."""
    running = MIXED.run(QUICK)
    assert isinstance(running, AsyncIterator)
    rows = [one async for one in running]

    assert [True] == [one.is_met for one in rows if one.variant == "the old pod after that"]
    assert 3 == sum(bool(one.goals) for one in rows)


@pytest.mark.parametrize("side_name", [SUBJECT, "plain SET"])
@pytest.mark.parametrize("kind", ["persistent", "temporary"])
async def test_bytes_of_a_link(kind: str, side_name: str) -> None:
    """What links take at a server is measured, and is more than the bytes of their uids."""
    used, product = await layout.bytes_each(kind, side_name, 2_000)

    assert 36 < used < 1_000
    assert product


async def test_time_of_a_link_at_the_server() -> None:
    """What an operation costs the server is told for each of them."""
    with Lab() as lab:
        async with layout.timed(lab.server()) as variants:
            for sides in variants.values():
                assert all([0 < await measure() < 1_000 for measure in sides.values()])


async def test_messages_of_a_drain() -> None:
    """What is said of a drain and of a restart reaches all who listen, and is counted."""
    with Lab() as lab:
        async with messages.open_fleet(lab.server(), pods=3, clients=2) as fleet:
            await fleet.claim(0, ["a", "b"])
            async with fleet.counted() as sent:
                await fleet.restart(0)
            async with fleet.counted() as nothing:
                pass

    assert sent[0].messages > 0
    assert sent[0].bytes > 0
    assert [messages.Sent(0, 0)] == nothing


def test_walks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk of each trip is counted: a hit is one call. --show prints one of them, from the user's call on."""
    taken = asyncio.run(walks.walks(QUICK))

    assert walks.TRIPS.keys() == taken.keys()
    for trip, walk in taken.items():
        assert 1 <= walk.modules <= walk.moves + 1 <= walk.calls < (10_000 if trip == walks.CROWD else 300)
        assert (walk.calls == 1) is (trip == walks.HIT)

    async def once_more(_options: Options) -> dict[str, Walk]:
        await asyncio.sleep(0)
        return taken

    monkeypatch.setattr(walks, "walks", once_more)
    main(["--show", walks.MISS])
    head, blank, first, second, *rest = capsys.readouterr().out.splitlines()
    assert head.startswith("a miss of a new uid: ")
    assert ("", "client.driver:ClientDriver.compute_linked_pod") == (blank, first)
    assert second.startswith("  client.")
    counts = [int(line.split()[0]) for line in rest[rest.index("") + 1 :]]
    assert f"{sum(counts)} calls, {len(counts)} modules" in head


async def test_rows_of_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walk is a line of a table, with whether its goals are met."""
    steps = [Step(0, "a", "f", resumed=False), Step(1, "b", "g", resumed=False)]
    short, long = Walk(steps), Walk(steps * 30)

    async def taken(_options: Options) -> dict[str, Walk]:
        await asyncio.sleep(0)
        return {walks.MISS: short, walks.HEARTBEAT: long, walks.KNOWN: long}

    monkeypatch.setattr(walks, "walks", taken)
    running = walks.WALKS.run(QUICK)
    assert isinstance(running, AsyncIterator)
    lines = [line for one in [one async for one in running] for line in report.row_lines(one)]

    missed, beaten, known = lines
    assert ["2", "2", "1", "goal", "calls", "<=", "40:", "met"] == missed.split()[6:14]
    assert ["60", "2", "59", "goal", "calls", "<=", "60:", "met"] == beaten.split()[-8:]
    assert "calls <= 40: NOT met  goal modules <= 14: met" in known


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def test_recorded_walk() -> None:
    """A coroutine that goes on is a call more, what others do is none, and a pause parts two walks."""
    of_the_package = types.FunctionType(pause.__code__, {"__name__": "stateful_route.somewhere", "asyncio": asyncio})
    with recorded() as recorder:
        await of_the_package(0.01)
        await pause(0.0)

    before, after = recorder.parts(0.01)
    assert [Step(0, "somewhere", "pause", resumed=False)] == before.steps
    assert [Step(0, "somewhere", "pause", resumed=True)] == after.steps
    assert (2, 1, 0) == recorder.walk.figures
    assert ["somewhere:pause", "somewhere:pause (goes on)", "", "   2 somewhere"] == recorder.walk.lines()
    assert after is most_common([recorder.walk, after, before])


def test_plot(tmp_path: Path) -> None:
    """A picture is a small PNG."""
    file = tmp_path / "picture.png"
    plot.draw_imbalance({"argmin": [1.0, 8.0, 3.0], "ours": [1.0, 1.2, 1.0]}, file, title="t", shaded=(1.0, 2.0))

    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 80_000


def test_pictures_of_rows(tmp_path: Path) -> None:
    """Each picture is drawn from the rows of its case, and is a small PNG."""
    by_name = {case.name: case for case in CASES}
    figures = {"ours": [9.0, 8.0], "ours, script": [90.0, 80.0], "redis.asyncio": [0.5, 0.4]}
    callers = ("1 caller", "16 callers", "100 callers", "1,000 callers")
    variants = {
        "hit": ["hot", "fresh"],
        "memory": ["1 links"],
        "concurrency": [f"{who}, known uids{what}" for who in callers for what in ("", ", p50", ", p99")],
    }
    drawn: list[Path] = []
    for name, names in variants.items():
        draw = by_name[name].draw
        assert draw is not None
        drawn += draw([Row(case=CASE, variant=variant, unit="ns", figures=figures) for variant in names], tmp_path)

    assert ["hit.png", "memory.png", "throughput.png", "latency.png"] == [file.name for file in drawn]
    for file in drawn:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < 100_000


def test_plot_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--plots without matplotlib is refused before anything runs, with what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["placement", "--plots", "x"])

    assert "pip install --group bench" in capsys.readouterr().err


def test_list_names_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names the cases, of which no two have the same name, and runs none."""
    main(["--list"])

    names = [case.name for case in CASES]
    assert names == [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names))


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no case has is refused, with the names there are."""
    with pytest.raises(SystemExit):
        main(["hot"])

    assert "'hot' is none of walks, hit, miss" in capsys.readouterr().err


def test_loop_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is not installed is refused before anything runs."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(SystemExit):
        main(["miss", "--loop", "uvloop"])

    assert "--loop uvloop: not installed" in capsys.readouterr().err


def test_command_line_writes_the_documented_json(tmp_path: Path) -> None:
    """``python -m benchmarks hit miss commands --quick --json FILE`` runs, and FILE has what the README documents."""
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "hit", "miss", "commands", "--quick", "--json", str(file)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    form = json.loads(file.read_text())
    assert {"format", "started", "quick", "loop", "alone", "versions", "machine", "results"} == form.keys()
    assert (record.FORMAT, True) == (form["format"], form["quick"])
    assert {"python", "stateful_route", "redis-py", "hiredis", "cachetools", "server"} < form["versions"].keys()
    assert {"platform", "processor", "cpus", "load_average"} == form["machine"].keys()
    assert [("hit", "hot"), ("hit", "fresh"), ("miss", "new"), ("miss", "known")] == [
        (one["case"], one["variant"]) for one in form["results"][:4]
    ]
    assert [True, True] == [one["met"] for one in form["results"][4:]]
    fields = {"case", "variant", "title", "reference", "unit", "goals", "met", "noise", "missing", "ratios", "figures"}
    for one in form["results"]:
        assert fields == one.keys()
        assert all({"what", "goal", "measured", "unit", "met"} == goal.keys() for goal in one["goals"])
        assert all(ratio.keys() == SPREAD_FIELDS for ratio in one["ratios"].values())
        assert all({*SPREAD_FIELDS, "rounds"} == figures.keys() for figures in one["figures"].values())
        assert "ours" in one["figures"]


@pytest.mark.skipif(sys.platform != "linux", reason="the processor time of a thread is that of the Linux kernel")
def test_history(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m benchmarks.history`` prints two figures for each call, and one for each length of a history."""
    history.main(["--calls", "20", "--links", "100"])
    lines = capsys.readouterr().out.splitlines()

    assert 20 == sum("off  " in line or "history=10" in line for line in lines)
    assert 5 == sum(line.endswith("bytes a link") for line in lines)
