"""Which pod gets a new uid.

Plain least-load on data that is a moment old is a bug: every client runs to the same pod, and with 100 pods and data
30 s old the fullest has five times the mean. What is done here:

- the best of a few random pods (M. Mitzenmacher, "How Useful Is Old Information?", TPDS 2000): with d choices no pod
  gets much more than d times its fair share, however wrong the data is;
- a client adds to a pod's published load what it placed there and the load does not show yet, times the number of
  clients that do the same (Orleans' activation-count placement increments by the number of silos in the same way).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_MAX_SCALE = 1024.0
_RATE_MEMORY = 30.0


class Candidate(Protocol):
    """A routable pod, as a strategy sees it."""

    @property
    def pod_index(self) -> int:
        """The ordinal of the pod."""
        ...

    @property
    def expected_load(self) -> float:
        """Its load as published, and what was placed since and does not show there yet."""
        ...

    @property
    def capacity(self) -> float:
        """Its size in relation to the other pods, above 0."""
        ...


C = TypeVar("C", bound=Candidate)


def best_of_random(candidates: Sequence[C], choices: int, random: Random) -> C:
    """Return the candidate with the least load for its capacity among ``choices`` random ones.

    Candidates that are equal are equally likely. ``candidates`` must not be empty.
    """
    sample = random.sample(candidates, min(choices, len(candidates)))  # in random order, so ties are random
    return min(sample, key=_relative_load)


def _relative_load(candidate: Candidate) -> float:
    return candidate.expected_load / candidate.capacity


class PlacementStrategy(Protocol):
    """Chooses the pod for a new uid. It is called often, and must not wait for anything."""

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return one of ``candidates``, which are the routable pods and at least one."""
        ...


class BestOfRandom:
    """The strategy of ``best_of_random``."""

    def __init__(self, choices: int = 3) -> None:
        """Compare ``choices`` pods: 2 follows old data least, more fills an empty pod faster."""
        self._choices = choices

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return the best of some random candidates."""
        return best_of_random(candidates, self._choices, random)


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
