"""The pods of each service in use, as last read from the store. Off the path of a call, but for the first."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._periodic import PeriodicTask
from stateful_route.client.flights import SingleFlight
from stateful_route.client.placement import OwnPlacements, PlacementRates
from stateful_route.errors import StoreError
from stateful_route.models import PodLife, PodState, PodTable, RoutingState

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.config import BaseConfig
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")


class Pod:
    """A pod as this client knows it. Cached links point at it, and the routing table changes it in place."""

    __slots__ = ("_service", "capacity", "incarnation", "load", "own", "pod_index", "state", "usable")

    def __init__(self, service: ServiceTable, pod_index: int) -> None:
        """Make a pod of which nothing is known but that a link names it."""
        self._service = service
        self.pod_index = pod_index
        self.incarnation = 0
        self.load = 0
        self.capacity = 1.0
        self.own = OwnPlacements()
        self.state: PodState | None = None
        self.usable = True
        """Whether a cached link to it may be used: nothing says that the pod is dead or shut down."""

    def __repr__(self) -> str:
        return f"<Pod {self.pod_index}: {self.state.summary if self.state else 'never seen'}>"

    @property
    def life(self) -> PodLife:
        """The life of the pod that a new link names; incarnation 0 if none is known."""
        return PodLife(self.pod_index, self.incarnation)

    @property
    def expected_load(self) -> float:
        """The published load, and what was placed since by all clients as far as this one can tell."""
        return self.load + self.own.unseen * self._service.weight_of_own


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
        self._settle = settle
        self._pods: dict[int, Pod] = {}
        self._rates = PlacementRates()
        self._store_now: float | None = None
        self._read_at = 0.0
        self._own_total = 0

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
            pod.own.placed(self._store_now + at - self._read_at)

    def state(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if anything."""
        pod = self._pods.get(pod_index)
        return None if pod is None else pod.state

    @property
    def states(self) -> tuple[PodState, ...]:
        """What the store last said of each pod."""
        return tuple(pod.state for _, pod in sorted(self._pods.items()) if pod.state is not None)

    def apply(self, table: PodTable, read_at: float) -> None:
        """Take in what was read from the store, asked for at ``read_at`` by the clock of this process.

        Synchronous: a call sees all of it or nothing.
        """
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
            pod.usable = state.is_available(table.now)
        for pod_index, pod in self._pods.items():
            if pod_index not in seen and pod.state is not None:
                pod.state = None
                pod.usable = False
        self.routable = [self._pods[state.pod_index] for state in table.pods if state.is_routable(table.now)]
        self.leaving = tuple(state.life for state in table.pods if state.report.routing_state is not RoutingState.READY)
        self._weigh(table.now, placed_by_all)
        self._store_now, self._read_at = table.now, read_at
        self.loaded = True

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


class RoutingTable:
    """The tables of all services in use, refreshed by one periodic task."""

    def __init__(
        self,
        store: Store,
        config: BaseConfig,
        *,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty table that is not refreshed yet."""
        self._store = store
        self._config = config
        self._clock = clock
        self._tables: dict[tuple[str, str], ServiceTable] = {}
        self._reading = SingleFlight[tuple[str, str], None]()
        self._refreshing = PeriodicTask(
            "refresh of the pods",
            self.refresh_all,
            config.refresh,
            jitter=config.heartbeat_jitter,
            random=random,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to refresh."""
        self._refreshing.start()

    async def stop(self) -> None:
        """End refreshing."""
        await self._refreshing.stop()

    def peek(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service as it is, be it empty."""
        table = self._tables.get((namespace, service_name))
        if table is None:
            table = ServiceTable(namespace, service_name, self._config.settle)
            self._tables[namespace, service_name] = table
        table.last_used = self._clock()
        return table

    async def table(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service, read from the store the first time.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        table = self.peek(namespace, service_name)
        if not table.loaded:
            await self.read(table)
        return table

    async def read(self, table: ServiceTable) -> None:
        """Read the table from the store; callers at the same time share one reading.

        Raises:
            StoreError: if it cannot be read.

        """

        async def read() -> None:
            read_at = self._clock()
            table.apply(await self._store.read_pods(table.namespace, table.service_name), read_at)

        await self._reading.run((table.namespace, table.service_name), read)

    async def refresh_all(self) -> None:
        """Read the tables that are in use, and drop those that are not.

        A service is in use until nothing was looked up in the store for a cache TTL: then no cached link of it is left.
        """
        oldest = self._clock() - self._config.cache_ttl - self._config.refresh
        for key in [key for key, table in self._tables.items() if table.last_used < oldest]:
            del self._tables[key]
        async with anyio.create_task_group() as group:
            for table in self._tables.values():
                group.start_soon(self._refresh, table)

    async def _refresh(self, table: ServiceTable) -> None:
        try:
            await self.read(table)
        except StoreError as error:
            _log.debug("the pods of %r cannot be read: %s", table.service_name, error)
