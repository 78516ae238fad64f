"""Logs why requests are answered 503 on account of Redis: a line now and then, and not one for each request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stateful_route._log import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.errors import StoreError

# Seconds in which one of a kind is logged.
_ONCE_IN = 10.0


class UnservedLog:
    """Logs the first error of a kind, and after that one in ten seconds, with how many there were meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Have logged nothing; ``clock`` is in seconds."""
        self._clock = clock
        self._kinds: dict[tuple[str, str, bool], tuple[float, int]] = {}
        """By operation, class and whether it was refused: when one was logged last, and how many came since."""

    def note(self, error: StoreError) -> None:
        """Log that a request is not served for this error, or count it."""
        kind = error.operation, type(error).__name__, error.refused
        now = self._clock()
        logged_at, others = self._kinds.get(kind, (-_ONCE_IN, 0))
        if now - logged_at < _ONCE_IN:
            self._kinds[kind] = logged_at, others + 1
            return
        self._kinds[kind] = now, 0
        does = "refuses" if error.refused else "does not answer"
        text = "requests are answered 503, as Redis %(does)s: %(error)s"
        if others:
            text += " (%(others)d more since the last such line)"
        log.warning("request_not_served", text, does=does, error=error, others=others)
