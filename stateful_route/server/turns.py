"""The operations of one pod on one uid: one at a time, and what is invalidated while an answer is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NOTHING = -1


class Turn:
    """The turn of a uid: who holds it runs an operation, the others wait."""

    __slots__ = ("changes", "invalidated", "lock", "users")

    def __init__(self) -> None:
        """Make one that nobody holds."""
        self.lock = asyncio.Lock()
        self.users = 0
        """How many hold the turn or wait for it."""
        self.changes = 0
        """How many of those that came so far were more than a claim."""
        self.invalidated: float = _NOTHING
        """Up to which epoch the link was invalidated since ``listen`` was called."""

    def listen(self) -> None:
        """Note from here on what is invalidated: an operation is about to be sent."""
        self.invalidated = _NOTHING


class Turns:
    """The turns of all uids of a pod. A uid takes room only while an operation on it runs."""

    def __init__(self) -> None:
        """Begin with none."""
        self._turns: dict[str, Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def changes(self, uid: str) -> int:
        """Return a number that is another one once something but a claim was called for the uid.

        A claim may join one that is in flight only if nothing was called in between.
        """
        turn = self._turns.get(uid)
        return 0 if turn is None else turn.changes

    def is_taken(self, uid: str) -> bool:
        """Whether an operation on the uid runs, or waits for its turn."""
        return uid in self._turns

    @contextlib.asynccontextmanager
    async def take(self, uid: str, *, claims: bool = False) -> AsyncIterator[Turn]:
        """Wait for the turn of the uid, and hold it; the order is that of the calls."""
        turn = self._turns.get(uid)
        if turn is None:
            turn = self._turns[uid] = Turn()
        turn.users += 1
        turn.changes += not claims
        try:
            async with turn.lock:
                yield turn
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[uid]

    def invalidate(self, uid: str, epoch: int) -> None:
        """Note that an answer that is in flight is stale if it tells of this epoch or a lower one."""
        turn = self._turns.get(uid)
        if turn is not None:
            turn.invalidated = max(turn.invalidated, epoch)

    def invalidate_all(self) -> None:
        """Note that any answer that is in flight may be stale: invalidations may have been missed."""
        for turn in self._turns.values():
            turn.invalidated = math.inf
