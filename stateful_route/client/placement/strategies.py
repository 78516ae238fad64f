"""Which pod gets a new uid: the protocol, and the strategies that ship.

Plain least-load on data that is a moment old is a bug: every client runs to the same pod, and with 100 pods and data
30 s old the fullest has five times the mean. What is done here is the best of a few random pods (M. Mitzenmacher, "How
Useful Is Old Information?", TPDS 2000): with d choices no pod gets much more than d times its fair share, however wrong
the data is.

A preference stands in front of another strategy, and hands it only the candidates that it prefers. It yields to
balance: one pod in the zone, or the first one of a new revision, does not get all new uids.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs

from stateful_route._validation import MAX_POD_INDEX, check_callable, check_id, check_int, checked
from stateful_route.client.placement.candidates import narrowed
from stateful_route.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

# So many are drawn and compared by hand, in a fifth of the time that random.sample takes.
_FEW = 3


class Candidate(Protocol):
    """A pod that may get the uid, as a strategy sees it: routable, and not full."""

    @property
    def pod_index(self) -> int:
        """The ordinal of the pod."""
        ...

    @property
    def incarnation(self) -> int:
        """The life of the pod; the pod that started last has the highest."""
        ...

    @property
    def expected_load(self) -> float:
        """Its load as published, and what all clients placed since, as far as this one can tell."""
        ...

    @property
    def capacity(self) -> float:
        """Its size in relation to the other pods, above 0."""
        ...

    @property
    def links(self) -> int:
        """The uids that it owned as published, and those that this client placed since."""
        ...

    @property
    def max_links(self) -> int | None:
        """How many links make it full; ``None`` if it has no limit."""
        ...

    @property
    def zone(self) -> str | None:
        """Where it runs, if it says so."""
        ...

    @property
    def version(self) -> str | None:
        """What revision of the application it runs, if it says so."""
        ...


C = TypeVar("C", bound=Candidate)


class PlacementStrategy(Protocol):
    """Chooses the pod for a new uid. It is called often, and must not wait for anything."""

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return one of ``candidates``: at least one, in no order, and not to be changed.

        All chance comes from ``random``, so that a test can repeat the choice.
        """
        ...


def _best_of_all(candidates: Sequence[C], draw: Callable[[], float]) -> C:
    """Return the candidate with the least load for its capacity, any one of those with the same."""
    best, least, ties = candidates[0], math.inf, 1
    for candidate in candidates:
        fullness = candidate.expected_load / candidate.capacity
        if fullness < least:
            best, least, ties = candidate, fullness, 1
        elif fullness == least:
            ties += 1
            if draw() * ties < 1:
                best = candidate
    return best


def _fullness(candidate: Candidate) -> float:
    return candidate.expected_load / candidate.capacity


@attrs.frozen
class BestOfRandom:
    """The pod with the least load for its capacity among some random ones.

    Attributes:
        choices: how many pods are compared, from 1: 2 follows old data least, more fills an empty pod faster.

    Raises:
        InvalidArgumentError: if that is not such an int.

    """

    choices: int = attrs.field(default=3, validator=checked(check_int, 1, MAX_POD_INDEX))

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return the best of some random candidates.

        Candidates that are equal are equally likely.
        """
        count, choices, draw = len(candidates), self.choices, random.random
        if choices >= count:
            return _best_of_all(candidates, draw)
        if choices > _FEW:
            return min(random.sample(candidates, choices), key=_fullness)  # in random order, so ties are random
        # Each is drawn among those that were not drawn before. Of equal ones the first stays, so ties are random.
        low = int(draw() * count)
        best = candidates[low]
        if choices == 1:
            return best
        least = best.expected_load / best.capacity
        high = int(draw() * (count - 1))
        high += high >= low
        candidate = candidates[high]
        fullness = candidate.expected_load / candidate.capacity
        if fullness < least:
            best, least = candidate, fullness
        if choices == _FEW:
            if low > high:
                low, high = high, low
            index = int(draw() * (count - 2))
            index += index >= low
            index += index >= high
            candidate = candidates[index]
            if candidate.expected_load / candidate.capacity < least:
                best = candidate
        return best


def _check_up_to(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise InvalidArgumentError(argument, value, "a number from 1; math.inf for no limit")


def _check_below(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidArgumentError(argument, value, "a number from 0 to below 1")


# Among so few pods a random choice finds those that have just come up soon enough.
_FEW_PODS = 8


@attrs.frozen
class PreferEmptier:
    """A pod with much less load than the mean, as one that has just come up, as long as there is one.

    A few random pods are seldom one of a few new ones, so these fill slowly; and while they are empty the others have
    more than their share. This looks for them. Of fewer than 8 candidates it chooses as ``then`` does.

    Attributes:
        then: chooses among the pods that are preferred; and among all, to compare: of both the one with less load for
            its capacity is chosen, as the others may have filled the first one meanwhile.
        below: a pod with less than so many times the mean load, for its capacity, is preferred; from 0 to below 1.
        share: such a pod gets about so many times its share of the new uids at most, from 1: it may be slow at first,
            when its caches are empty. ``math.inf`` for no limit.

    Raises:
        InvalidArgumentError: naming what is of a wrong type or range.

    """

    then: PlacementStrategy = attrs.field(factory=BestOfRandom, validator=checked(check_callable))
    below: float = attrs.field(default=0.8, kw_only=True, validator=checked(_check_below))
    share: float = attrs.field(default=10.0, kw_only=True, validator=checked(_check_up_to))

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return one of the emptier ones, if there are any and they have not got their share."""
        chosen = self.then(candidates, random)
        if len(candidates) < _FEW_PODS:
            return chosen
        emptier = narrowed(candidates, self, self._emptier, looks=1)
        if not emptier or random.random() * len(candidates) >= self.share * len(emptier):
            return chosen
        other = self.then(emptier, random)
        return other if _fullness(other) < _fullness(chosen) else chosen

    def _emptier(self, candidates: Sequence[C]) -> Sequence[C]:
        load = sum(candidate.expected_load for candidate in candidates)
        limit = self.below * load / sum(candidate.capacity for candidate in candidates)
        return [candidate for candidate in candidates if _fullness(candidate) < limit]


