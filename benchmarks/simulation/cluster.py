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
from benchmarks.simulation.trace import Arrival, Traffic, arrivals, initial
from stateful_route import PodReport, PodState, PodTable, RoutingState, StateObj

if TYPE_CHECKING:
    from collections.abc import Callable

    Event: TypeAlias = tuple[float, int, Callable[..., None], tuple[object, ...]]

_CLAIMED = 0.05
"""Seconds until a pod knows of a link that a client placed on it."""
_RECONNECTED = 2.0
"""Seconds within which the users of a pod that is gone come back."""
_HEARTBEATS = 5
"""The default lease."""


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
class Model:
    """What happens.

    Attributes:
        pods: how many there are.
        period: seconds between two heartbeats of a pod, and between two readings of a client: data is 0 to 2 of these
            old, 1 in the mean.
        seconds: how long it goes on.
        traffic: the links.
        faults: what befalls the pods.

    """

    pods: int
    period: float
    seconds: int
    traffic: Traffic = attrs.field(factory=Traffic)
    faults: tuple[Fault, ...] = ()


@attrs.frozen
class History:
    """What was seen.

    Attributes:
        imbalance: fullest / mean pod at each second, of the pods that are there.
        moved: how often a link lost its pod.

    """

    imbalance: list[float]
    moved: int


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
    __slots__ = ("incarnation", "index", "links", "placed", "published_at", "recent", "up")

    def __init__(self, index: int) -> None:
        self.index = index
        self.incarnation = 1
        self.up = True
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
        self._now = 0.0
        self._events: list[Event] = []
        self._order = itertools.count()  # events of the same time happen in the order in which they were planned
        self._pods = [_Pod(index) for index in range(model.pods)]
        self._loads: list[float] = [0] * model.pods
        self._states: list[PodState] = []
        choosing = Random(f"choosers {seed}")
        self._clients = [chooser(name, self._loads, choosing) for _ in range(model.traffic.clients)]
        self._imbalance: list[float] = []
        self._moved = 0

    def run(self) -> History:
        model, random = self._model, self._random
        for pod, arrival in zip(itertools.cycle(self._pods), initial(model.traffic, self._seed), strict=False):
            self._take(pod, _Link(arrival))
        for pod in self._pods:
            pod.recent.clear()
        self._states = [self._state(pod) for pod in self._pods]
        for pod in self._pods:
            self._plan(random.random() * model.period, self._publish, pod, pod.incarnation)
        for client in range(model.traffic.clients):
            self._clients[client].read(self._table())
            self._plan(random.random() * model.period, self._read, client)
        for fault in model.faults:
            self._plan(fault.at, self._leave, fault)
        self._arrivals = arrivals(model.traffic, self._seed)
        self._plan_arrival()
        for second in range(model.seconds):
            self._plan(float(second), self._sample)
        while self._events and self._events[0][0] < model.seconds:
            self._now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
        return History(self._imbalance, self._moved)

    def _plan(self, at: float, happen: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), happen, arguments))

    def _sample(self) -> None:
        loads = [self._loads[pod.index] for pod in self._pods if pod.up]
        self._imbalance.append(max(loads) * len(loads) / sum(loads))

    # Links

    def _plan_arrival(self) -> None:
        arrival = next(self._arrivals)
        self._plan(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._place(_Link(arrival), arrival.client)
        self._plan_arrival()

    def _place(self, link: _Link, client: int) -> None:
        if link.ends <= self._now:
            return
        pod_index = self._clients[client].choose(self._now)
        if pod_index is None:
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
        self._plan(link.ends, self._end, link)

    def _end(self, link: _Link) -> None:
        pod, link.pod = link.pod, None
        if pod is not None:
            del pod.links[link]
            self._loads[pod.index] -= link.load

    # Pods and clients

    def _publish(self, pod: _Pod, incarnation: int) -> None:
        if pod.up and pod.incarnation == incarnation:
            self._states[pod.index] = self._state(pod)
            self._plan(self._now + self._model.period, self._publish, pod, incarnation)

    def _read(self, client: int) -> None:
        self._clients[client].read(self._table())
        self._plan(self._now + self._model.period, self._read, client)

    def _table(self) -> PodTable:
        return PodTable(self._now, tuple(self._states))

    def _state(self, pod: _Pod, routing_state: RoutingState = RoutingState.READY) -> PodState:
        """Return what the pod publishes now."""
        while pod.recent and pod.recent[0][0] <= self._now - _CLAIMED:
            pod.recent.popleft()
        unknown = sum(load for _, load in pod.recent)
        load = 0 if routing_state is not RoutingState.READY else max(0, int(self._loads[pod.index]) - unknown)
        report = PodReport(
            load=load,
            links=max(0, len(pod.links) - len(pod.recent)),
            placed_total=pod.placed - len(pod.recent),
            routing_state=routing_state,
            version=str(pod.incarnation),
        )
        pod.published_at = self._now
        lease = _HEARTBEATS * self._model.period
        return PodState(
            pod_index=pod.index,
            incarnation=pod.incarnation * 1000 + pod.index,
            report=report,
            load_state=StateObj(load, self._now, lease),
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
                self._states[index] = self._state(pod, RoutingState.DENY_NEW_CALL)
            if fault.back_after is not None:
                self._plan(self._now + fault.back_after, self._return, pod)
        if fault.announced:
            for each in self._clients:
                each.read(self._table())

    def _found_dead(self, pod: _Pod, *, announced: bool = False) -> float:
        """Return when a user of a pod that is gone asks for another one: some moment after everybody knows."""
        known = self._now if announced else max(self._now, pod.published_at + _HEARTBEATS * self._model.period)
        return known + self._random.random() * _RECONNECTED

    def _return(self, pod: _Pod) -> None:
        pod.up = True
        pod.incarnation += 1
        pod.placed = 0
        self._loads[pod.index] = 0
        self._publish(pod, pod.incarnation)
