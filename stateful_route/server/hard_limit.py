"""The limit of a pod that is hard: how many uids it may own, those of claims in flight included."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class HardLimit:
    """Counts the claims in flight of uids that the pod does not hold."""

    def __init__(self, most: int | None) -> None:
        """Let the pod own ``most`` uids, from 0; any number if it is ``None``."""
        self.most = most
        self._in_flight = 0

    def has_room(self, held: int) -> bool:
        """Whether there is room for one more uid beside those that are held and those that are being claimed."""
        return self.most is None or held + self._in_flight < self.most

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Count a claim that is in flight."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
