"""The pods of a service as a client knows them: what a reading changes, and what it leaves."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from stateful_route.client.pods.service import ServicePods
from stateful_route.pods import PodChange, PodLife, PodReport, PodState, PodTable, RoutingState, StateObj
from tests.insides import unbroken

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
    version: int = 0,
    revision: str | None = None,
    **report: Any,
) -> PodState:
    report |= {"version": revision, "load": load, "links": links, "placed_total": placed, "capacity": capacity}
    return PodState(
        pod_index=pod_index,
        incarnation=incarnation,
        report=PodReport(routing_state=routing_state, **report),
        load_state=StateObj(load, at, 5.0),
        dead=dead,
        version=version,
    )


def read(table: ServicePods, *pods: PodState, now: float = NOW) -> None:
    table.apply(PodTable(now, pods), now)


@pytest.fixture
def table() -> ServicePods:
    return ServicePods("prod", "room", settle=1.0)


@pytest.mark.parametrize(
    ("pod", "routable", "usable", "leaving"),
    [
        (state(), True, True, False),
        (state(routing_state=DENY_NEW_CALL), False, True, True),
        (state(routing_state=SHUTDOWN), False, False, True),
        (state(dead=True), False, False, False),
        (state(dead=True, routing_state=SHUTDOWN), False, False, False),
        (state(at=NOW - 4.99), True, True, False),
        (state(at=NOW - 5.0), False, False, False),
    ],
)
def test_states(table: ServicePods, pod: PodState, routable: bool, usable: bool, leaving: bool) -> None:
    """Routable is alive and READY, usable is alive and not SHUTDOWN, leaving is not READY."""
    read(table, pod)

    assert (routable, usable, leaving) == (
        [0] == [pod.pod_index for pod in table.placements.routable],
        table.pod(0).usable,
        (PodLife(0, 1),) == table.suspicion.leaving.named,
    )


def test_pods_stay_the_same_objects(table: ServicePods) -> None:
    """A reading changes the pods in place, so that cached links see it, also of a pod that was never seen."""
    unknown = table.pod(0)
    first = unknown.usable, unknown.life
    read(table, state(incarnation=7, load=3, capacity=2.0, routing_state=SHUTDOWN))

    assert (True, PodLife(0, 0)) == first
    assert unknown is table.pod(0)
    assert (False, PodLife(0, 7), 3, 2.0) == (unknown.usable, unknown.life, unknown.load, unknown.capacity)


def test_vanished(table: ServicePods) -> None:
    """A pod that the store no longer knows is not usable, until it is back; one never seen stays usable."""
    read(table, state(0), state(1))
    unknown = table.pod(9)
    read(table, state(1))
    gone = table.pod(0).usable, len(table.placements.routable), [pod.pod_index for pod in table.states]
    read(table, state(0), state(1))

    assert (False, 1, [1]) == gone
    assert table.pod(0).usable
    assert unknown.usable


def test_nothing_is_routable(table: ServicePods) -> None:
    """An empty reading is one: the table is loaded, and nothing is routable."""
    before = table.loaded
    read(table)

    assert (False, True, [], ()) == (before, table.loaded, table.placements.routable, table.suspicion.leaving.named)


def test_own_stamp(table: ServicePods) -> None:
    """Own placements on a pod are forgotten when that pod's own stamp has passed, not when the table was read."""
    read(table, state(0), state(1))
    for pod_index in (0, 1):
        table.placements.placed(table.pod(pod_index), NOW + 1.0)
    read(table, state(0, at=NOW + 2.0), state(1, at=NOW + 1.9), now=NOW + 3.0)

    assert [0, 1] == [table.pod(pod_index).own.count for pod_index in (0, 1)]


def test_expected_load(table: ServicePods) -> None:
    """An own placement that no load shows counts with the mean weight of a link."""
    read(table, state(0, load=30, links=10), state(1, load=10, links=10))
    table.placements.placed(table.pod(0), NOW + 1.0)

    assert (32.0, 10.0) == (table.pod(0).expected_load, table.pod(1).expected_load)


