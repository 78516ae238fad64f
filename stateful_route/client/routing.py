"""The pods of a service as last read from the store: state without I/O."""

from __future__ import annotations

from stateful_route.client.placement import OwnPlacements, PlacementRates
from stateful_route.models import PodLife, PodState, PodTable, RoutingState


class Pod:
    """A pod as this client knows it. Cached links point at it, and the routing table changes it in place."""

    __slots__ = (
        "_service",
        "absent_since",
        "available",
        "capacity",
        "incarnation",
        "load",
        "own",
        "pod_index",
        "reported",
        "state",
        "usable",
    )

    def __init__(self, service: ServiceTable, pod_index: int) -> None:
        """Make a pod of which nothing is known but that a link names it."""
        self._service = service
        self.pod_index = pod_index
        self.incarnation = 0
        self.load = 0
        self.capacity = 1.0
        self.own = OwnPlacements()
        self.state: PodState | None = None
        self.available = True
        """Whether the pod may keep its uids, as far as it is known: nothing says that it is dead or shut down."""
        self.absent_since: float | None = None
        """When it was first missed in the table, after it had been there; on the clock of this process."""
        self.reported: float | None = None
        """When somebody could not reach it, by the clock of the store; ``None`` once there is a later heartbeat."""
        self.usable = False
        """Whether a cached link to it may be used. The one thing that a hit looks at."""
        self.settle()

    def __repr__(self) -> str:
        return f"<Pod {self.pod_index}: {self.state.summary if self.state else 'never seen'}>"

    def settle(self) -> None:
        """Say whether a cached link to the pod may be used."""
        self.usable = self.available and self.reported is None and self._service.serves_cached

    @property
    def trusted(self) -> bool:
        """Whether the pod is known, and nothing is known against it."""
        return self.state is not None and self.available and self.reported is None

    @property
    def life(self) -> PodLife:
        """The life of the pod that a new link names; incarnation 0 if none is known."""
        return PodLife(self.pod_index, self.incarnation)

    @property
    def expected_load(self) -> float:
        """The published load, and what was placed since by all clients as far as this one can tell."""
        return self.load + self.own.unseen * self._service.weight_of_own

    @property
    def links(self) -> int:
        """The published number of links, and the placements of this client that it does not show.

        Not times the scale, which is a mean: a pod is not held for full because of what others may have done.
        """
        return self.own.unseen + (self.state.report.links if self.state else 0)

    @property
    def max_links(self) -> int | None:
        """How many links make the pod full; ``None`` if it has no limit."""
        return self.state.report.max_links if self.state else None

    @property
    def zone(self) -> str | None:
        """Where the pod runs, if it says so."""
        return self.state.report.zone if self.state else None

    @property
    def version(self) -> str | None:
        """What revision of the application the pod runs, if it says so."""
        return self.state.report.version if self.state else None

    @property
    def full(self) -> bool:
        """Whether the pod has all the links that it may have."""
        return self.max_links is not None and self.links >= self.max_links


