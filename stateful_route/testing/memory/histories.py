"""Histories of links in memory: what lua/shared/record.lua does, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from stateful_route._validation import check_duration, check_int, to_ms
from stateful_route.history import MOST_KEPT

if TYPE_CHECKING:
    from stateful_route.history import LinkEvent
    from stateful_route.links import LinkKey
    from stateful_route.testing.memory.pods import Moment


@attrs.frozen
class _History:
    """The entries of one link, and when they are forgotten, in milliseconds since 1970."""

    events: tuple[LinkEvent, ...]
    until_ms: int


class MemoryHistories:
    """The last changes of each link, if any are kept."""

    def __init__(self, kept: int, seconds: float) -> None:
        """Keep ``kept`` changes of a link, for so many seconds after the latest.

        Raises:
            InvalidArgumentError: if ``kept`` is not an int from 0 to 1000, or ``seconds`` not a time of a millisecond
                or more.

        """
        check_int("history", kept, 0, MOST_KEPT)
        check_duration("history_ttl", seconds)
        self._kept = kept
        self._ttl_ms = to_ms(seconds)
        self._histories: dict[LinkKey, _History] = {}

    def clear(self) -> None:
        """Forget all."""
        self._histories.clear()

    def add(self, key: LinkKey, event: LinkEvent, now: Moment) -> None:
        """Add what has become of a link."""
        if self._kept:
            events = (*self.read(key, now), event)[-self._kept :]
            self._histories[key] = _History(events, now.ms + self._ttl_ms)

    def read(self, key: LinkKey, now: Moment) -> tuple[LinkEvent, ...]:
        """Return what is kept of a link, the oldest first."""
        found = self._histories.get(key)
        if found is None:
            return ()
        if found.until_ms <= now.ms:
            del self._histories[key]
            return ()
        return found.events
