"""What is said of the runs: the table, and which promises were not kept."""

from __future__ import annotations

import math
from statistics import mean, median
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from examples.harness.run import KILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from examples.harness.example import Example
    from examples.harness.run import Outcome
    from examples.harness.tally import Phase

_MOST_SHOWN = 3
_NOT_RUN = "-"


def table(outcomes: Mapping[Example, Mapping[bool, Outcome]], *, markdown: bool = False) -> Table:
    """Return the table: for each example and phase what was lost without stateful_route, and what with it.

    ``outcomes`` are by example, and by whether the middleware was there.
    """
    rows = Table(box=box.MARKDOWN if markdown else box.ROUNDED, border_style="dim", header_style="bold")
    rows.add_column("example", no_wrap=True)
    rows.add_column("phase", no_wrap=True)
    for side in ("without", "with"):
        rows.add_column(f"{side}: sessions lost", justify="right")
        rows.add_column("requests failed", justify="right")
    for example, runs in outcomes.items():
        names = [phase.name for phase in next(iter(runs.values())).phases] if runs else []
        for number, name in enumerate(names):
            cells = [cell for sticky in (False, True) for cell in _cells(runs.get(sticky), number)]
            rows.add_row("" if number else example.name, name, *cells)
        if not markdown:
            rows.add_section()
    return rows


def _cells(outcome: Outcome | None, number: int) -> tuple[Text, Text]:
    if outcome is None:
        return Text(_NOT_RUN), Text(_NOT_RUN)
    phase = outcome.phases[number]
    lost = Text(f"{len(phase.lost)} of {outcome.users}", style=_style(bad=bool(phase.lost)))
    total = phase.answered + phase.failed + phase.unsafe_failed
    failed = f"{phase.failed} of {total:,}"
    if phase.unsafe_failed:
        failed += f", and {phase.unsafe_failed} not safe to repeat"
    return lost, Text(failed, style=_style(bad=bool(phase.failed or phase.unsafe_failed)))


def _style(*, bad: bool) -> str:
    return "yellow" if bad else "green"


def failures(outcomes: Mapping[Example, Mapping[bool, Outcome]]) -> Iterator[str]:
    """Say why requests failed, the most frequent reasons of each phase first."""
    for example, runs in outcomes.items():
        for sticky, outcome in runs.items():
            for phase in outcome.phases:
                for why, count in phase.failures.most_common(_MOST_SHOWN):
                    yield f"{example.name}, {'with' if sticky else 'without'}, {phase.name}: {count} x {why}"


def measures(outcomes: Mapping[Example, Mapping[bool, Outcome]]) -> Iterator[str]:
    """Sum up what users measured in each phase."""
    for example, runs in outcomes.items():
        for sticky, outcome in runs.items():
            for phase in outcome.phases:
                for what, values in phase.measures.items():
                    side = "with" if sticky else "without"
                    yield f"{example.name}, {side}, {phase.name}: {what}: {_summed_up(values)}"


def _summed_up(values: Sequence[float]) -> str:
    ordered = sorted(values)
    late = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return f"{len(ordered):,} x, mean {mean(ordered):.0f}, median {median(ordered):.0f}, 95th percentile {late:.0f}"


def broken(outcome: Outcome) -> list[str]:
    """Say which promises of the middleware were not kept in a run with it; the app has a hand-off.

    - In a calm time and in a rolling restart no session is lost and no request fails.
    - At a kill no request fails that was safe to repeat, and no session is lost but those that the killed process had.
    """
    said = [f"{name}: not every user came to look" for name in outcome.stuck]
    for phase in outcome.phases:
        said += [f"{phase.name}: {text}" for text in _broken(phase)]
    return said


def _broken(phase: Phase) -> Iterable[str]:
    if phase.name == KILL:
        if phase.lost_elsewhere:
            yield f"{len(phase.lost_elsewhere)} sessions lost that the killed process did not have"
    elif phase.lost:
        yield f"{len(phase.lost)} sessions lost"
    if phase.failed:
        yield f"{phase.failed} requests failed that were safe to repeat: {phase.failures.most_common(1)[0][0]}"
    if phase.unsafe_failed and phase.name != KILL:
        yield f"{phase.unsafe_failed} other requests failed: {phase.failures.most_common(1)[0][0]}"