class ServiceTable:
    """The pods of one service."""

    def __init__(self, namespace: str, service_name: str, settle: float) -> None:
        """Make an empty table."""
        self.namespace = namespace
        self.service_name = service_name
        self.loaded = False
        self.last_used = 0.0
        self.routable: list[Pod] = []
        """The pods that may get new uids."""
        self.leaving: tuple[PodLife, ...] = ()
        """The lives that are draining or shut down."""
        self.weight_of_own = 1.0
        """The load that all clients have added for each uid that this one placed and no load shows yet."""
        self.dead: tuple[PodLife, ...] = ()
        """The lives whose death is confirmed."""
        self.serves_cached = True
        """Whether cached links may be used: changes are heard, or the store does not answer at all."""
        self.refreshing = False
        """Whether the table is about to be read, because something was announced."""
        self.awaited = False
        """Whether the table is about to be read, because the lease of a pod will have ended."""
        self.read_at = 0.0
        """When the table was last read, on the clock of this process."""
        self._unbroken_since: float | None = None
        self._limited = False
        self._settle = settle
        self._pods: dict[int, Pod] = {}
        self._rates = PlacementRates()
        self._store_now: float | None = None
        self._own_total = 0

    @property
    def candidates(self) -> list[Pod]:
        """The pods among which a strategy chooses: routable, and not full."""
        return [pod for pod in self.routable if not pod.full] if self._limited else self.routable

    def has_room(self, uids: int) -> bool:
        """Whether the pods that may get new uids have room for so many, at least one."""
        for pod in self.routable:
            if pod.max_links is None:
                return True
            uids -= max(0, pod.max_links - pod.links)
            if uids <= 0:
                return True
        return False

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
        if pod.state is not None and self._store_now is not None:
            pod.own.placed(self._store_now + at - self.read_at)

    def state(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if anything."""
        pod = self._pods.get(pod_index)
        return None if pod is None else pod.state

    @property
    def states(self) -> tuple[PodState, ...]:
        """What the store last said of each pod."""
        return tuple(pod.state for _, pod in sorted(self._pods.items()) if pod.state is not None)

    def serve_cached(self, serves: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Take in whether cached links may be used."""
        self.serves_cached = serves
        for pod in self._pods.values():
            pod.settle()

    def report_unreachable(self, pod_index: int, now: float) -> None:
        """Avoid a pod until there is a heartbeat later than ``now``, which is on the clock of this process."""
        pod = self.pod(pod_index)
        pod.reported = 0.0 if self._store_now is None else self._store_now + now - self.read_at
        pod.settle()
        self._prefer_reachable()

    def is_dead(self, life: PodLife) -> bool:
        """Whether the death of that life of a pod, or of a newer one, is confirmed."""
        return any(life.pod_index == dead.pod_index and life.incarnation <= dead.incarnation for dead in self.dead)

    def mark_dead(self, life: PodLife) -> None:
        """Take in that the death of a life was confirmed."""
        self.dead += (life,)
        pod = self.pod(life.pod_index)
        if pod.incarnation <= life.incarnation:
            pod.available = False
            pod.settle()
            self.routable = [other for other in self.routable if other is not pod]

    def confirmable(self) -> list[PodLife]:
        """Return the lives whose death can be confirmed: they said goodbye, or their lease has ended.

        The latter only if this client has read the table all the time since: after a time without Redis the pods need
        some of it to be heard again.
        """
        return [
            state.life
            for state in self.states
            if not state.dead
            and self._store_now is not None
            and (
                state.report.routing_state is RoutingState.SHUTDOWN
                or (not state.is_alive(self._store_now) and self.unbroken_for >= state.load_state.ttl)
            )
        ]

    @property
    def unbroken_for(self) -> float:
        """For how many seconds, up to the last reading, the table was read without a failure or a gap."""
        return 0.0 if self._unbroken_since is None else self.read_at - self._unbroken_since

    def absent_for(self, pod: Pod) -> float:
        """Return for how many seconds of these the pod was not in it."""
        unbroken = self.unbroken_for
        return unbroken if pod.absent_since is None else min(unbroken, self.read_at - pod.absent_since)

    def broken(self) -> None:
        """Take in that the table could not be read."""
        self._unbroken_since = None

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to read the table at the latest; ``None`` if no pod is alive.

        That is when the next lease ends, if no heartbeat renews it, and before the gap since the last reading is too
        long to see what happens to the pod with the shortest lease.
        """
        if self._store_now is None:
            return None
        store_now = self._store_now + now - self.read_at
        alive = [state.load_state for state in self.states if not state.dead]
        ends = [load_state.left(store_now) for load_state in alive if load_state.left(store_now) > 0]
        return min([*ends, *(load_state.ttl / 3 for load_state in alive)], default=None)

    def apply(self, table: PodTable, read_at: float, longest_gap: float = 0.0) -> None:
        """Take in what was read from the store, asked for at ``read_at`` by the clock of this process.

        Synchronous: a call sees all of it or nothing. If the last reading is more than ``longest_gap`` seconds ago, or
        half of the shortest lease, a time without the store in between may have swallowed heartbeats. If the clock of
        the store went ahead of this one by more than that, the leases ended before their time.
        """
        longest_gap = min([longest_gap, *(state.load_state.ttl / 2 for state in table.pods if not state.dead)])
        elapsed = read_at - self.read_at
        jumped = self._store_now is not None and table.now - self._store_now - elapsed > longest_gap
        if self._unbroken_since is None or elapsed > longest_gap or jumped:
            self._unbroken_since = read_at
        placed_by_all = 0
        seen = set()
        for state in table.pods:
            pod = self.pod(state.pod_index)
            seen.add(state.pod_index)
            placed_by_all += _newly_placed(pod.state, state)
            pod.own.published(state.load_state.timestamp, self._settle)
            pod.state = state
            pod.incarnation = state.incarnation
            pod.load = state.report.load
            pod.capacity = state.report.capacity
            pod.available = state.is_available(table.now)
            pod.absent_since = None
            if pod.reported is not None and state.load_state.timestamp > pod.reported:
                pod.reported = None
            pod.settle()
        for pod_index, pod in self._pods.items():
            if pod_index not in seen and pod.state is not None:
                pod.state = None
                pod.absent_since = read_at
                pod.available = False
                pod.settle()
        self.dead = tuple(state.life for state in table.pods if state.dead)
        self.routable = [self._pods[state.pod_index] for state in table.pods if state.is_routable(table.now)]
        self._prefer_reachable()
        self.leaving = tuple(state.life for state in table.pods if state.report.routing_state is not RoutingState.READY)
        self._limited = any(pod.max_links is not None for pod in self.routable)
        self._weigh(table.now, placed_by_all)
        self._store_now, self.read_at = table.now, read_at
        self.loaded = True

    def _prefer_reachable(self) -> None:
        """Leave out what was reported unreachable, unless nothing else is left."""
        self.routable = [pod for pod in self.routable if pod.reported is None] or self.routable

    def _weigh(self, now: float, placed_by_all: int) -> None:
        own_total = sum(pod.own.total for pod in self._pods.values())
        if self._store_now is not None:
            self._rates.observe(placed_by_all, own_total - self._own_total, now - self._store_now)
        self._own_total = own_total
        load = sum(pod.load for pod in self.routable)
        links = sum(pod.state.report.links for pod in self.routable if pod.state is not None)
        mean_weight = load / links if load and links else 1.0
        self.weight_of_own = mean_weight * self._rates.scale


def _newly_placed(before: PodState | None, now: PodState) -> int:
    """Return how many uids the pod took on since it was last read; nothing if it was not read before."""
    if before is None:
        return 0
    counted = before.report.placed_total if before.incarnation == now.incarnation else 0
    return max(0, now.report.placed_total - counted)