@attrs.frozen
class Prefer:
    """One of the pods that are preferred, as long as one of them is not much fuller than the mean of all.

    Attributes:
        where: returns those of the candidates that are preferred: ``InZone("eu-1")``, ``NewestVersion()``, or a
            function of yours. It is called for some of the choices only: what it returns is kept for a few.
        then: chooses among the pods that are preferred; among all, if none is.
        up_to: a pod with more than so many times the mean load, for its capacity, is not preferred; ``math.inf`` for
            pods that are left only if none of them takes new uids.

    Raises:
        InvalidArgumentError: naming what is of a wrong type or range.

    """

    where: Callable[[Sequence[Any]], Sequence[Any]] = attrs.field(validator=checked(check_callable))
    then: PlacementStrategy = attrs.field(factory=BestOfRandom, validator=checked(check_callable))
    up_to: float = attrs.field(default=1.25, kw_only=True, validator=checked(_check_up_to))

    def __call__(self, candidates: Sequence[C], random: Random) -> C:
        """Return one that is preferred, if there is one that is not too full."""
        return self.then(narrowed(candidates, self, self._preferred), random)

    def _preferred(self, candidates: Sequence[C]) -> Sequence[C]:
        return _not_too_full(self.where(candidates), candidates, self.up_to)


@attrs.frozen
class InZone:
    """The pods in one zone, as they publish it: for ``Prefer``."""

    zone: str = attrs.field(validator=checked(check_id))

    def __call__(self, candidates: Sequence[C]) -> Sequence[C]:
        """Return the candidates in the zone."""
        return [candidate for candidate in candidates if candidate.zone == self.zone]


@attrs.frozen
class NewestVersion:
    """The pods of the revision that is being rolled out: for ``Prefer``, with ``up_to=1.0``.

    The uids that a rolling restart displaces then move once, and not again when their next pod is restarted. The
    newest revision is that of the pod that started last, since version texts have no order; so in a roll-back it is
    the one that is rolled back to.

    An ``up_to`` above 1 saves some moves, and costs balance: each pod that comes back empty lowers the mean. With
    ``math.inf`` the first pod of a rollout gets all new uids.
    """

    def __call__(self, candidates: Sequence[C]) -> Sequence[C]:
        """Return the candidates of that revision."""
        newest = max(candidates, key=lambda candidate: candidate.incarnation).version
        return [candidate for candidate in candidates if candidate.version == newest]


def _not_too_full(wanted: Sequence[C], candidates: Sequence[C], up_to: float) -> Sequence[C]:
    """Return those of ``wanted`` with at most ``up_to`` times the mean load of all; all, if there are none."""
    if len(wanted) < len(candidates) and up_to < math.inf:
        load = sum(candidate.expected_load for candidate in candidates)
        limit = up_to * load / sum(candidate.capacity for candidate in candidates)
        wanted = [candidate for candidate in wanted if _fullness(candidate) <= limit]
    return wanted or candidates
