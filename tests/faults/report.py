"""Runs the tests of faults, and writes what came of each scenario to docs/faults.md: ``python -m tests.faults.report``.

With the name of a file it takes the results of an earlier run from there, and runs nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.conftest import RESULTS
from tests.faults.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- scenarios: written by python -m tests.faults.report -->", "<!-- end of the scenarios -->"
_MOST = 3
"""Figures of one test, which may run on many deployments, that are shown."""


def run(results: Path, arguments: Sequence[str]) -> int:
    """Run the tests of faults; what came of them is in ``results`` then."""
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "",
        "--numprocesses",
        "2",
        "--dist",
        "loadscope",
        "tests/faults",
    )
    return subprocess.run(
        (*command, *arguments), cwd=ROOT, env=os.environ | {RESULTS: str(results)}, check=False
    ).returncode


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def table(outcomes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table: a row for each scenario."""
    lines = ["| # | scenario | expected | passes with | tests | measured |", "|---|---|---|---|---|---|"]
    for number, scenario in SCENARIOS.items():
        mine = [outcome for outcome in outcomes if number in outcome["scenarios"]]
        tests = ", ".join(dict.fromkeys(_name(outcome["test"]) for outcome in mine)) or "none"
        cells = (scenario.what, scenario.expected, scenario.figure, tests, _measured(mine))
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def _name(test: str) -> str:
    """Return the name of a test without its parameters, as a link to its file."""
    file, _, name = test.partition("::")
    return f"[{name.partition('[')[0].rpartition('::')[2].removeprefix('test_')}](../{file})"


def _measured(outcomes: Iterable[dict[str, Any]]) -> str:
    of_test: dict[str, list[str]] = {}
    bad = []
    for outcome in outcomes:
        name = outcome["test"].partition("[")[0].rpartition("::")[2]
        if outcome["outcome"] != "passed":
            bad.append(f"{outcome['test'].rpartition('::')[2]} {outcome['outcome']}")
        of_test.setdefault(name, []).extend(f"{figure}{_where(outcome['test'])}" for figure in outcome["figures"])
    figures = [figure for found in of_test.values() for figure in found[:_MOST]]
    return "<br>".join([f"**{each}**" for each in bad] + figures) or "passed"


def _where(test: str) -> str:
    found = re.search(r"\[(.*)\]$", test)
    return f" ({found[1]})" if found else ""


def write(outcomes: Sequence[dict[str, Any]]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:begin]}\n" + "\n".join(table(outcomes)) + f"\n{page[end:]}", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    if arguments and Path(arguments[0]).is_file():
        write(read(Path(arguments[0])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        status = run(results, arguments)
        write(read(results))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
