"""What the demo says of a run: the tables, and what went wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from examples.demo.load import HELD_FROM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from examples.demo.chaos import Findings
    from examples.demo.load import Tally

_MOST_SHOWN = 5
_HELD = f"waited > {HELD_FROM:g} s"
_MS = 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least that share of them (above 0, to 1) does not exceed.

    Source: the nearest-rank definition.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def phases(tally: Tally) -> Table:
    """Return the table of what happened in each part of a chaos run."""
    rows = Table(box=box.ROUNDED, border_style="dim", header_style="bold", pad_edge=True)
    rows.add_column("phase", no_wrap=True)
    for name in ("seconds", "requests", "failed", _HELD, "longest wait", "users moved"):
        rows.add_column(name, justify="right")
    for phase in tally.phases:
        if phase.skipped:
            rows.add_row(phase.name, "skipped", *["-"] * 5)
            continue
        rows.add_row(
            phase.name,
            f"{phase.seconds:.1f}",
            f"{phase.sent:,}",
            _alarm(phase.failed),
            f"{phase.held:,}",
            _wait(phase.longest_wait),
            f"{phase.moved:,}",
        )
    return rows


def table(tally: Tally, links: Mapping[int, int], *, asked_for: int | None, findings: Findings | None) -> Table:
    """Return the table of the figures.

    ``asked_for`` is how many requests should have been sent, if that was said; ``links`` is how many links each pod
    has in Redis, by pod index; ``findings`` are those of a chaos run.
    """
    rows = Table(box=box.ROUNDED, show_header=False, border_style="dim", padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(justify="right")
    cut = asked_for is not None and tally.sent != asked_for
    rows.add_row("requests", f"{tally.sent:,} of {asked_for:,}: the time was up" if cut else f"{tally.sent:,}")
    rows.add_row("requests/s", f"{tally.sent / tally.seconds:,.0f}")
    rows.add_row("answered within", _times(tally.waits))
    rows.add_row("failed, all of them safe to repeat", _alarm(tally.failed))
    rows.add_row("wrong answers", _alarm(len(tally.wrong)))
    if findings is not None:
        rows.add_row("messages lost", _alarm(findings.lost + tally.given_up))
    rows.add_row("users moved", f"{tally.moved:,}")
    if findings is not None:
        elsewhere = findings.elsewhere_after
        rows.add_row(
            f"{findings.its_users:,} users of killed pod {findings.killed} elsewhere",
            Text("not all of them", style="bold red") if elsewhere is None else f"the last after {elsewhere:.2f} s",
        )
        rows.add_row("stale epochs refused", f"{findings.refused:,}")
        rows.add_row("- of them late writes of the killed pod", f"{findings.late_writes:,}")
    rows.add_section()
    for pod_index, count in sorted(links.items()):
        rows.add_row(f"links of pod {pod_index}", f"{count:,}")
    return rows


def failures(tally: Tally) -> Iterator[str]:
    """Say what the failed requests got, the more frequent failures first, with a few examples of each phase."""
    for phase in tally.phases:
        for failure, count in phase.failures.most_common(_MOST_SHOWN):
            yield f"{phase.name}: failed, {count:,} times: {failure}"


def remarks(tally: Tally, findings: Findings, pods: int) -> Iterator[str]:
    """Say what is to be known of a chaos run, and no problem."""
    for phase in tally.phases:
        if phase.skipped:
            yield f"{phase.name}: skipped, {phase.skipped}"
    if findings.restarted < pods:
        yield f"rolling restart: {findings.restarted} of {pods} pods, the time was up"


def problems(tally: Tally, findings: Findings | None) -> Iterator[str]:
    """Say what must not be: no request fails, and in a calm run no user moves; a chaos run has findings."""
    yield from failures(tally)
    if findings is None:
        if tally.moved:
            yield f"users moved: {tally.moved:,}"
    else:
        if findings.elsewhere_after is None:
            yield f"users of killed pod {findings.killed} were not routed elsewhere"
        if findings.lost or tally.given_up:
            yield f"messages lost: {findings.lost:,} accepted and not saved, {tally.given_up:,} never accepted"
        if findings.refused < findings.late_writes:
            yield f"late writes: {findings.late_writes - findings.refused:,} were not refused"
    for wrong in tally.wrong[:_MOST_SHOWN]:
        yield f"wrong answer: {wrong}"
    if len(tally.wrong) > _MOST_SHOWN:
        yield f"wrong answer: and {len(tally.wrong) - _MOST_SHOWN:,} more"


def _alarm(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "bold green")


def _wait(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * _MS:.0f} ms"


def _times(waits: Sequence[float]) -> str:
    if not waits:
        return "-"
    return ", ".join(f"p{share:.0%}".rstrip("%") + f" {_wait(percentile(waits, share))}" for share in (0.5, 0.99))
