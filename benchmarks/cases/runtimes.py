"""Hit and miss on uvloop, and without hiredis: each in a process of its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks import loops, worker
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Goal
from benchmarks.rows import Options, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

_GOALS = {"hit": 0.5, "miss": 1.1}
_WAYS = {"uvloop": ("uvloop", False), "without hiredis": ("asyncio", True)}


def measure(case: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a case."""
    from benchmarks.__main__ import run_case  # noqa: PLC0415 - it imports all cases, this one too

    found = getattr(importlib.import_module(f"benchmarks.cases.{case}"), case.upper())
    rows = run_case(found, Options(**options), say=_nothing)
    return [{"variant": row.variant, "unit": row.unit, "figures": row.figures} for row in rows]


def _nothing(_lines: object) -> None:
    """Say nothing: the figures go to the process that started this one."""


def _run(options: Options) -> Iterator[Row]:
    for way, (loop, without_hiredis) in _WAYS.items():
        if (why := loops.missing(loop)) is not None:
            yield Row(case=RUNTIMES, variant=way, unit="ns", figures={}, missing={way: why})
            continue
        for case, ratio in _GOALS.items():
            for row in worker.call(
                "benchmarks.cases.runtimes:measure",
                without_hiredis=without_hiredis,
                case=case,
                options=attrs.asdict(attrs.evolve(options, loop=loop, alone=True)),
            ):
                (reference,) = (name for name in row["figures"] if not name.startswith(SUBJECT))
                yield Row(
                    case=RUNTIMES,
                    variant=f"{way}: {case}, {row['variant']}",
                    unit=row["unit"],
                    figures=row["figures"],
                    goals=(Goal(ratio, of=reference),),
                )


RUNTIMES = Comparison(
    name="runtimes",
    title="hit and miss on uvloop, and without hiredis",
    reference="those of the cases hit and miss, on the same loop and with the same parser",
    goal="those of the cases hit and miss",
    run=_run,
)
