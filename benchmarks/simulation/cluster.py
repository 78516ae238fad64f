"""The service: pods that publish, clients that read, links that come, move and go."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import attrs

from benchmarks.simulation.choosers import chooser
from benchmarks.simulation.loads import Meter, Source
from benchmarks.simulation.stores import AllTold, ByRule
from benchmarks.simulation.trace import Arrival, Traffic, arrivals, initial
from stateful_route import RoutingState
from stateful_route.store import PodReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.simulation.stores import Store

    Event: TypeAlias = tuple[float, int, Callable[..., None], tuple[object, ...]]

_CLAIMED = 0.05
"""Seconds until a pod knows of a link that a client placed on it."""
_RECONNECTED = 2.0
"""Seconds within which the users of a pod that is gone come back."""
_HEARTBEATS = 5
"""The default lease."""
_EPOCH = 1000.0
"""What the clocks say when the simulation begins."""


@attrs.frozen(kw_only=True)
class Fault:
    """Pods go.

    Attributes:
        at: the second.
        pods: which.
        back_after: seconds until they are back, empty and with the next version; ``None`` if they stay away.
        announced: whether they say so, and their users move at once; else they are dead when their lease has ended.

    """

    at: float
    pods: tuple[int, ...]
    back_after: float | None = None
    announced: bool = True


@attrs.frozen(kw_only=True)
class Joining:
    """Pods that come for the first time.

    Attributes:
        at: the second; before it they are not there.
        pods: which.

    """

    at: float
    pods: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Model:
    """What happens.

    Attributes:
        pods: how many there are, those that come later included.
        period: seconds between two heartbeats of a pod, and between two readings of a client: data is 0 to 2 of these
            old, 1 in the mean.
        seconds: how long it goes on.
        traffic: the links.
        faults: what befalls the pods.
        joining: pods that come later, if any.
        max_links: the limit of each pod.
        source: how the pods measure their load.
        by_rule: whether clients are told what is worth telling by the rule of the scripts, or everything.

    """

    pods: int
    period: float
    seconds: int
    traffic: Traffic = attrs.field(factory=Traffic)
    faults: tuple[Fault, ...] = ()
    joining: Joining | None = None
    max_links: int | None = None
    source: Source = attrs.field(factory=Source)
    by_rule: bool = False


@attrs.frozen
class History:
    """What was seen.

    Attributes:
        imbalance: fullest / mean pod at each second, of the pods that are there.
        moved: how often a link lost its pod.
        joined: the mean load of the pods that came later over the mean of all, at each second; 0 before.
        fullest_joined: the same of the fullest of them.
        over: by how many links a pod was above ``max_links``, at most.
        refused: how often a client found no pod for a uid although one had room.
        read: entries that a client read in a second, in the mean.

    """

    imbalance: list[float]
    moved: int
    joined: list[float]
    fullest_joined: list[float]
    over: int
    refused: int
    read: float


def simulate(model: Model, name: str, seed: int) -> History:
    """Let it happen, with clients that choose in the way of that name. The same arguments give the same history."""
    return _Cluster(model, name, seed).run()


class _Link:
    __slots__ = ("ends", "load", "pod")

    def __init__(self, arrival: Arrival) -> None:
        self.ends = arrival.ends
        self.load = arrival.load
        self.pod: _Pod | None = None


class _Pod:
    __slots__ = ("index", "life", "links", "meter", "placed", "published_at", "recent", "up")

    def __init__(self, index: int) -> None:
        self.index = index
        self.life = 1
        self.up = False
        self.meter: Meter
        self.links: dict[_Link, None] = {}  # and not a set, whose order changes from run to run
        self.placed = 0
        self.published_at = 0.0
        self.recent: deque[tuple[float, int]] = deque()
        """When links came that the pod does not know of yet, and their load."""


class _Cluster:
    def __init__(self, model: Model, name: str, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._random = Random(f"cluster {seed}")
        self._now = _EPOCH
        self._events: list[Event] = []
        self._order = itertools.count()  # events of the same time happen in the order in which they were planned
        self._pods = [_Pod(index) for index in range(model.pods)]
        self._loads: list[float] = [math.inf] * model.pods
        lease = _HEARTBEATS * model.period
        self._store: Store = ByRule(lease) if model.by_rule else AllTold(lease)
        choosing = Random(f"choosers {seed}")
        self._clients = [chooser(name, self._loads, choosing) for _ in range(model.traffic.clients)]
        self._imbalance: list[float] = []
        self._joined: list[float] = []
        self._fullest_joined: list[float] = []
        self._moved = self._over = self._refused = self._read_entries = 0

    def run(self) -> History:
        model, random = self._model, self._random
        later = model.joining.pods if model.joining else ()
        pods = [pod for pod in self._pods if pod.index not in later]
        for pod in pods:
            pod.up = True
            self._loads[pod.index] = 0
        for pod, arrival in zip(itertools.cycle(pods), initial(model.traffic, self._seed), strict=False):
            self._take(pod, _Link(attrs.evolve(arrival, ends=_EPOCH + arrival.ends)))
        for pod in pods:
            pod.recent.clear()
            self._begin(pod)
            self._plan(_EPOCH + random.random() * model.period, self._publish, pod, pod.life)
        for client in range(model.traffic.clients):
            self._read_now(client)
            self._plan(_EPOCH + random.random() * model.period, self._read, client)
        for fault in model.faults:
            self._plan(_EPOCH + fault.at, self._leave, fault)
        if model.joining:
            for index in later:
                self._plan(_EPOCH + model.joining.at, self._come, self._pods[index])
        self._arrivals = arrivals(model.traffic, self._seed)
        self._plan_arrival()
        for second in range(model.seconds):
            self._plan(_EPOCH + second, self._sample)
        while self._events and self._events[0][0] < _EPOCH + model.seconds:
            self._now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
        return History(
            imbalance=self._imbalance,
            moved=self._moved,
            joined=self._joined,
            fullest_joined=self._fullest_joined,
            over=self._over,
            refused=self._refused,
            read=self._read_entries / len(self._clients) / model.seconds,
        )

    def _plan(self, at: float, happen: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), happen, arguments))

    def _sample(self) -> None:
        loads = [self._loads[pod.index] for pod in self._pods if pod.up]
        mean = sum(loads) / len(loads)
        self._imbalance.append(max(loads) / mean)
        joining = self._model.joining
        joined = [self._loads[index] for index in joining.pods if self._pods[index].up] if joining else []
        self._joined.append(sum(joined) / len(joined) / mean if joined else 0.0)
        self._fullest_joined.append(max(joined, default=0.0) / mean)

    # Links

    def _plan_arrival(self) -> None:
        arrival = next(self._arrivals)
        arrival = attrs.evolve(arrival, at=_EPOCH + arrival.at, ends=_EPOCH + arrival.ends)
        self._plan(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._place(_Link(arrival), arrival.client)
        self._plan_arrival()

    def _place(self, link: _Link, client: int) -> None:
        if link.ends <= self._now:
            return
        pod_index = self._clients[client].choose(self._now)
        if pod_index is None:
            self._read_now(client)  # as the resolver does before it refuses a uid
            pod_index = self._clients[client].choose(self._now)
        if pod_index is None:
            self._refused += any(pod.up and not self._is_full(pod) for pod in self._pods)
            self._plan(self._now + self._model.period, self._place, link, client)
            return
        pod = self._pods[pod_index]
        if pod.up:
            self._take(pod, link)
            return
        self._plan(self._found_dead(pod), self._place, link, client)

    def _take(self, pod: _Pod, link: _Link) -> None:
        link.pod = pod
        pod.links[link] = None
        pod.placed += 1
        pod.recent.append((self._now, link.load))
        self._loads[pod.index] += link.load
        if self._model.max_links is not None:
            self._over = max(self._over, len(pod.links) - self._model.max_links)
        self._plan(link.ends, self._end, link)

    def _end(self, link: _Link) -> None:
        pod, link.pod = link.pod, None
        if pod is not None:
            del pod.links[link]
            self._loads[pod.index] -= link.load

    def _is_full(self, pod: _Pod) -> bool:
        return self._model.max_links is not None and len(pod.links) >= self._model.max_links

    # Pods and clients

    def _begin(self, pod: _Pod) -> None:
        pod.meter = Meter(self._model.source, self._random, lambda: self._now)
        self._store.begin(pod.index, self._report(pod), self._now)

    def _publish(self, pod: _Pod, life: int) -> None:
        if pod.up and pod.life == life:
            self._store.beat(pod.index, self._report(pod), self._now)
            self._plan(self._now + self._model.period, self._publish, pod, life)

    def _read(self, client: int) -> None:
        self._read_now(client)
        self._plan(self._now + self._model.period, self._read, client)

    def _read_now(self, client: int) -> None:
        table = self._store.read(self._clients[client].version, self._now)
        self._read_entries += len(table.pods)
        self._clients[client].read(table)

    def _report(self, pod: _Pod, routing_state: RoutingState = RoutingState.READY) -> PodReport:
        """Return what the pod publishes now."""
        while pod.recent and pod.recent[0][0] <= self._now - _CLAIMED:
            pod.recent.popleft()
        unknown = sum(load for _, load in pod.recent)
        links = max(0, len(pod.links) - len(pod.recent))
        load = 0
        if routing_state is RoutingState.READY:
            load = pod.meter.read(max(0, int(self._loads[pod.index]) - unknown), links)
        pod.published_at = self._now
        return PodReport(
            load=load,
            links=links,
            placed_total=pod.placed - len(pod.recent),
            max_links=self._model.max_links,
            routing_state=routing_state,
            version=str(pod.life),
        )

    def _leave(self, fault: Fault) -> None:
        for index in fault.pods:
            pod = self._pods[index]
            pod.up = False
            links, pod.links = pod.links, {}
            pod.recent.clear()
            self._loads[index] = math.inf
            for link in links:
                self._moved += 1
                link.pod = None
                client = self._random.randrange(len(self._clients))
                self._plan(self._found_dead(pod, announced=fault.announced), self._place, link, client)
            if fault.announced:
                self._store.beat(index, self._report(pod, RoutingState.DENY_NEW_CALL), self._now)
            if fault.back_after is not None:
                self._plan(self._now + fault.back_after, self._return, pod)
        if fault.announced:
            for client in range(len(self._clients)):
                self._read_now(client)

    def _found_dead(self, pod: _Pod, *, announced: bool = False) -> float:
        """Return when a user of a pod that is gone asks for another one: some moment after everybody knows."""
        known = self._now if announced else max(self._now, pod.published_at + _HEARTBEATS * self._model.period)
        return known + self._random.random() * _RECONNECTED

    def _return(self, pod: _Pod) -> None:
        pod.life += 1
        self._come(pod)

    def _come(self, pod: _Pod) -> None:
        pod.up = True
        pod.placed = 0
        self._loads[pod.index] = 0
        self._begin(pod)
        self._plan(self._now + self._model.period, self._publish, pod, pod.life)
