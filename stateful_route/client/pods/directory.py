"""Keeps the tables of the services in use, hears what is announced, and confirms deaths. Off the path of a call."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.periodic import PeriodicTask
from stateful_route._background.tasks import Tasks
from stateful_route._deadline import within
from stateful_route._log import log
from stateful_route._single_flight import SingleFlight
from stateful_route.client.coherence import Hearing, InvalidationListener
from stateful_route.client.pods.service import ServicePods
from stateful_route.errors import StoreError
from stateful_route.models import LinkInvalidation, PodChange, PodLife

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from stateful_route.client.cache.links import LinkCache
    from stateful_route.client.pods.pod import Pod
    from stateful_route.client.pods.service import Announced
    from stateful_route.config import BaseConfig
    from stateful_route.models import PodState, TopicEvent
    from stateful_route.store.protocol import Store

# Seconds: after the lease of a pod has ended, and between two looks at a pod that was reported unreachable.
_AFTER_LEASE = 0.005
_BETWEEN_LOOKS = 0.1

# Seconds between two readings, at least, while somebody waits for what is lost to be claimed again; twice it at most.
_BETWEEN_POLLS = 0.05

# So many tables are read at once, and all of them within this share of a period: a hundred together would hold up the
# event loop for tens of milliseconds.
_TOGETHER = 2
_SPREAD = 0.5

# The share of a deadline that the first call for a service may wait for the subscription.
_HEARING = 0.4

# Seconds: for what will be so by then one waits, and does not read once more. Replies are late by as much.
_SOON = 0.02


class PodDirectory:
    """The tables of all services in use, and what keeps them true.

    They are read each ``refresh`` seconds, when a pod is announced to be in another state, and when the lease of a pod
    is about to end. Of those in which nothing was looked up since, as all is in the cache, only the leases are watched,
    just often enough to see a pod die. A reading brings what has changed since the one before. An event is a hint, for
    anybody may publish one: that a link has changed drops it from the cache, and that a pod has changed makes the
    client read. While nothing can be heard, cached links are not used, unless the store does not answer at all.
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
        self.counts = cache.counts
        self._random = random
        self._clock = clock
        self.services: dict[tuple[str, str], ServicePods] = {}
        """Those in use, by namespace and name: to read only."""
        self.on_invalidated: Callable[[ServicePods, str, int], None] | None = None
        """Who is told of each uid whose link has changed, and up to which epoch."""
        self.hearing = Hearing()
        """For how long announcements were not heard."""
        self._doubted_at: dict[str, float] = {}
        """When the services of a namespace were last doubted because of a call, on the clock of this process."""
        deadline = config.call_deadline_seconds
        self._reading: SingleFlight[ServicePods, None] = SingleFlight(deadline, "read_pods", writes=False)
        self._watching: SingleFlight[ServicePods, bool] = SingleFlight(deadline, "read_pods", writes=False)
        self._left: set[InvalidationListener] = set()
        """Those that listen no more, and may still be ending."""
        self._tasks = Tasks()
        self._stopped = False
        self._refreshing = PeriodicTask(
            "refresh of the pods",
            self.refresh_all,
            config.refresh,
            jitter=config.jitter,
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
        await self._tasks.stop()
        await self._end_listeners()

    def peek(self, namespace: str, service_name: str) -> ServicePods:
        """Return the table of a service as it is, be it empty."""
        service = self.services.get((namespace, service_name))
        if service is None:
            service = ServicePods(namespace, service_name, self._config.settle, self._config.lease_seconds)
            service.links = self._cache.service(namespace, service_name)
            service.listener = self._listen(service)  # before the service is added: it may raise
            self.services[namespace, service_name] = service
        service.reads.used = True
        return service

    def was_tried(self, service: ServicePods) -> bool:
        """Whether it is heard what the clients of a service are told, or was tried once."""
        return service.listener.was_tried

    async def tried(self, service: ServicePods) -> None:
        """Return once that is so: what is cached before is dropped then.

        A subscription that takes long keeps nobody from asking the store, but for a share of the deadline.
        """
        if not service.listener.was_tried:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARING * self._config.call_deadline_seconds):
                    await service.listener.tried()

    def pod_state(self, namespace: str, service_name: str, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if the table of its service is there and has it."""
        service = self.services.get((namespace, service_name))
        if service is None:
            return None
        service.reads.used = True
        return service.state(pod_index)

    async def fresh_service(self, namespace: str, service_name: str) -> ServicePods:
        """Return the table of a service, read from the store if it is older than that of a service in use.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        service = self.peek(namespace, service_name)
        if not service.loaded or self._clock() - service.reads.changes_read_at > 2 * self._config.refresh:
            try:
                async with within(self._config.call_deadline_seconds, "pods", writes=False):
                    await self.read(service)
            except StoreError:
                if not service.loaded:
                    raise
        return service

    async def read(self, service: ServicePods) -> None:
        """Read the table from the store; callers at the same time share one reading.

        Raises:
            StoreError: if it cannot be read.

        """
        await self.tried(service)
        await self._reading.run(service, lambda: self._read(service, service.version))

    async def read_anew(self, service: ServicePods) -> None:
        """Read the table by a reading that begins after what made it doubtful; callers at the same time share it.

        Raises:
            StoreError: if it cannot be read.

        """
        await self.read(service)
        if service.doubtful:  # the reading may have begun before
            await self.read(service)

    def is_fresh(self, service: ServicePods) -> bool:
        """Whether a table was read less than a lease ago, and the store was heard since: it is no other one by now."""
        return service.heard_throughout and self._clock() - service.read_at < min(
            service.shortest_lease, self._config.lease_seconds
        )

    async def wait(self, service: ServicePods, pods: Collection[Pod | None]) -> None:
        """Return once a pod is missing no more, as ``ServicePods.wait`` does; look more often meanwhile."""
        if not service.reads.polled:
            service.reads.polled = True
            self._tasks.start(self._poll(service), f"waits for pods of {service.service_name!r}")
        await service.wait(pods)

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
        used = {namespace for namespace, _ in self.services}
        self._doubted_at = {namespace: at for namespace, at in self._doubted_at.items() if namespace in used}
        await self._end_listeners()
        for service in self.services.values():
            service.listener.check_grace()
        due = [service for service in self.services.values() if not self._is_watched(service)]
        pause = _SPREAD * self._config.refresh * _TOGETHER / max(len(due), 1)
        async with anyio.create_task_group() as group:
            for number, service in enumerate(due):
                if number and number % _TOGETHER == 0:
                    await anyio.sleep(pause)
                group.start_soon(self._refresh, service)

    def store_answered(self, service: ServicePods) -> None:
        """Note that the store answered a call."""
        service.listener.store_answered()

    def store_failed(self, service: ServicePods) -> None:
        """Note that the store did not answer a call: what is known of the pods is doubtful until it is read again.

        So it is once in a moment: the shard of a cluster that has some links may be away, and the others answer.
        """
        now = self._clock()
        namespace = service.namespace
        if now - self._doubted_at.get(namespace, -math.inf) >= _BETWEEN_LOOKS:
            self._doubted_at[namespace] = now
            for other in self.services.values():
                if other.namespace == namespace:
                    other.doubt()
        service.listener.store_failed()

    async def report_unreachable(self, service: ServicePods, pod_index: int) -> None:
        """Avoid a pod until its next heartbeat, and look at the last one now.

        Raises:
            StoreError: if the store did not answer.

        """
        seen = service.loaded and service.pod(pod_index).reported is not None
        service.report_unreachable(pod_index, self._clock())
        if not seen or self._clock() - service.read_at >= _BETWEEN_LOOKS:
            await self._look(service)

    async def bury(self, service: ServicePods, life: PodLife) -> bool:
        """Return whether a life of a pod that a link names is dead, so that another pod may take the link.

        Raises:
            StoreError: if the store had to be asked, and did not answer.

        """
        pod = service.pod(life.pod_index)
        if pod.reported is not None and self._clock() - service.read_at >= _BETWEEN_LOOKS:
            await self._look(service)
        if not service.is_dead(life):
            # Or no pod of that index is known, and none has come in the time in which a living one would have.
            lease = max(self._config.lease_seconds, pod.absent_lease)
            # So it is if all that is known is the death of an older life: the store had forgotten the pod before that.
            # Or it has lost the newer life, as by a failover: a pod that lives registers again in less than a lease.
            unknown = pod.state is None or (pod.state.dead and pod.state.incarnation < life.incarnation)
            if unknown:
                pod.met(life, self._clock())
            absent = unknown and service.absent_for(pod, lease) >= lease
            confirmable = absent or life in service.confirmable(self._clock() + _SOON)
            if not (confirmable and await self._confirm(service, life)):
                return False
        service.met_dead(life)
        return True

    async def _poll(self, service: ServicePods) -> None:
        """Read a table often, as long as somebody waits for its pods."""
        try:
            while True:
                await anyio.sleep(_BETWEEN_POLLS * (1 + self._random.random()))
                if not service.waited_for:
                    return
                await self._refresh(service)
        finally:
            service.reads.polled = False

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

    async def _look(self, service: ServicePods) -> None:
        await self.read(service)
        await self._confirm_deaths(service)

    async def _watch(self, service: ServicePods) -> None:
        """See which leases have ended, as ``_look`` does, and nothing else unless other pods live than are known.

        So a death, or a new pod, of which no event was heard is seen too.
        """
        if not await self._watching.run(service, lambda: self._read_since(service, None)):
            await self.read(service)
        await self._confirm_deaths(service)

    async def _read(self, service: ServicePods, version: int) -> None:
        if not await self._read_since(service, version):
            log.debug(
                "pods_read_whole",
                "the changes in the pods of %(service_name)r are not all: they are read as a whole",
                service_name=service.service_name,
            )
            await self._read_since(service, 0)

    async def _read_since(self, service: ServicePods, version: int | None) -> bool:
        """Read what has changed since that version, if any; return whether nothing is missing then."""
        read_at = self._clock()
        doubts, missing = service.doubts, service.misses_pods
        if version is not None and service.reads.used:
            service.reads.used = False
            service.reads.last_used = read_at
        try:
            pods = await self._store.read_pods(
                service.namespace, service.service_name, since=version, also=service.asked_for
            )
        except StoreError:
            service.broken()
            service.doubt()
            self.store_failed(service)
            raise
        received_at = self._clock()
        self.store_answered(service)
        if read_at < service.read_at:  # a watch has overtaken a reading, or the other way round
            return version is None
        if version is not None:
            service.reads.changes_read_at = read_at
        longest_gap = 2 * self._config.refresh + self._config.call_deadline_seconds
        complete = service.apply(pods, read_at, longest_gap, received_at)
        if complete and version is not None:
            service.resume(read_at)
            service.clear(doubts)
        self._flush_departed(service)
        if service.misses_pods and not missing:
            # Pods are gone, so links may be: nobody announced that, as it happens to a store that is emptied.
            service.links.flush()
        elif complete and not service.recovering and service.doubts == doubts:
            # The store has lost nothing. Links change unheard as long as nothing can be heard.
            service.hints_hold = service.serves_cached
            if service.serves_cached:
                service.links.drop_hints()
        return complete

    def _is_idle(self, service: ServicePods) -> bool:
        """Whether nobody asks for uids that are not cached, and no pod is in doubt: only deaths matter."""
        return not service.reads.used and not service.doubted

    def _is_watched(self, service: ServicePods) -> bool:
        """Whether all that matters in a table is seen without a reading now."""
        if not self._is_idle(service):
            return False
        if service.reads.awaited:
            return True
        # No pod is alive, and one that comes is announced: so it was since the table was read.
        return (
            service.loaded
            and service.reads.changes_read_at > service.listener.listening_since
            and service.next_look(self._clock()) is None
        )

    async def _refresh(self, service: ServicePods, *, watch: bool = False) -> None:
        try:
            await (self._watch(service) if watch else self._look(service))
        except StoreError as error:
            log.debug(
                "pods_not_read",
                "the pods of %(service_name)r cannot be read: %(error)s",
                service_name=service.service_name,
                error=error,
            )
            return
        except Exception:  # noqa: BLE001 - of a store that keeps no contract: the next reading is made all the same
            log.exception(
                "pods_not_read", "the pods of %(service_name)r cannot be read", service_name=service.service_name
            )
            return
        if not service.reads.awaited:
            service.reads.awaited = True
            self._tasks.start(self._await_end(service), f"awaits the end of a lease in {service.service_name!r}")

    async def _await_end(self, service: ServicePods) -> None:
        """Look at a table just after a lease in it may have ended, or before its view is broken."""
        while left := service.next_look(self._clock()):  # noqa: ASYNC110 - time itself is waited for
            await anyio.sleep(left + _AFTER_LEASE)
        service.reads.awaited = False
        if left is not None and self.services.get((service.namespace, service.service_name)) is service:
            await self._refresh(service, watch=self._is_idle(service))

    async def _confirm_deaths(self, service: ServicePods) -> None:
        # All clients do this at once: each in an order of its own, and what one has confirmed the others need not.
        lives = service.confirmable(self._clock() + _SOON)
        self._random.shuffle(lives)
        left_out = False
        for life in lives:
            if life in service.rumoured:
                left_out = True
            elif not service.is_dead(life):
                await self._confirm(service, life)
        if left_out:  # the store says whether that is so
            await self.read(service)
            for life in service.confirmable(self._clock() + _SOON):
                if not service.is_dead(life):
                    await self._confirm(service, life)

    async def _confirm(self, service: ServicePods, life: PodLife) -> bool:
        early = service.ripe_at(life) - self._clock()
        if early > 0:
            await anyio.sleep(early)
        dead = await self._store.confirm_death(
            service.namespace, service.service_name, life, self._config.retention_seconds
        )
        if dead:
            service.mark_dead(life)
            self._flush_departed(service)
        return dead

    def _flush_departed(self, service: ServicePods) -> None:
        departed = service.take_departed()
        for pod in departed:
            service.links.flush_pod(pod)
        if departed:
            service.departures.note()

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
                if self.on_invalidated is not None:
                    self.on_invalidated(service, key.uid, event.epoch)
            return
        service = self.services.get((event.namespace, event.service_name))
        if service is None or not isinstance(event, PodChange):
            return
        is_death = service.take_in(event, self._clock())
        self.read_soon(service, death=is_death)

    def read_soon(self, service: ServicePods, *, death: bool = False) -> None:
        """Read a table without waiting for it, and sooner if a death was announced."""
        announced = service.reads.deaths if death else service.reads.changes
        if not announced.refreshing:
            announced.refreshing = True
            work = self._refresh_announced(service, announced)
            self._tasks.start(work, f"reads the pods of {service.service_name!r}")

    async def _refresh_announced(self, service: ServicePods, announced: Announced) -> None:
        """Read a table for what was announced: at once, or together with what else is announced in the next moment."""
        pause = announced.read_at + announced.pause * (1 + self._random.random()) - self._clock()
        if pause > 0:
            await anyio.sleep(pause)
        again = self._is_being_read(service)  # by a reading that may be older than what was announced
        # Before a reading begins: what is announced from here on may not be in it.
        announced.begin(self._clock())
        if again:
            await self._refresh(service)
        await self._refresh(service)

    def _is_being_read(self, service: ServicePods) -> bool:
        return self._reading.is_in_flight(service) or self._watching.is_in_flight(service)
