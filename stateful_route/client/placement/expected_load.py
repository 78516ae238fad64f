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

# Seconds: a hundred thousand placements in a second are as many steps to forget as there are such times in it.
_BURST = 0.01


class _Burst:
    """Placements that were made within a hundredth of a second."""

    __slots__ = ("began", "count", "ended")

    def __init__(self, at: float, count: int) -> None:
        self.began = self.ended = at
        self.count = count


class OwnPlacements:
    """The uids that this client placed on a pod and that the pod's published load does not show yet."""

    __slots__ = ("_bursts", "count")

    def __init__(self) -> None:
        self._bursts: deque[_Burst] = deque()
        self.count = 0

    def add(self, at: float, count: int = 1) -> None:
        """Add so many, made at that second of the clock of this process."""
        bursts = self._bursts
        if bursts and at - bursts[-1].began < _BURST:
            burst = bursts[-1]
            burst.count += count
            burst.ended = max(burst.ended, at)
        else:
            bursts.append(_Burst(at, count))
        self.count += count

    def published(self, at: float, settle: float) -> None:
        """Forget what a heartbeat at that second, of the same clock, shows: what was placed ``settle`` before it."""
        while self._bursts and self._bursts[0].ended <= at - settle:
            self.count -= self._bursts.popleft().count


class PlacementRates:
    """How many times faster all clients place than this one does, as means over the last half minute."""

    __slots__ = ("_all", "_own", "peak")

    def __init__(self) -> None:
        self._all = 0.0
        self._own = 0.0
        self.peak = 0.0
        """How many uids all clients placed in a second, at most of late."""

    def observe(self, placed_by_all: int, placed_here: int, seconds: float) -> None:
        """Take in what was placed in the last ``seconds``."""
        if seconds <= 0:
            return
        share = 1 - math.exp(-seconds / _RATE_MEMORY)
        self.peak = max(placed_by_all / seconds, (1 - share) * self.peak)
        self._all += share * (placed_by_all / seconds - self._all)
        self._own += share * (placed_here / seconds - self._own)

    @property
    def scale(self) -> float:
        """The rate of all clients over the own one, from 1 to 1024; 1 while nothing is known."""
        return self.scale_with(0)

    def scale_with(self, placed_here: int) -> float:
        """Return the scale if this client has placed so many since: one that was idle is no thousandth of all then."""
        own = self._own + placed_here / _RATE_MEMORY
        if self._all <= own:
            return 1.0
        return min(self._all / own, _MAX_SCALE) if own else _MAX_SCALE
