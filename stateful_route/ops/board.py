"""The pods of a service as they were seen last, and what has happened: ``top`` and the dashboard draw it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from stateful_route.errors import StoreError, of_a_question
from stateful_route.ops.story import Story
from stateful_route.ops.values import ChangeKind, imbalance

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from stateful_route.ops.operator import Operator
    from stateful_route.ops.values import Change, PodsSeen

KEPT_POINTS = 900
"""So many points the curves have: a quarter of an hour, with one look a second."""
_KEPT_CHANGES = 5


class Board:
    """What is known of a service; all of it bounded. It does no I/O: :func:`look` and :func:`hear` do.

    Attributes:
        namespace: of the service.
        service_name: the service.
        seen: the pods; ``None`` before they were seen at all.
        error: why the pods cannot be seen now; ``None`` if they can.
        deaf: why changes are not heard now; ``None`` if they are, or nobody has listened yet.
        placements: uids that pods took on, a second, between the last two points; ``None`` before there were two.
        changes: links that got another owner, or none, a second; ``None`` while they are not heard.
        heard: the last changes of pods, with when they were heard in seconds since 1970, the newest one at the end.
        story: what has happened.
        points: of the curves: time, living pods, links, imbalance, placements and changes a second.

    """

    def __init__(
        self, namespace: str, service_name: str, *, interval: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        """Know of nothing yet; ``clock`` gives seconds since 1970, ``interval`` is between two points of a curve."""
        self.namespace = namespace
        self.service_name = service_name
        self.seen: PodsSeen | None = None
        self.error: StoreError | None = None
        self.deaf: str | None = None
        self.placements: float | None = None
        self.changes: float | None = None
        self.heard: deque[tuple[float, Change]] = deque(maxlen=_KEPT_CHANGES)
        self.story = Story()
        self.points: deque[list[float | None]] = deque(maxlen=KEPT_POINTS)
        self._interval = interval
        self._clock = clock
        self._hears = False
        self._was_deaf = False
        self._placed: dict[tuple[int, int], int] | None = None
        self._placed_since = self._changed_since = 0
        self._since: float | None = None
        """When the last point was, by the clock of Redis."""

    def begin_look(self) -> None:
        """Note that the pods are read now."""
        self.story.begin_look()

    def take_in(self, seen: PodsSeen) -> None:
        """Take in how the pods are."""
        at = self._clock()
        if self.error is not None:
            self.story.say(at, "back")
        self.seen, self.error = seen, None
        self.story.look(at, seen.pods)
        placed = {(pod.pod_index, pod.incarnation): pod.placed_total for pod in seen.pods}
        if (before := self._placed) is not None:
            self._placed_since += sum(max(0, total - before.get(life, 0)) for life, total in placed.items())
        self._placed = placed
        if not self._due(at):
            return
        seconds = 0.0 if self._since is None else seen.at - self._since
        self.placements = self._placed_since / seconds if seconds > 0 else None
        self.changes = self._changed_since / seconds if seconds > 0 and self._hears else None
        self._since, self._placed_since, self._changed_since = seen.at, 0, 0
        living = [pod for pod in seen.pods if pod.alive]
        links = sum(pod.links for pod in living)
        self._point([at, len(living), links, imbalance(seen.pods), self.placements, self.changes])

    def lose(self, error: StoreError) -> None:
        """Take in that the pods cannot be seen: what is placed meanwhile was not placed in the next second."""
        at = self._clock()
        if self.error is None:
            self.story.say(at, "lost", of_a_question(error))
        self.error = error
        self.placements = self.changes = self._placed = self._since = None
        self._placed_since = self._changed_since = 0
        if self._due(at):
            self._point([at, None, None, None, None, None])

    def hear(self, change: Change) -> None:
        """Take in what was announced."""
        at = self._clock()
        if change.kind is ChangeKind.LINK:
            self._changed_since += 1
        elif change.kind is not ChangeKind.HEARS or self._was_deaf:
            self.heard.append((at, change))
        if change.kind in {ChangeKind.LINK, ChangeKind.POD}:
            self.story.hear(at, change)
        elif change.kind is ChangeKind.DEAF:
            self.lose_word(change.why or "nothing is heard")
        else:
            if self.deaf is not None:
                self.story.say(at, "hears")
            self.deaf, self._hears = None, True

    def lose_word(self, why: str) -> None:
        """Take in that changes are not heard."""
        if self.deaf is None and self.error is None:
            self.story.say(self._clock(), "deaf", why)
        self.deaf, self._hears, self._was_deaf = why, False, True

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

    def _due(self, at: float) -> bool:
        """Whether a point is: a look that comes early, as something has happened, makes none."""
        last = self.points[-1][0] if self.points else None
        return last is None or not last <= at < last + self._interval / 2

    def _point(self, point: list[float | None]) -> None:
        self.points.append([None if value is None else round(value, 3) for value in point])


async def look(operator: Operator, board: Board) -> None:
    """Have a board take in how the pods are, or why they cannot be seen."""
    board.begin_look()
    try:
        board.take_in(await operator.pods(board.service_name, namespace=board.namespace))
    except StoreError as error:
        board.lose(error)


async def hear(operator: Operator, board: Board, pause: float, of_pods: Callable[[], None] = lambda: None) -> None:
    """Have a board hear what changes, until it is cancelled; call ``of_pods`` at what is not about a link.

    If nothing can be heard it is tried again after the pause, in seconds.
    """
    while True:
        try:
            watch = operator.watch(board.service_name, namespace=board.namespace)
            async with aclosing(cast("AsyncGenerator[Change]", watch)) as changes:
                async for change in changes:
                    board.hear(change)
                    if change.kind is not ChangeKind.LINK:
                        of_pods()
        except StoreError as error:
            board.lose_word(str(error))
        await asyncio.sleep(pause)
