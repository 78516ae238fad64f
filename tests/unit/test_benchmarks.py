"""The benchmarks: what is computed from the rounds, and that a case runs from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import plot, report
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.cases.placement import PLACEMENT
from benchmarks.comparison import Ceiling, Row
from benchmarks.harness import Case, Goal, Result, Variant, interleave, run
from benchmarks.statistics import Spread, quantile, ratios, spread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.harness import Lab

ROOT = Path(__file__).parents[2]
SPREAD_FIELDS = {"median", "low", "high"}


def side(name: str, figure: float, log: list[str]) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        log.append(name)
        return figure + len(log)

    return measure


@contextlib.asynccontextmanager
async def two_variants(lab: Lab) -> AsyncIterator[list[Variant]]:
    log: list[str] = []
    yield [Variant(name, side("s", 0.0, log), side("r", 0.0, log)) for name in ("one", "other")]


def case(goal: Goal = Goal(0.5)) -> Case:  # noqa: B008 - it is frozen
    return Case(name="c", title="t", reference="r", unit="ns", goal=goal, rounds=20, open=two_variants)


def result(subject: list[float], reference: list[float], goal: Goal = Goal(0.5)) -> Result:  # noqa: B008 - it is frozen
    return Result(case=case(goal), variant="v", subject=subject, reference=reference, server=None)


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
    assert Spread(0.5, 0.5, 0.5) == result(subject, reference).ratio


def test_noise_is_of_the_reference_alone() -> None:
    """A subject that varies does not make the machine noisy."""
    assert result([1.0, 2.0, 9.0], [4.0, 4.0, 4.0]).noise == 0.0
    assert result([1.0, 1.0, 1.0], [4.0, 5.0, 6.0]).noise == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(0.5), True),
        (Goal(0.49), False),
        (Goal(8, more_is_better=True), False),
        (Goal(0.5, more_is_better=True), True),
    ],
    ids=str,
)
def test_goal(goal: Goal, met: bool) -> None:
    """A goal is an upper bound of the ratio, or a lower one if more is better; to reach it is enough."""
    assert met is result([1.0, 1.0], [2.0, 2.0], goal).is_met


async def test_sides_take_turns() -> None:
    """The sides run by turns, the first of a pair changes each time, and the first round of each does not count."""
    log: list[str] = []

    subject, reference = await interleave(side("s", 100.0, log), side("r", 200.0, log), 3)

    assert ["s", "r", "s", "r", "r", "s", "s", "r"] == log
    assert [103.0, 106.0, 107.0] == subject
    assert [204.0, 205.0, 208.0] == reference


async def test_background_runs_between_rounds() -> None:
    """A task in the background gets its turn, though no round lets go of the loop."""
    turns = 0

    async def background() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(background())
    await interleave(side("s", 0.0, []), side("r", 0.0, []), 5)
    task.cancel()

    assert turns >= 12


@pytest.mark.parametrize(("quick", "rounds"), [(False, 20), (True, 2)])
async def test_run_gives_out_each_variant(quick: bool, rounds: int) -> None:
    """A case is run variant by variant, with a tenth of its rounds in a quick run."""
    results = [result async for result in run(case(), quick=quick)]

    assert ["one", "other"] == [result.variant for result in results]
    assert [(rounds, rounds)] * 2 == [(len(result.subject), len(result.reference)) for result in results]


def test_text_shows_ratio_goal_and_noise() -> None:
    """The lines of a result say the figures, the ratio with its spread, the goal, and that the machine was noisy."""
    subject, reference = [1200.0, 1200.0, 1200.0], [1000.0, 1500.0, 2000.0]

    assert [
        "  v      reference   1500 ns, subject   1200 ns, ratio 0.80x (0.64 to 1.12), goal <= 0.5x: NOT met",
        "         3 rounds; spread of the reference itself 53%, NOISY",
    ] == report.result_lines(result(subject, reference))


def row(goal: Ceiling | None) -> Row:
    figures = {"argmin": [3.0, 2.0, 4.0], "ours": [1.2, 1.1, 1.3], "all-knowing": [1.19, 1.0, 1.19]}
    return Row(case=PLACEMENT, variant="v", unit="fullest/mean", figures=figures, goal=goal)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Ceiling(1.2), True),
        (Ceiling(1.19), False),
        (Ceiling(0.02, above="all-knowing"), True),
        (Ceiling(0.005, above="all-knowing"), False),
        (None, None),
    ],
    ids=str,
)
def test_ceiling(goal: Ceiling | None, met: bool | None) -> None:
    """A figure is judged by the median of the seeds: against a number, or against that of another."""
    assert met is row(goal).is_met


def test_row_as_text() -> None:
    """A row has a column for each who chooses, empty where there is no figure, and the goal with its verdict."""
    (line,) = report.row_lines(row(Ceiling(0.02, above="all-knowing")))
    (plain,) = report.row_lines(row(None))

    assert ["v", "3.000", "1.200", "1.190", "goal", "<=", "all-knowing", "+", "0.02:", "met"] == line.split()
    assert ["v", "3.000", "1.200", "1.190"] == plain.split()
    head = report.case_lines(PLACEMENT)[-1]
    for name, figure in {"argmin": "3.000", "ours": "1.200", "all-knowing": "1.190"}.items():
        assert head.index(name) + len(name) == line.index(figure) + len(figure)


def test_row_as_json() -> None:
    """A row in JSON has the figures of each, and a goal that may be null."""
    form = report.as_json([row(None), row(Ceiling(1.25))], {}, {}, quick=True, started="now")
    without, judged = form["results"]

    assert (None, None) == (without["goal"], without["met"])
    assert ({"most": 1.25, "above": None}, True) == (judged["goal"], judged["met"])
    assert {"median": 3.0, "rounds": [3.0, 2.0, 4.0]}.items() <= judged["figures"]["argmin"].items()
    assert {"argmin", "ours", "all-knowing"} == judged["figures"].keys()


def test_plot(tmp_path: Path) -> None:
    """A picture is a small PNG."""
    file = tmp_path / "picture.png"
    plot.draw_imbalance({"argmin": [1.0, 8.0, 3.0], "ours": [1.0, 1.2, 1.0]}, file, title="t", shaded=(1.0, 2.0))

    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 80_000


def test_plot_of_what_cannot_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """--plot for a case that has no picture is refused before anything runs."""
    with pytest.raises(SystemExit):
        main(["hit", "--plot", "x.png"])

    assert "--plot needs one of placement" in capsys.readouterr().err


def test_plot_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--plot without matplotlib is refused before anything runs, with what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["placement", "--plot", "x.png"])

    assert "pip install 'stateful-route[bench]'" in capsys.readouterr().err


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

    assert "'hot' is none of hit, miss" in capsys.readouterr().err


def test_command_line_writes_the_documented_json(tmp_path: Path) -> None:
    """``python -m benchmarks hit --quick --json FILE`` runs, and FILE has the fields that the README documents."""
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "hit", "--quick", "--json", str(file)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    form = json.loads(file.read_text())
    assert {"format", "started", "quick", "versions", "machine", "results"} == form.keys()
    assert (report.FORMAT, True) == (form["format"], form["quick"])
    assert {"python", "stateful_route", "redis-py", "hiredis", "cachetools", "server"} == form["versions"].keys()
    assert all(form["versions"].values())
    assert {"platform", "processor", "cpus", "load_average"} == form["machine"].keys()
    assert [("hit", "hot"), ("hit", "fresh")] == [(one["case"], one["variant"]) for one in form["results"]]
    for one in form["results"]:
        assert {"title", "reference", "unit", "goal", "met", "ratio", "noise", "figures"} < one.keys()
        assert {"ratio": 0.5, "more_is_better": False} == one["goal"]
        assert one["ratio"].keys() == SPREAD_FIELDS
        assert {"subject", "reference"} == one["figures"].keys()
        for figures in one["figures"].values():
            assert {*SPREAD_FIELDS, "rounds"} == figures.keys()
            assert len(figures["rounds"]) == 30
