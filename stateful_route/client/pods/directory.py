"""Keeps the tables of the services in use, and hears what is announced of them. Off the path of a call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.periodic import PeriodicTask
from stateful_route._deadline import within
from stateful_route.client.coherence import Hearing, InvalidationListener
from stateful_route.client.pods.reader import PodReader
from stateful_route.client.pods.service import ServicePods
from stateful_route.errors import StoreError
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodChange

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.client.cache.links import LinkCache
    from stateful_route.config import BaseConfig
    from stateful_route.links import TopicEvent
    from stateful_route.pods import PodState
    from stateful_route.store.protocol import Store

# Seconds until a new link counts in the load that its pod publishes.
_SETTLE = 1.0

# So many tables are read at once, and all of them within this share of a period: a hundred together would hold up the
# event loop for tens of milliseconds.
_TOGETHER = 2
_SPREAD = 0.5


class PodDirectory:
    """The tables of all services in use, and what keeps them true.

    ``reader`` reads them. An event is a hint, for anybody may publish one: that a link has changed drops it from the
    cache, and that a pod has changed makes the client read. While nothing can be heard, cached links are not used,
    unless the store does not answer at all.
    """

    def __init__(
        self,
        store: Store,
        config: BaseConfig,
        cache: LinkCache,
        *,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know no service yet. ``start`` begins to refresh."""
        self._store = store
        self._config = config
        self._cache = cache
        self._random = random
        self._clock = clock
        self.services: dict[tuple[str, str], ServicePods] = {}
        """Those in use, by namespace and name: to read only."""
        self.hearing = Hearing()
        """For how long announcements were not heard."""
        self.reader = PodReader(store, config, self.services, random=random, clock=clock)
        self._left: set[InvalidationListener] = set()
        """Those that listen no more, and may still be ending."""
        self._stopped = False
        self._refreshing = PeriodicTask(
            "refresh of the pods",
            self.refresh_all,
            config.refresh,
            random=random,
            clock=clock,
        )

    @property
    def alive(self) -> int | None:
        """How many pods are alive, over all services in use; ``None`` while none of these was read."""
        alive = [service.alive for service in self.services.values() if service.loaded]
        return sum(alive) if alive else None

    def start(self) -> None:
        """Begin to refresh."""
        self._refreshing.start()

    async def stop(self) -> None:
        """End refreshing and listening. A call in flight, or made meanwhile, begins neither again."""
        self._stopped = True
        self._left.update(service.listener for service in self.services.values())
        for listener in self._left:
            listener.close()  # all of them before the first await: who waits for one goes on
        await self._refreshing.stop()
        await self.reader.stop()
        await self._end_listeners()

    def peek(self, namespace: str, service_name: str) -> ServicePods:
        """Return the table of a service as it is, be it empty."""
        service = self.services.get((namespace, service_name))
        if service is None:
            service = ServicePods(namespace, service_name, _SETTLE, self._config.lease_seconds)
            service.links = self._cache.service(namespace, service_name)
            service.listener = self._listen(service)  # before the service is added: it may raise
            self.services[namespace, service_name] = service
        service.reads.used = True
        return service

    async def pod_state(self, service: ServicePods, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod; it is asked if the pod is not there.

        Raises:
            StoreError: if the store had to be asked, and did not answer.

        """
        service.reads.used = True
        known = service.state(pod_index)
        if known is not None:
            return known
        async with within(self._config.call_deadline_seconds, "pod", writes=False):
            await self.reader.read(service)
        return service.state(pod_index)

    async def freshen(self, service: ServicePods) -> None:
        """Read the table of a service from the store if it is older than that of a service in use.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        service.reads.used = True
        if not service.loaded or self._clock() - service.reads.changes_read_at > 2 * self._config.refresh:
            try:
                async with within(self._config.call_deadline_seconds, "pods", writes=False):
                    await self.reader.read(service)
            except StoreError:
                if not service.loaded:
                    raise

    async def refresh_all(self) -> None:
        """Read the tables that are in use, and drop those of which no cached link is left.

        That is so when nothing was looked up in the store for a cache TTL. Those of idle services have their own time.
        """
        now = self._clock()
        oldest = now - self._config.cache_ttl - self._config.refresh
        for key, service in tuple(self.services.items()):
            if service.reads.used:
                service.reads.last_used = now
            elif service.reads.last_used < oldest:
                self._leave(*key)
        await self._end_listeners()
        for service in self.services.values():
            service.listener.check_grace()
        due = [service for service in self.services.values() if not self.reader.is_watched(service)]
        pause = _SPREAD * self._config.refresh * _TOGETHER / max(len(due), 1)
        async with anyio.create_task_group() as group:
            for number, service in enumerate(due):
                if number and number % _TOGETHER == 0:
                    await anyio.sleep(pause)
                group.start_soon(self.reader.refresh, service)

    def _leave(self, namespace: str, service_name: str) -> None:
        """Forget a service that was not used for long. One that comes back is another one."""
        listener = self.services.pop((namespace, service_name)).listener
        self._cache.drop(namespace, service_name)
        listener.close()
        self._left.add(listener)

    async def _end_listeners(self) -> None:
        for listener in tuple(self._left):
            await listener.stop()
            self._left.discard(listener)

    def _listen(self, service: ServicePods) -> InvalidationListener:
        """Begin to listen to what the clients of a service are told."""
        listener = InvalidationListener(
            service,
            self._heard,
            grace=self._config.degraded_grace,
            clock=self._clock,
            hearing=self.hearing,
            own=service.namespace == self._config.namespace,
        )
        if self._stopped:
            listener.close()
        else:
            listener.start(self._store, patience=self._config.listen_patience, random=self._random)
        return listener

    def _heard(self, event: TopicEvent) -> None:
        if isinstance(event, LinkInvalidation):
            key = event.key
            service = self.services.get((key.namespace, key.service_name))
            if service is not None:
                service.links.invalidate(key.uid, event.epoch)
            return
        service = self.services.get((event.namespace, event.service_name))
        if service is None or not isinstance(event, PodChange):
            return
        is_death = service.take_in(event, self._clock())
        self.reader.read_soon(service, death=is_death)
