"""Results as text for people and as JSON for programs, with what is needed to judge them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.comparison import Comparison, Row
from benchmarks.statistics import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Case, Result

FORMAT = 1
"""The number of the JSON format: it rises when a field changes its meaning or goes."""

_NOISY = 0.25
_VARIANT = 48
_PACKAGES = {
    "stateful_route": "stateful-route",
    "redis-py": "redis",
    "hiredis": "hiredis",
    "cachetools": "cachetools",
}


def versions() -> dict[str, str]:
    """Return the versions of what takes part, but for the server."""
    packages = {name: metadata.version(package) for name, package in _PACKAGES.items()}
    return {"python": f"{platform.python_implementation()} {platform.python_version()}", **packages}


def machine() -> dict[str, Any]:
    """Return what the machine is, and how busy it is now."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_average": list(os.getloadavg()),
    }


def _processor() -> str:
    """Return the model of the processor: ``platform.processor()`` is empty on most of Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def head_lines(versions_now: dict[str, str], machine_now: dict[str, Any]) -> list[str]:
    """Return the lines that say what is measured where."""
    load = machine_now["load_average"][0]
    return [
        ", ".join(f"{name} {version}" for name, version in versions_now.items()),
        f"{machine_now['platform']}, {machine_now['processor']}, {machine_now['cpus']} CPUs, load {load:.1f}",
    ]


def case_lines(case: Case | Comparison) -> list[str]:
    """Return the lines that stand above the results of a case."""
    lines = ["", f"{case.name}: {case.title}", f"  reference: {case.reference}"]
    if isinstance(case, Comparison):
        heads = "".join(f" {name.rpartition(', ')[2]:>13}" for name in case.names)
        lines += [f"  goal: {case.goal}", f"  {'':{_VARIANT}}{heads}"]
    return lines


def result_lines(result: Result) -> list[str]:
    """Return the lines for one result."""
    goal, ratio, unit = result.case.goal, result.ratio, result.case.unit
    reference, subject = (_rounded(spread(side).median) for side in (result.reference, result.subject))
    verdict = "met" if result.is_met else "NOT met"
    noise = f"{result.noise:.0%}{', NOISY' if result.noise > _NOISY else ''}"
    figures = f"reference {reference:>6} {unit}, subject {subject:>6} {unit}"
    judged = f"ratio {ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), goal {goal}: {verdict}"
    return [
        f"  {result.variant:6} {figures}, {judged}",
        f"  {'':6} {len(result.reference)} rounds; spread of the reference itself {noise}",
    ]


def row_lines(row: Row) -> list[str]:
    """Return the line of one row of a table."""
    figures = "".join(f" {row.median(name):>13.3f}" if name in row.figures else f" {'':>13}" for name in row.case.names)
    judged = "" if row.goal is None else f"  goal {row.goal}: {'met' if row.is_met else 'NOT met'}"
    return [f"  {row.variant:{_VARIANT}}{figures}{judged}".rstrip()]


def _rounded(figure: float) -> str:
    """Return three digits of a figure, or all of its whole ones."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def as_json(
    results: Sequence[Result | Row],
    versions_now: dict[str, str],
    machine_now: dict[str, Any],
    *,
    quick: bool,
    started: str,
) -> dict[str, Any]:
    """Return the JSON form of a run, which README.md documents."""
    servers = {result.server for result in results if not isinstance(result, Row) and result.server is not None}
    return {
        "format": FORMAT,
        "started": started,
        "quick": quick,
        "versions": {**versions_now, "server": ", ".join(sorted(servers)) or None},
        "machine": machine_now,
        "results": [_row(result) if isinstance(result, Row) else _result(result) for result in results],
    }


def _result(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "case": case.name,
        "variant": result.variant,
        "title": case.title,
        "reference": case.reference,
        "unit": case.unit,
        "goal": attrs.asdict(case.goal),
        "met": result.is_met,
        "ratio": attrs.asdict(result.ratio),
        "noise": result.noise,
        "figures": {
            name: {**attrs.asdict(spread(figures)), "rounds": list(figures)}
            for name, figures in (("subject", result.subject), ("reference", result.reference))
        },
    }


def _row(row: Row) -> dict[str, Any]:
    case = row.case
    return {
        "case": case.name,
        "variant": row.variant,
        "title": case.title,
        "reference": case.reference,
        "unit": row.unit,
        "goal": None if row.goal is None else attrs.asdict(row.goal),
        "met": row.is_met,
        "figures": {
            name: {**attrs.asdict(spread(figures)), "rounds": list(figures)} for name, figures in row.figures.items()
        },
    }
