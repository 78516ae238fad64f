"""Answers that take their time: one timer for all of a connection."""

from __future__ import annotations

import asyncio
from typing import Protocol

# Most answers are quicker than that, and a timer or a task for each of them costs more than to carry it.
_EVERY = 0.05


class Watching(Protocol):
    """What may take its time."""

    def watch(self) -> None:
        """Watch from now on whether the client goes away."""


class Late:
    """Tells those that are not removed within 0.05 to 0.1 seconds to watch whether their client goes away."""

    def __init__(self) -> None:
        self._young: set[Watching] = set()
        self._old: set[Watching] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watching: Watching) -> None:
        """Have one told, unless it is removed before."""
        self._young.add(watching)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self._tell)

    def discard(self, watching: Watching) -> None:
        """Remove one that has its answer."""
        self._young.discard(watching)
        self._old.discard(watching)

    def _tell(self) -> None:
        late, self._old, self._young = self._old, self._young, set()
        again = self._old
        self._timer = asyncio.get_running_loop().call_later(_EVERY, self._tell) if again else None
        for watching in late:
            watching.watch()
