"""The command line: ``python -m benchmarks [NAMES...] [--quick] [--json FILE] [--plots FOLDER] [--list]``.

``python -m benchmarks --show miss`` prints a walk through the package.

``python -m benchmarks soak --minutes N`` is something else: see ``benchmarks.soak``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import loops, plot, record, report
from benchmarks.cases import CASES, walks
from benchmarks.rows import Options
from benchmarks.soak import __main__ as soak

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.comparison import Comparison
    from benchmarks.harness import Case
    from benchmarks.rows import Row


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["soak"]:
        sys.exit(soak.main(arguments[1:]))
    by_name = {case.name: case for case in CASES}
    parser = _parser(list(by_name))
    given = parser.parse_args(arguments)
    if given.list:
        for case in CASES:
            print(f"{case.name:12} {case.title}; goal {case.goal}")
        return
    if given.plots is not None and not plot.is_possible():
        parser.error("--plots needs matplotlib: pip install --group bench")
    if (why := loops.missing(given.loop)) is not None:
        parser.error(f"--loop {given.loop}: {why}")
    options = Options(quick=given.quick, loop=given.loop)
    logging.getLogger("stateful_route").setLevel(logging.ERROR)  # a case may break off what it has begun
    if given.show is not None:
        _print(walks.shown(given.show, options))
        return
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    versions, machine = record.versions(), record.machine()
    _print(report.head_lines(versions, machine))
    rows: list[Row] = []
    for name in given.names or by_name:
        of_case = run_case(by_name[name], options)
        rows += of_case
        if given.plots is not None:
            _draw(by_name[name], of_case, given.plots)
    _print(report.summary_lines(rows))
    if given.json is not None:
        form = record.as_json(rows, versions, machine, options=options, started=started)
        given.json.write_text(json.dumps(form, indent=1) + "\n", encoding="utf-8")


def run_case(
    case: Case | Comparison, options: Options, say: Callable[[Sequence[str]], None] | None = None
) -> list[Row]:
    """Run a case, saying each row as it is known; return the rows."""
    say = say or _print
    say(report.case_lines(case))
    rows: list[Row] = []

    def take(row: Row) -> None:
        say(report.row_lines(row))
        rows.append(row)

    running = case.run(options)
    if isinstance(running, AsyncIterator):
        with asyncio.Runner(loop_factory=loops.factory(options.loop)) as runner:
            runner.run(_take_all(running, take))
    else:
        for row in running:
            take(row)
    return rows


async def _take_all(rows: AsyncIterator[Row], take: Callable[[Row], None]) -> None:
    async for row in rows:
        take(row)


def _draw(case: Case | Comparison, rows: Sequence[Row], folder: Path) -> None:
    if case.draw is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _print([f"  drawn: {file}" for file in case.draw(rows, folder)])


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure stateful_route against references that run in turn with it."
    )
    # Without `choices` for a list that may be empty: argparse would refuse the empty list itself.
    parser.add_argument("names", nargs="*", metavar="NAME", type=_one_of(names), help="cases to run; all by default")
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes: to see that it works")
    parser.add_argument("--loop", choices=loops.NAMES, default=loops.NAMES[0], help="the event loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the cases that have a picture into FOLDER")
    parser.add_argument(
        "--show", choices=walks.TRIPS, help="print the walk of that trip, call by call, and nothing else"
    )
    parser.add_argument("--list", action="store_true", help="list the cases")
    return parser


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    return name


if __name__ == "__main__":
    main()
