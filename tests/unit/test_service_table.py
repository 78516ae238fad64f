"""The pods of a service as a client knows them: what a reading changes, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from stateful_route.client.routing import ServiceTable
from stateful_route.models import PodLife, PodReport, PodState, PodTable, RoutingState, StateObj

NOW = 1_800_000_000.0
READY, DENY_NEW_CALL, SHUTDOWN = RoutingState


def state(
    pod_index: int = 0,
    *,
    at: float = NOW,
    incarnation: int = 1,
    routing_state: RoutingState = READY,
    dead: bool = False,
    load: int = 0,
    links: int = 0,
    placed: int = 0,
    capacity: float = 1.0,
    **report: Any,
) -> PodState:
    report |= {"load": load, "links": links, "placed_total": placed, "capacity": capacity}
    return PodState(
        pod_index=pod_index,
        incarnation=incarnation,
        report=PodReport(routing_state=routing_state, **report),
        load_state=StateObj(load, at, 5.0),
        dead=dead,
    )


def read(table: ServiceTable, *pods: PodState, now: float = NOW) -> None:
    table.apply(PodTable(now, pods), now)


@pytest.fixture
def table() -> ServiceTable:
    return ServiceTable("prod", "room", settle=1.0)


@pytest.mark.parametrize(
    ("pod", "routable", "usable", "leaving"),
    [
        (state(), True, True, False),
        (state(routing_state=DENY_NEW_CALL), False, True, True),
        (state(routing_state=SHUTDOWN), False, False, True),
        (state(dead=True), False, False, False),
        (state(at=NOW - 4.99), True, True, False),
        (state(at=NOW - 5.0), False, False, False),
    ],
)
def test_states(table: ServiceTable, pod: PodState, routable: bool, usable: bool, leaving: bool) -> None:
    """Routable is alive and READY, usable is alive and not SHUTDOWN, leaving is not READY."""
    read(table, pod)

    assert (routable, usable, leaving) == (
        [0] == [pod.pod_index for pod in table.routable],
        table.pod(0).usable,
        (PodLife(0, 1),) == table.leaving,
    )


def test_pods_stay_the_same_objects(table: ServiceTable) -> None:
    """A reading changes the pods in place, so that cached links see it, also of a pod that was never seen."""
    unknown = table.pod(0)
    first = unknown.usable, unknown.life
    read(table, state(incarnation=7, load=3, capacity=2.0, routing_state=SHUTDOWN))

    assert (True, PodLife(0, 0)) == first
    assert unknown is table.pod(0)
    assert (False, PodLife(0, 7), 3, 2.0) == (unknown.usable, unknown.life, unknown.load, unknown.capacity)


def test_vanished(table: ServiceTable) -> None:
    """A pod that the store no longer knows is not usable, until it is back; one never seen stays usable."""
    read(table, state(0), state(1))
    unknown = table.pod(9)
    read(table, state(1))
    gone = table.pod(0).usable, len(table.routable), [pod.pod_index for pod in table.states]
    read(table, state(0), state(1))

    assert (False, 1, [1]) == gone
    assert table.pod(0).usable
    assert unknown.usable


def test_nothing_is_routable(table: ServiceTable) -> None:
    """An empty reading is one: the table is loaded, and nothing is routable."""
    before = table.loaded
    read(table)

    assert (False, True, [], ()) == (before, table.loaded, table.routable, table.leaving)


def test_own_stamp(table: ServiceTable) -> None:
    """Own placements on a pod are forgotten when that pod's own stamp has passed, not when the table was read."""
    read(table, state(0), state(1))
    for pod_index in (0, 1):
        table.pod(pod_index).own.placed(NOW + 1.0)
    read(table, state(0, at=NOW + 2.0), state(1, at=NOW + 1.9), now=NOW + 3.0)

    assert [0, 1] == [table.pod(pod_index).own.unseen for pod_index in (0, 1)]


def test_expected_load(table: ServiceTable) -> None:
    """An own placement that no load shows counts with the mean weight of a link."""
    read(table, state(0, load=30, links=10), state(1, load=10, links=10))
    table.pod(0).own.placed(NOW + 1.0)

    assert (32.0, 10.0) == (table.pod(0).expected_load, table.pod(1).expected_load)


