"""The operations of one pod on one uid: one at a time, and what is invalidated while an answer is in flight."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_NOTHING = -1


class Turn:
    """The turn of a uid, an async context: who is in it runs an operation, the others wait in their order."""

    __slots__ = ("_lock", "_turns", "_uid", "changes", "invalidated", "users")

    def __init__(self, turns: dict[str, Turn], uid: str) -> None:
        self._turns = turns
        self._uid = uid
        self._lock = asyncio.Lock()
        self.users = 0
        """How many are in the turn or wait for it."""
        self.changes = 0
        """How many calls so far were more than a claim."""
        self.invalidated: float = _NOTHING
        """The highest epoch that was invalidated since ``listen`` was called."""

    async def __aenter__(self) -> Self:
        """Wait for the turn."""
        self.users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the next one in."""
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self.users -= 1
        if not self.users:
            del self._turns[self._uid]

    def listen(self) -> None:
        """Note invalidations from here on: an operation is about to be sent."""
        self.invalidated = _NOTHING


class Turns:
    """The turns of all uids of a pod. A uid takes room only while an operation on it runs."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def changes(self, uid: str) -> int:
        """Return a number that changes with each call for the uid but a claim: a claim joins only one of its number."""
        turn = self._turns.get(uid)
        return 0 if turn is None else turn.changes

    def is_taken(self, uid: str) -> bool:
        """Whether an operation on the uid runs, or waits for its turn."""
        return uid in self._turns

    def of(self, uid: str, *, claims: bool = False) -> Turn:
        """Return the turn of the uid, which is to be entered in the same step."""
        turn = self._turns.get(uid)
        if turn is None:
            turn = self._turns[uid] = Turn(self._turns, uid)
        turn.changes += not claims
        return turn

    def invalidate(self, uid: str, epoch: int) -> None:
        """Make an answer in flight stale if it has this epoch or a lower one."""
        turn = self._turns.get(uid)
        if turn is not None:
            turn.invalidated = max(turn.invalidated, epoch)

    def invalidate_all(self) -> None:
        """Make all answers in flight stale."""
        for turn in self._turns.values():
            turn.invalidated = math.inf
