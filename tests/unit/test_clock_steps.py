"""The clock of Redis is set forward and back: no pod is held for dead that owns by its own clock, and none much longer.

The model: all machines have clocks that go on, and agree; that of the store is off by what its steps have made it.
A pod owns for a lease from the sending of its last heartbeat that came. A client reads with replies that take their
time, and may confirm a death when its table says so.
"""

from __future__ import annotations

import math
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_route.client.pods.service import ServicePods
from stateful_route.pods import PodLife, PodReport, PodState, PodTable, StateObj

LEASE, HEARTBEAT, REFRESH = 5.0, 1.0, 1.0
SLOWEST = 0.2
AFTER_LEASE, SOON = 0.005, 0.02  # as in ``refresh``


@attrs.define
class World:
    """One pod, the store and its clock, and a client that watches."""

    lease: float = LEASE
    other_lease: float = LEASE
    now: float = 1000.0
    offset: float = 1_800_000_000.0
    sent: float = 0.0
    heard: float = 0.0
    next_beat: float = 0.0
    cut: float = math.inf
    read_at: float = 0.0
    table: ServicePods = attrs.field(factory=lambda: ServicePods("prod", "room", settle=1.0))

    def __attrs_post_init__(self) -> None:
        self.beat(self.now)
        self.next_beat = self.now + HEARTBEAT * self.lease / LEASE

    @property
    def store_now(self) -> float:
        return self.now + self.offset

    def beat(self, sent: float) -> None:
        self.sent, self.heard = sent, self.store_now

    def go_on(self, until: float, latency: float = 0.0) -> None:
        """Let time pass, with the heartbeats that come in it."""
        while self.next_beat + latency <= until:
            if self.next_beat < self.cut:
                self.now = self.next_beat + latency
                self.beat(self.next_beat)
            self.next_beat += HEARTBEAT * self.lease / LEASE
        self.now = max(self.now, until)

    def read(self, there: float, back: float, *, whole: bool = False) -> None:
        """Read the table; the question and the answer take so many seconds each."""
        read_at = self.now
        self.go_on(self.now + there)
        now, overdue = self.store_now, self.heard + self.lease <= self.store_now
        pods = tuple(
            PodState(pod_index=index, incarnation=1, report=PodReport(), load_state=StateObj(0, max(0.0, heard), lease))
            for index, heard, lease in ((0, self.heard, self.lease), (1, now, self.other_lease))
            if whole
        )
        ends = [now + self.other_lease] if overdue else [now + self.other_lease, self.heard + self.lease]
        self.go_on(self.now + back)
        table = PodTable(now, pods, whole=whole, overdue=(0,) if overdue else (), next_deadline=min(ends), living=2)
        self.table.apply(table, read_at, 2 * REFRESH + 1.0, self.now)
        self.read_at = read_at

    def confirms(self) -> bool:
        """Whether the client confirms the death now, and the store agrees."""
        life = PodLife(0, 1)
        if life not in self.table.suspicion.confirmable(self.now + SOON):
            return False
        self.go_on(max(self.now, self.table.suspicion.ripe_at(self.table.pod(life.pod_index))))
        return self.heard + self.lease <= self.store_now

    def owns(self) -> bool:
        """Whether the pod owns, by its own clock."""
        return self.now < self.sent + self.lease


latencies = st.floats(0.0, SLOWEST)
steps = st.one_of(st.just(0.0), st.floats(-3 * LEASE, 3 * LEASE))


@settings(max_examples=1000)
@given(
    beat_latency=latencies,
    cut_after=st.floats(0.0, 4 * LEASE),
    back_after=st.floats(0.1, 2 * LEASE),
    readings=st.lists(st.tuples(st.floats(0.01, 0.6 * LEASE), latencies, latencies, steps), min_size=5, max_size=60),
)
def test_no_living_pod(
    beat_latency: float,
    cut_after: float,
    back_after: float,
    readings: list[tuple[float, float, float, float]],
) -> None:
    """However the clock of the store is set between two readings, nobody is held for dead who owns by its own clock."""
    world = World()
    cut_at = world.now + cut_after
    world.read(0.0, 0.0, whole=True)
    for pause, there, back, step in readings:
        world.cut = math.inf if world.now + pause < cut_at or world.now > cut_at + back_after else cut_at
        world.go_on(world.now + pause / 2, beat_latency)
        world.offset += step
        world.go_on(world.now + pause / 2, beat_latency)
        world.read(there, back)
        if world.confirms():
            assert not world.owns()
            return


