"""The promises: each figure is on the page that is named beside it, and each command is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import attrs

from benchmarks.cases import CASES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs"
PAGE = (FOLDER / "promises.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (?P<promise>[^|]+) \| (?P<figure>[^|]+) \| (?P<commands>[^|]+) \| \[\w+\]\((?P<source>[^)#]+)")
_NUMBER = re.compile(r"\d[\d.,]*\d|\d")


@attrs.frozen
class Row:
    """One promise."""

    promise: str
    figure: str
    commands: list[str]
    source: str


def rows() -> list[Row]:
    found = [_ROW.match(line) for line in PAGE.splitlines()]
    return [
        Row(row["promise"], row["figure"], re.findall(r"`([^`]+)`", row["commands"]), row["source"])
        for row in found
        if row is not None and row["promise"] != "promise"
    ]


def test_all_rows_are_looked_at() -> None:
    """No row has another form."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise")]

    assert len(lines) == len(rows()) > 30


def test_figures() -> None:
    """Each number of a figure is on the page that it comes from: none is made up, none is out of date."""
    missing = []
    for row in rows():
        source = (FOLDER / row.source).read_text(encoding="utf-8")
        there = set(_NUMBER.findall(source))
        missing += [(row.promise, number) for number in _NUMBER.findall(row.figure) if number not in there]

    assert [] == missing


def test_numbers_of_the_faults() -> None:
    """What is said of a fault is said in its row of the table of faults."""
    table = (FOLDER / "faults.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \| \[faults\]\(faults\.md\), (\d+) \|$", PAGE, re.MULTILINE)
    wrong = []
    for figure, number in said:
        (row,) = re.findall(rf"^\| {number} \|.*$", table, re.MULTILINE)
        wrong += [(number, each) for each in _NUMBER.findall(figure) if each not in _NUMBER.findall(row)]

    assert [] == wrong
    assert len(said) > 12


def test_commands() -> None:
    """Each command that prints a figure is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in {command for row in rows() for command in row.commands}:
        words = command.split()
        match words:
            case ["make", target]:
                assert f"\n{target}:" in makefile
            case ["python", "-m", "benchmarks", case]:
                assert case in {each.name for each in CASES}
            case ["python", "-m", module]:
                assert importlib.util.find_spec(module) is not None
            case ["python", file]:
                assert (ROOT / file).is_file()
            case _:
                raise AssertionError(command)
