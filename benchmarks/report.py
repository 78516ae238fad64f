"""Results as text for people, with what is needed to judge them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.comparison import Comparison
from benchmarks.rows import SUBJECT, is_ours
from benchmarks.statistics import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.goals import Verdict
    from benchmarks.harness import Case
    from benchmarks.rows import Row
    from benchmarks.statistics import Spread

_NOISY = 0.25
_VARIANT = 48
_SIDE = 26


def head_lines(versions: Mapping[str, str | None], machine: Mapping[str, Any]) -> list[str]:
    """Return the lines that say what is measured where."""
    load = machine["load_average"][0]
    return [
        ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items()),
        f"{machine['platform']}, {machine['processor']}, {machine['cpus']} CPUs, load {load:.1f}",
    ]


def case_lines(case: Case | Comparison) -> list[str]:
    """Return the lines that stand above the results of a case."""
    lines = ["", f"{case.name}: {case.title}", f"  reference: {case.reference}"]
    if isinstance(case, Comparison):
        lines.append(f"  goal: {case.goal}")
        if case.columns:
            heads = "".join(f" {name.rpartition(', ')[2]:>13}" for name in case.columns)
            lines.append(f"  {'':{_VARIANT}}{heads}")
    return lines


def row_lines(row: Row) -> list[str]:
    """Return the lines for one result."""
    if isinstance(row.case, Comparison) and row.case.columns:
        return _table_line(row, row.case) + [f"    {name}: {why}" for name, why in row.missing.items()]
    if row.is_detail:
        figures = ", ".join(f"{name} {rounded(row.median(name))}" for name in row.figures)
        lines = [f"    {row.variant}, {row.unit}: {figures}"]
    else:
        noise = f"; spread of the reference itself {row.noise:.0%}{', NOISY' if row.noise > _NOISY else ''}"
        rounds = max(map(len, row.figures.values()), default=0)
        lines = [f"  {row.variant}, {row.unit} ({rounds} round{'s'[: rounds != 1]}{noise if row.noise else ''})"]
        lines += [_side_line(row, name) for name in row.figures]
        lines += [f"    {name:{_SIDE}} {why}" for name, why in row.missing.items()]
    return lines + [f"    goal: {verdict_text(verdict)}" for verdict in row.verdicts]


def summary_lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table at the end: each goal, and whether it is met."""
    judged = [(row, verdict) for row in rows for verdict in row.verdicts]
    if not judged:
        return []
    met = sum(verdict.met for _, verdict in judged)
    return [
        "",
        f"goals: {met} of {len(judged)} met",
        *(
            f"  {'met    ' if verdict.met else 'NOT met'} {row.case.name}, {row.variant}: {verdict_text(verdict)}"
            for row, verdict in judged
        ),
    ]


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict in words."""
    unit = verdict.unit if verdict.unit == "x" else f" {verdict.unit}"
    return (
        f"{verdict.what} {rounded(verdict.measured.median)}{unit} ({_range(verdict.measured)}), "
        f"goal {verdict.goal}: {'met' if verdict.met else 'NOT met'}"
    )


def rounded(figure: float) -> str:
    """Return three digits of a figure, or all of its whole ones."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _side_line(row: Row, name: str) -> str:
    figures = spread(row.figures[name])
    line = f"    {name:{_SIDE}} {rounded(figures.median):>8}  {f'({_range(figures)})':22}"
    ratio = row.ratio(name)
    return line.rstrip() if ratio is None else f"{line} {SUBJECT} is {rounded(ratio.median)}x of it ({_range(ratio)})"


def _table_line(row: Row, table: Comparison) -> list[str]:
    figures = "".join(
        f" {row.median(name):>13.{table.decimals}f}" if name in row.figures else f" {'':>13}" for name in table.columns
    )
    judged = "".join(
        f"  goal {'' if is_ours(each.what) else f'{each.what} '}{each.goal}: {'met' if each.met else 'NOT met'}"
        for each in row.verdicts
    )
    return [f"  {row.variant:{_VARIANT}}{figures}{judged}".rstrip()]


def _range(figures: Spread) -> str:
    return f"{rounded(figures.low)} to {rounded(figures.high)}"