@pytest.mark.parametrize("step", [0.1, 1.4, 2.4, 2.6, 4.9, 7.0])
@pytest.mark.parametrize("when", [-1.0, 0.5, 2.0, 4.0, 4.9])
def test_step_ahead(step: float, when: float) -> None:
    """A step ahead while a pod is cut off costs no pod its lease: that was two owners for up to the step."""
    world = watch_death([(when, step)])

    assert not world.owns()
    assert world.now - world.sent <= LEASE + max(step, LEASE if step > LEASE / 2 else 0.0) + REFRESH


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("lease", [0.5, 5.0, 30.0])
def test_no_step(seed: int, lease: float) -> None:
    """Without a step a death can be confirmed a moment after the lease, however the replies vary."""
    world = watch_death([], seed=seed, lease=lease)

    assert 0.0 <= world.now - world.sent - lease <= 0.03


@pytest.mark.parametrize(("lease", "other"), [(1.0, 30.0), (30.0, 1.0)])
def test_leases_side_by_side(lease: float, other: float) -> None:
    """A death is confirmed at the end of the pod's own lease, be that of the others as long or as short as it may."""
    world = watch_death([], lease=lease, other_lease=other)

    assert 0.0 <= world.now - world.sent - lease <= 0.03


def test_steps_at_each_reading() -> None:
    """A pod that is heard between readings at each of which its lease has ended, by a step each time, is not dead."""
    world = World()
    world.read(0.0, 0.0, whole=True)
    world.go_on(world.now + HEARTBEAT / 2)
    for number in range(40):
        world.go_on(world.now + HEARTBEAT)
        if number > 10:
            world.offset += 1.5 * LEASE
        world.read(0.0, 0.0)

        assert not world.confirms()


def test_gap_for_a_short_lease() -> None:
    """A gap that is one for a pod with a lease of a second is none for one with thirty."""
    world = World(lease=30.0, other_lease=1.0)
    world.read(0.0, 0.0, whole=True)
    for _ in range(40):
        world.go_on(world.now + 0.7)
        world.read(0.0, 0.0)
    view = world.table.freshness

    assert 0.0 == view.unbroken_for(1.0)
    assert 28.0 == pytest.approx(view.unbroken_for(30.0))


@pytest.mark.parametrize(("lease", "other"), [(3600.0, 3600.0), (3600.0, 1.0), (1e11, 1.0)])
def test_many_readings(lease: float, other: float) -> None:
    """What is remembered of the readings has a bound, and short leases are not judged by what is long ago."""
    world = World(lease=lease, other_lease=other)
    world.read(0.0, 0.0, whole=True)
    for number in range(20_000):
        world.go_on(world.now + (0.6 if number == 15_000 else 0.4))
        world.read(0.0, 0.0)
    view = world.table.freshness

    assert 512 >= len(view._readings)
    assert view.unbroken_for(3600.0) >= 3600.0
    assert view.unbroken_for(1.0) >= 1.0


def watch_death(
    steps: list[tuple[float, float]], *, seed: int = 1, lease: float = LEASE, other_lease: float = LEASE
) -> World:
    """Look on until the death of a pod, that is cut off in full health, is confirmed; each step so long after that."""
    random = Random(seed)
    world = World(lease=lease, other_lease=other_lease)
    world.read(0.0, 0.0, whole=True)
    look_on = world.now + 3 * lease
    cut = look_on + random.random()
    due = [(cut + when, step) for when, step in steps]
    world.cut = cut
    while True:
        left = min(
            world.read_at + REFRESH - world.now, (world.table.suspicion.next_look(world.now) or 0.0) + AFTER_LEASE
        )
        until = world.now + max(0.0, left)
        while due and due[0][0] <= until:
            at, step = due.pop(0)
            world.go_on(max(at, world.now), 0.001)
            world.offset += step
        world.go_on(until, 0.001)
        world.read(random.uniform(0.0, 0.003), random.uniform(0.0, 0.003))
        if world.confirms():
            return world


def test_set_back() -> None:
    """After the clock of the store was set back by an hour, reports and placements are forgotten as ever."""
    table, now, at = ServicePods("prod", "room", settle=1.0), 1000.0, 1_800_000_000.0

    def state(heard: float) -> PodState:
        return PodState(pod_index=0, incarnation=1, report=PodReport(), load_state=StateObj(0, heard, LEASE))

    table.apply(PodTable(at, (state(at),)), now)
    table.placements.placed(table.pod(0), now + 0.1)
    table.report_unreachable(0, now + 0.2)
    at -= 3600.0
    table.apply(PodTable(at + 1.0, (state(at + 3600.0),)), now + 1.0)
    early = table.pod(0).own.count, table.pod(0).reported
    table.apply(PodTable(at + 3.0, (state(at + 2.5),)), now + 3.0)

    assert (now + 0.2) == early[1]
    assert (0, None) == (table.pod(0).own.count, table.pod(0).reported)