@pytest.mark.parametrize(("load", "links"), [(0, 0), (0, 5), (5, 0)])
def test_unknown_weight(table: ServicePods, load: int, links: int) -> None:
    """Without loads or links to divide a link weighs 1."""
    read(table, state(0, load=load, links=links))

    assert 1.0 == table.placements.weight_of_own


def test_weight_of_routable_pods(table: ServicePods) -> None:
    """The weight is that of the pods that may get new uids."""
    read(table, state(0, load=30, links=10), state(1, load=1000, links=1, routing_state=SHUTDOWN))

    assert 3.0 == table.placements.weight_of_own


def test_scale(table: ServicePods) -> None:
    """What all clients placed, by the counters of the pods, over what this one placed scales its own placements."""
    read(table, state(0, placed=100), state(1, placed=100))
    for _ in range(2):
        table.placements.placed(table.pod(0), NOW)
    read(table, state(0, placed=110, at=NOW + 1), state(1, placed=110, at=NOW + 1), now=NOW + 1)

    assert 10.0 == pytest.approx(table.placements.weight_of_own)


@pytest.mark.parametrize(
    ("again", "newly"),
    [
        (state(0, placed=107), 7),
        (state(0, placed=90), 0),
        (state(0, placed=4, incarnation=2), 4),
        (state(1, placed=50), 0),
    ],
)
def test_newly_placed(table: ServicePods, again: PodState, newly: int) -> None:
    """A restarted pod counts from 0, a counter that fell counts nothing, a pod that was not read before neither."""
    read(table, state(0, placed=100))
    table.placements.placed(table.pod(0), NOW)
    read(table, again, now=NOW + 1)

    assert max(1.0, float(newly)) == pytest.approx(table.placements.weight_of_own)


def test_restarted_pod(table: ServicePods) -> None:
    """A restarted pod has its new life and load, and what was placed on the older one is forgotten by its stamp."""
    read(table, state(0, load=50, links=50))
    table.placements.placed(table.pod(0), NOW)
    read(table, state(0, at=NOW + 2, incarnation=2), now=NOW + 2)

    assert (PodLife(0, 2), 0.0) == (table.pod(0).life, table.pod(0).expected_load)


def test_what_a_strategy_sees(table: ServicePods) -> None:
    """A pod shows what it published, and the placements of this client that it does not show."""
    read(table, state(0, incarnation=7, links=4, capacity=2.0, max_links=6, zone="a", revision="v1"))
    pod = table.pod(0)
    table.placements.placed(pod, NOW + 1.0)

    assert (5, 6, "a", "v1", 7, 2.0) == (pod.links, pod.max_links, pod.zone, pod.version, pod.incarnation, pod.capacity)
    assert (0, None, None, None) == (
        table.pod(9).links,
        table.pod(9).max_links,
        table.pod(9).zone,
        table.pod(9).version,
    )


def test_full(table: ServicePods) -> None:
    """A pod is full, and no candidate, with as many links as it may have, placements in flight included."""
    read(table, state(0, links=4, max_links=6), state(1))
    full = [table.pod(0).full]
    table.placements.placed(table.pod(0), NOW + 1.0)
    table.pod(0).chosen()
    full.append(table.pod(0).full)
    candidates = [pod.pod_index for pod in table.placements.candidates]
    table.pod(0).answered()
    full.append(table.pod(0).full)

    assert [False, True, False] == full
    assert ([1], [0, 1]) == (candidates, [pod.pod_index for pod in table.placements.candidates])
    assert not table.pod(1).full


