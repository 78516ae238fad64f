"""The command line: ``python -m benchmarks [NAMES...] [--quick] [--json FILE] [--plot FILE] [--list]``."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import plot, report
from benchmarks.cases import CASES
from benchmarks.comparison import Comparison
from benchmarks.harness import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.comparison import Row
    from benchmarks.harness import Case, Result


def main(arguments: Sequence[str] | None = None) -> None:
    by_name = {case.name: case for case in CASES}
    parser = _parser(list(by_name))
    options = parser.parse_args(arguments)
    if options.list:
        for case in CASES:
            print(f"{case.name:10} {case.title}; goal {case.goal}")
        return
    cases = [by_name[name] for name in options.names or by_name]
    drawn = [case for case in cases if isinstance(case, Comparison)] if options.plot else []
    if options.plot and len(drawn) != 1:
        parser.error(f"--plot needs one of {', '.join(case.name for case in CASES if isinstance(case, Comparison))}")
    if options.plot and not plot.is_possible():
        parser.error("--plot needs matplotlib: pip install 'stateful-route[bench]'")
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    versions, machine = report.versions(), report.machine()
    _print(report.head_lines(versions, machine))
    results: list[Result | Row] = []
    for case in cases:
        _print(report.case_lines(case))
        if isinstance(case, Comparison):
            results += _compare(case, quick=options.quick)
        else:
            results += asyncio.run(_run(case, quick=options.quick))
    for case in drawn:
        case.draw(options.plot)
    if options.json is not None:
        form = report.as_json(results, versions, machine, quick=options.quick, started=started)
        options.json.write_text(json.dumps(form, indent=1) + "\n", encoding="utf-8")


def _compare(case: Comparison, *, quick: bool) -> list[Row]:
    rows = []
    for row in case.run(quick):
        _print(report.row_lines(row))
        rows.append(row)
    return rows


async def _run(case: Case, *, quick: bool) -> list[Result]:
    results = []
    async for result in run(case, quick=quick):
        _print(report.result_lines(result))
        results.append(result)
    return results


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines), flush=True)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure stateful_route against references that run in turn with it."
    )
    # Without `choices` for a list that may be empty: argparse would refuse the empty list itself.
    parser.add_argument("names", nargs="*", metavar="NAME", type=_one_of(names), help="cases to run; all by default")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the case into FILE (PNG) too")
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
