"""The choice of a pod for a new uid."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import InvalidArgumentError, placement
from stateful_route.client.placement import strategies
from stateful_route.placement import BestOfRandom, InZone, NewestVersion, Prefer, PreferEmptier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.placement import PlacementStrategy


@attrs.frozen
class Fake:
    pod_index: int
    expected_load: float
    capacity: float = 1.0
    zone: str | None = None
    version: str | None = None
    incarnation: int = 1
    links: int = 0
    max_links: int | None = None


class Looked(list[Fake]):
    """Candidates that note which of them were looked at."""

    def __init__(self, candidates: Sequence[Fake]) -> None:
        super().__init__(candidates)
        self.indexes: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.indexes.append(index)
        return super().__getitem__(index)


def chosen_by(strategy: PlacementStrategy, candidates: Sequence[Fake], times: int = 50) -> set[int]:
    """Return the pods that a strategy chooses, with different seeds."""
    return {strategy(candidates, Random(seed)).pod_index for seed in range(times)}


def test_least_load() -> None:
    """If all candidates are compared the one with the least load wins."""
    candidates = [Fake(i, load) for i, load in enumerate([5.0, 2.0, 9.0])]

    assert {1} == chosen_by(BestOfRandom(3), candidates)


def test_capacity() -> None:
    """Load counts in relation to capacity."""
    candidates = [Fake(0, 10.0), Fake(1, 15.0, 2.0), Fake(2, 4.0, 0.5)]

    assert {1} == chosen_by(BestOfRandom(3), candidates)


@pytest.mark.parametrize(("choices", "count"), [(1, 10), (3, 10), (3, 3), (8, 10), (9, 10), (100, 10), (2, 2)])
def test_ties_are_uniform(choices: int, count: int) -> None:
    """Candidates with the same load are chosen equally often, however many are compared."""
    random = Random(3)
    candidates = [Fake(i, 1.0) for i in range(count)]
    chosen = Counter(BestOfRandom(choices)(candidates, random).pod_index for _ in range(1000 * count))

    assert count == len(chosen)
    assert all(abs(times - 1000) < 150 for times in chosen.values())


@pytest.mark.parametrize("choices", [1, 2, 3, 8, 9])
def test_each_pair_is_compared(choices: int) -> None:
    """With d of n compared the k-th best wins as often as it is the best of a random subset, so the draw is uniform."""
    random = Random(3)
    count, times = 10, 20_000
    candidates = [Fake(i, float(i)) for i in range(count)]
    chosen = Counter(BestOfRandom(choices)(candidates, random).pod_index for _ in range(times))
    expected = [math.comb(count - 1 - i, choices - 1) / math.comb(count, choices) for i in range(count)]

    assert all(abs(chosen[i] / times - share) < 0.015 for i, share in enumerate(expected))


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_choices(choices: int) -> None:
    """Never more than that many candidates are looked at, and with d choices a pod takes d times its share at most."""
    random = Random(3)
    chosen: Counter[int] = Counter()
    for _ in range(5000):
        candidates = Looked([Fake(0, 0.0), *(Fake(i, 100.0) for i in range(1, 10))])
        chosen[BestOfRandom(choices)(candidates, random).pod_index] += 1

        assert choices == len(set(candidates.indexes))
    assert 500 * choices == pytest.approx(chosen[0], rel=0.15)


@given(st.lists(st.tuples(st.floats(0), st.floats(0.1, 10)), min_size=1, max_size=12), st.integers(1, 14))
def test_any_candidates(pods: list[tuple[float, float]], choices: int) -> None:
    """However few candidates there are one of them is chosen, and never the worst of more than there are choices."""
    candidates = [Fake(i, load, capacity) for i, (load, capacity) in enumerate(pods)]
    chosen = BestOfRandom(choices)(candidates, Random(1))
    worse = [
        other for other in candidates if other.expected_load / other.capacity >= chosen.expected_load / chosen.capacity
    ]

    assert len(worse) >= min(choices, len(candidates))


def test_prefer_zone() -> None:
    """A pod in the zone is chosen, and which of them is left to the strategy behind."""
    candidates = [Fake(0, 1.0, zone="b"), Fake(1, 3.0, zone="a"), Fake(2, 2.0, zone="a"), Fake(3, 9.0)]

    assert {2} == chosen_by(Prefer(InZone("a")), candidates)
    assert {1, 2} == chosen_by(Prefer(InZone("a"), BestOfRandom(1)), candidates)


def test_prefer_zone_elsewhere() -> None:
    """Without a pod in the zone all are candidates."""
    candidates = [Fake(0, 1.0, zone="b"), Fake(1, 1.0)]

    assert {0, 1} == chosen_by(Prefer(InZone("a")), candidates)


@pytest.mark.parametrize(
    ("load", "up_to", "chosen"), [(12.5, 1.25, {0}), (12.6, 1.25, {1}), (12.6, 1.3, {0}), (1e9, math.inf, {0})]
)
def test_preference_yields_to_balance(load: float, up_to: float, chosen: set[int]) -> None:
    """A pod that has more than so many times the mean load, for its capacity, is not preferred."""
    candidates = [Fake(0, 2 * load, 2.0, zone="a"), Fake(1, max(0.0, 2 * (20 - load)), 2.0)]  # the mean is 10

    assert chosen == chosen_by(Prefer(InZone("a"), up_to=up_to), candidates)


def test_only_the_full_ones_are_left_out() -> None:
    """Of several preferred pods those that are not too full are chosen."""
    candidates = [Fake(0, 90.0, zone="a"), Fake(1, 10.0, zone="a"), Fake(2, 11.0, zone="a"), Fake(3, 0.0)]

    assert {1, 2} == chosen_by(Prefer(InZone("a"), BestOfRandom(1)), candidates)


def test_prefer_newest_version() -> None:
    """The version of the pod that started last is chosen, whatever the texts say, and also if it is none."""
    old = [Fake(i, 5.0, version="v9", incarnation=i) for i in (1, 2, 3)]
    new = [Fake(i, 5.0, version="v10", incarnation=i) for i in (4, 5)]
    unnamed = Fake(6, 5.0, incarnation=6)

    assert {1, 2, 3} == chosen_by(Prefer(NewestVersion(), up_to=1.0), old)
    assert {4, 5} == chosen_by(Prefer(NewestVersion(), up_to=1.0), [*new, *old])
    assert {6} == chosen_by(Prefer(NewestVersion(), up_to=1.0), [*new, *old, unnamed])


def test_first_pod_of_a_rollout() -> None:
    """The first pod of a new version gets new uids up to the mean, and then no more than the others."""
    old = [Fake(i, 5.0, version="v1") for i in range(9)]

    assert {9} == chosen_by(Prefer(NewestVersion(), up_to=1.0), [*old, Fake(9, 4.9, version="v2", incarnation=2)])
    assert {9} < chosen_by(
        Prefer(NewestVersion(), BestOfRandom(1), up_to=1.0), [*old, Fake(9, 5.1, version="v2", incarnation=2)]
    )


def test_preferences_compose() -> None:
    """A preference behind another chooses among what the first one prefers."""
    candidates = [
        Fake(0, 5.0, zone="a", version="v1"),
        Fake(1, 5.0, zone="b", version="v2", incarnation=2),
        Fake(2, 5.0, zone="a", version="v2", incarnation=3),
        Fake(3, 5.0, zone="b", version="v1"),
    ]

    assert {2} == chosen_by(Prefer(NewestVersion(), Prefer(InZone("a")), up_to=1.0), candidates)
    assert {2} == chosen_by(Prefer(InZone("a"), Prefer(NewestVersion(), up_to=1.0)), candidates)
    assert {1, 2} == chosen_by(Prefer(NewestVersion(), Prefer(InZone("c")), up_to=1.0), candidates)


PODS = st.builds(
    Fake,
    pod_index=st.integers(0, 99),
    expected_load=st.floats(0, 1e9),
    capacity=st.floats(0.1, 10),
    zone=st.sampled_from([None, "a", "b"]),
    version=st.sampled_from([None, "v1", "v2"]),
    incarnation=st.integers(0, 9),
)
STRATEGIES = [
    BestOfRandom(),
    Prefer(InZone("a")),
    Prefer(NewestVersion(), up_to=1.0),
    Prefer(NewestVersion(), Prefer(InZone("b"), up_to=3), up_to=1.0),
    PreferEmptier(),
    Prefer(InZone("a"), PreferEmptier(share=1.0)),
]


def test_emptier() -> None:
    """A pod with much less than the mean is looked for; one with a little less, or none at all, is not."""
    full = [Fake(i, 100.0) for i in range(20)]

    assert {20} == chosen_by(PreferEmptier(BestOfRandom(1), share=math.inf), [*full, Fake(20, 70.0)])
    assert len(chosen_by(PreferEmptier(BestOfRandom(1)), [*full, Fake(20, 90.0)])) > 10
    assert len(chosen_by(PreferEmptier(BestOfRandom(1), below=0.0), [*full, Fake(20, 0.0)])) > 10


def test_emptier_by_capacity() -> None:
    """What is much less is seen for the capacity of a pod."""
    pods = [*(Fake(i, 100.0) for i in range(20)), Fake(20, 100.0, capacity=2.0), Fake(21, 40.0, capacity=0.4)]

    assert {20} == chosen_by(PreferEmptier(BestOfRandom(1), share=math.inf), pods)


def test_emptier_in_time() -> None:
    """An empty pod gets some times its share and no more, lest it be overrun while it is cold."""
    pods = [*(Fake(i, 100.0) for i in range(99)), Fake(99, 0.0)]
    strategy, random = PreferEmptier(BestOfRandom(1), share=10.0), Random(1)
    got = sum(strategy(pods, random).pod_index == 99 for _ in range(10_000))

    assert 0.10 * 10_000 == pytest.approx(got, rel=0.2)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@given(candidates=st.lists(PODS, min_size=1, max_size=12), seed=st.integers(0, 9))
def test_pure(strategy: PlacementStrategy, candidates: list[Fake], seed: int) -> None:
    """Each strategy returns one of any candidates, the same one from the same chance, and changes nothing."""
    before = list(candidates)
    chosen = strategy(candidates, Random(seed))

    assert any(chosen is candidate for candidate in candidates)
    assert chosen is strategy(candidates, Random(seed))
    assert before == candidates


def test_every_strategy_is_public_tried_and_documented() -> None:
    """A strategy is public, is in ``STRATEGIES`` here, and has a row in docs/semantics.md."""
    shipped = {
        value
        for value in vars(strategies).values()
        if attrs.has(value)
        and "__call__" in vars(value)
        and value not in {InZone, NewestVersion}  # which are for Prefer
        and value.__module__ == strategies.__name__
    }
    page = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text(encoding="utf-8")

    assert set() == shipped - {getattr(placement, name) for name in placement.__all__}
    assert set() == shipped - {type(strategy) for strategy in STRATEGIES}
    assert [] == [value.__name__ for value in shipped if f"| `{value.__name__}(" not in page]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: BestOfRandom(0), "choices"),
        (lambda: BestOfRandom(True), "choices"),
        (lambda: InZone(""), "zone"),
        (lambda: Prefer("a"), "where"),  # type: ignore[arg-type]  # that is the test
        (lambda: Prefer(InZone("a"), then=5), "then"),  # type: ignore[arg-type]  # that is the test
        (lambda: Prefer(NewestVersion(), "x", up_to=1.0), "then"),  # type: ignore[arg-type]  # that is the test
        (lambda: Prefer(InZone("a"), up_to=0.9), "up_to"),
        (lambda: Prefer(InZone("a"), up_to=math.nan), "up_to"),
        (lambda: PreferEmptier(5), "then"),  # type: ignore[arg-type]  # that is the test
        (lambda: PreferEmptier(below=1), "below"),
        (lambda: PreferEmptier(below=math.nan), "below"),
        (lambda: PreferEmptier(share=0.5), "share"),
        (lambda: Prefer(NewestVersion(), up_to="2"), "up_to"),  # type: ignore[arg-type]  # that is the test
    ],
)
def test_bad_strategies(make: Callable[[], object], argument: str) -> None:
    """A strategy that makes no sense is refused, and the error names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        make()

    assert argument == caught.value.argument


def test_values() -> None:
    """Strategies are values: equal if they are the same, and their repr shows them."""
    assert Prefer(InZone("a"), BestOfRandom(2)) == Prefer(InZone("a"), BestOfRandom(2))
    assert "Prefer(where=InZone(zone='a'), then=BestOfRandom(choices=2), up_to=1.25)" == repr(
        Prefer(InZone("a"), BestOfRandom(2))
    )
