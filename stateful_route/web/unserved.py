"""Logs why requests are answered 503 on account of Redis: a line now and then, and not one for each request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stateful_route._log import LogOnce, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.errors import StoreError

# Seconds in which one of a kind is logged.
_ONCE_IN = 10.0


class UnservedLog:
    """Logs the first error of a kind, and after that one in ten seconds, with how many there were meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Have logged nothing; ``clock`` is in seconds."""
        self._once = LogOnce(every=_ONCE_IN, clock=clock)

    def note(self, error: StoreError) -> None:
        """Log that a request is not served for this error, or count it."""
        others = self._once.others((error.operation, type(error).__name__, error.refused))
        if others is None:
            return
        does = "refuses" if error.refused else "does not answer"
        text = "requests are answered 503, as Redis %(does)s: %(error)s"
        if others:
            text += " (%(others)d more since the last such line)"
        log.warning("request_not_served", text, does=does, error=error, others=others)