def test_full_by_what_all_place(table: ServicePods) -> None:
    """What this client placed counts for the others too, as they place as much; what is in flight counts once."""
    read(table, state(0, placed=100, max_links=50), state(1))
    for second in range(1, 40):
        table.placements.placed(table.pod(1), NOW + second - 0.5)
        now = NOW + second
        read(table, state(0, at=now, placed=100 + 31 * second, max_links=50), state(1, at=now, placed=second), now=now)
    pod = table.pod(0)
    pod.chosen()
    links = [pod.links]
    pod.answered()
    table.placements.placed(pod, now)
    links.append(pod.links)
    table.placements.placed(pod, now)

    assert 1 == links[0]
    assert 31 == pytest.approx(links[1], abs=3)
    assert (True, [1]) == (pod.full, [each.pod_index for each in table.placements.candidates])


def test_idle_client(table: ServicePods) -> None:
    """A client that was idle does not hold pods for full after a few placements of its own, in a busy service."""
    read(table, state(0, max_links=200))
    for second in range(1, 40):
        read(table, state(0, at=NOW + second, placed=10 * second, max_links=200), now=NOW + second)
    table.placements.placed(table.pod(0), NOW + 40.0)
    after_one = table.pod(0).links
    for _ in range(63):
        table.placements.placed(table.pod(0), NOW + 40.0)

    assert 1 < after_one <= 41
    assert 64 < table.pod(0).links <= 104


@pytest.mark.parametrize(
    ("pods", "room"),
    [
        ([], 0),
        ([state(0, routing_state=DENY_NEW_CALL, max_links=9)], 0),
        ([state(0, links=3, max_links=5)], 2),
        ([state(0, links=3, max_links=5), state(1, links=7, max_links=5), state(2, max_links=1)], 3),
    ],
)
def test_room(table: ServicePods, pods: list[PodState], room: int) -> None:
    """The room is what is left in all routable pods; a pod that is over its limit takes none from the others."""
    read(table, *pods)

    assert [table.placements.has_room(uids) for uids in (1, 2, 3, 4)] == [uids <= room for uids in (1, 2, 3, 4)]


def test_unlimited_room(table: ServicePods) -> None:
    """A pod without a limit has room for any number."""
    read(table, state(0, links=5, max_links=5), state(1, links=10**9))

    assert table.placements.has_room(10**9)


def change(
    table: ServicePods, *pods: PodState, now: float = NOW, overdue: tuple[int, ...] = (), ends: float | None = None
) -> bool:
    """Apply what has changed; ``ends`` is when the next lease ends, by default in a lease."""
    digest = sum({state.pod_index: state.version for state in [*table.states, *pods]}.values())
    ends = now + 5.0 if ends is None else ends
    changes = PodTable(now, pods, whole=False, version=9, digest=digest, overdue=overdue, next_deadline=ends)
    return table.apply(changes, now)


def test_changes(table: ServicePods) -> None:
    """A reading of changes changes those pods, and leaves the others as they were."""
    read(table, state(0, load=1), state(1, load=2), state(2, load=3))
    whole = change(table, state(1, load=9, version=7), state(3, load=4, version=8))
    changed = change(table, state(0, routing_state=SHUTDOWN, version=9))

    assert whole
    assert changed
    assert [(1, 9), (2, 3), (3, 4)] == [(pod.pod_index, pod.load) for pod in table.placements.routable]
    assert [0, 1, 2, 3] == [state.pod_index for state in table.states]
    assert (PodLife(0, 1),) == table.suspicion.leaving.named


def test_lost_change(table: ServicePods) -> None:
    """Changes that do not add up to what the store has are not the whole truth, until all pods are read."""
    read(table, state(0), state(1))
    lost = table.apply(PodTable(NOW, (state(0, version=7),), whole=False, version=7, digest=12), NOW)
    whole = table.apply(PodTable(NOW, (state(0, version=7), state(1, version=5)), digest=12), NOW)

    assert (False, True) == (lost, whole)
    assert change(table, state(1, version=8))


