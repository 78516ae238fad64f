"""What the published loads do not show yet, as far as a client can tell.

A client adds to a pod's published load what it placed there and the load does not show yet, times the number of clients
that do the same (Orleans' activation-count placement increments by the number of silos in the same way). Who chooses by
it is in ``strategies``.
"""

from __future__ import annotations

import math
from collections import deque

_MAX_SCALE = 1024.0
_RATE_MEMORY = 30.0


class OwnPlacements:
    """The uids that this client placed on a pod and that the pod's published load does not show yet."""

    __slots__ = ("_placed_at", "pending", "total")

    def __init__(self) -> None:
        """Begin with none."""
        self._placed_at: deque[float] = deque()
        self.pending = 0
        """Placements under way: chosen, and not answered yet."""
        self.total = 0
        """Placements ever."""

    @property
    def unseen(self) -> int:
        """How many placements the published load does not show."""
        return self.pending + len(self._placed_at)

    def placed(self, at: float) -> None:
        """Note a placement, made at that second by the clock of the store, as far as this client knows it."""
        self._placed_at.append(at)
        self.total += 1

    def published(self, at: float, settle: float) -> None:
        """Forget what a heartbeat at that second shows: what was placed ``settle`` seconds earlier, or before."""
        while self._placed_at and self._placed_at[0] <= at - settle:
            self._placed_at.popleft()


class PlacementRates:
    """How many times faster all clients place than this one does, as means over the last half minute."""

    __slots__ = ("_all", "_own")

    def __init__(self) -> None:
        """Begin without knowing any rate."""
        self._all = 0.0
        self._own = 0.0

    def observe(self, placed_by_all: int, placed_here: int, seconds: float) -> None:
        """Take in what was placed in the last ``seconds``."""
        if seconds <= 0:
            return
        share = 1 - math.exp(-seconds / _RATE_MEMORY)
        self._all += share * (placed_by_all / seconds - self._all)
        self._own += share * (placed_here / seconds - self._own)

    @property
    def scale(self) -> float:
        """The rate of all clients over the own one, from 1 to 1024; 1 while nothing is known."""
        if self._all <= self._own:
            return 1.0
        return min(self._all / self._own, _MAX_SCALE) if self._own else _MAX_SCALE
