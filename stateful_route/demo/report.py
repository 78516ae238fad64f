"""What the demo says of a run: the table, and what went wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stateful_route.demo.load import Tally

_MOST_SHOWN = 5
_MS = 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least that share of them (above 0, to 1) does not exceed.

    Source: the nearest-rank definition.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def table(tally: Tally, asked_for: int, links: Mapping[int, int]) -> Table:
    """Return the table; ``links`` is how many links each pod has in Redis, by pod index."""
    sent = f"{tally.sent:,}" if tally.sent == asked_for else f"{tally.sent:,} of {asked_for:,}: the time was up"
    decisions = len(tally.cached_us) + len(tally.uncached_us)
    rows = Table(box=box.ROUNDED, show_header=False, border_style="dim", padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(justify="right")
    rows.add_row("requests", sent)
    rows.add_row("failed requests", _alarm(tally.failed))
    rows.add_row("answers from the wrong pod", _alarm(len(tally.misroutes)))
    rows.add_row("requests/s", f"{tally.sent / tally.seconds:,.0f}")
    rows.add_section()
    rows.add_row("cache hit rate", f"{len(tally.cached_us) / decisions:.1%}" if decisions else "-")
    rows.add_row("routing decision, cached", _times(tally.cached_us))
    rows.add_row("routing decision, uncached", _times(tally.uncached_us))
    rows.add_section()
    for pod_index, count in sorted(links.items()):
        rows.add_row(f"links of pod {pod_index}", f"{count:,}")
    return rows


def problems(tally: Tally) -> Iterator[str]:
    """Say what went wrong, the more frequent failures first, with a few examples of each kind."""
    for failure, count in tally.failures.most_common(_MOST_SHOWN):
        yield f"failed, {count:,} times: {failure}"
    for misroute in tally.misroutes[:_MOST_SHOWN]:
        yield f"wrong pod: {misroute}"
    if len(tally.misroutes) > _MOST_SHOWN:
        yield f"wrong pod: and {len(tally.misroutes) - _MOST_SHOWN:,} more"


def _alarm(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "bold green")


def _times(times_us: Sequence[float]) -> str:
    if not times_us:
        return "-"
    return f"p50 {_time(percentile(times_us, 0.5))}  p99 {_time(percentile(times_us, 0.99))}"


def _time(us: float) -> str:
    return f"{us:6.1f} µs" if us < _MS else f"{us / _MS:6.2f} ms"
