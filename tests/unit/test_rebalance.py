"""A pod with more than its share lets links go, a few at a time, and stops in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import BaseConfig, ConfigError, PodReport, PodState, PodTable, RoutingState, ServerDriver, StateObj
from stateful_route.server.rebalance import links_to_shed
from tests.unit.conftest import CONFIG, room

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateful_route.testing import ManualClock, MemoryStore

NOW = 1000.0


def table(*links: int, capacity: float = 1.0, state: RoutingState = RoutingState.READY) -> PodTable:
    """Return pods with those links, the first of which has the capacity and the last the state."""
    pods = [
        PodState(
            pod_index=index,
            incarnation=1,
            report=PodReport(
                load=count,
                links=count,
                capacity=1.0 if index else capacity,
                routing_state=state if index == len(links) - 1 else RoutingState.READY,
            ),
            load_state=StateObj(count, NOW, 5.0),
        )
        for index, count in enumerate(links)
    ]
    return PodTable(NOW, tuple(pods))


def shed(pods: PodTable, *, shedding: bool = False) -> int:
    return links_to_shed(pods, 0, tolerance=0.1, share=0.05, shedding=shedding)


@pytest.mark.parametrize(
    ("pods", "shedding", "expected"),
    [
        (table(1000, 0), False, 50),  # the cap of a period
        (table(1000, 1000), False, 0),
        (table(1150, 1000), False, 0),  # within the tolerance to begin
        (table(1180, 920), True, 59),  # begun, and still above the tolerance
        (table(1180, 920), False, 0),  # not enough to begin
        (table(1050, 950), True, 0),
        (table(1000), False, 0),  # nowhere to go
        (table(1000, 0, capacity=9.0), False, 0),  # it is nine times as large
        (table(0, 1000), False, 0),
        (table(1000, 0, state=RoutingState.DENY_NEW_CALL), False, 0),  # the other takes none
        (table(2, 0), False, 0),  # less than a link too many
    ],
)
def test_links_to_shed(pods: PodTable, shedding: bool, expected: int) -> None:
    """What goes is bounded by the surplus over the mean and by a share of the links; there are two thresholds."""
    assert expected == shed(pods, shedding=shedding)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=6))
def test_it_ends(links: list[int]) -> None:
    """Whatever the start, every pod that sheds comes to rest within the tolerance, and none goes below the mean."""
    shedding = [False] * len(links)
    total = sum(links)
    for _ in range(400):
        moves = [
            links_to_shed(
                table(links[i], *links[:i], *links[i + 1 :]), 0, tolerance=0.1, share=0.05, shedding=shedding[i]
            )
            for i in range(len(links))
        ]
        shedding = [move > 0 for move in moves]
        if not any(moves):
            break
        for index, move in enumerate(moves):
            assert not move or links[index] - move >= int(total / len(links)) - 1
            links[index] -= move
        for _ in range(sum(moves)):  # each next call is placed on the least loaded
            links[links.index(min(links))] += 1
    mean = total / len(links)

    assert not any(moves)
    assert max(links) <= 1.2 * mean + 2


def test_movable_is_needed(store: MemoryStore, clock: ManualClock) -> None:
    """To rebalance without saying what may go is refused."""
    with pytest.raises(ConfigError, match="movable"):
        ServerDriver(store, room(0), BaseConfig(rebalance=True), clock=clock)


async def test_driver(store: MemoryStore, clock: ManualClock) -> None:
    """A pod lets its idle links go by hand-off and release, no more than its share, and only its own."""
    handed: list[str] = []

    async def hand_off(uid: str) -> None:
        handed.append(uid)

    def movable(count: int) -> Iterable[str]:
        return ["nobody's", *(f"user-{number}" for number in range(count + 10))]

    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, hand_off=hand_off, movable=movable, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for number in range(100):
            await full.claim(f"user-{number}")
        await full._heart.beat()
        assert full._rebalancing is not None
        await full._rebalancing._action()
        left = len(full._owned)

        assert [f"user-{number}" for number in range(5)] == handed
        assert 95 == left
        assert full.owned("user-0") is None
