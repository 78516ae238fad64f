"""Keeps the tables of the services in use, hears what is announced, and confirms deaths. Off the path of a call."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._flights import SingleFlight
from stateful_route._periodic import PeriodicTask
from stateful_route.client.hearing import Hearing
from stateful_route.client.routing import ServiceTable
from stateful_route.errors import StoreError
from stateful_route.models import LinkAnnouncement, PodLife

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

    from stateful_route.client.cache import LinkCache
    from stateful_route.config import BaseConfig
    from stateful_route.models import Announcement, PodState
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")

# Seconds: after the lease of a pod has ended, between two looks at a pod that was reported unreachable, and between two
# readings for what was announced.
_AFTER_LEASE = 0.005
_BETWEEN_LOOKS = 0.1
_BETWEEN_ANNOUNCED = 0.25


class RoutingTable:
    """The tables of all services in use, and what keeps them true.

    They are read each ``refresh`` seconds, when a pod is announced to be in another state, and when the lease of a pod
    is about to end. Of those in which nothing was looked up since, as all is in the cache, only the leases are watched,
    just often enough to see a pod die. A reading brings what has changed since the one before. What is announced of
    links drops them from the cache; while nothing can be heard, cached links are not used, unless the store does not
    answer at all.
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
        """Make an empty table that is not refreshed yet."""
        self._store = store
        self._config = config
        self._cache = cache
        self._random = random
        self._clock = clock
        self._tables: dict[tuple[str, str], ServiceTable] = {}
        self._hearings: dict[str, Hearing] = {}
        self._reading = SingleFlight[tuple[str, str], None]()
        self._watching = SingleFlight[tuple[str, str], bool]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._refreshing = PeriodicTask(
            "refresh of the pods",
            self.refresh_all,
            config.refresh,
            jitter=config.heartbeat_jitter,
            random=random,
            clock=clock,
        )

    async def start(self) -> None:
        """Begin to refresh, and to hear what is announced in the client's own namespace."""
        self._refreshing.start()
        await self._hearing(self._config.namespace).tried()

    async def stop(self) -> None:
        """End refreshing and hearing. A call that is under way begins neither again."""
        self._stopped = True
        await self._refreshing.stop()
        for hearing in self._hearings.values():
            await hearing.stop()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def peek(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service as it is, be it empty."""
        table = self._tables.get((namespace, service_name))
        if table is None:
            table = ServiceTable(namespace, service_name, self._config.settle)
            self._tables[namespace, service_name] = table
            table.serve_cached(self._hearing(namespace).serves_cached)
        table.last_used = self._clock()
        table.used = True
        return table

    def pod_state(self, namespace: str, service_name: str, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if the table of its service is there and has it."""
        table = self._tables.get((namespace, service_name))
        if table is None:
            return None
        table.last_used = self._clock()
        table.used = True
        return table.state(pod_index)

    async def table(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service, read from the store the first time.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        table = self.peek(namespace, service_name)
        if not table.loaded:
            await self.read(table)
        return table

    async def fresh_table(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service, read from the store if it is older than that of a service in use.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        table = self.peek(namespace, service_name)
        if not table.loaded or self._clock() - table.changes_read_at > 2 * self._config.refresh:
            try:
                await self.read(table)
            except StoreError:
                if not table.loaded:
                    raise
        return table

    async def read(self, table: ServiceTable) -> None:
        """Read the table from the store; callers at the same time share one reading.

        Raises:
            StoreError: if it cannot be read.

        """
        if not self._stopped:
            await self._hearing(table.namespace).tried()
        await self._reading.run((table.namespace, table.service_name), lambda: self._read(table, table.version))

    async def refresh_all(self) -> None:
        """Read the tables that are in use, and drop those of which no cached link is left.

        That is so when nothing was looked up in the store for a cache TTL. Those of idle services have their own time.
        """
        oldest = self._clock() - self._config.cache_ttl - self._config.refresh
        for key in [key for key, table in self._tables.items() if table.last_used < oldest]:
            del self._tables[key]
        await self._forget_namespaces()
        for hearing in self._hearings.values():
            hearing.check_grace()
        async with anyio.create_task_group() as group:
            for table in tuple(self._tables.values()):
                if not (table.awaited and self._is_idle(table)):
                    group.start_soon(self._refresh, table)

    def store_answered(self, namespace: str) -> None:
        """Note that the store answered a call."""
        hearing = self._hearings.get(namespace)
        if hearing is not None:
            hearing.store_answered()

    def store_failed(self, namespace: str) -> None:
        """Note that the store did not answer a call."""
        self._hearing(namespace).store_failed()

    async def report_unreachable(self, table: ServiceTable, pod_index: int) -> None:
        """Avoid a pod until its next heartbeat, and look at the last one now.

        Raises:
            StoreError: if the store did not answer.

        """
        if not table.loaded:
            await self.read(table)
        reported_before = table.pod(pod_index).reported is not None
        table.report_unreachable(pod_index, self._clock())
        if not reported_before or self._clock() - table.read_at >= _BETWEEN_LOOKS:
            await self._look(table)

    async def bury(self, table: ServiceTable, life: PodLife) -> bool:
        """Return whether a life of a pod that a link names is dead, so that another pod may take the link.

        Raises:
            StoreError: if the store had to be asked, and did not answer.

        """
        pod = table.pod(life.pod_index)
        if pod.reported is not None and self._clock() - table.read_at >= _BETWEEN_LOOKS:
            await self._look(table)
        if not table.is_dead(life):
            # Or no pod of that index is known, and none has come in the time in which a living one would have.
            lease = max(self._config.lease_seconds, pod.absent_lease)
            absent = pod.state is None and table.absent_for(pod) >= lease
            confirmable = absent or life in table.confirmable()
            if not (confirmable and await self._confirm(table, life)):
                return False
        table.met_dead(life)
        return True

    async def _forget_namespaces(self) -> None:
        """Stop listening where no service is in use any more."""
        used = {self._config.namespace, *(namespace for namespace, _ in self._tables)}
        for namespace in [namespace for namespace in self._hearings if namespace not in used]:
            await self._hearings.pop(namespace).stop()

    async def _look(self, table: ServiceTable) -> None:
        await self.read(table)
        await self._confirm_deaths(table)

    async def _watch(self, table: ServiceTable) -> None:
        """See which leases have ended, as ``_look`` does, and nothing else unless other pods live than are known.

        So a death, or a new pod, of which no announcement was heard is seen too.
        """
        if not await self._watching.run((table.namespace, table.service_name), lambda: self._read_since(table, None)):
            await self.read(table)
        await self._confirm_deaths(table)

    async def _read(self, table: ServiceTable, version: int) -> None:
        if not await self._read_since(table, version):
            _log.debug("the changes in the pods of %r are not all: they are read as a whole", table.service_name)
            await self._read_since(table, 0)

    async def _read_since(self, table: ServiceTable, version: int | None) -> bool:
        """Read what has changed since that version, if any; return whether nothing is missing then."""
        read_at = self._clock()
        if version is not None:
            table.used = False
        try:
            pods = await self._store.read_pods(table.namespace, table.service_name, since=version, also=table.asked_for)
        except StoreError:
            table.broken()
            self.store_failed(table.namespace)
            raise
        self._hearing(table.namespace).store_answered()
        if read_at < table.read_at:  # a watch has overtaken a reading, or the other way round
            return version is None
        if version is not None:
            table.changes_read_at = read_at
        return table.apply(pods, read_at, longest_gap=2 * self._config.refresh + self._config.call_deadline)

    def _is_idle(self, table: ServiceTable) -> bool:
        """Whether nobody asks for uids that are not cached, and no pod is in doubt: only deaths matter."""
        return not table.used and not table.doubted

    async def _refresh(self, table: ServiceTable, *, watch: bool = False) -> None:
        try:
            await (self._watch(table) if watch else self._look(table))
        except StoreError as error:
            _log.debug("the pods of %r cannot be read: %s", table.service_name, error)
            return
        if not table.awaited:
            table.awaited = True
            self._spawn(self._await_end(table))

    async def _await_end(self, table: ServiceTable) -> None:
        """Look at a table just after a lease in it may have ended, or before its view is broken."""
        while left := table.next_look(self._clock()):  # noqa: ASYNC110 - time itself is waited for
            await anyio.sleep(left + _AFTER_LEASE)
        table.awaited = False
        if left is not None and self._tables.get((table.namespace, table.service_name)) is table:
            await self._refresh(table, watch=self._is_idle(table))

    async def _confirm_deaths(self, table: ServiceTable) -> None:
        # All clients do this at once: each in an order of its own, and what one confirms the others hear.
        lives = table.confirmable()
        self._random.shuffle(lives)
        for life in lives:
            if not table.is_dead(life):
                await self._confirm(table, life)

    async def _confirm(self, table: ServiceTable, life: PodLife) -> bool:
        dead = await self._store.confirm_death(table.namespace, table.service_name, life, self._config.pod_retention)
        if dead:
            table.mark_dead(life)
        return dead

    def _hearing(self, namespace: str) -> Hearing:
        hearing = self._hearings.get(namespace)
        if hearing is None:
            hearing = self._hearings[namespace] = Hearing(
                self._store,
                namespace,
                self._heard,
                self._serve_cached,
                patience=self._config.listen_patience,
                grace=self._config.degraded_grace,
                random=self._random,
                clock=self._clock,
            )
            if not self._stopped:
                hearing.start()
        return hearing

    def _heard(self, announcement: Announcement) -> None:
        if isinstance(announcement, LinkAnnouncement):
            key = announcement.key
            self._cache.outdate((key.namespace, key.uid, key.service_name), announcement.epoch)
            return
        table = self._tables.get((announcement.namespace, announcement.service_name))
        if table is None:
            return
        all_said = table.take_in(announcement)
        if not table.refreshing and not (all_said and not self._is_being_read(table)):
            table.refreshing = True
            self._spawn(self._refresh_announced(table))

    async def _refresh_announced(self, table: ServiceTable) -> None:
        """Read a table for what was announced: at once, or together with what else is announced in the next moment."""
        pause = table.announced_at + _BETWEEN_ANNOUNCED * (1 + self._random.random()) - self._clock()
        if pause > 0:
            await anyio.sleep(pause)
        again = self._is_being_read(table)  # by a reading that may be older than what was announced
        # Before a reading begins: what is announced from here on may not be in it.
        table.refreshing = False
        table.announced_at = self._clock()
        if again:
            await self._refresh(table)
        await self._refresh(table)

    def _is_being_read(self, table: ServiceTable) -> bool:
        key = (table.namespace, table.service_name)
        return self._reading.is_under_way(key) or self._watching.is_under_way(key)

    def _serve_cached(self, namespace: str, *, serves: bool, flush: bool) -> None:
        if flush:
            self._cache.flush(namespace)
        for table in self._tables.values():
            if table.namespace == namespace:
                table.serve_cached(serves)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