def test_leases_alone(table: ServicePods) -> None:
    """A reading without changes leaves version and pods, tells who is overdue, and finds out if there are no pods."""
    table.apply(PodTable(NOW, (state(0, version=7), state(1, version=8)), version=8, digest=15), NOW)
    fine = table.apply(PodTable(NOW, (), whole=False, overdue=(1,), next_deadline=NOW + 5.0, living=2), NOW)
    usable = table.version, [table.pod(pod_index).usable for pod_index in (0, 1)]
    lost = table.apply(PodTable(NOW, (), whole=False), NOW)

    assert (True, False) == (fine, lost)
    assert (8, [True, False]) == usable


def test_unreadable_pod(table: ServicePods) -> None:
    """A pod that cannot be read makes a difference to the digest, which is no reason to read all pods again."""
    whole = table.apply(PodTable(NOW, (state(0, version=7),), 1, digest=12), NOW)
    same = table.apply(PodTable(NOW, (state(0, version=9),), whole=False, version=9, digest=14), NOW)

    assert (True, True) == (whole, same)


def test_nothing_new_to_say(table: ServicePods) -> None:
    """A pod is alive as long as it is not said to be overdue, however long it has had nothing new to say."""
    read(table, state(0), state(1))
    change(table, now=NOW + 60.0)
    alive = [pod.pod_index for pod in table.placements.routable], [state.is_alive(NOW + 60.0) for state in table.states]
    change(table, now=NOW + 61.0, overdue=(1,))
    overdue = [pod.pod_index for pod in table.placements.routable], table.pod(1).usable
    change(table, now=NOW + 62.0)

    assert ([0, 1], [True, True]) == alive
    assert ([0], False) == overdue
    assert ([0, 1], True) == ([pod.pod_index for pod in table.placements.routable], table.pod(1).usable)


def test_confirmable(table: ServicePods) -> None:
    """Who is overdue can be confirmed after a lease of looking, who said goodbye at once, and who is dead not again."""
    read(table, state(0), state(1), state(2, routing_state=SHUTDOWN), state(3, dead=True))
    early = table.suspicion.confirmable()
    for second in range(1, 6):
        table.apply(
            PodTable(NOW + second, (), whole=False, overdue=(1,), next_deadline=NOW + 9), NOW + second, longest_gap=2.0
        )
    late = table.suspicion.confirmable()
    table.mark_dead(PodLife(1, 1))

    assert ([PodLife(2, 1)], {PodLife(1, 1), PodLife(2, 1)}) == (early, set(late))
    assert [PodLife(2, 1)] == table.suspicion.confirmable()


def test_unbroken_watch(table: ServicePods) -> None:
    """Looks as seldom as a table asks for leave no gap, however short the time between two refreshes is."""
    read(table, state(0))
    left = table.suspicion.next_look(NOW) or 0.0
    table.apply(PodTable(NOW + left, (), whole=False, living=1), NOW + left, longest_gap=left / 2)

    assert left == pytest.approx(unbroken(table))


def test_many_asked_for(table: ServicePods) -> None:
    """A reading asks for no more pods than a script can take, whatever was announced."""
    for pod_index in range(9000):
        table.mark_dead(PodLife(pod_index, 1))

    assert 1000 == len(table.suspicion.asked_for)


def test_stamp_of_a_quiet_pod(table: ServicePods) -> None:
    """Own placements are forgotten once every heartbeat must be younger, by the lease that ends next."""
    read(table, state(0), state(1))
    table.placements.placed(table.pod(0), NOW)
    change(table, now=NOW + 2.0, ends=NOW + 5.9)
    early = table.pod(0).own.count
    change(table, now=NOW + 2.0, ends=NOW + 6.0)

    assert (1, 0) == (early, table.pod(0).own.count)


