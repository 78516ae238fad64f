"""The choice of a pod for a new uid, and what it is based on."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route.client.placement import OwnPlacements, PlacementRates
from stateful_route.client.strategies import BestOfRandom, best_of_random

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class Fake:
    pod_index: int
    expected_load: float
    capacity: float = 1.0


class Counting(Random):
    """Counts how many candidates it gave out."""

    looked_at = 0

    def sample(self, population: Sequence[Any], k: int, **more: Any) -> list[Any]:
        self.looked_at += k
        return super().sample(population, k, **more)


def test_least_load() -> None:
    """If all candidates are compared the one with the least load wins."""
    candidates = [Fake(i, load) for i, load in enumerate([5.0, 2.0, 9.0])]

    assert {1} == {best_of_random(candidates, 3, Random(seed)).pod_index for seed in range(50)}


def test_capacity() -> None:
    """Load counts in relation to capacity."""
    candidates = [Fake(0, 10.0), Fake(1, 15.0, 2.0), Fake(2, 4.0, 0.5)]

    assert {1} == {best_of_random(candidates, 3, Random(seed)).pod_index for seed in range(50)}


def test_ties_are_uniform() -> None:
    """Candidates with the same load are chosen equally often."""
    random = Random(3)
    chosen = Counter(best_of_random([Fake(i, 1.0) for i in range(10)], 3, random).pod_index for _ in range(10_000))

    assert 10 == len(chosen)
    assert all(abs(count - 1000) < 150 for count in chosen.values())


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_choices(choices: int) -> None:
    """Never more than that many candidates are looked at, and with d choices a pod takes d times its share at most."""
    random = Counting(3)
    candidates = [Fake(0, 0.0), *(Fake(i, 100.0) for i in range(1, 10))]
    chosen = Counter(BestOfRandom(choices)(candidates, random).pod_index for _ in range(5000))

    assert 5000 * choices == random.looked_at
    assert 500 * choices == pytest.approx(chosen[0], rel=0.15)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.1, 10)), min_size=1, max_size=8), st.integers(1, 10))
def test_any_candidates(pods: list[tuple[float, float]], choices: int) -> None:
    """However few candidates there are one of them is chosen, and never the worst of more than there are choices."""
    candidates = [Fake(i, load, capacity) for i, (load, capacity) in enumerate(pods)]
    chosen = best_of_random(candidates, choices, Random(1))
    worse = [
        other for other in candidates if other.expected_load / other.capacity >= chosen.expected_load / chosen.capacity
    ]

    assert len(worse) >= min(choices, len(candidates))


def test_own_placements() -> None:
    """A placement is unseen until a heartbeat came that is later than it by the time to settle."""
    own = OwnPlacements()
    own.pending = 2
    own.placed(10.0)
    own.placed(11.0)
    unseen = [own.unseen]
    for stamp in (10.9, 11.0, 12.0, 12.0):
        own.published(stamp, 1.0)
        unseen.append(own.unseen)

    assert [4, 4, 3, 2, 2] == unseen
    assert 2 == own.total


def test_rates_unknown() -> None:
    """While nothing is known the scale is 1."""
    rates = PlacementRates()
    rates.observe(0, 0, 1.0)
    rates.observe(100, 1, 0.0)

    assert 1.0 == rates.scale


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(-1, 0) | st.floats(0.001, 1e6)), max_size=20
    )
)
def test_scale_bounds(readings: list[tuple[int, int, float]]) -> None:
    """The scale is from 1 to 1024, whatever is observed."""
    rates = PlacementRates()
    for placed_by_all, placed_here, seconds in readings:
        rates.observe(placed_by_all, placed_here, seconds)

    assert 1.0 <= rates.scale <= 1024.0


def test_scale() -> None:
    """One of 32 clients learns that it is one of 32, however long its readings take."""
    rates = PlacementRates()
    for seconds in (0.5, 1.0, 2.0) * 20:
        rates.observe(round(64 * seconds), round(2 * seconds), seconds)

    assert 32.0 == pytest.approx(rates.scale)


def test_rates_decay() -> None:
    """A burst of others counts for half a minute: after 30 s without it 1/e of it is left."""
    rates = PlacementRates()
    rates.observe(100, 1, 1.0)
    for _ in range(30):
        rates.observe(0, 0, 1.0)
    both = rates.scale
    for _ in range(30):
        rates.observe(1, 1, 1.0)

    assert 100.0 == pytest.approx(both)
    share = (1 - math.exp(-1 / 30)) * math.exp(-2)
    assert 1 < rates.scale < 1 + 100 * share / (1 - math.exp(-1))