@pytest.mark.parametrize(("load", "links"), [(0, 0), (0, 5), (5, 0)])
def test_unknown_weight(table: ServiceTable, load: int, links: int) -> None:
    """Without loads or links to divide a link weighs 1."""
    read(table, state(0, load=load, links=links))

    assert 1.0 == table.weight_of_own


def test_weight_of_routable_pods(table: ServiceTable) -> None:
    """The weight is that of the pods that may get new uids."""
    read(table, state(0, load=30, links=10), state(1, load=1000, links=1, routing_state=SHUTDOWN))

    assert 3.0 == table.weight_of_own


def test_scale(table: ServiceTable) -> None:
    """What all clients placed, by the counters of the pods, over what this one placed scales its own placements."""
    read(table, state(0, placed=100), state(1, placed=100))
    for _ in range(2):
        table.pod(0).own.placed(NOW)
    read(table, state(0, placed=110, at=NOW + 1), state(1, placed=110, at=NOW + 1), now=NOW + 1)

    assert 10.0 == pytest.approx(table.weight_of_own)


@pytest.mark.parametrize(
    ("again", "newly"),
    [
        (state(0, placed=107), 7),
        (state(0, placed=90), 0),
        (state(0, placed=4, incarnation=2), 4),
        (state(1, placed=50), 0),
    ],
)
def test_newly_placed(table: ServiceTable, again: PodState, newly: int) -> None:
    """A restarted pod counts from 0, a counter that fell counts nothing, a pod that was not read before neither."""
    read(table, state(0, placed=100))
    table.pod(0).own.placed(NOW)
    read(table, again, now=NOW + 1)

    assert max(1.0, float(newly)) == pytest.approx(table.weight_of_own)


def test_restarted_pod(table: ServiceTable) -> None:
    """A restarted pod has its new life and load, and what was placed on the older one is forgotten by its stamp."""
    read(table, state(0, load=50, links=50))
    table.pod(0).own.placed(NOW)
    read(table, state(0, at=NOW + 2, incarnation=2), now=NOW + 2)

    assert (PodLife(0, 2), 0.0) == (table.pod(0).life, table.pod(0).expected_load)


def test_what_a_strategy_sees(table: ServiceTable) -> None:
    """A pod shows what it published, and the placements of this client that it does not show."""
    read(table, state(0, incarnation=7, links=4, capacity=2.0, max_links=6, zone="a", version="v1"))
    pod = table.pod(0)
    pod.own.placed(NOW + 1.0)

    assert (5, 6, "a", "v1", 7, 2.0) == (pod.links, pod.max_links, pod.zone, pod.version, pod.incarnation, pod.capacity)
    assert (0, None, None, None) == (
        table.pod(9).links,
        table.pod(9).max_links,
        table.pod(9).zone,
        table.pod(9).version,
    )


def test_full(table: ServiceTable) -> None:
    """A pod is full, and no candidate, with as many links as it may have, placements under way included."""
    read(table, state(0, links=4, max_links=6), state(1))
    full = [table.pod(0).full]
    table.pod(0).own.placed(NOW + 1.0)
    table.pod(0).own.pending += 1
    full.append(table.pod(0).full)
    candidates = [pod.pod_index for pod in table.candidates]
    table.pod(0).own.pending -= 1
    full.append(table.pod(0).full)

    assert [False, True, False] == full
    assert ([1], [0, 1]) == (candidates, [pod.pod_index for pod in table.candidates])
    assert not table.pod(1).full


@pytest.mark.parametrize(
    ("pods", "room"),
    [
        ([], 0),
        ([state(0, routing_state=DENY_NEW_CALL, max_links=9)], 0),
        ([state(0, links=3, max_links=5)], 2),
        ([state(0, links=3, max_links=5), state(1, links=7, max_links=5), state(2, max_links=1)], 3),
    ],
)
def test_room(table: ServiceTable, pods: list[PodState], room: int) -> None:
    """The room is what is left in all routable pods; a pod that is over its limit takes none from the others."""
    read(table, *pods)

    assert [table.has_room(uids) for uids in (1, 2, 3, 4)] == [uids <= room for uids in (1, 2, 3, 4)]


def test_unlimited_room(table: ServiceTable) -> None:
    """A pod without a limit has room for any number."""
    read(table, state(0, links=5, max_links=5), state(1, links=10**9))

    assert table.has_room(10**9)
