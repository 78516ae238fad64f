"""A clock that moves when a test says so."""

from __future__ import annotations

from stateful_route._checks import check_seconds

_START = 1_800_000_000.0  # in January 2027
_US = 1_000_000


class ManualClock:
    """A clock to inject where ``time.time`` or ``time.monotonic`` is asked for: call it to read it.

    It counts whole microseconds, so that many small advances add up to exactly what they say.
    """

    def __init__(self, start: float = _START) -> None:
        """Begin at ``start``, in seconds since 1970.

        Raises:
            InvalidArgumentError: if ``start`` is not a finite number of seconds, 0 or more.

        """
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
        self._us += round(seconds * _US)

    def set(self, now: float) -> None:
        """Make it ``now``, in seconds since 1970; unlike ``advance`` this may go back, as a corrected clock does.

        Raises:
            InvalidArgumentError: if ``now`` is not a finite number of seconds, 0 or more.

        """
        check_seconds("now", now)
        self._us = round(now * _US)
