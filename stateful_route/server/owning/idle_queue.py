"""When a uid may have become idle: a queue that costs next to nothing while the uid is used. No I/O."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from stateful_route.server.owning.tenure import NOWHERE

if TYPE_CHECKING:
    from stateful_route.server.owning.tenure import Tenure

# Seconds in one slot, at most: by so much is a uid looked at later than it could be.
_LONGEST_SLOT = 1.0


class IdleQueue:
    """The uids that may become idle, by the slot of time in which they are looked at.

    This is a timing wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987). To use a uid
    moves nothing: what comes up, and was used since, is put back into the slot of its new time. So a uid costs
    something once in its idle TTL at most, however often it is used and however many there are.
    """

    def __init__(self, care_seconds: float) -> None:
        """Have none. Somebody looks each ``care_seconds``."""
        self._seconds = min(care_seconds, _LONGEST_SLOT)
        self._slots: dict[int, dict[str, Tenure]] = {}
        self._order: list[int] = []
        """The numbers of the slots, as a heap."""
        self._reached = NOWHERE
        """The last slot that has come up: what is put back goes behind it."""

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def put(self, uid: str, tenure: Tenure) -> None:
        """Look at the uid once its time is up, as far as that is known now; never if it has no idle TTL."""
        self.discard(uid, tenure)
        if tenure.idle_ttl is None:
            return
        number = max(math.floor(tenure.idle_at() / self._seconds), self._reached) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heappush(self._order, number)
        slot[uid] = tenure
        tenure.slot = number

    def discard(self, uid: str, tenure: Tenure) -> None:
        """Look at the uid no more."""
        if tenure.slot != NOWHERE:
            self._slots[tenure.slot].pop(uid, None)
            tenure.slot = NOWHERE

    def clear(self) -> None:
        """Look at none."""
        self._slots.clear()
        self._order.clear()

    def has_due(self, now: float) -> bool:
        """Whether something is to be looked at by now."""
        order = self._order
        while order and not self._slots[order[0]]:  # all of it was discarded
            del self._slots[heappop(order)]
        return bool(order) and order[0] * self._seconds <= now

    def take(self, now: float, most: int) -> list[str]:
        """Look at up to so many uids; return those that are idle, which are in the queue no more."""
        idle: list[str] = []
        while most and self.has_due(now):
            self._reached = number = self._order[0]
            uid, tenure = self._slots[number].popitem()
            tenure.slot = NOWHERE
            most -= 1
            if tenure.is_idle():
                idle.append(uid)
            else:
                self.put(uid, tenure)
        return idle
