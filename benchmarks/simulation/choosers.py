"""Who chooses: the shipped placement, and what it is compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from stateful_route import RoutingState
from stateful_route.client.pods.service import ServicePods
from stateful_route.placement import BestOfRandom, NewestVersion, Prefer, PreferEmptier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from stateful_route import PodState
    from stateful_route.placement import PlacementStrategy
    from stateful_route.store import PodTable

OURS = "ours"
NEW_FIRST = "ours, newest first"
ARGMIN = "argmin"
RANDOM = "random"
TWO_CHOICES = "best of two"
OF_THREE = "ours, best of three"
ALL_KNOWING = "all-knowing"

SETTLE = 1.0
"""The default of the setting."""


class Chooser(Protocol):
    """One client."""

    @property
    def version(self) -> int:
        """The version of the pods that it knows; 0 if these have none."""
        ...

    def read(self, table: PodTable) -> None:
        """Take in what the store says of the pods, all or those that have changed."""
        ...

    def choose(self, now: float) -> int | None:
        """Return the pod for a new uid; ``None`` if this client knows none that takes it."""
        ...


class Shipped:
    """The table and the strategy of the package, used as its resolver uses them."""

    def __init__(self, strategy: PlacementStrategy, random: Random) -> None:
        self.table = ServicePods("simulation", "room", SETTLE)
        self._strategy = strategy
        self._random = random

    @property
    def version(self) -> int:
        return self.table.version

    def read(self, table: PodTable) -> None:
        self.table.apply(table, table.now)

    def choose(self, now: float) -> int | None:
        candidates = self.table.placements.candidates
        if not candidates:
            return None
        pod = self._strategy(candidates, self._random)
        self.table.placements.placed(pod, now)
        return pod.pod_index


class Published:
    """Chooses by the published loads alone."""

    def __init__(self, pick: Callable[[Sequence[int], Random], int], random: Random) -> None:
        self._pick = pick
        self._random = random
        self._table: PodTable | None = None
        self._states: dict[int, PodState] = {}
        self._pods: list[int] = []
        self._loads: list[int] = []
        self.version = 0

    def read(self, table: PodTable) -> None:
        self.version = table.version
        if table.whole:
            self._states.clear()
        self._states |= {state.pod_index: state for state in table.pods}
        self._table = table

    def choose(self, now: float) -> int | None:
        if self._table is not None:  # worked out when it is needed: most tables are not
            alive = (
                [state for state in self._states.values() if state.is_alive(self._table.now)]
                if self._table.whole
                else [state for state in self._states.values() if state.pod_index not in self._table.overdue]
            )
            routable = [state for state in alive if state.report.routing_state is RoutingState.READY]
            self._pods = [state.pod_index for state in routable]
            self._loads = [state.report.load for state in routable]
            self._table = None
        return self._pods[self._pick(self._loads, self._random)] if self._pods else None


class AllKnowing:
    """Chooses by the loads as they are at this moment."""

    def __init__(self, loads: Sequence[float], random: Random) -> None:
        """Choose the least of ``loads``, which are kept up to date; a pod that takes no uids has an infinite one."""
        self._loads = loads
        self._random = random
        self.version = 0

    def read(self, table: PodTable) -> None:
        pass

    def choose(self, now: float) -> int | None:
        pod_index = _argmin(self._loads, self._random)
        return None if self._loads[pod_index] == math.inf else pod_index


def chooser(name: str, loads: Sequence[float], random: Random) -> Chooser:
    """Return a client that chooses in the way of that name; ``loads`` are for the one that knows all."""
    if name == ALL_KNOWING:
        return AllKnowing(loads, random)
    if name in _PICKS:
        return Published(_PICKS[name], random)
    return Shipped(_STRATEGIES[name], random)


def _argmin(loads: Sequence[float], random: Random) -> int:
    least = min(loads)
    return random.choice([index for index, load in enumerate(loads) if load == least])


def _random(loads: Sequence[int], random: Random) -> int:
    return random.randrange(len(loads))


def _best_of_two(loads: Sequence[int], random: Random) -> int:
    return min(random.sample(range(len(loads)), min(2, len(loads))), key=loads.__getitem__)


_PICKS: dict[str, Callable[[Sequence[int], Random], int]] = {
    ARGMIN: _argmin,
    RANDOM: _random,
    TWO_CHOICES: _best_of_two,
}
_STRATEGIES: dict[str, PlacementStrategy] = {
    OURS: PreferEmptier(),
    OF_THREE: BestOfRandom(),
    NEW_FIRST: Prefer(NewestVersion(), up_to=1.0),
}
