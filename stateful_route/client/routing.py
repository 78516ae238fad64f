"""The pods of a service as last read from the store: state without I/O."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from stateful_route.client.lives import DeadLives, LeavingLives
from stateful_route.client.placement import PlacementRates
from stateful_route.client.pod import Pod
from stateful_route.client.ready import ReadyPods
from stateful_route.client.view import StoreView
from stateful_route.models import DIGEST_MODULUS, PodAnnouncement, PodLife, PodState, PodTable, RoutingState

if TYPE_CHECKING:
    from stateful_route.client.candidates import Candidates

# A script cannot take any number of pods at once; the next reading asks for others.
_MOST_ASKED_FOR = 1000


class ServiceTable:
    """The pods of one service.

    A reading brings what has changed since the one before, and costs as much as that. It need not bring heartbeats
    that say nothing new: that a lease has not ended is told by the list of those that have, and how old a heartbeat
    may be at most by the deadline that comes next.
    """

    def __init__(self, namespace: str, service_name: str, settle: float) -> None:
        """Make an empty table."""
        self.namespace = namespace
        self.service_name = service_name
        self.loaded = False
        self.last_used = 0.0
        self.weight_of_own = 1.0
        """The load that all clients have added for each uid that this one placed and no load shows yet."""
        self.serves_cached = True
        """Whether cached links may be used: changes are heard, or the store does not answer at all."""
        self.used = False
        """Whether something was looked up in the store since the table was last read."""
        self.changes_read_at = 0.0
        """When the changes were last read, and not the leases alone, on the clock of this process."""
        self.refreshing = False
        """Whether the table is about to be read, because something was announced."""
        self.announced_at = -math.inf
        """When it was last read for that, on the clock of this process."""
        self.awaited = False
        """Whether the table is about to be read, because the lease of a pod will have ended."""
        self.version = 0
        """The version of the table in the store that this is."""
        self._digest = 0
        self._unaccounted = 0
        self._settle = settle
        self._pods: dict[int, Pod] = {}
        self._view = StoreView()
        self._ready = ReadyPods()
        self.note_own = self._ready.note_own
        self._dead = DeadLives()
        self._leaving = LeavingLives()
        self._suspects: set[Pod] = set()
        self._reported: set[Pod] = set()
        self._hearsay: set[Pod] = set()
        self._placed_on: set[Pod] = set()
        self._rates = PlacementRates()
        self._own_placed = 0

    @property
    def routable(self) -> Candidates[Pod]:
        """The pods that may get new uids."""
        return self._ready.routable

    @property
    def read_at(self) -> float:
        """When the table was last read, on the clock of this process."""
        return self._view.read_at

    @property
    def now(self) -> float | None:
        """When it was last read, by the clock of the store; ``None`` if it never was."""
        return self._view.now

    @property
    def dead(self) -> tuple[PodLife, ...]:
        """The lives whose death is confirmed, as far as a call has to name them."""
        return self._dead.named

    @property
    def leaving(self) -> tuple[PodLife, ...]:
        """The lives that are draining or shut down, as far as a call has to name them."""
        return self._leaving.named

    @property
    def asked_for(self) -> tuple[int, ...]:
        """The pods of which the next reading has to bring what the store says, be it new or not.

        Those that somebody could not reach, for the time of their last heartbeat; and those that were changed here by
        what was announced, which may have been overtaken by the last reading.
        """
        return tuple(pod.pod_index for pod in islice(self._reported | self._hearsay, _MOST_ASKED_FOR))

    @property
    def candidates(self) -> Candidates[Pod]:
        """The pods among which a strategy chooses: routable, and not full."""
        ready = self._ready
        return ready.candidates if ready.limits else ready.routable

    def has_room(self, uids: int) -> bool:
        """Whether the pods that may get new uids have room for so many, at least one."""
        return self._ready.has_room(uids)

    def pod(self, pod_index: int) -> Pod:
        """Return the pod with that index, whether it was ever seen or not."""
        pod = self._pods.get(pod_index)
        if pod is None:
            pod = self._pods[pod_index] = Pod(self, pod_index)
        return pod

    def placed(self, pod: Pod, at: float) -> None:
        """Note that this client placed a uid on a pod, at that time of its own clock.

        A pod that was never read has no load to which it could be added.
        """
        if pod.state is not None:
            pod.own.placed(self._view.store_time(at))
            self._placed_on.add(pod)
            self._own_placed += 1

    def state(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if anything."""
        pod = self._pods.get(pod_index)
        return None if pod is None or pod.state is None else self._heard(pod, pod.state)

    @property
    def states(self) -> tuple[PodState, ...]:
        """What the store last said of each pod."""
        return tuple(self._heard(pod, pod.state) for _, pod in sorted(self._pods.items()) if pod.state is not None)

    def serve_cached(self, serves: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Take in whether cached links may be used."""
        self.serves_cached = serves
        for pod in self._pods.values():
            pod.settle()

    def report_unreachable(self, pod_index: int, now: float) -> None:
        """Avoid a pod until there is a heartbeat later than ``now``, which is on the clock of this process."""
        pod = self.pod(pod_index)
        pod.reported = self._view.store_time(now)
        pod.settle()
        self._reported.add(pod)
        self._ready.list_again(self._reported, others=True)

    def is_dead(self, life: PodLife) -> bool:
        """Whether the death of that life of a pod, or of a newer one, is confirmed."""
        return life in self._dead

    def met_dead(self, life: PodLife) -> None:
        """Name a dead life in the calls to come: it owns a link."""
        self._dead.met(life, self._view.now or 0.0)

    def mark_dead(self, life: PodLife) -> None:
        """Take in that the death of a life was confirmed."""
        now = self._view.now or 0.0
        self._dead.add(life, now, now)
        pod = self.pod(life.pod_index)
        if pod.incarnation > life.incarnation:
            return
        if pod.state is not None:
            died = attrs.evolve(pod.state.load_state, timestamp=now)
            dead = attrs.evolve(pod.state, incarnation=life.incarnation, dead=True, load_state=died)
            self._set_state(pod, dead, overdue=False)
        pod.available = False
        pod.settle()
        self._hearsay.add(pod)
        self._ready.list_again(self._reported)

    def take_in(self, announcement: PodAnnouncement) -> bool:
        """Take in what a pod is announced to be, as far as that says all; return whether it does.

        Only what takes uids away from a pod is taken in: the rest needs what the pod reports.
        """
        life = PodLife(announcement.pod_index, announcement.incarnation)
        pod = self.pod(life.pod_index)
        if announcement.state == "DEAD":
            self.mark_dead(life)
            return True
        if pod.state is None or pod.state.life != life or pod.state.dead:
            return False
        if announcement.state not in {RoutingState.DENY_NEW_CALL, RoutingState.SHUTDOWN}:
            return False
        report = attrs.evolve(pod.state.report, routing_state=announcement.state)
        self._set_state(pod, attrs.evolve(pod.state, report=report), overdue=pod.overdue)
        self._hearsay.add(pod)
        self._ready.list_again(self._reported)
        return announcement.state == RoutingState.DENY_NEW_CALL

    def confirmable(self) -> list[PodLife]:
        """Return the lives whose death can be confirmed: they said goodbye, or their lease has ended.

        The latter only if this client has read the table all the time since: after a time without Redis the pods need
        some of it to be heard again.
        """
        return [
            pod.state.life
            for pod in self._suspects
            if pod.state is not None
            and (
                pod.state.report.routing_state is RoutingState.SHUTDOWN or self.unbroken_for >= pod.state.load_state.ttl
            )
        ]

    @property
    def doubted(self) -> bool:
        """Whether a pod is expected to be dead soon, or was reported: it is to be looked at more often."""
        return bool(self._suspects or self._reported)

    @property
    def unbroken_for(self) -> float:
        """For how many seconds, up to the last reading, the table was read without a failure or a gap."""
        return self._view.unbroken_for

    def absent_for(self, pod: Pod) -> float:
        """Return for how many seconds of these the pod was not in it."""
        unbroken = self.unbroken_for
        return unbroken if pod.absent_since is None else min(unbroken, self.read_at - pod.absent_since)

    def broken(self) -> None:
        """Take in that the table could not be read."""
        self._view.broken()

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to read the table at the latest; ``None`` if no pod is alive."""
        return self._view.next_look(now)

    def apply(self, table: PodTable, read_at: float, longest_gap: float = 0.0) -> bool:
        """Take in what was read from the store, asked for at ``read_at`` by the clock of this process.

        Synchronous: a call sees all of it or nothing. ``StoreView`` says what ``longest_gap`` is about.

        Return whether this is the whole truth now; if not, the table is to be read as a whole.
        """
        seconds, placed_by_all = self._view.begin(table, read_at), 0
        self.version = table.version or self.version
        overdue = self._overdue(table)
        if table.whole:
            self._hearsay.clear()
            self._dead.clear()
            self._forget_all_but({state.pod_index for state in table.pods})
        for state in table.pods:
            pod = self.pod(state.pod_index)
            self._hearsay.discard(pod)
            placed_by_all += _newly_placed(pod.state, state)
            self._set_state(pod, state, overdue=state.pod_index in overdue)
            pod.own.published(state.load_state.timestamp, self._settle)
        for pod in [*self._suspects, *(self.pod(pod_index) for pod_index in overdue)]:
            if pod.state is not None and pod.overdue is not (pod.pod_index in overdue):
                self._set_state(pod, pod.state, overdue=not pod.overdue)
        self._dead.tidy(table.now)
        recovered = self._forget_what_was_heard()
        self._ready.list_again(self._reported, others=recovered)
        self._view.end(longest_gap)
        self._weigh(seconds, placed_by_all)
        self.loaded = True
        if not table.version and not table.whole:  # no changes were asked for
            return table.living == self._view.living
        if table.whole:
            self._unaccounted = (table.digest - self._digest) % DIGEST_MODULUS
        return (self._digest + self._unaccounted) % DIGEST_MODULUS == table.digest

    def _overdue(self, table: PodTable) -> set[int]:
        """Return the pods, not known to be dead, whose lease has ended."""
        overdue = set(table.overdue)
        if table.whole:
            overdue |= {state.pod_index for state in table.pods if not state.dead and not state.is_alive(table.now)}
        return overdue

    def _set_state(self, pod: Pod, state: PodState | None, *, overdue: bool) -> None:
        """Take in what a pod is now."""
        if pod.state is not None:
            self._digest -= pod.state.version
            self._view.count(pod.state, -1)
        pod.state, pod.overdue = state, overdue
        if state is None:
            pod.available = False
            self._suspects.discard(pod)
            self._leaving.note(pod.life, leaving=False)
            self._ready.note(pod, None)
            pod.settle()
            return
        self._digest += state.version
        self._view.count(state, 1)
        routing_state, alive = state.report.routing_state, not (state.dead or overdue)
        pod.incarnation = state.incarnation
        pod.load = state.report.load
        pod.capacity = state.report.capacity
        pod.available = alive and routing_state is not RoutingState.SHUTDOWN
        pod.absent_since = None
        if state.dead:
            self._dead.add(state.life, state.load_state.timestamp, self._view.now or 0.0)
        else:
            self._dead.discard(pod.pod_index)
        if not state.dead and (overdue or routing_state is RoutingState.SHUTDOWN):
            self._suspects.add(pod)
        else:
            self._suspects.discard(pod)
        self._leaving.note(state.life, leaving=not state.dead and routing_state is not RoutingState.READY)
        self._ready.note(pod, state.report if alive and routing_state is RoutingState.READY else None)
        pod.settle()

    def _forget_all_but(self, seen: set[int]) -> None:
        for pod_index, pod in self._pods.items():
            if pod_index not in seen and pod.state is not None:
                pod.absent_lease = pod.state.load_state.ttl
                self._set_state(pod, None, overdue=False)
                pod.absent_since = self.read_at

    def _forget_what_was_heard(self) -> bool:
        """Forget the own placements, and the reports, that a later heartbeat of their pod has overtaken.

        Return whether a pod is reported no more.
        """
        for pod in tuple(self._placed_on):
            if pod.state is not None:
                pod.own.published(self._view.heard_at(pod.state, overdue=pod.overdue), self._settle)
            if not pod.own.settling:
                self._placed_on.discard(pod)
        recovered = [
            pod
            for pod in self._reported
            if pod.state is not None
            and pod.reported is not None
            # There is no later heartbeat of one that is dead.
            and (pod.state.dead or self._view.heard_at(pod.state, overdue=pod.overdue) > pod.reported)
        ]
        for pod in recovered:
            pod.reported = None
            pod.settle()
            self._reported.discard(pod)
        return bool(recovered)

    def _heard(self, pod: Pod, state: PodState) -> PodState:
        """Return what the store last said of a pod, with the time at which it must have been heard last."""
        at = self._view.heard_at(state, overdue=pod.overdue)
        if at == state.load_state.timestamp:
            return state
        if pod.told is None or pod.told_of is not state or pod.told.load_state.timestamp != at:
            pod.told_of = state
            pod.told = attrs.evolve(state, load_state=attrs.evolve(state.load_state, timestamp=at))
        return pod.told

    def _weigh(self, seconds: float | None, placed_by_all: int) -> None:
        if seconds is not None:
            self._rates.observe(placed_by_all, self._own_placed, seconds)
        self._own_placed = 0
        self.weight_of_own = self._ready.mean_weight * self._rates.scale


def _newly_placed(before: PodState | None, now: PodState) -> int:
    """Return how many uids the pod took on since it was last read; nothing if it was not read before."""
    if before is None:
        return 0
    counted = before.report.placed_total if before.incarnation == now.incarnation else 0
    return max(0, now.report.placed_total - counted)
