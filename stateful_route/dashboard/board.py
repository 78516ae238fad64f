"""A service as the page shows it, and the messages that bring the page there. No I/O."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from stateful_route.dashboard.rows import Row, changed, row_of
from stateful_route.dashboard.story import Story
from stateful_route.errors import of_a_question
from stateful_route.ops import ChangeKind
from stateful_route.ops.values import imbalance

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.errors import StoreError
    from stateful_route.ops import Change, PodsSeen

KEPT_POINTS = 900
"""So many points the curves have: a quarter of an hour, with one look a second."""


def encoded(data: object) -> str:
    """Return JSON in ASCII on one line, whatever is in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


class Board:
    """The pods of a service as they were seen last, what has happened, and the curves; all of it bounded.

    Attributes:
        service_name: the service.
        number: of the last message; it rises by one with each.
        viewers: how many pages show it.
        ended: whether no message will come any more.

    """

    def __init__(self, namespace: str, service_name: str, *, interval: float, clock: Callable[[], float]) -> None:
        """Know of nothing yet; ``clock`` gives seconds since 1970, ``interval`` is between two points of a curve."""
        self.service_name = service_name
        self.number = 0
        self.viewers = 0
        self.ended = False
        self._namespace = namespace
        self._interval = interval
        self._clock = clock
        self._rows: dict[int, Row] = {}
        self._told: dict[int, Row] = {}
        self._story = Story()
        self._points: deque[list[float | None]] = deque(maxlen=KEPT_POINTS)
        self._now: list[float | None] | None = None
        """The point of the next message."""
        self._curve = _Curve()
        self._unreadable = 0
        self._seen = False
        self._error: str | None = None
        self._deaf: str | None = None
        self._patch = ""
        self._snapshot: str | None = None
        self._more = asyncio.Event()

    def begin_look(self) -> None:
        """Note that the pods are read now."""
        self._story.begin_look()

    def take_in(self, seen: PodsSeen) -> None:
        """Take in how the pods are."""
        at = self._clock()
        if self._error is not None:
            self._error = None
            self._story.say(at, "back")
        self._story.look(at, seen.pods)
        self._rows = {pod.pod_index: row_of(pod) for pod in seen.pods}
        self._unreadable = seen.unreadable
        self._curve.look(seen)
        self._seen = True
        if self._due(at):
            self._point([at, *self._curve.point(at, seen)])

    def lose(self, error: StoreError) -> None:
        """Take in that the pods cannot be seen."""
        at = self._clock()
        if self._error is None:
            self._story.say(at, "lost", of_a_question(error))
        self._error = of_a_question(error)
        self._curve.lose()
        if self._due(at):
            self._point([at, None, None, None, None, None])

    def hear(self, change: Change) -> None:
        """Take in what was announced."""
        if change.kind is ChangeKind.LINK:
            self._curve.changes += 1
        elif change.kind is ChangeKind.DEAF:
            self.lose_word(change.why or "nothing is heard")
        elif change.kind is ChangeKind.HEARS:
            self._hears()
        if change.kind in {ChangeKind.LINK, ChangeKind.POD}:
            self._story.hear(self._clock(), change)

    def lose_word(self, why: str) -> None:
        """Take in that changes are not heard."""
        if self._deaf is None and self._error is None:
            self._story.say(self._clock(), "deaf", why)
        self._deaf = why

    def _hears(self) -> None:
        if self._deaf is not None:
            self._story.say(self._clock(), "hears")
        self._deaf = None

    def publish(self) -> None:
        """Make a message of what has changed since the last one, and wake who waits for it."""
        self.number += 1
        told, self._told = self._told, self._rows
        message = self._head() | {
            "changed": changed(told, self._rows),
            "gone": [index for index in told if index not in self._rows],
            "events": self._story.take_new(self._clock()),
            "point": self._now,
        }
        self._now = None
        self._patch, self._snapshot = encoded(message), None
        self._wake()

    def end(self) -> None:
        """Say that no message will come any more."""
        self.ended = True
        self._wake()

    def message(self, known: int) -> str | None:
        """Return what brings a page there that knows message ``known``; ``None`` if it is there, or none came yet.

        A page that knows all but the last one is told what has changed, every other one is told all.
        """
        if self.number in {0, known}:
            return None
        if known and known == self.number - 1:
            return self._patch
        if self._snapshot is None:
            self._snapshot = encoded(
                self._head()
                | {
                    "namespace": self._namespace,
                    "serviceName": self.service_name,
                    "interval": self._interval,
                    "pods": list(self._told.values()),
                    "events": self._story.all(),
                    "points": list(self._points),
                }
            )
        return self._snapshot

    async def wait(self, known: int, seconds: float) -> None:
        """Return once there is another message than ``known``, it has ended, or so many seconds have passed."""
        if self.number != known or self.ended:
            return
        more = self._more
        try:
            async with asyncio.timeout(seconds):
                await more.wait()
        except TimeoutError:
            return

    def _head(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "now": round(self._clock(), 3),
            "seen": self._seen,
            "error": self._error,
            "deaf": self._deaf,
            "unreadable": self._unreadable,
        }

    def _due(self, at: float) -> bool:
        """Whether a point is: a look that comes early, as something has happened, makes none."""
        last = self._points[-1][0] if self._points else None
        return last is None or not last <= at < last + self._interval / 2

    def _point(self, point: list[float | None]) -> None:
        self._now = [None if value is None else round(value, 3) for value in point]
        self._points.append(self._now)

    def _wake(self) -> None:
        woken, self._more = self._more, asyncio.Event()
        woken.set()


class _Curve:
    """Counts what happens between two points."""

    def __init__(self) -> None:
        self.changes = 0
        """Links that got another owner, or none."""
        self._placed: dict[tuple[int, int], int] | None = None
        self._more = 0
        self._at: float | None = None

    def look(self, seen: PodsSeen) -> None:
        placed = {(pod.pod_index, pod.incarnation): pod.placed_total for pod in seen.pods}
        if self._placed is not None:
            before = self._placed
            self._more += sum(max(0, total - before.get(life, 0)) for life, total in placed.items())
        self._placed = placed

    def lose(self) -> None:
        """Forget what was counted: what is placed while nobody looks was not placed in the next second."""
        self._placed = self._at = None
        self._more = self.changes = 0

    def point(self, at: float, seen: PodsSeen) -> list[float | None]:
        """Return living pods, links, imbalance, placements a second, changes a second; and begin to count anew."""
        seconds = None if self._at is None or at <= self._at else at - self._at
        rates = [None, None] if seconds is None else [self._more / seconds, self.changes / seconds]
        self._at, self._more, self.changes = at, 0, 0
        living = [pod for pod in seen.pods if pod.alive]
        return [len(living), sum(pod.links for pod in living), imbalance(seen.pods), *rates]
