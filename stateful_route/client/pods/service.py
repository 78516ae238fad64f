"""The pods of a service as last read from the store: state without I/O."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from stateful_route.client.placement.expected_load import PlacementRates
from stateful_route.client.placement.ready import ReadyPods
from stateful_route.client.pods.departed import DeadLives, LeavingLives
from stateful_route.client.pods.departures import Departures
from stateful_route.client.pods.freshness import Freshness
from stateful_route.client.pods.missing import MissingPods, TableLife
from stateful_route.client.pods.pod import Pod
from stateful_route.models import DIGEST_MODULUS, PodChange, PodLife, PodState, PodTable, RoutingState

if TYPE_CHECKING:
    from stateful_route.client.cache.links import ServiceLinks
    from stateful_route.client.coherence import InvalidationListener
    from stateful_route.client.placement.candidates import Candidates

# A script cannot take any number of pods at once; the next reading asks for others.
_MOST_ASKED_FOR = 1000

# What the others have placed on one pod is at most so many times its share of what is placed in the time to settle, and
# in so many seconds until it is read.
_BURST_SHARE, _UNREAD = 2, 1.0


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
        self.weight_of_own = 1.0
        """The load that all clients have added for each uid that this one placed and no load shows yet."""
        self.placing = 0
        """How many uids are being placed: the store was asked for them, and has not answered."""
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
        self._digest = 0
        self._unaccounted = 0
        self._settle = settle
        self._lease = lease
        self._pods: dict[int, Pod] = {}
        self._freshness = Freshness()
        self._ready = ReadyPods()
        self.note_own = self._ready.note_own
        self.dead, self.leaving = DeadLives(), LeavingLives()
        """To read only."""
        # Dicts for sets, in the order of insertion: what is asked of the store does not depend on addresses in memory.
        self._suspects: dict[Pod, None] = {}
        self._missing = MissingPods(lease, self.absent_for)
        self.awaits, self.wait = self._missing.awaits, self._missing.wait
        self._suspended: dict[Pod, float] = {}
        """The pods of which something was announced since they were read, and when."""
        self._departed: list[Pod] = []
        """The pods whose cached links are stale since ``take_departed``: their life is over, or they drain."""
        self.departures = Departures()
        self._reported: dict[Pod, None] = {}
        self._confirmed: dict[Pod, None] = {}
        self.rumoured: set[PodLife] = set()
        """The lives, of those whose death can be confirmed, of which it was announced since the last reading."""
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
        return self._freshness.read_at

    @property
    def now(self) -> float | None:
        """When it was last read, by the clock of the store; ``None`` if it never was."""
        return self._freshness.now

    @property
    def asked_for(self) -> tuple[int, ...]:
        """The pods of which the next reading has to bring what the store says, be it new or not.

        Those that somebody could not reach, for the time of their last heartbeat; and those whose death this client has
        confirmed: a reading that was in flight then may not say so.
        """
        # Of a pod that the store does not know there is nothing to bring, until it registers and so is a change.
        pods = self._confirmed | dict.fromkeys(pod for pod in self._reported if pod.state is not None)
        return tuple(pod.pod_index for pod in islice(pods, _MOST_ASKED_FOR))

    def placed_by_others(self, own: int) -> int:
        """Return how many uids the other clients have placed on a pod, while this one placed so many, at a guess.

        As many as the rates say, but no more than some times what a pod gets in some seconds: how many others there are
        a client that places seldom cannot tell, and must not hold all pods for full.
        """
        most = _BURST_SHARE * self._rates.peak * (self._settle + _UNREAD) / (len(self._ready.routable) or 1)
        return round(min(own * (self._rates.scale_with(self._own_placed) - 1), most))

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

    def placed(self, pod: Pod, at: float, count: int = 1) -> None:
        """Note that this client placed so many uids on a pod, at that time of its own clock.

        A pod that was never read has no load to which it could be added.
        """
        if pod.state is not None:
            pod.own.add(at, count)
            pod.weigh()
            self._placed_on.add(pod)
            self._own_placed += count

    def state(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if anything."""
        pod = self._pods.get(pod_index)
        return None if pod is None or pod.state is None else self._heard(pod, pod.state)

    @property
    def states(self) -> tuple[PodState, ...]:
        """What the store last said of each pod."""
        return tuple(self._heard(pod, pod.state) for _, pod in sorted(self._pods.items()) if pod.state is not None)

    def may_have_again(self, pod: Pod) -> bool:
        """Whether a pod is claiming again what it owns, takes new uids, and is not full."""
        return pod in self._missing.reclaiming and pod.takes_new and not pod.full

    @property
    def alive(self) -> int:
        """How many pods are alive, and have not said goodbye."""
        return sum(pod.state is not None and pod.available for pod in self._pods.values())

    @property
    def misses_pods(self) -> bool:
        """Whether pods that lived are missing, as in a store that has lost them."""
        return bool(self._missing.absent)

    @property
    def shortest_lease(self) -> float:
        """The shortest lease of a pod that is not dead, in seconds; infinite if there is no such pod."""
        return self._freshness.shortest_lease or math.inf

    def doubt(self) -> None:
        """Take in that the store did not answer, or could not be heard for a while."""
        self.doubts += 1
        self.doubtful = True

    def clear(self, doubts: int) -> None:
        """Take in that a reading was complete, before which there were so many doubts."""
        self.doubtful = self.doubts != doubts
        self.heard_throughout = self.serves_cached and not self.doubtful

    @property
    def recovered_from(self) -> tuple[int, ...]:
        """The pods that have not claimed again what is theirs, as far as the store has lost it."""
        return tuple(sorted(pod.pod_index for pod in self._missing.absent | self._missing.reclaiming))

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for pods that are missing or claim again."""
        return self._missing.waited_for

    def serve_cached(self, serves: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Take in whether cached links may be used from now on, which is doubtful whenever it is said."""
        self.doubt()
        self.serves_cached, self.heard_throughout = serves, False
        self.resume(math.inf)
        for pod in self._pods.values():
            pod.settle()

    def take_departed(self) -> list[Pod]:
        """Return the pods of which all that is cached is stale now, once."""
        departed, self._departed = self._departed, []
        return departed

    def resume(self, read_at: float) -> None:
        """Take in that all is known that was announced until then.

        A pod that has drained, and takes new uids again by the time of the reading, has let links go without a word.
        (If nothing of it has changed, nobody but who announced it has said so.)
        """
        for pod in [pod for pod, heard_at in self._suspended.items() if heard_at <= read_at]:
            del self._suspended[pod]
            changed = pod.state is not None and pod.left not in {None, pod.state.version}
            if changed and pod.kept_from < math.inf:
                pod.kept_from = self._freshness.received_at
                self._departed.append(pod)
            pod.suspended, pod.left = False, None
            pod.settle()

    def report_unreachable(self, pod_index: int, now: float) -> None:
        """Avoid a pod until there is a heartbeat later than ``now``, which is on the clock of this process."""
        pod = self.pod(pod_index)
        pod.reported = now
        pod.settle()
        self._reported[pod] = None
        self._ready.list_again(self._reported, others=True)

    def is_dead(self, life: PodLife) -> bool:
        """Whether the death of that life of a pod, or of a newer one, is confirmed."""
        return life in self.dead

    def met_dead(self, life: PodLife) -> None:
        """Name a dead life in the calls to come: it owns a link."""
        self.dead.met(life, self._freshness.now or 0.0)

    def mark_dead(self, life: PodLife) -> None:
        """Take in that the store has confirmed the death of a life to this client."""
        now = self._freshness.now or 0.0
        self.dead.add(life, now, now)
        pod = self.pod(life.pod_index)
        if pod.incarnation > life.incarnation:
            return
        if pod.state is not None:
            dead = attrs.evolve(pod.state, incarnation=life.incarnation, dead=True)
            self._set_state(pod, dead, overdue=False)
        else:
            pod.kept_from = math.inf
            self._departed.append(pod)
        pod.available = False
        pod.settle()
        self._confirmed[pod] = None
        self._ready.list_again(self._reported)

    def take_in(self, event: PodChange, now: float) -> bool:
        """Take in what a pod is announced to be: nobody's word but the store's, which is to be read now, says that.

        Who may only publish owns nothing. Two things are made of it: no cached link to the pod is used before the next
        reading, and a death of which another client says that it has confirmed it need not be confirmed before that.

        Return whether it is a death that nobody expects: of a life that has neither said goodbye nor was silent.
        """
        pod = self._pods.get(event.pod_index)
        if pod is None:
            return False
        life = PodLife(event.pod_index, event.incarnation)
        known = pod.state is not None and not pod.state.dead and pod.state.life == life
        if life.incarnation < pod.incarnation or (known and event.state == RoutingState.READY and pod.takes_new):
            return False
        self._suspended[pod] = now
        pod.suspended = True
        if event.state != RoutingState.READY and pod.left is None and pod.state is not None:
            pod.left = pod.state.version
        pod.settle()
        if event.state == "DEAD" and pod in self._suspects and known:
            self.rumoured.add(life)
        return event.state == "DEAD" and not self.is_dead(life) and (pod.available or not known)

    def confirmable(self, now: float | None = None) -> list[PodLife]:
        """Return the lives whose death can be confirmed: they said goodbye, or their lease has ended.

        The latter only if this client has read the table all the time since: after a time without Redis the pods need
        some of it to be heard again. And only if it has ended by the clock of this process too, which says ``now``, or
        what it said at the last reading: the clock of the store may have been set forward.
        """
        now = self._freshness.received_at if now is None else now
        return [
            pod.state.life
            for pod in self._suspects
            if pod.state is not None
            and (
                pod.state.report.routing_state is RoutingState.SHUTDOWN
                or (
                    pod.ripe_at <= now
                    and self._freshness.unbroken_for(pod.state.load_state.ttl) >= pod.state.load_state.ttl
                )
            )
        ]

    def ripe_at(self, life: PodLife) -> float:
        """Return when the lease of a life has ended by the clock of this process, if it has by that of the store."""
        pod = self._pods.get(life.pod_index)
        if pod is None or pod not in self._suspects or not pod.overdue or pod.state is None:
            return -math.inf
        # One that said goodbye is waited for no longer.
        return -math.inf if pod.state.report.routing_state is RoutingState.SHUTDOWN else pod.ripe_at

    @property
    def doubted(self) -> bool:
        """Whether a pod is expected to be dead soon, or missing, or was reported: it is to be looked at more often."""
        return bool(self._suspects or self.recovering or any(pod.state is not None for pod in self._reported))

    @property
    def unbroken_for(self) -> float:
        """For how many seconds, up to the last reading, the table was read without a gap for any of its pods."""
        return self._freshness.unbroken_for(self._freshness.shortest_lease or math.inf)

    def absent_for(self, pod: Pod, lease: float) -> float:
        """Return for how many seconds of those without a gap for that lease the pod was not in the table."""
        unbroken = self._freshness.unbroken_for(max(lease, self._freshness.shortest_lease or 0.0))
        absent_since = -math.inf if pod.absent_since is None else pod.absent_since
        return min(unbroken, self.read_at - max(absent_since, pod.met_at))

    def over_in(self, pod: Pod, now: float) -> float:
        """Return in how many seconds, at most, a pod that is heard no more can be confirmed dead; may be negative.

        ``now`` is on the clock of this process.
        """
        state = pod.state
        if state is None:
            lease = max(self._lease, pod.absent_lease)
            return lease - self.absent_for(pod, lease) - (now - self.read_at)
        lease = state.load_state.ttl
        seen_at = self.read_at + lease - self._freshness.unbroken_for(lease)
        if pod.overdue:
            return max(pod.ripe_at, seen_at) - now
        # One that was reported is asked for in each reading, of the others a heartbeat may not have been read.
        exact = pod.reported is not None and pod.reported <= self.read_at
        heard_at = self._freshness.own_time(state.load_state.timestamp) if exact else self.read_at
        return max(heard_at + lease, seen_at) - now

    def broken(self) -> None:
        """Take in that the table could not be read."""
        self._freshness.broken()

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to read the table at the latest; ``None`` if no pod is alive.

        The death of a pod whose lease has ended is looked at again as soon as it can be confirmed.
        """
        left = self._freshness.next_look(now)
        if left is None:
            return None
        for pod in self._suspects:
            if pod.state is not None and pod.overdue:
                lease = pod.state.load_state.ttl
                ripe_at = max(pod.ripe_at, self.read_at + lease - self._freshness.unbroken_for(lease))
                if ripe_at > self._freshness.received_at:
                    left = min(left, ripe_at - now)
        return max(0.0, left)

    def apply(
        self, table: PodTable, read_at: float, longest_gap: float = 0.0, received_at: float | None = None
    ) -> bool:
        """Take in what was read from the store, asked for at ``read_at`` by the clock of this process.

        The answer was there at ``received_at``, by default at once.

        Synchronous: a call sees all of it or nothing. ``Freshness`` says what ``longest_gap`` is about.

        Return whether this is the whole truth now; if not, the table is to be read as a whole.
        """
        seconds, placed_by_all = (
            self._freshness.begin(table, read_at, read_at if received_at is None else received_at),
            0,
        )
        self.rumoured.clear()
        if table.born not in {0, self.table.born}:
            alive = any(pod.available for pod in self._pods.values() if pod.state is not None)
            self.table.begin(knew_some=bool(alive or self._missing.absent), recovering=self.recovering)
        self.table.read(table)
        self.version = table.version or self.version
        overdue = self._overdue(table)
        if table.whole:
            self._confirmed.clear()
            self.dead.clear()
            self._forget_all_but({state.pod_index for state in table.pods})
        for state in table.pods:
            pod = self.pod(state.pod_index)
            self._confirmed.pop(pod, None)
            placed_by_all += _newly_placed(pod.state, state)
            self._set_state(pod, state, overdue=state.pod_index in overdue)
            pod.own.published(self._heard_at(pod, state), self._settle)
            pod.weigh()
        for pod in [*self._suspects, *(self.pod(pod_index) for pod_index in overdue)]:
            if pod.state is not None and pod.overdue is not (pod.pod_index in overdue):
                self._set_state(pod, pod.state, overdue=not pod.overdue)
        self.dead.tidy(table.now)
        recovered = self._forget_what_was_heard()
        self._ready.list_again(self._reported, others=recovered)
        self._freshness.end(longest_gap)
        self.recovering = self._missing.read(seconds or 0.0, self.read_at, self.table)
        self._weigh(seconds, placed_by_all)
        self.loaded = True
        if not table.version and not table.whole:  # no changes were asked for
            return table.living == self._freshness.living
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
        if state is not None and overdue and not (pod.overdue and state == pod.state):
            pod.ripe_at = self._freshness.ripe_at(state.load_state.ttl)
        if pod.state is not None:
            self._digest -= pod.state.version
            self._freshness.count(pod.state, -1)
        died = state is not None and state.dead and not (pod.state is not None and pod.state.dead)
        pod.state, pod.overdue = state, overdue
        if state is None:
            pod.available = False
            self._suspects.pop(pod, None)
            self._missing.reclaiming.discard(pod)
            self.leaving.note(pod.life, leaving=False)
            self._ready.note(pod, None)
            pod.settle()
            return
        self._digest += state.version
        self._freshness.count(state, 1)
        self._note_departure(pod, state)
        routing_state, alive = state.report.routing_state, not (state.dead or overdue)
        if pod.incarnation != state.incarnation:
            pod.incarnation, pod.life = state.incarnation, state.life
        pod.load = state.report.load
        pod.capacity = state.report.capacity
        pod.limited = state.report.max_links is not None
        pod.available = alive and routing_state is not RoutingState.SHUTDOWN
        pod.seen(state.incarnation)
        self._missing.find(pod, reclaiming=alive and state.report.reclaiming)
        if state.dead:
            died_at = state.version / 1_000_000  # its version is from the clock
            self.dead.add(state.life, died_at, self._freshness.now or 0.0)
        else:
            self.dead.discard(pod.pod_index)
        if not state.dead and (overdue or routing_state is RoutingState.SHUTDOWN):
            self._suspects[pod] = None
        else:
            self._suspects.pop(pod, None)
        self.leaving.note(state.life, leaving=not state.dead and routing_state is not RoutingState.READY)
        self._ready.note(pod, state.report if alive and routing_state is RoutingState.READY else None)
        pod.settle()
        if died:
            self.departures.note()

    def _note_departure(self, pod: Pod, state: PodState) -> None:
        """Note a pod whose links change without a word from now on, or did so until now."""
        silent = state.dead or state.report.draining or state.report.routing_state is RoutingState.SHUTDOWN
        was_silent = pod.kept_from == math.inf
        if silent is was_silent and not 0 < pod.incarnation < state.incarnation:
            return
        pod.kept_from = math.inf if silent else self._freshness.received_at
        self._departed.append(pod)

    def _forget_all_but(self, seen: set[int]) -> None:
        for pod_index, pod in self._pods.items():
            if pod_index not in seen and pod.state is not None:
                pod.absent_lease = pod.state.load_state.ttl
                self._missing.lose(pod, self.read_at)
                self._set_state(pod, None, overdue=False)

    def _forget_what_was_heard(self) -> bool:
        """Forget the own placements, and the reports, that a later heartbeat of their pod has overtaken.

        Return whether a pod is reported no more.
        """
        for pod in tuple(self._placed_on):
            if pod.state is not None:
                pod.own.published(self._heard_at(pod, pod.state), self._settle)
                pod.weigh()
            if not pod.own.count:
                self._placed_on.discard(pod)
        recovered = [
            pod
            for pod in self._reported
            if pod.state is not None
            and pod.reported is not None
            # There is no later heartbeat of one that is dead.
            and (pod.state.dead or self._heard_at(pod, pod.state) > pod.reported)
        ]
        for pod in recovered:
            pod.reported = None
            pod.settle()
            self._reported.pop(pod, None)
        return bool(recovered)

    def _heard_at(self, pod: Pod, state: PodState) -> float:
        """Return when the last heartbeat of a pod came at the earliest, on the clock of this process.

        Of one that came before the clock of the store was set back nothing is known.
        """
        at = self._freshness.heard_at(state, overdue=pod.overdue)
        return -math.inf if at > (self._freshness.now or 0.0) else self._freshness.own_time(at)

    def _heard(self, pod: Pod, state: PodState) -> PodState:
        """Return what the store last said of a pod, with the time at which it must have been heard last."""
        at = self._freshness.heard_at(state, overdue=pod.overdue)
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
        weight = self._ready.mean_weight * self._rates.scale
        if weight != self.weight_of_own:
            self.weight_of_own = weight
            for pod in self._placed_on:  # one on which a placement is in flight is weighed when that is answered
                pod.weigh()


def _newly_placed(before: PodState | None, now: PodState) -> int:
    """Return how many uids the pod took on since it was last read; nothing if it was not read before."""
    if before is None:
        return 0
    counted = before.report.placed_total if before.incarnation == now.incarnation else 0
    return max(0, now.report.placed_total - counted)
