"""The pods of a service as last read from the store: state without I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from stateful_route.client.placement.placements import Placements
from stateful_route.client.pods.freshness import Freshness
from stateful_route.client.pods.missing import MissingPods, TableLife
from stateful_route.client.pods.pod import Pod
from stateful_route.client.pods.suspicion import Suspicion
from stateful_route.pods import DIGEST_MODULUS, PodChange, PodLife, PodState, PodTable, RoutingState

if TYPE_CHECKING:
    from stateful_route.client.cache.links import ServiceLinks
    from stateful_route.client.coherence import InvalidationListener


# Seconds between two readings for what was announced; for deaths, as their uids are not served meanwhile, as long only
# while more of them come.
_BETWEEN_CHANGES, _BETWEEN_DEATHS = 0.25, 0.02


@attrs.define
class Announced:
    """What was announced is read at once, and then after a pause, which doubles while more comes.

    Attributes:
        shortest: the first pause, in seconds.
        longest: the longest one.
        refreshing: whether a reading for it is about to begin.
        read_at: when one began last.
        pause: the present pause.

    """

    shortest: float
    longest: float
    refreshing: bool = False
    read_at: float = -math.inf
    pause: float = 0.0

    def begin(self, now: float) -> None:
        """Take in that a reading begins."""
        quiet = now - self.read_at > 2 * self.longest + self.pause
        self.pause = self.shortest if quiet else min(2 * self.pause, self.longest)
        self.refreshing, self.read_at = False, now


@attrs.define
class Reads:
    """When a table was used and read, and when it is to be read next; times are on the clock of this process.

    Attributes:
        used: whether something was looked up in the store since it was last read.
        last_used: when a reading last found that, or somebody looked at it.
        changes_read_at: when the changes were last read, and not the leases alone.
        changes: what was announced of its pods, and is about to be read.
        deaths: the deaths that were announced.
        awaited: whether it is about to be read, because the lease of a pod will have ended.
        polled: whether it is read often, because somebody waits for its pods.

    """

    used: bool = False
    last_used: float = 0.0
    changes_read_at: float = 0.0
    changes: Announced = attrs.field(factory=lambda: Announced(_BETWEEN_CHANGES, _BETWEEN_CHANGES))
    deaths: Announced = attrs.field(factory=lambda: Announced(_BETWEEN_DEATHS, _BETWEEN_CHANGES))
    awaited: bool = False
    polled: bool = False


class ServicePods:
    """The pods of one service.

    A reading brings what has changed since the one before, and costs as much as that. It need not bring heartbeats
    that say nothing new: that a lease has not ended is told by the list of those that have, and how old a heartbeat
    may be at most by the deadline that comes next.
    """

    links: ServiceLinks
    """What is cached of the links of the service."""
    listener: InvalidationListener
    """Hears what its clients are told. Both are given by ``PodDirectory``."""

    def __init__(self, namespace: str, service_name: str, settle: float, lease: float = 0.0) -> None:
        """Make an empty table; ``lease`` is that of a pod that was never seen."""
        self.namespace = namespace
        self.service_name = service_name
        self.loaded = False
        self.reads = Reads()
        self.store_away = False
        """Whether the store did not answer a call for the service, and none since."""
        self.serves_cached = True
        """Whether cached links may be used: changes are heard, or the store does not answer at all."""
        self.version = 0
        """The version of the table in the store that this is."""
        self.table = TableLife()
        """Which table that is, and until when nothing may be placed by it."""
        self.doubts, self.doubtful = 0, False
        """How often it was doubted, and whether it was since the last reading that was complete.

        The store may be another one than it was when the table was read: the pods have other lives there.
        """
        self.heard_throughout = False
        """Whether events were heard all the time since then."""
        self.recovering = False
        """Whether the store may lack links that living pods own: it has lost them, and not all were claimed again."""
        self.hints_hold = True
        """Whether what was cached, and had to be forgotten, may tell where a uid was when the store lost it."""
        self.freshness = Freshness()
        self.placements = Placements(settle)
        self.suspicion = Suspicion(self.freshness)
        self.missing = MissingPods(lease, self.freshness)
        self._pods: dict[int, Pod] = {}
        self._digest = 0
        self._unaccounted = 0
        self._lease = lease

    def pod(self, pod_index: int) -> Pod:
        """Return the pod with that index, whether it was ever seen or not."""
        pod = self._pods.get(pod_index)
        if pod is None:
            pod = self._pods[pod_index] = Pod(self.placements, pod_index, serves_cached=self.serves_cached)
        return pod

    def state(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if anything."""
        pod = self._pods.get(pod_index)
        return None if pod is None or pod.state is None else self._heard(pod, pod.state)

    @property
    def states(self) -> tuple[PodState, ...]:
        """What the store last said of each pod."""
        return tuple(self._heard(pod, pod.state) for _, pod in sorted(self._pods.items()) if pod.state is not None)

    @property
    def alive(self) -> int:
        """How many pods are alive, and have not said goodbye."""
        return sum(pod.state is not None and pod.available for pod in self._pods.values())

    @property
    def doubted(self) -> bool:
        """Whether a pod is expected to be dead soon, or missing, or was reported: it is to be looked at more often."""
        suspicion = self.suspicion
        return bool(suspicion.suspects or self.recovering or any(pod.state is not None for pod in suspicion.reported))

    def doubt(self) -> None:
        """Take in that the store did not answer, or could not be heard for a while."""
        self.doubts += 1
        self.doubtful = True

    def clear(self, doubts: int) -> None:
        """Take in that a reading was complete, before which there were so many doubts."""
        self.doubtful = self.doubts != doubts
        self.heard_throughout = self.serves_cached and not self.doubtful

    def serve_cached(self, serves: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Take in whether cached links may be used from now on, which is doubtful whenever it is said."""
        self.doubt()
        self.serves_cached, self.heard_throughout = serves, False
        self.suspicion.resume(math.inf)
        for pod in self._pods.values():
            pod.serves_cached = serves
            pod.settle()

    def report_unreachable(self, pod_index: int, now: float) -> None:
        """Avoid a pod until there is a heartbeat later than ``now``, which is on the clock of this process."""
        self.suspicion.report(self.pod(pod_index), now)
        self.placements.list_again(self.suspicion.reported, others=True)

    def take_in(self, event: PodChange, now: float) -> bool:
        """Take in what a pod is announced to be; return whether it is a death that nobody expects."""
        pod = self._pods.get(event.pod_index)
        return pod is not None and self.suspicion.take_in(pod, event, now)

    def mark_dead(self, life: PodLife) -> None:
        """Take in that the store has confirmed the death of a life to this client."""
        pod = self.pod(life.pod_index)
        self.suspicion.confirm(pod, life)
        if pod.incarnation > life.incarnation:
            return
        if pod.state is not None:
            dead = attrs.evolve(pod.state, incarnation=life.incarnation, dead=True)
            self._set_state(pod, dead, overdue=False)
        pod.available = False
        pod.settle()
        self.placements.list_again(self.suspicion.reported)

    def over_in(self, pod: Pod, now: float) -> float:
        """Return in how many seconds, at most, a pod that is heard no more can be confirmed dead; may be negative.

        ``now`` is on the clock of this process.
        """
        state, view = pod.state, self.freshness
        if state is None:
            lease = max(self._lease, pod.absent_lease)
            return lease - self.missing.absent_for(pod, lease) - (now - view.read_at)
        lease = state.load_state.ttl
        seen_at = view.seen_at(lease)
        if pod.overdue:
            return max(pod.ripe_at, seen_at) - now
        # One that was reported is asked for in each reading, of the others a heartbeat may not have been read.
        exact = pod.reported is not None and pod.reported <= view.read_at
        heard_at = view.own_time(state.load_state.timestamp) if exact else view.read_at
        return max(heard_at + lease, seen_at) - now

    def apply(
        self, table: PodTable, read_at: float, longest_gap: float = 0.0, received_at: float | None = None
    ) -> bool:
        """Take in what was read from the store, asked for at ``read_at`` by the clock of this process.

        The answer was there at ``received_at``, by default at once.

        Synchronous: a call sees all of it or nothing. ``Freshness`` says what ``longest_gap`` is about.

        Return whether this is the whole truth now; if not, the table is to be read as a whole.
        """
        view, suspicion = self.freshness, self.suspicion
        seconds = view.begin(table, read_at, read_at if received_at is None else received_at)
        if table.born not in {0, self.table.born}:
            alive = any(pod.available for pod in self._pods.values() if pod.state is not None)
            self.table.begin(knew_some=bool(alive or self.missing.absent), recovering=self.recovering)
        self.table.read(table)
        self.version = table.version or self.version
        overdue = set(table.overdue)
        suspicion.begin(whole=table.whole)
        if table.whole:
            overdue |= {state.pod_index for state in table.pods if not state.dead and not state.is_alive(table.now)}
            self._forget_all_but({state.pod_index for state in table.pods})
        for state in table.pods:
            pod = self.pod(state.pod_index)
            before = pod.state
            suspicion.note_read(pod)
            self._set_state(pod, state, overdue=state.pod_index in overdue)
            self.placements.heard(pod, before, self._heard_at(pod, state))
        for pod in [*suspicion.suspects, *(self.pod(pod_index) for pod_index in overdue)]:
            if pod.state is not None and pod.overdue is not (pod.pod_index in overdue):
                self._set_state(pod, pod.state, overdue=not pod.overdue)
        suspicion.dead.tidy(table.now)
        self.placements.list_again(suspicion.reported, others=suspicion.forget_reports())
        view.end(longest_gap)
        self.recovering = self.missing.read(seconds or 0.0, view.read_at, self.table)
        self.placements.read(seconds, self._heard_at)
        self.loaded = True
        if not table.version and not table.whole:  # no changes were asked for
            return table.living == view.living
        if table.whole:
            self._unaccounted = (table.digest - self._digest) % DIGEST_MODULUS
        return (self._digest + self._unaccounted) % DIGEST_MODULUS == table.digest

    def _set_state(self, pod: Pod, state: PodState | None, *, overdue: bool) -> None:
        """Take in what a pod is now."""
        if state is not None and overdue and not (pod.overdue and state == pod.state):
            pod.ripe_at = self.freshness.ripe_at(state.load_state.ttl)
        if pod.state is not None:
            self._digest -= pod.state.version
            self.freshness.count(pod.state, -1)
        died = state is not None and state.dead and not (pod.state is not None and pod.state.dead)
        pod.state, pod.overdue = state, overdue
        if state is None:
            pod.available = False
            self.missing.reclaiming.discard(pod)
            self.suspicion.note_gone(pod)
            self.placements.note(pod, None)
            pod.settle()
            return
        self._digest += state.version
        self.freshness.count(state, 1)
        self.suspicion.note(pod, state, overdue=overdue)
        routing_state, alive = state.report.routing_state, not (state.dead or overdue)
        if pod.incarnation != state.incarnation:
            pod.incarnation, pod.life = state.incarnation, state.life
        pod.load = state.report.load
        pod.capacity = state.report.capacity
        pod.limited = state.report.max_links is not None
        pod.available = alive and routing_state is not RoutingState.SHUTDOWN
        pod.seen(state.incarnation)
        self.missing.find(pod, reclaiming=alive and state.report.reclaiming)
        self.placements.note(pod, state.report if alive and routing_state is RoutingState.READY else None)
        pod.settle()
        if died:
            self.suspicion.departures.note()

    def _forget_all_but(self, seen: set[int]) -> None:
        for pod_index, pod in self._pods.items():
            if pod_index not in seen and pod.state is not None:
                pod.absent_lease = pod.state.load_state.ttl
                self.missing.lose(pod, self.freshness.read_at)
                self._set_state(pod, None, overdue=False)

    def _heard_at(self, pod: Pod, state: PodState) -> float:
        return self.freshness.own_heard_at(state, overdue=pod.overdue)

    def _heard(self, pod: Pod, state: PodState) -> PodState:
        """Return what the store last said of a pod, with the time at which it must have been heard last."""
        at = self.freshness.heard_at(state, overdue=pod.overdue)
        if at == state.load_state.timestamp:
            return state
        if pod.told is None or pod.told_of is not state or pod.told.load_state.timestamp != at:
            pod.told_of = state
            pod.told = attrs.evolve(state, load_state=attrs.evolve(state.load_state, timestamp=at))
        return pod.told
