"""What a preference finds out about all pods is good for some choices, and for none after a change."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.client.placement.candidates import Candidates
from stateful_route.client.pods.service import ServicePods
from stateful_route.placement import BestOfRandom, InZone, NewestVersion, PlacementStrategy, Prefer, PreferEmptier
from stateful_route.pods import PodReport, PodState, PodTable, StateObj

if TYPE_CHECKING:
    from stateful_route.client.pods.pod import Pod

NOW = 1_800_000_000.0
PODS = 96
IN_ZONE = range(0, PODS, 3)
STRATEGIES = [
    Prefer(InZone("a")),
    Prefer(NewestVersion(), up_to=1.0),
    Prefer(InZone("a"), Prefer(NewestVersion(), up_to=9.0)),
    Prefer(NewestVersion(), Prefer(InZone("a"), up_to=9.0), up_to=1.0),
]


@attrs.define
class Fake:
    """A pod that counts how often it is looked at."""

    pod_index: int
    expected_load: float = 0.0
    capacity: float = 1.0
    version: str | None = "v1"
    incarnation: int = 1
    links: int = 0
    max_links: int | None = None
    looks: int = 0

    @property
    def zone(self) -> str | None:
        self.looks += 1
        return "a" if self.pod_index in IN_ZONE else "b"


def state(pod_index: int, *, zone: str | None = None, max_links: int | None = None) -> PodState:
    if zone is None:
        zone = "a" if pod_index in IN_ZONE else "b"
    report = PodReport(load=0, links=0, zone=zone, max_links=max_links)
    return PodState(pod_index=pod_index, incarnation=1, report=report, load_state=StateObj(0, NOW, 5.0))


def choose(strategy: PlacementStrategy, table: ServicePods, random: Random) -> Pod:
    pod = strategy(table.placements.candidates, random)
    pod.chosen()
    return pod


@pytest.fixture
def table() -> ServicePods:
    """Return a table of empty pods, a third of them in the zone."""
    table = ServicePods("prod", "room", settle=1.0)
    table.apply(PodTable(NOW, tuple(map(state, range(PODS)))), 0.0)
    return table


@pytest.mark.parametrize("strategy", [*STRATEGIES, PreferEmptier()], ids=repr)
def test_looks(strategy: PlacementStrategy) -> None:
    """A choice among a thousand looks at some twenty of them in the mean."""
    pods = Candidates([Fake(pod_index) for pod_index in range(1000)])
    random = Random(1)
    for _ in range(620):
        strategy(pods, random)

    assert sum(pod.looks for pod in pods) <= 620 * 20


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("count", [1, 7, 31])
def test_few(strategy: PlacementStrategy, count: int) -> None:
    """Among a few pods every choice looks at all of them, and sees what was placed before it."""
    plain, kept = ([Fake(pod_index) for pod_index in range(count)] for _ in range(2))
    remembered = Candidates(kept)
    chosen = []
    for pods, random in ((plain, Random(1)), (remembered, Random(1))):
        for _ in range(100):
            pod = strategy(pods, random)
            pod.expected_load += 1
            chosen.append(pod.pod_index)

    assert chosen[:100] == chosen[100:]


def test_emptier_no_more() -> None:
    """A pod that was filled meanwhile is chosen no more, though it was preferred a moment ago."""
    pods = Candidates([Fake(pod_index, 100.0) for pod_index in range(100)])
    pods[99].expected_load = 0.0
    strategy = PreferEmptier(BestOfRandom(1), share=math.inf)
    first = strategy(pods, Random(1)).pod_index
    pods[99].expected_load = 101.0
    chosen = {strategy(pods, Random(seed)).pod_index for seed in range(50)}

    assert 99 == first
    assert 99 not in chosen or len(chosen) > 10


@pytest.mark.parametrize("seed", range(3))
def test_balance(table: ServicePods, seed: int) -> None:
    """Among many, the pods of the zone get what they may have above the mean, and hardly any more."""
    strategy, random = Prefer(InZone("a"), up_to=1.25), Random(seed)
    for _ in range(PODS * 100):
        choose(strategy, table, random)
    inside = [table.pod(pod_index).pending for pod_index in IN_ZONE]

    assert 123 <= min(inside)
    assert max(inside) <= 130


def test_a_reading(table: ServicePods) -> None:
    """What a reading says of a pod counts in the next choice."""
    strategy, random = Prefer(InZone("a")), Random(1)
    first = choose(strategy, table, random)
    now = tuple(state(pod_index, zone="a" if pod_index == 1 else "b") for pod_index in range(PODS))
    table.apply(PodTable(NOW, now), 1.0)

    assert (True, 1) == (first.pod_index in IN_ZONE, choose(strategy, table, random).pod_index)


def test_a_report(table: ServicePods) -> None:
    """A pod that somebody could not reach is not chosen, though it was preferred a moment ago."""
    strategy = Prefer(InZone("a"), up_to=math.inf)
    choose(strategy, table, Random(1))
    for pod_index in IN_ZONE[1:]:
        table.report_unreachable(pod_index, 1.0)

    assert {0} == {choose(strategy, table, Random(seed)).pod_index for seed in range(5)}


def test_a_full_pod(table: ServicePods) -> None:
    """A pod that has become full is not chosen, though it was preferred a moment ago."""
    table.apply(PodTable(NOW, tuple(state(pod_index, max_links=1) for pod_index in range(PODS))), 1.0)
    strategy, random = Prefer(InZone("a"), up_to=math.inf), Random(1)
    chosen = [choose(strategy, table, random).pod_index for _ in range(PODS)]

    assert sorted(IN_ZONE) == sorted(chosen[: len(IN_ZONE)])
    assert list(range(PODS)) == sorted(chosen)


def test_many_strategies(table: ServicePods) -> None:
    """What was found out for one strategy is not taken for that of another, be it at the same place in memory."""
    zones = [choose(Prefer(InZone(zone)), table, Random(1)).zone for zone in "abababab"]

    assert list("abababab") == zones


def test_strategies_that_come_and_go(table: ServicePods) -> None:
    """What was found out for strategies that are made for one choice each does not pile up."""
    for seed in range(100):
        choose(Prefer(InZone("a")), table, Random(seed))

    assert len(table.placements.candidates._narrowed) <= 16
