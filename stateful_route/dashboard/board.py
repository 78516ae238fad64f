"""What the page is told of a board: rows of pods, and messages with what has changed. No I/O."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from stateful_route.errors import of_a_question
from stateful_route.ops.board import Board
from stateful_route.ops.story import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateful_route.ops import PodSeen

Row: TypeAlias = "dict[str, Any]"
"""A pod as the page knows it: plain values by camelCase names."""

_SHOWN = (
    "podIndex",
    "podName",
    "incarnation",
    "alive",
    "routable",
    "lease",
    "load",
    "links",
    "placedTotal",
    "capacity",
    "maxLinks",
    "address",
    "zone",
    "version",
    "reclaiming",
)


def row_of(pod: PodSeen) -> Row:
    """Return what the page is told of a pod.

    The age of its heartbeat is in whole seconds: a pod that is well seldom changes then, and the page stands still.
    """
    known = pod.to_dict()
    row = {name: known[name] for name in _SHOWN}
    return row | {"state": state_of(pod), "full": pod.full, "heartbeatAge": math.floor(pod.heartbeat_age)}


def changed(before: Mapping[int, Row], after: Mapping[int, Row]) -> list[Row]:
    """Return the fields that differ of each pod, beside its index; all of them for a new one."""
    found = []
    for index, row in after.items():
        known = before.get(index)
        if known is None:
            found.append(row)
        elif known != row:
            found.append({"podIndex": index} | {name: value for name, value in row.items() if known[name] != value})
    return found


def encoded(data: object) -> str:
    """Return JSON in ASCII on one line, whatever is in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


class PageBoard(Board):
    """A board, and the messages that bring a page there.

    Attributes:
        number: of the last message; it rises by one with each.
        viewers: how many pages show it.
        ended: whether no message will come any more.

    """

    def __init__(
        self, namespace: str, service_name: str, *, interval: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Have no message yet; see ``Board`` for the rest."""
        super().__init__(namespace, service_name, interval=interval, clock=clock)
        self.number = 0
        self.viewers = 0
        self.ended = False
        self._told: dict[int, Row] = {}
        self._new_point: list[float | None] | None = None
        self._patch = ""
        self._snapshot: str | None = None
        self._more = asyncio.Event()

    def publish(self) -> None:
        """Make a message of what has changed since the last one, and wake who waits for it."""
        self.number += 1
        rows = {} if self.seen is None else {pod.pod_index: row_of(pod) for pod in self.seen.pods}
        told, self._told = self._told, rows
        message = self._head() | {
            "changed": changed(told, rows),
            "gone": [index for index in told if index not in rows],
            "events": self.story.take_new(self._clock()),
            "point": self._new_point,
        }
        self._new_point = None
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
                    "namespace": self.namespace,
                    "serviceName": self.service_name,
                    "interval": self._interval,
                    "pods": list(self._told.values()),
                    "events": self.story.all(),
                    "points": list(self.points),
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
            "seen": self.seen is not None,
            "error": None if self.error is None else of_a_question(self.error),
            "deaf": self.deaf,
            "unreadable": 0 if self.seen is None else self.seen.unreadable,
        }

    def _point(self, point: list[float | None]) -> None:
        super()._point(point)
        self._new_point = self.points[-1]

    def _wake(self) -> None:
        woken, self._more = self._more, asyncio.Event()
        woken.set()
