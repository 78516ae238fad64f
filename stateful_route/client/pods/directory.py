"""Keeps the tables of the services in use, hears what is announced, and confirms deaths. Off the path of a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.periodic import PeriodicTask
from stateful_route._background.tasks import Tasks
from stateful_route._deadline import within
from stateful_route._single_flight import SingleFlight
from stateful_route.client.coherence import InvalidationListener
from stateful_route.client.pods.service import Doubts, ServiceTable
from stateful_route.errors import StoreError
from stateful_route.models import LinkAnnouncement, PodLife

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from stateful_route.client.cache.links import LinkCache
    from stateful_route.client.pods.pod import Pod
    from stateful_route.config import BaseConfig
    from stateful_route.models import Announcement, PodState
    from stateful_route.store.protocol import Store

_log = logging.getLogger("stateful_route")

# Seconds: after the lease of a pod has ended, between two looks at a pod that was reported unreachable, and between two
# readings for what was announced.
_AFTER_LEASE = 0.005
_BETWEEN_LOOKS = 0.1
_BETWEEN_ANNOUNCED = 0.25

# Seconds between two readings, at least, while somebody waits for what is lost to be claimed again; twice it at most.
_BETWEEN_POLLS = 0.05

# The share of a deadline that the first call for a service may wait for the subscription.
_HEARING = 0.4

# Seconds: for what will be so by then one waits, and does not read once more. Replies are late by as much.
_SOON = 0.02


class RoutingTable:
    """The tables of all services in use, and what keeps them true.

    They are read each ``refresh`` seconds, when a pod is announced to be in another state, and when the lease of a pod
    is about to end. Of those in which nothing was looked up since, as all is in the cache, only the leases are watched,
    just often enough to see a pod die. A reading brings what has changed since the one before. What is announced is
    no truth, for anybody may announce, and one channel serves all databases of a server: that a link has changed drops
    it from the cache, and that a pod has changed makes the client read. While nothing can be heard, cached links are
    not used, unless the store does not answer at all.
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
        self._listeners: dict[tuple[str, str], InvalidationListener] = {}
        self._doubts: dict[str, Doubts] = {}
        deadline = config.call_deadline_seconds
        self._reading = SingleFlight[tuple[str, str], None](deadline, "read_pods", writes=False)
        self._watching = SingleFlight[tuple[str, str], bool](deadline, "read_pods", writes=False)
        self._left: set[InvalidationListener] = set()
        """Those that listen no more, and may still be ending."""
        self._tasks = Tasks()
        self._stopped = False
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
        """End refreshing and listening. A call in flight, or made meanwhile, begins neither again."""
        self._stopped = True
        self._left.update(self._listeners.values())
        for listener in self._left:
            listener.close()  # all of them before the first await: who waits for one goes on
        await self._refreshing.stop()
        await self._tasks.stop()
        await self._end_listeners()

    def peek(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service as it is, be it empty."""
        table = self._tables.get((namespace, service_name))
        if table is None:
            doubts = self._doubts.setdefault(namespace, Doubts())
            lease = self._config.lease_seconds
            table = ServiceTable(namespace, service_name, self._config.settle, doubts, lease)
            self._listeners[namespace, service_name] = self._listen(table)  # one that cannot listen is none
            self._tables[namespace, service_name] = table
        table.reads.last_used = self._clock()
        table.reads.used = True
        return table

    def was_tried(self, table: ServiceTable) -> bool:
        """Whether it is heard what the clients of a service are told, or was tried once."""
        listener = self._listeners.get((table.namespace, table.service_name))
        return listener is None or listener.was_tried  # none: the table was not used for long, and dropped

    async def tried(self, table: ServiceTable) -> None:
        """Return once that is so: what is cached before is dropped then.

        A subscription that takes long keeps nobody from asking the store, but for a share of the deadline.
        """
        listener = self._listeners.get((table.namespace, table.service_name))
        if listener is not None and not listener.was_tried:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARING * self._config.call_deadline_seconds):
                    await listener.tried()

    def pod_state(self, namespace: str, service_name: str, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod, if the table of its service is there and has it."""
        table = self._tables.get((namespace, service_name))
        if table is None:
            return None
        table.reads.last_used = self._clock()
        table.reads.used = True
        return table.state(pod_index)

    async def fresh_table(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service, read from the store if it is older than that of a service in use.

        Raises:
            StoreError: if it was never read, and cannot be read now.

        """
        table = self.peek(namespace, service_name)
        if not table.loaded or self._clock() - table.reads.changes_read_at > 2 * self._config.refresh:
            try:
                async with within(self._config.call_deadline_seconds, "pods", writes=False):
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
        await self.tried(table)
        await self._reading.run((table.namespace, table.service_name), lambda: self._read(table, table.version))

    async def read_anew(self, table: ServiceTable) -> None:
        """Read the table by a reading that begins after what made it doubtful; callers at the same time share it.

        Raises:
            StoreError: if it cannot be read.

        """
        await self.read(table)
        if table.doubtful:  # the reading may have begun before
            await self.read(table)

    def is_fresh(self, table: ServiceTable) -> bool:
        """Whether a table was read less than a lease ago, and the store was heard since: it is no other one by now."""
        return table.heard_throughout and self._clock() - table.read_at < min(
            table.shortest_lease, self._config.lease_seconds
        )

    async def wait(self, table: ServiceTable, pods: Collection[Pod | None]) -> None:
        """Return once a pod is missing no more, as ``ServiceTable.wait`` does; look more often meanwhile."""
        if not table.reads.polled:
            table.reads.polled = True
            self._tasks.start(self._poll(table), f"waits for pods of {table.service_name!r}")
        await table.wait(pods)

    async def refresh_all(self) -> None:
        """Read the tables that are in use, and drop those of which no cached link is left.

        That is so when nothing was looked up in the store for a cache TTL. Those of idle services have their own time.
        """
        oldest = self._clock() - self._config.cache_ttl - self._config.refresh
        for key in [key for key, table in self._tables.items() if table.reads.last_used < oldest]:
            del self._tables[key]  # one that comes back gets another listener
            listener = self._listeners.pop(key)
            listener.close()
            self._left.add(listener)
        used = {namespace for namespace, _ in self._tables}
        self._doubts = {namespace: doubts for namespace, doubts in self._doubts.items() if namespace in used}
        await self._end_listeners()
        for listener in self._listeners.values():
            listener.check_grace()
        async with anyio.create_task_group() as group:
            for table in tuple(self._tables.values()):
                if not self._is_watched(table):
                    group.start_soon(self._refresh, table)

    def store_answered(self, namespace: str, service_name: str) -> None:
        """Note that the store answered a call."""
        listener = self._listeners.get((namespace, service_name))
        if listener is not None:
            listener.store_answered()

    def store_failed(self, namespace: str, service_name: str) -> None:
        """Note that the store did not answer a call: what is known of the pods is doubtful until it is read again.

        So it is once in a moment: the shard of a cluster that has some links may be away, and the others answer.
        """
        doubts = self._doubts.get(namespace)
        now = self._clock()
        if doubts is not None and now - doubts.raised_at >= _BETWEEN_LOOKS:
            doubts.raised_at = now
            doubts.count += 1
        listener = self._listeners.get((namespace, service_name))
        if listener is not None:
            listener.store_failed()

    async def report_unreachable(self, table: ServiceTable, pod_index: int) -> None:
        """Avoid a pod until its next heartbeat, and look at the last one now.

        Raises:
            StoreError: if the store did not answer.

        """
        seen = table.loaded and table.pod(pod_index).reported is not None
        table.report_unreachable(pod_index, self._clock())
        if not seen or self._clock() - table.read_at >= _BETWEEN_LOOKS:
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
            # So it is if all that is known is the death of an older life: the store had forgotten the pod before that.
            # Or it has lost the newer life, as by a failover: a pod that lives registers again in less than a lease.
            unknown = pod.state is None or (pod.state.dead and pod.state.incarnation < life.incarnation)
            if unknown:
                pod.met(life, self._clock())
            absent = unknown and table.absent_for(pod, lease) >= lease
            confirmable = absent or life in table.confirmable(self._clock() + _SOON)
            if not (confirmable and await self._confirm(table, life)):
                return False
        table.met_dead(life)
        return True

    async def _poll(self, table: ServiceTable) -> None:
        """Read a table often, as long as somebody waits for its pods."""
        try:
            while True:
                await anyio.sleep(_BETWEEN_POLLS * (1 + self._random.random()))
                if not table.waited_for:
                    return
                await self._refresh(table)
        finally:
            table.reads.polled = False

    async def _end_listeners(self) -> None:
        for listener in tuple(self._left):
            await listener.stop()
            self._left.discard(listener)

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
        raised, missing = table.raised, table.misses_pods
        if version is not None:
            table.reads.used = False
        try:
            pods = await self._store.read_pods(table.namespace, table.service_name, since=version, also=table.asked_for)
        except StoreError:
            table.broken()
            table.doubt()
            self.store_failed(table.namespace, table.service_name)
            raise
        received_at = self._clock()
        self.store_answered(table.namespace, table.service_name)
        if read_at < table.read_at:  # a watch has overtaken a reading, or the other way round
            return version is None
        if version is not None:
            table.reads.changes_read_at = read_at
        longest_gap = 2 * self._config.refresh + self._config.call_deadline_seconds
        complete = table.apply(pods, read_at, longest_gap, received_at)
        self._flush_departed(table)
        if complete and version is not None:
            table.resume(read_at)
            table.cleared = raised
            table.heard_throughout = table.serves_cached and table.raised == raised
        if table.misses_pods and not missing:
            # Pods are gone, so links may be: nobody announced that, as it happens to a store that is emptied.
            self._cache.flush(table.namespace, table.service_name)
        elif complete and not table.recovering and table.raised == raised:
            # The store has lost nothing. Links change unheard as long as nothing can be heard.
            table.hints_hold = table.serves_cached
            if table.serves_cached:
                self._cache.drop_hints(table.namespace, table.service_name)
        return complete

    def _is_idle(self, table: ServiceTable) -> bool:
        """Whether nobody asks for uids that are not cached, and no pod is in doubt: only deaths matter."""
        return not table.reads.used and not table.doubted

    def _is_watched(self, table: ServiceTable) -> bool:
        """Whether all that matters in a table is seen without a reading now."""
        if not self._is_idle(table):
            return False
        if table.reads.awaited:
            return True
        # No pod is alive, and one that comes is announced: so it was since the table was read.
        listener = self._listeners.get((table.namespace, table.service_name))
        return (
            table.loaded
            and listener is not None
            and table.reads.changes_read_at > listener.listening_since
            and table.next_look(self._clock()) is None
        )

    async def _refresh(self, table: ServiceTable, *, watch: bool = False) -> None:
        try:
            await (self._watch(table) if watch else self._look(table))
        except StoreError as error:
            _log.debug("the pods of %r cannot be read: %s", table.service_name, error)
            return
        except Exception:  # noqa: BLE001 - of a store that keeps no contract: the next reading is made all the same
            _log.exception("the pods of %r cannot be read", table.service_name)
            return
        if not table.reads.awaited:
            table.reads.awaited = True
            self._tasks.start(self._await_end(table), f"awaits the end of a lease in {table.service_name!r}")

    async def _await_end(self, table: ServiceTable) -> None:
        """Look at a table just after a lease in it may have ended, or before its view is broken."""
        while left := table.next_look(self._clock()):  # noqa: ASYNC110 - time itself is waited for
            await anyio.sleep(left + _AFTER_LEASE)
        table.reads.awaited = False
        if left is not None and self._tables.get((table.namespace, table.service_name)) is table:
            await self._refresh(table, watch=self._is_idle(table))

    async def _confirm_deaths(self, table: ServiceTable) -> None:
        # All clients do this at once: each in an order of its own, and what one has confirmed the others need not.
        lives = table.confirmable(self._clock() + _SOON)
        self._random.shuffle(lives)
        left_out = False
        for life in lives:
            if life in table.rumoured:
                left_out = True
            elif not table.is_dead(life):
                await self._confirm(table, life)
        if left_out:  # the store says whether that is so
            await self.read(table)
            for life in table.confirmable(self._clock() + _SOON):
                if not table.is_dead(life):
                    await self._confirm(table, life)

    async def _confirm(self, table: ServiceTable, life: PodLife) -> bool:
        early = table.ripe_at(life) - self._clock()
        if early > 0:
            await anyio.sleep(early)
        dead = await self._store.confirm_death(
            table.namespace, table.service_name, life, self._config.retention_seconds
        )
        if dead:
            table.mark_dead(life)
            self._flush_departed(table)
        return dead

    def _flush_departed(self, table: ServiceTable) -> None:
        for pod in table.take_departed():
            self._cache.flush_pod(table.namespace, table.service_name, pod)

    def _listen(self, table: ServiceTable) -> InvalidationListener:
        """Begin to listen to what the clients of a service are told."""
        listener = InvalidationListener(
            table,
            self._heard,
            self._cache.flush,
            grace=self._config.degraded_grace,
            clock=self._clock,
            own=table.namespace == self._config.namespace,
        )
        if self._stopped:
            listener.close()
        else:
            listener.start(self._store, patience=self._config.listen_patience, random=self._random)
        return listener

    def _heard(self, announcement: Announcement) -> None:
        if isinstance(announcement, LinkAnnouncement):
            key = announcement.key
            self._cache.outdate((key.namespace, key.uid, key.service_name), announcement.epoch)
            return
        table = self._tables.get((announcement.namespace, announcement.service_name))
        if table is None:
            return
        table.take_in(announcement, self._clock())
        self.read_soon(table)

    def read_soon(self, table: ServiceTable) -> None:
        """Read a table without waiting for it."""
        if not table.reads.refreshing:
            table.reads.refreshing = True
            self._tasks.start(self._refresh_announced(table), f"reads the pods of {table.service_name!r}")

    async def _refresh_announced(self, table: ServiceTable) -> None:
        """Read a table for what was announced: at once, or together with what else is announced in the next moment."""
        pause = table.reads.announced_at + _BETWEEN_ANNOUNCED * (1 + self._random.random()) - self._clock()
        if pause > 0:
            await anyio.sleep(pause)
        again = self._is_being_read(table)  # by a reading that may be older than what was announced
        # Before a reading begins: what is announced from here on may not be in it.
        table.reads.refreshing = False
        table.reads.announced_at = self._clock()
        if again:
            await self._refresh(table)
        await self._refresh(table)

    def _is_being_read(self, table: ServiceTable) -> bool:
        key = (table.namespace, table.service_name)
        return self._reading.is_under_way(key) or self._watching.is_under_way(key)
