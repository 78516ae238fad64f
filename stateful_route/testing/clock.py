"""A clock that moves when a test says so."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from stateful_route._validation import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

_START = 1_800_000_000.0  # in January 2027
_US = 1_000_000


class ManualTimer:
    """A call that a ``ManualClock`` is to make."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Make it so that nothing is called."""
        self._callback = None

    def fire(self) -> None:
        """Make the call, if it was not cancelled."""
        if self._callback is not None:
            self._callback()


class ManualClock:
    """A clock to inject where ``time.time`` or ``time.monotonic`` is asked for: call it to read it.

    What is to be called at a time is called as soon as the clock is moved to it, before ``advance`` or ``set`` returns.
    It counts whole microseconds, so that many small advances add up to exactly what they say.
    """

    def __init__(self, start: float = _START) -> None:
        """Begin at ``start``, in seconds since 1970.

        Raises:
            InvalidArgumentError: if ``start`` is not a finite number of seconds, 0 or more.

        """
        self._timers: list[tuple[int, int, ManualTimer]] = []
        self._numbers = itertools.count()
        self.set(start)

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self._us / _US

    def __repr__(self) -> str:
        """Show the time."""
        return f"<ManualClock at {self()!r}>"

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``.

        Raises:
            InvalidArgumentError: if ``seconds`` is not a finite number, 0 or more.

        """
        check_seconds("seconds", seconds)
        self._move(self._us + round(seconds * _US))

    def set(self, now: float) -> None:
        """Make it ``now``, in seconds since 1970; unlike ``advance`` this may go back, as a corrected clock does.

        Raises:
            InvalidArgumentError: if ``now`` is not a finite number of seconds, 0 or more.

        """
        check_seconds("now", now)
        self._move(round(now * _US))

    def call_at(self, when: float, callback: Callable[[], object]) -> ManualTimer:
        """Call ``callback`` when the clock is moved to ``when`` or beyond; what is due together, in order of time."""
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (round(when * _US), next(self._numbers), timer))
        return timer

    def _move(self, us: int) -> None:
        self._us = us
        while self._timers and self._timers[0][0] <= us:
            heapq.heappop(self._timers)[2].fire()
