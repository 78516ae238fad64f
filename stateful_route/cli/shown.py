"""What commands print for people: tables, ages and figures. Whatever comes from Redis may be hostile.

A cell is a ``Text`` of rich, never markup, and what a terminal would act on is escaped in it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stateful_route.cli.ending import plain
from stateful_route.ops.values import imbalance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stateful_route.ops import PodSeen

Cell: TypeAlias = "Text | str | float | None"

# A table that goes into a file or a pipe has one line a row, however long it is.
_WIDE = 10_000
_STYLES = {"READY": "green", "DENY_NEW_CALL": "yellow", "SHUTDOWN": "dim", "DEAD": "red", "SILENT": "red"}
_UNITS = (86_400.0, "d"), (3600.0, "h"), (60.0, "min")
_EXACT = 10.0
_OPTIONAL = "NAME", "CAPACITY", "ZONE", "VERSION", "ADDRESS"
_YIELDING = "ZONE", "VERSION", "ADDRESS"
_FLUSH_RIGHT = "POD", "LINKS", "LOAD", "PLACED", "HEARTBEAT", "LEASE", "CAPACITY"
_HEADINGS = "POD", "NAME", "STATE", "LINKS", "LOAD", "PLACED", "HEARTBEAT", "LEASE", *_OPTIONAL[1:]
_LONG_NAME = 40
"""Above so many characters a name gives way too."""


def cell(value: Cell, style: str = "") -> Text:
    """Return what is shown of a value: ``-`` for none."""
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        value = f"{value:g}"
    return Text("-" if value is None else plain(str(value)), style=style)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Iterable[str] = (),
    optional: Iterable[str] = (),
    yielding: Iterable[str] = (),
    cut: bool = False,
) -> Table:
    """Return a table without lines.

    Columns in ``right`` are flush right; those in ``optional`` are left out if they are empty; those in ``yielding``
    give way where not all fit: what is too long is in a further line then, or ``cut``.
    """
    rows, unless_empty, flush, narrow = list(rows), frozenset(optional), frozenset(right), frozenset(yielding)
    shown = [
        at for at, name in enumerate(headings) if name not in unless_empty or any(row[at] is not None for row in rows)
    ]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in shown:
        justify: Literal["right", "left"] = "right" if headings[at] in flush else "left"
        heading = Text(headings[at], no_wrap=cut, overflow="ellipsis" if cut else None)
        yields = headings[at] in narrow
        made.add_column(heading, justify=justify, overflow="fold" if yields else "ellipsis", no_wrap=not yields)
    for row in rows:
        cells = [cell(row[at]) for at in shown]
        for one in cells if cut else ():
            one.no_wrap, one.overflow = True, "ellipsis"
        made.add_row(*cells)
    return made


def pods_table(pods: Iterable[PodSeen], *, cut: bool = False) -> Table:
    """Return the table of some pods, without the columns in which there is nothing; as ``table``."""
    pods = list(pods)
    yielding = names_yield((pod.pod_name for pod in pods), *_YIELDING)
    return table(_HEADINGS, map(_pod_row, pods), right=_FLUSH_RIGHT, optional=_OPTIONAL, yielding=yielding, cut=cut)


def names_yield(names: Iterable[str | None], *others: str) -> tuple[str, ...]:
    """Return which columns give way: the names of pods only if one is too long to be one."""
    is_long = any(len(plain(name)) > _LONG_NAME for name in names if name is not None)
    return ("NAME", *others) if is_long else others


def _pod_row(pod: PodSeen) -> tuple[Cell, ...]:
    links = str(pod.links) if pod.max_links is None else f"{pod.links}/{pod.max_links}"
    return (
        str(pod.pod_index),
        pod.pod_name,
        state(pod),
        links,
        str(pod.load),
        str(pod.placed_total),
        heartbeat(pod),
        f"{pod.lease:g} s",
        None if pod.capacity == 1 else pod.capacity,
        pod.zone,
        pod.version,
        pod.address,
    )


def state(pod: PodSeen) -> Text:
    """Return the state of a pod, with what else hinders it or is about to."""
    more = (("full", pod.full), ("draining", pod.draining), ("reclaiming", pod.reclaiming))
    words = [pod.state, *(word for word, is_so in more if is_so and pod.alive)]
    return cell(", ".join(words), _STYLES.get(pod.state, ""))


def heartbeat(pod: PodSeen) -> Text:
    """Return how long ago a pod was heard: red once that is longer than its lease, yellow above half of it."""
    share = pod.heartbeat_age / pod.lease
    style = "" if pod.state in {"DEAD", "SHUTDOWN"} or share < 1 / 2 else "yellow" if share < 1 else "red"
    return cell(lasting(pod.heartbeat_age), style)


def lasting(seconds: float) -> str:
    """Return a time that has passed, in a unit in which it is easy to read."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < _EXACT else f"{seconds:.0f} s"


def in_all(pods: Sequence[PodSeen]) -> str:
    """Return the sums over pods, in a few words."""
    living = [pod for pod in pods if pod.alive]
    uneven = imbalance(pods)
    fullest = "" if uneven is None else f", the fullest {uneven:.2f} times the mean"
    links = counted(sum(pod.links for pod in living), "link")
    return f"{len(living)} of {counted(len(pods), 'pod')} alive, {links}{fullest}"


def counted(number: int, what: str) -> str:
    """Return how many there are of something, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def of_pod(index: int, name: str | None) -> str:
    """Return which pod it is, with its name if that is known."""
    return f"pod {index}" if name is None else f"pod {index} ({plain(name)})"


class Output:
    """The standard output of a command: lines of JSON, or text for people."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        with contextlib.suppress(AttributeError):  # of a stream that is not Python's own
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        self.is_terminal = sys.stdout.isatty()
        """Whether somebody looks at it."""
        width = None if self.is_terminal else _WIDE
        self.console = Console(markup=False, emoji=False, highlight=False, width=width)

    def record(self, data: dict[str, Any]) -> None:
        """Print one line of JSON in ASCII, in which nothing means anything to a terminal."""
        print(json.dumps(data, separators=(",", ":"), allow_nan=False), flush=True)

    def show(self, *what: Table | Text | str) -> None:
        """Print tables and lines; in a file or a pipe each row is one line."""
        lines = [cell(one) if isinstance(one, str) else one for one in what]
        if self.is_terminal:
            self.console.print(*lines, sep="\n")
            return
        with self.console.capture() as captured:
            self.console.print(*lines, sep="\n")
        for line in captured.get().splitlines():
            print(line.rstrip())
        sys.stdout.flush()