@pytest.mark.parametrize("announced", [*RoutingState, "DEAD", "HIDDEN"])
def test_announced(table: ServicePods, announced: str) -> None:
    """What is announced of a pod keeps it out of the cache until it is read, and changes nothing else."""
    read(table, state(0))
    for pod_index in (0, 1):
        for incarnation in (0, 1, 2, 10**30):
            table.take_in(PodChange("prod", "room", pod_index, incarnation, announced), NOW)

    suspended = [pod.usable for pod in table.placements.routable]
    table.suspicion.resume(NOW - 0.001)
    early = [pod.usable for pod in table.placements.routable]
    table.suspicion.resume(NOW)

    assert ([False], [False], [True]) == (suspended, early, [pod.usable for pod in table.placements.routable])
    assert ((), (), (), set()) == (
        table.suspicion.leaving.named,
        table.suspicion.dead.named,
        table.suspicion.asked_for,
        table.suspicion.rumoured,
    )
    assert [0] == list(table._pods)


def test_rumoured(table: ServicePods) -> None:
    """That the death of a pod whose lease has ended was confirmed is kept in mind until the next reading."""
    read(table, state(0, incarnation=2))
    read(table, state(0, incarnation=2), now=NOW + 5.0)
    for incarnation in (1, 2, 3):
        table.take_in(PodChange("prod", "room", 0, incarnation, "DEAD"), NOW)
    rumoured = set(table.suspicion.rumoured)
    read(table, state(0, incarnation=2), now=NOW + 5.0)

    assert ({PodLife(0, 2)}, set()) == (rumoured, table.suspicion.rumoured)


def test_cost_of_a_change() -> None:
    """What a reading of changes costs does not depend on the number of pods."""
    calls = []
    for count in (10, 1000):
        table = ServicePods("prod", "room", settle=1.0)
        read(table, *(state(pod_index) for pod_index in range(count)))
        table.placements.placed(table.pod(5), NOW)
        counted = 0

        def count_call(_frame: object, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event in {"call", "c_call"}

        changes = PodTable(NOW, (state(3, load=7),), whole=False, overdue=(4,), next_deadline=NOW + 5.0)
        gc.disable()  # Hypothesis has callbacks in it, which would count
        sys.setprofile(count_call)
        table.apply(changes, NOW)
        sys.setprofile(None)
        gc.enable()
        calls.append(counted)

    assert calls[0] == calls[1]


def test_candidates_among_many(table: ServicePods) -> None:
    """A pod that becomes full is a candidate no more, and is one again when a placement fails; the list is kept."""
    read(table, *(state(pod_index, links=4, max_links=5) for pod_index in range(3)))
    kept = table.placements.candidates
    table.pod(1).chosen()
    full = [pod.pod_index for pod in table.placements.candidates], table.placements.candidates is kept
    table.pod(1).answered()
    again = [pod.pod_index for pod in table.placements.candidates]
    table.report_unreachable(1, NOW + 1)
    table.pod(1).chosen()

    assert (([0, 2], True), [0, 1, 2]) == (full, again)
    assert [0, 2] == [pod.pod_index for pod in table.placements.candidates]


def test_told_once(table: ServicePods) -> None:
    """Between two readings the same state is told; a later heartbeat that said nothing new moves its time."""
    read(table, state(0))
    first = table.state(0)
    table.apply(PodTable(NOW + 2.0, (), whole=False, next_deadline=NOW + 6.0, living=1), NOW + 2.0)
    second = table.state(0)
    again = table.state(0)
    table.apply(PodTable(NOW + 4.0, (), whole=False, next_deadline=NOW + 8.0, living=1), NOW + 4.0)
    third = table.state(0)
    read(table, state(0, at=NOW + 5.0, load=7), now=NOW + 5.0)
    fourth = table.state(0)

    assert second is again
    assert [(NOW, 0), (NOW + 1.0, 0), (NOW + 3.0, 0), (NOW + 5.0, 7)] == [
        (told.load_state.timestamp, told.report.load) for told in (first, second, third, fourth) if told
    ]
