"""The client driver: finds or computes the pod of a uid."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING

from stateful_route._lifecycle import RUNNING, Driver
from stateful_route._validation import check_bool, check_callable, check_id, check_pod_index
from stateful_route.client.batch import Batch, checked_uids
from stateful_route.client.batch_resolver import BatchResolver
from stateful_route.client.cache.links import MARGIN, LinkCache
from stateful_route.client.placement.strategies import PreferEmptier
from stateful_route.client.pods.directory import PodDirectory
from stateful_route.client.resolver import AWAY, Resolver
from stateful_route.client.service_view import ServiceView
from stateful_route.client.targets import Targets, there_of
from stateful_route.config import BaseConfig
from stateful_route.links import LinkKey
from stateful_route.statistics import ClientCounts, ClientStatistics, counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stateful_route.client.batch import Answers
    from stateful_route.client.cache.hot import CachedPod
    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.client.pods.suspicion import Departures
    from stateful_route.client.targets import Target, There
    from stateful_route.history import LinkEvent
    from stateful_route.links import Link
    from stateful_route.pods import PodState
    from stateful_route.store.protocol import Store


# The uid of a call that is for none: a service and its pods.
_ANY = "any"


class ClientDriver(Driver):
    """Finds the pod of a uid, or chooses one; answers from memory almost always.

    Implements ``StatefulRouteForClientDriver``, which documents the methods of the contract and the errors. On top of
    it there are ``service``, a view bound to one service, which documents the methods that both have, ``statistics``
    and ``batch_compute_linked_pod``.
    """

    def __init__(
        self,
        store: Store,
        config: BaseConfig | None = None,
        *,
        strategy: PlacementStrategy | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        """Make a driver that is not started.

        ``strategy`` chooses the pod of a new uid, by default ``PreferEmptier()``; ``clock`` is in seconds and never
        goes back. With one that is not ``time.monotonic``, and has no method ``call_at(when, callback)`` as
        ``testing.ManualClock`` has, a hit reads it each time, and takes longer.

        Raises:
            InvalidArgumentError: if ``strategy`` cannot be called.

        """
        config = BaseConfig() if config is None else config
        strategy = PreferEmptier() if strategy is None else strategy
        check_callable("strategy", strategy)
        super().__init__()
        random = Random() if random is None else random  # noqa: S311 - it spreads load
        self._store = store
        self._namespace = config.namespace
        self._clock = clock
        deadline = config.call_deadline_seconds
        margin = min(MARGIN, config.link_ttl / 4)
        self._cache = LinkCache(
            config.cache_size, config.cache_ttl, margin, clock, config.namespace, answer_time=deadline
        )
        self._hot = self._cache.hot
        self._directory = PodDirectory(store, config, self._cache, random=random, clock=clock)
        self._services = self._directory.services
        self._reader = self._directory.reader
        self._resolver = Resolver(
            store,
            self._reader,
            strategy,
            link_ttl=config.link_ttl,
            deadline=deadline,
            random=random,
            clock=clock,
            counts=self._cache.counts,
        )
        self._batch_resolver = BatchResolver(store, self._reader, self._resolver, deadline=deadline, clock=clock)
        self._targets = Targets(
            self._resolver, self._reader, lease=config.lease_seconds, deadline=deadline, clock=clock
        )
        self._hits = 0

    def __repr__(self) -> str:
        return f"<ClientDriver of namespace {self._namespace!r}: {self._phase}, {len(self._cache)} links cached>"

    async def _start(self) -> None:
        self._resolver.placer.start()
        self._directory.start()

    def _after_fork(self) -> None:
        super()._after_fork()
        for _ in self._cache.close():  # nobody here hears what is announced
            pass

    async def _stop(self) -> None:
        await self._resolver.placer.stop()
        await self._directory.stop()
        for _ in self._cache.close():
            await asyncio.sleep(0)

    # The contract -----------------------------------------------------------------------------------------------

    async def compute_linked_pod(self, namespace: str, uid: str, service_name: str) -> int:
        """See ``StatefulRouteForClientDriver``."""
        try:
            slot = self._hot[namespace][service_name].slots[uid]
            if slot.usable:
                self._hits += 1
                return slot.pod_index
        except (KeyError, TypeError):
            pass
        service = self._service(namespace, uid, service_name)
        pod = service.links.pod(uid)  # it is in the hot cache the next time
        if pod is not None:
            self._hits += 1
            return pod.pod_index
        try:
            return (await self._resolver.place(service, uid)).pod_index
        except AWAY:
            return self._cached_while_away(service, uid)

    async def set_linked_pod_if_absent(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int:
        """See ``StatefulRouteForClientDriver``."""
        service = self._service(namespace, uid, service_name)
        check_pod_index("pod_index", pod_index)
        return (await self._resolver.place_on(service, uid, pod_index)).pod_index

    async def get_linked_pod(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        pod_index = self.peek(namespace, uid, service_name)
        if pod_index is not None:
            return pod_index
        service = self._service(namespace, uid, service_name)
        try:
            return _pod_index(await self._resolver.find(service, uid))
        except AWAY:
            return self._cached_while_away(service, uid)

    async def get_linked_pod_not_cache(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        return _pod_index(await self._resolver.get(self._service(namespace, uid, service_name), uid))

    async def get_linked_pod_in_cache_or_if_persist(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        pod_index = self.peek(namespace, uid, service_name)
        if pod_index is not None:
            return pod_index
        return _pod_index(await self._resolver.find_persistent(self._service(namespace, uid, service_name), uid))

    async def get_linked_in_cache(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        self._service(namespace, uid, service_name)
        return self.peek(namespace, uid, service_name)

    async def set_cache(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        service = self._service(namespace, uid, service_name)
        check_pod_index("pod_index", pod_index)
        service.reads.used = True
        await self._reader.tried(service)
        return _pod_index(service.links.put_by_hand(uid, service.pod(pod_index)))

    async def cache_expired(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``StatefulRouteForClientDriver``."""
        return _pod_index(self._service(namespace, uid, service_name).links.pop(uid))

    async def get_link_service(self, namespace: str, uid: str) -> dict[str, int]:
        """See ``StatefulRouteForClientDriver``."""
        namespace = self._namespace_of(namespace)
        check_id("uid", uid)
        self._check_running()
        return await self._store.get_services(namespace, uid)

    async def batch_get_linked_pod(
        self, namespace: str, uids: Iterable[str], service_name: str
    ) -> dict[int, list[str]]:
        """See ``StatefulRouteForClientDriver``."""
        return await self._batch(namespace, uids, service_name, self._batch_resolver.find)

    # On top of the contract -------------------------------------------------------------------------------------

    def peek(self, namespace: str, uid: str, service_name: str) -> int | None:
        """See ``ServiceView``."""
        try:
            slot = self._hot[namespace][service_name].slots[uid]
            if slot.usable:
                self._hits += 1
                return slot.pod_index
        except (KeyError, TypeError):
            pass
        # No checks: what is not an id is in no cache.
        try:
            service = self._services[self._namespace if namespace == "" else namespace, service_name]
            pod = service.links.pod(uid)
        except (KeyError, TypeError):
            return None
        if pod is None:
            return None
        self._hits += 1
        return pod.pod_index

    async def batch_compute_linked_pod(
        self, namespace: str, uids: Iterable[str], service_name: str
    ) -> dict[int, list[str]]:
        """Return the uids of each pod index, choosing a pod for each uid that has none.

        Raises:
            NoRoutablePodError: if a uid has no link, and no pod takes new uids.
            NoCapacityError: if the pods that take new uids have no room for all that have none.
            BatchError: if the store did not answer for some of them; it names them, and has the links of the others.
            StoreError: if nothing is known of any of them.

        """
        return await self._batch(namespace, uids, service_name, self._batch_resolver.place)

    async def route(self, namespace: str, uid: str, service_name: str) -> Link:
        """See ``ServiceView``."""
        try:
            hot = self._hot[namespace][service_name]
            if hot.slots[uid].usable:
                known = hot.known[uid]
                self._hits += 1
                return known
        except (KeyError, TypeError):
            pass
        service = self._service(namespace, uid, service_name)
        link = service.links.link(uid)
        if link is not None:
            self._hits += 1
            return link
        try:
            return await self._resolver.place(service, uid)
        except AWAY:
            return self._resolver.suspect_link(service, uid)

    async def find(self, namespace: str, uid: str, service_name: str) -> Link | None:
        """See ``ServiceView``."""
        return await self._resolver.find(self._service(namespace, uid, service_name), uid)

    async def history(self, namespace: str, uid: str, service_name: str) -> list[LinkEvent]:
        """See ``ServiceView``."""
        service = self._service(namespace, uid, service_name)
        return await self._store.history(LinkKey(service.namespace, uid, service_name))

    async def resolve(self, namespace: str, uid: str, service_name: str, *, place: bool = True) -> Target:
        """See ``ServiceView``."""
        check_bool("place", place)
        there = self.peek_target(namespace, uid, service_name)
        if there is not None:
            return there
        service = self._service(namespace, uid, service_name)
        link = service.links.link(uid)
        if link is not None and (there := there_of(service.pod(link.pod_index), link)) is not None:
            self._hits += 1
            return there
        return await self._targets.resolve(service, uid, place=place)

    def peek_target(self, namespace: str, uid: str, service_name: str) -> There | None:
        """See ``ServiceView``."""
        try:
            hot = self._hot[namespace][service_name]
            slot = hot.slots[uid]
            if slot.usable:
                there = there_of(slot.pod, hot.known[uid])
                self._hits += there is not None
                return there
        except (KeyError, TypeError):
            pass
        return None

    async def choose(self, namespace: str, service_name: str) -> int:
        """See ``ServiceView``."""
        return (await self._resolver.choose(self._service(namespace, _ANY, service_name))).pod_index

    async def pod(self, namespace: str, service_name: str, pod_index: int) -> PodState | None:
        """See ``ServiceView``."""
        service = self._service(namespace, _ANY, service_name)
        check_pod_index("pod_index", pod_index)
        return await self._directory.pod_state(service, pod_index)

    async def pods(self, namespace: str, service_name: str) -> dict[int, PodState]:
        """See ``ServiceView``."""
        service = self._service(namespace, _ANY, service_name)
        await self._directory.freshen(service)
        return {state.pod_index: state for state in service.states}

    async def report_unreachable(self, namespace: str, service_name: str, pod_index: int) -> None:
        """See ``ServiceView``."""
        service = self._service(namespace, _ANY, service_name)
        check_pod_index("pod_index", pod_index)
        await self._reader.report_unreachable(service, pod_index)

    def departures(self, namespace: str, service_name: str) -> Departures:
        """See ``ServiceView``."""
        service = self._service(namespace, _ANY, service_name)
        service.reads.used = True
        return service.suspicion.departures

    def service(self, service_name: str, namespace: str = "") -> ServiceView:
        """Return a view of this driver that is bound to one service.

        Raises:
            InvalidArgumentError: if the service or the namespace is not an id.

        """
        check_id("service_name", service_name)
        return ServiceView(self, self._namespace_of(namespace), service_name)

    def statistics(self) -> ClientStatistics:
        """Return what this driver has done so far."""
        hearing = self._directory.hearing
        return ClientStatistics(
            hits=self._hits,
            joined=self._resolver.joined,
            cached=len(self._cache),
            deaf=hearing.deaf,
            deaf_times=hearing.times,
            deaf_seconds=hearing.seconds_until(self._clock()),
            pods_alive=self._directory.alive,
            **counted(ClientCounts, self._cache.counts),
        )

    # Inside -----------------------------------------------------------------------------------------------------

    def _cached_while_away(self, service: ServicePods, uid: str) -> int:
        """Return a cached pod index that may be used while the store is away; called while its error is handled."""
        self._reader.store_failed(service)
        pod = service.links.pod(uid)
        if pod is None:
            raise  # noqa: PLE0704 - the error that the caller handles
        self._hits += 1
        self._cache.counts.away += 1
        return pod.pod_index

    async def _batch(
        self,
        namespace: str,
        uids: Iterable[str],
        service_name: str,
        resolve: Callable[[ServicePods, list[str]], Awaitable[Answers]],
    ) -> dict[int, list[str]]:
        """Return the uids of each pod index, each uid once, asking the store for those that are not cached."""
        checked = await checked_uids(uids)
        service = self._service(namespace, _ANY, service_name)
        service.reads.used = True
        batch = Batch(service.links, lambda missing: resolve(service, missing))
        try:
            return await batch.run(checked)
        finally:
            self._hits += batch.hits

    def _namespace_of(self, namespace: str) -> str:
        if namespace in ("", self._namespace):
            return self._namespace
        check_id("namespace", namespace)
        return namespace

    def _service(self, namespace: str, uid: str, service_name: str) -> ServicePods:
        """Return the service of a call, whose arguments are checked."""
        if namespace == "":
            namespace = self._namespace
        try:
            service = self._services[namespace, service_name]  # both were checked when it was added
        except (KeyError, TypeError):
            namespace = self._namespace_of(namespace)
            check_id("uid", uid)
            check_id("service_name", service_name)
            self._check_running()
            return self._directory.peek(namespace, service_name)
        check_id("uid", uid)
        if self._phase is not RUNNING or self._loop is not asyncio.get_running_loop():
            self._check_running()
        return service


def _pod_index(link: Link | CachedPod | None) -> int | None:
    return None if link is None else link.pod_index
