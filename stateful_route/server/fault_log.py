"""What the application's own functions raise, in a log that can be read: it may be the same with ten thousand uids."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("stateful_route")


class FaultLog:
    """Logs faults of one kind: each with its traceback, or of many together the first, and how many more there were."""

    def __init__(self, one: str, more: str) -> None:
        """Say ``one``, which has a place for the uid, and ``more``, which has one for the number of the others."""
        self._one = one
        self._more = more
        self._blocks = 0
        self._count = 0

    def note(self, uid: str, error: BaseException) -> None:
        """Log a fault; of those within a block of ``together()`` all but the first are at DEBUG."""
        first = not self._count
        self._count += self._blocks > 0
        _log.log(logging.ERROR if first else logging.DEBUG, self._one, uid, exc_info=error)

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
                    _log.error(self._more, count - 1)
