"""What ``top`` shows: the pods of a service, and what has happened since the picture before. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
from rich.text import Text

from stateful_route.cli.shown import cell, in_all, lasting, pods_table
from stateful_route.cli.watch import told_of
from stateful_route.errors import of_a_question
from stateful_route.ops import ChangeKind
from stateful_route.ops.values import imbalance

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from stateful_route.errors import StoreError
    from stateful_route.ops import Change, PodSeen, PodsSeen

_KEPT_EVENTS = 5
_OTHER_LINES = 7
"""Lines of a picture around the rows of pods and the events."""
_IN_TROUBLE = frozenset({"DEAD", "SILENT"})

SORTS: dict[str, Callable[[PodSeen], float]] = {
    "pod": lambda pod: pod.pod_index,
    "links": lambda pod: -pod.links,
    "load": lambda pod: -pod.load,
    "heartbeat": lambda pod: -pod.heartbeat_age,
}
"""By what pods are sorted."""


@attrs.define(eq=False)
class Board:
    """The pods of a service as they were seen last.

    Attributes:
        namespace: of the service.
        service_name: the service.
        seen: the pods; ``None`` before they were seen at all.
        placements: uids that pods took on, a second, between the last two looks; ``None`` before there were two.
        changes: links that got another owner, or none, a second; ``None`` while they are not heard.
        error: why the pods cannot be seen now; ``None`` if they can.
        events: the last changes of pods, with when they were heard, the newest one at the end.

    """

    namespace: str
    service_name: str
    seen: PodsSeen | None = None
    placements: float | None = None
    changes: float | None = None
    error: StoreError | None = None
    events: deque[tuple[str, Change]] = attrs.field(factory=lambda: deque(maxlen=_KEPT_EVENTS))
    _placed: dict[tuple[int, int], int] = attrs.field(factory=dict, init=False)
    _heard: int = attrs.field(default=0, init=False)
    _hears: bool = attrs.field(default=False, init=False)
    _was_deaf: bool = attrs.field(default=False, init=False)

    def take_in(self, seen: PodsSeen) -> None:
        """Take in how the pods are now."""
        before, self.seen, self.error = self.seen, seen, None
        placed = {(pod.pod_index, pod.incarnation): pod.placed_total for pod in seen.pods}
        if before is not None and seen.at > before.at:
            seconds = seen.at - before.at
            more = (total - self._placed.get(life, 0) for life, total in placed.items())
            self.placements = sum(more) / seconds
            self.changes = self._heard / seconds if self._hears else None
            self._heard = 0
        self._placed = placed

    def hear(self, change: Change, when: str = "") -> None:
        """Take in a change that was heard at that time of the day."""
        if change.kind is ChangeKind.LINK:
            self._heard += 1
            return
        if change.kind is not ChangeKind.HEARS or self._was_deaf:
            self.events.append((when, change))
        if change.kind is not ChangeKind.POD:
            self._hears = change.kind is ChangeKind.HEARS
            self._was_deaf |= not self._hears

    def lose(self, error: StoreError) -> None:
        """Take in that the pods cannot be seen."""
        self.error = error
        self.placements = self.changes = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        pods = () if self.seen is None else self.seen.pods
        return {
            "namespace": self.namespace,
            "serviceName": self.service_name,
            "at": None if self.seen is None else self.seen.at,
            "links": sum(pod.links for pod in pods if pod.alive),
            "imbalance": imbalance(pods),
            "placementsPerSecond": self.placements,
            "changesPerSecond": self.changes,
            "error": None if self.error is None else of_a_question(self.error),
            "pods": [pod.to_dict() for pod in pods],
        }


def picture(board: Board, height: int, key: Callable[[PodSeen], float] = SORTS["pod"]) -> list[Text | Table]:
    """Return what is shown in so many lines, pods by ``key``; if not all are shown, those in trouble come first."""
    pods = sorted(() if board.seen is None else board.seen.pods, key=lambda pod: (key(pod), pod.pod_index))
    room = max(1, height - _OTHER_LINES - len(board.events))
    if len(pods) > room:
        pods.sort(key=lambda pod: pod.state not in _IN_TROUBLE)  # it keeps the order of equals
    lines: list[Text | Table] = [*_head(board, pods), cell(""), pods_table(pods[:room], cut=True)]
    if len(pods) > room:
        lines.append(cell(f"... and {len(pods) - room} more", "dim"))
    if board.events:
        lines += [cell(""), *(Text.assemble((f"{when}  ", "dim"), told_of(change)) for when, change in board.events)]
    return lines


def _head(board: Board, pods: list[PodSeen]) -> list[Text]:
    title = cell(f"{board.service_name} in {board.namespace}", "bold")
    if board.error is not None:
        age = "" if board.seen is None else "; below is what was seen last"
        return [title, cell(f"{of_a_question(board.error)}{age}", "red"), cell("")]
    oldest = max((pod.heartbeat_age for pod in pods if pod.alive), default=None)
    figures = [
        f"placements {_rate(board.placements)}",
        f"changes {_rate(board.changes)}",
        f"oldest heartbeat {'-' if oldest is None else lasting(oldest)}",
    ]
    return [title, cell(in_all(pods)), cell(", ".join(figures))]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}/s"
