"""A pod with more than its share lets links go, a few at a time, and stops in time."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import BaseConfig, ConfigError, PodState, RoutingState, ServerDriver
from stateful_route.server.departure.rebalance import links_to_shed
from stateful_route.store import PodReport, PodTable, StateObj
from tests.insides import beat_once, held_by
from tests.unit.conftest import CONFIG, room

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        await beat_once(full)
        assert full._rebalancing is not None
        await full._rebalancing._action()
        left = len(held_by(full))

        assert [f"user-{number}" for number in range(5)] == handed
        assert 95 == left
        assert full.owned("user-0") is None


def raises(_count: int) -> Iterable[str]:
    raise RuntimeError("the database was away")


def cancels(_count: int) -> Iterable[str]:
    raise asyncio.CancelledError


def names_and_raises(_count: int) -> Iterator[str]:
    yield "user-0"
    raise OSError("the database went away")


def never_ends(_count: int) -> Iterator[str]:
    while True:
        yield "nobody's"


@pytest.mark.parametrize(
    ("fault", "released"),
    [
        (raises, 0),
        (cancels, 0),
        (names_and_raises, 1),
        (lambda _: None, 0),
        (lambda _: 5, 0),
        (lambda _: "user-0", 0),
        (lambda _: [["user-0"]], 0),
        (lambda _: ["user-0", None], 1),
        (lambda _: [b"user-0"], 0),
    ],
)
async def test_movable_that_fails(
    store: MemoryStore, clock: ManualClock, caplog: pytest.LogCaptureFixture, fault: Any, released: int
) -> None:
    """Whatever is wrong with movable() is logged once, and the next period goes on as if nothing had been."""
    caplog.set_level(logging.DEBUG, "stateful_route")
    answers = [fault]

    def movable(count: int) -> Iterable[str]:
        named: Iterable[str] = answers[-1](count)
        return named

    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, movable=movable, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for number in range(100):
            await full.claim(f"user-{number}")
        await beat_once(full)
        assert full._rebalancing is not None
        left = []
        for _ in range(3):
            await full._rebalancing._action()
            left.append(len(held_by(full)))
        answers.append(lambda count: held_by(full)[:count])
        await full._rebalancing._action()
        after = len(held_by(full))

    assert [100 - released] * 3 == left
    assert left[-1] - after in {4, 5}
    logged = [record.levelno for record in caplog.records if "rebalancing of" in record.getMessage()]
    assert [logging.ERROR, logging.WARNING] == [level for level in logged if level > logging.DEBUG]


async def test_movable_that_never_ends(store: MemoryStore, clock: ManualClock) -> None:
    """Names without an end, none of them of a uid that is owned, do not hold the event loop."""
    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, movable=never_ends, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for number in range(100):
            await full.claim(f"user-{number}")
        await beat_once(full)
        assert full._rebalancing is not None
        await full._rebalancing._action()

        assert 100 == len(held_by(full))


async def test_movable_that_names_what_the_hand_off_changes(store: MemoryStore, clock: ManualClock) -> None:
    """movable() may return the very dict from which the hand-off deletes."""
    sessions = {f"user-{number}": number for number in range(100)}

    async def hand_off(uid: str) -> None:
        del sessions[uid]

    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, hand_off=hand_off, movable=lambda _: sessions, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for uid in list(sessions):
            await full.claim(uid)
        await beat_once(full)
        assert full._rebalancing is not None
        await full._rebalancing._action()

        assert 95 == len(held_by(full)) == len(sessions)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_movable_that_ends_the_process(
    store: MemoryStore, clock: ManualClock, error: type[BaseException]
) -> None:
    """What is meant to end the process is not kept from it."""

    def movable(_count: int) -> Iterable[str]:
        raise error

    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, movable=movable, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for number in range(100):
            await full.claim(f"user-{number}")
        await beat_once(full)
        assert full._rebalancing is not None
        with pytest.raises(error):
            await full._rebalancing._action()


async def test_failing_hand_off(store: MemoryStore, clock: ManualClock) -> None:
    """A uid whose hand-off fails stays where it is, as its pod is not leaving, and no others are tried instead."""
    tried: list[str] = []

    async def hand_off(uid: str) -> None:
        tried.append(uid)
        if uid != "user-3":
            raise RuntimeError(uid)

    uids = [f"user-{number}" for number in range(100)]
    config = attrs.evolve(CONFIG, rebalance=True)
    full = ServerDriver(store, room(0), config, hand_off=hand_off, movable=lambda _: uids, clock=clock)
    async with full, ServerDriver(store, room(1), CONFIG, clock=clock):
        for uid in uids:
            await full.claim(uid)
        await beat_once(full)
        assert full._rebalancing is not None
        await full._rebalancing._action()

        assert uids[:5] == tried
        assert ["user-3"] == [uid for uid in uids if full.owned(uid) is None]


async def test_ordinals_that_begin_elsewhere(store: MemoryStore, clock: ManualClock) -> None:
    """In a service of many pods whose ordinals do not begin at 0 it looks at all of them."""
    for index in range(1001, 1200):
        await store.register(room(index), PodReport(load=100, links=100), lease=500.0, retention=1000.0)
    uids = [f"user-{number}" for number in range(200)]
    config = attrs.evolve(CONFIG, rebalance=True)
    async with ServerDriver(store, room(1000), config, movable=lambda _: uids, clock=clock) as pod:
        for uid in uids:
            await pod.claim(uid)
        assert pod._rebalancing is not None
        left = []
        for _ in range(3):
            clock.advance(20.0)
            await beat_once(pod)
            await pod._rebalancing._action()
            left.append(len(held_by(pod)))

    assert 200 > left[0] > left[1] > left[2]


@pytest.mark.parametrize(("own", "expected"), [(150, 7), (110, 0)])
async def test_large_service(store: MemoryStore, clock: ManualClock, own: int, expected: int) -> None:
    """In a service of many pods it looks at a sample of them, and does as if it had looked at all."""
    for index in range(1, 400):
        report = PodReport(load=80 + index % 41, links=80 + index % 41)
        await store.register(room(index), report, lease=500.0, retention=1000.0)
    uids = [f"user-{number}" for number in range(own)]
    config = attrs.evolve(CONFIG, rebalance=True)
    async with ServerDriver(store, room(0), config, movable=lambda _: uids, clock=clock, random=Random(1)) as pod:
        for uid in uids:
            await pod.claim(uid)
        assert pod._rebalancing is not None
        read, looked = store.read_pods, list[PodTable]()

        async def noted(*arguments: Any, **options: Any) -> PodTable:
            looked.append(await read(*arguments, **options))
            return looked[-1]

        store.read_pods = noted  # type: ignore[method-assign]  # it notes what is read
        left = [len(held_by(pod))]
        for _ in range(3):
            clock.advance(20.0)  # in a service of so many not every heartbeat is told
            await beat_once(pod)
            await pod._rebalancing._action()
            left.append(len(held_by(pod)))

    assert expected == left[0] - left[1]
    assert (expected > 0) is (left[1] > left[2] > left[3])
    assert [True, False, False] == [len(table.pods) == 400 for table in looked]
    assert {True} == {len(table.pods) <= 101 and table.pods[0].pod_index == 0 for table in looked[1:]}
