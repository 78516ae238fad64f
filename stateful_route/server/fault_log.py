"""What the application's own functions raise, in a log that can be read: it may be the same with ten thousand uids."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from stateful_route._log import log

if TYPE_CHECKING:
    from collections.abc import Iterator


class FaultLog:
    """Logs faults of one kind: each with its traceback, or of many together the first, and how many more there were."""

    def __init__(self, one: tuple[str, str], more: tuple[str, str]) -> None:
        """Log the event and text ``one``, with a place for the ``uid``, and ``more``, with one for the ``uids``."""
        self._one = one
        self._more = more
        self._blocks = 0
        self._count = 0

    def note(self, uid: str, error: BaseException) -> None:
        """Log a fault; of those within a block of ``together()`` all but the first are at DEBUG."""
        first = not self._count
        self._count += self._blocks > 0
        log.log(logging.ERROR if first else logging.DEBUG, *self._one, uid=uid, exc_info=error)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Take the faults within the block together, and that of blocks within it or beside it."""
        self._blocks += 1
        try:
            yield
        finally:
            self._blocks -= 1
            if not self._blocks:
                count, self._count = self._count, 0
                if count > 1:
                    log.error(*self._more, uids=count - 1)
