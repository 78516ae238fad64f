"""What the harness of the examples counts, and what it calls a broken promise."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("psutil")

from examples.__main__ import FOLDERS
from examples.harness.example import EXAMPLES, Example
from examples.harness.report import broken, measures, table
from examples.harness.run import KILL, ROLLING, STEADY, Outcome
from examples.harness.tally import Phase, Session, Tally


async def nobody(url: str, session: Session) -> None:
    """Be no user."""


EXAMPLE = Example(name="none", folder="none", title="nothing", user=nobody, users=3)


def outcome(*phases: Phase) -> Outcome:
    return Outcome(users=3, phases=list(phases), stuck=[])


def test_lost_with_the_killed_process() -> None:
    """A session that the killed process held is lost by nature; one of another process is a broken promise."""
    tally = Tally(2, {})
    held, other = tally.sessions
    held.looked(kept=True, holder=7)
    other.looked(kept=True, holder=8)
    tally.begin(KILL, killed=7)
    held.looked(kept=False, holder=8)
    natural = broken(Outcome(users=2, phases=tally.phases, stuck=[]))
    other.looked(kept=False, holder=8)

    assert natural == []
    assert broken(Outcome(users=2, phases=tally.phases, stuck=[])) == [
        f"{KILL}: 1 sessions lost that the killed process did not have"
    ]


def test_lost_twice_in_a_phase() -> None:
    """A user who loses what the next process had too, in the phase of a kill, is no user of the killed process then."""
    tally = Tally(1, {})
    (user,) = tally.sessions
    user.looked(kept=True, holder=7)
    tally.begin(KILL, killed=7)
    user.looked(kept=False, holder=8)
    user.looked(kept=False, holder=8)

    assert ({0}, {0}) == (tally.phase.lost, tally.phase.lost_elsewhere)


@pytest.mark.parametrize("name", [STEADY, ROLLING])
def test_nothing_may_be_lost(name: str) -> None:
    """In a calm time and in a rolling restart a lost session and each failed request break the promise."""
    tally = Tally(1, {})
    (user,) = tally.sessions
    tally.begin(name)
    user.looked(kept=False, holder=8)
    user.failed("status 502")
    user.failed("status 503", safe=False)

    said = broken(Outcome(users=1, phases=tally.phases, stuck=[]))

    assert 3 == len(said)
    assert all(text.startswith(name) for text in said)


def test_a_kill_may_fail_what_is_not_safe_to_repeat() -> None:
    """At a kill a request that is safe to repeat must not fail; what another one did nobody knows."""
    assert [] == broken(outcome(Phase(KILL, killed=7, unsafe_failed=2)))
    assert 1 == len(broken(outcome(_failed(Phase(KILL, killed=7)))))


def _failed(phase: Phase) -> Phase:
    phase.failed = 1
    phase.failures["status 502"] += 1
    return phase


def test_stuck() -> None:
    """A phase after which a user never came to look is a broken promise."""
    assert ["steady: not every user came to look"] == broken(Outcome(users=3, phases=[], stuck=[STEADY]))


def test_one_side() -> None:
    """The table of a run with one side only has the other side's cells empty."""
    rows = table({EXAMPLE: {True: outcome(Phase(STEADY, answered=5))}})

    assert 1 == rows.row_count
    assert ["-"] == [str(cell) for cell in rows.columns[2].cells]
    assert ["0 of 3"] == [str(cell) for cell in rows.columns[4].cells]


def test_measures() -> None:
    """What users measured in a phase is summed up, and that of another phase is not in it."""
    tally = Tally(1, {})
    (user,) = tally.sessions
    user.measured("ms", 1000)
    tally.begin(STEADY)
    for value in range(1, 101):
        user.measured("ms", value)

    said = measures({EXAMPLE: {True: outcome(*tally.phases)}})

    assert ["none, with, steady: ms: 100 x, mean 50, median 50, 95th percentile 95"] == list(said)


def test_all_folders() -> None:
    """Each folder with an app is known to ``make examples``, and has a README."""
    folders = {path.parent.name for path in EXAMPLES.glob("*/client.py")}

    assert folders == set(FOLDERS)
    assert all(Path(EXAMPLES, folder, "README.md").is_file() for folder in folders)


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_has_its_app(folder: str) -> None:
    """What a client says of its app is there."""
    try:
        module = importlib.import_module(f"examples.{folder}.client")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    apps = [
        example.path / name
        for example in module.EXAMPLES
        for name in (
            [part for part in example.command if part.endswith((".py", ".js"))]
            or [f"{app.partition(':')[0]}.py" for app in (example.app, example.router) if app]
        )
    ]

    assert apps
    assert all(app.is_file() for app in apps)


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_says_what_the_app_does(folder: str) -> None:
    """The line that makes an app right is in its README: as it is in the app, or as the command that runs it."""
    code = "".join(path.read_text(encoding="utf-8") for path in Path(EXAMPLES, folder).glob("*.py"))
    page = Path(EXAMPLES, folder, "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in page.splitlines() if "app.add_middleware(" in line]

    if "command=" in code:
        _, _, spelled = page.partition("--uid ")
        over_http = code.replace(",secure=no", "")  # as the example itself runs it
        assert f'uid="{spelled.split()[0]}"' in over_http
        return
    assert lines
    assert [] == [line for line in lines if line.removesuffix(")") not in code]
