"""Simulated worlds: seeds that must pass, exact replay, plans that were kept, and the shrinker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tools import simulation
from tools.simulation import Plan, make_plan, run_plan, shrink
from tools.simulation import __main__ as command
from tools.simulation.processes import PodProcess

KEPT = sorted((Path(__file__).parent / "kept").glob("*.json"))


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_seeds(first: int) -> None:
    """Nothing that must not be happens in any of these worlds."""
    for seed in range(first, first + 20):
        violation = run_plan(make_plan(seed)).violation

        assert violation is None, f"seed {seed}: {violation}"


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept(path: Path) -> None:
    """What once failed does not fail any more; the name of the file says how it failed."""
    plan = Plan.from_json(path.read_text(encoding="utf-8"))
    for schedule in (plan.schedule, 1, 2, 3):
        violation = run_plan(attrs.evolve(plan, schedule=schedule)).violation

        assert violation is None, violation


def test_replay_here() -> None:
    """The same seed makes the same trace, each time."""
    first, second = (run_plan(make_plan(7), trace=True) for _ in range(2))

    assert first.lines == second.lines
    assert len(first.lines) > 100


@pytest.mark.parametrize("seed", [3, 5, 8, 12, 21])
def test_replay_elsewhere(seed: int) -> None:
    """The same seed makes the same trace in another process, whatever its hash seed and its addresses are."""
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tools.simulation", "--seed", str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.splitlines()[-1])

    here = run_plan(make_plan(seed), trace=True)

    assert {f"seed {seed}: all is well (trace {here.digest}, {here.steps} steps)"} == digests


def test_trace_changes_nothing() -> None:
    """A run takes the same steps whether they are written down or not."""
    assert run_plan(make_plan(9)).steps == run_plan(make_plan(9), trace=True).steps


def test_plan_in_writing() -> None:
    """A plan that was written down is the same plan."""
    plan = make_plan(4)

    assert plan == Plan.from_json(plan.to_json())


@pytest.mark.slow
def test_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that fails is made much shorter, and fails in the same way."""
    monkeypatch.setattr(PodProcess, "serve", _serve_what_is_not_owned)
    failed = next(result for seed in range(100) if (result := run_plan(make_plan(seed))).violation is not None)
    plan = shrink(failed, seconds=15)
    violation = run_plan(plan).violation

    assert failed.violation is not None
    assert violation is not None
    assert failed.violation.invariant == violation.invariant
    assert 2 * len(plan.actions) < len(failed.plan.actions)


def _serve_what_is_not_owned(pod: PodProcess, uid: str) -> bool:
    """Serve from memory, whoever owns the uid by now: an application that forgets to ask."""
    if uid not in pod.memory:
        return False
    handle, version = pod.memory[uid]
    pod.memory[uid] = handle, pod.judge.served(pod, handle, version)
    return True


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command runs seeds, says how it went, and writes a plan down that it can run again."""
    many = command.main(["--seeds", "5", "--jobs", "2"])
    kept = tmp_path / "plan.json"
    one = command.main(["--seed", "3", "--save", str(kept), "--trace"])
    again = command.main(["--plan", str(kept)])
    out = capsys.readouterr().out

    assert (0, 0, 0) == (many, one, again)
    assert "5 seeds" in out
    assert 2 == out.count("seed 3: all is well")
    assert "pod0         starts" in out


@pytest.mark.slow
def test_command_that_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that fails ends the command, which says how to run it again."""
    monkeypatch.setattr(PodProcess, "serve", _serve_what_is_not_owned)
    failed = command.main(["--seeds", "100"])
    out = capsys.readouterr().out

    assert 1 == failed
    assert "memory is never stale" in out
    assert "replay: python -m tools.simulation --seed" in out


def test_public_names() -> None:
    """What is exported is there, and sorted."""
    assert sorted(simulation.__all__, key=str.lower) == sorted(set(simulation.__all__), key=str.lower)
    assert all(hasattr(simulation, name) for name in simulation.__all__)


def test_the_example_of_the_page() -> None:
    """The example of docs/simulator.md runs as it stands."""
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    (example,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "VirtualLoop" in text]
    exec(example, {})  # noqa: S102 - our own page
