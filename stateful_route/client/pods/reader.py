"""Reads the tables of the pods of services when that is due, and confirms deaths. Off the path of a call."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.tasks import Tasks
from stateful_route._deadline import within
from stateful_route._log import log
from stateful_route._single_flight import SingleFlight
from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from random import Random

    from stateful_route.client.pods.pod import Pod
    from stateful_route.client.pods.service import Announced, ServicePods
    from stateful_route.config import BaseConfig
    from stateful_route.pods import PodLife
    from stateful_route.store.protocol import Store

# Seconds: after the lease of a pod has ended, and between two looks at a pod that was reported unreachable.
_AFTER_LEASE = 0.005
_BETWEEN_LOOKS = 0.1

# Seconds between two readings, at least, while somebody waits for what is lost to be claimed again; twice it at most.
_BETWEEN_POLLS = 0.05

# The share of a deadline that the first call for a service may wait for the subscription.
_HEARING = 0.4

# Seconds: for what will be so by then one waits, and does not read once more. Replies are late by as much.
_SOON = 0.02


class PodReader:
    """Reads the tables of the services in use.

    A reading brings what has changed since the one before. A table is read each ``refresh`` seconds, for which there is
    ``PodDirectory``, when a pod is announced to be in another state, and when the lease of a pod is about to end. Of a
    table in which nothing was looked up since, as all is in the cache, only the leases are watched, just often enough
    to see a pod die.
    """

    def __init__(
        self,
        store: Store,
        config: BaseConfig,
        services: Mapping[tuple[str, str], ServicePods],
        *,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        """Read from ``store`` the tables of ``services``, those in use by namespace and name."""
        self._store = store
        self._config = config
        self._services = services
        self._random = random
        self._clock = clock
        self._doubted_at: dict[str, float] = {}
        """When the services of a namespace were last doubted because of a call, on the clock of this process."""
        deadline = config.call_deadline_seconds
        self._reading: SingleFlight[ServicePods, None] = SingleFlight(deadline, "read_pods", writes=False)
        self._watching: SingleFlight[ServicePods, bool] = SingleFlight(deadline, "read_pods", writes=False)
        self._tasks = Tasks()

    async def stop(self) -> None:
        """End what reads."""
        await self._tasks.stop()

    async def tried(self, service: ServicePods) -> None:
        """Return once announcements for a service are heard, or a first attempt has failed: the cache is dropped then.

        A subscription that takes long keeps nobody from asking the store, but for a share of the deadline.
        """
        if not service.listener.was_tried:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARING * self._config.call_deadline_seconds):
                    await service.listener.tried()

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
        return service.heard_throughout and self._clock() - service.freshness.read_at < min(
            service.freshness.shortest_lease or math.inf, self._config.lease_seconds
        )

    async def wait(self, service: ServicePods, pods: Collection[Pod | None]) -> None:
        """Return once a pod is missing no more, as ``ServicePods.wait`` does; look more often meanwhile."""
        if not service.reads.polled:
            service.reads.polled = True
            self._tasks.start(self._poll(service), f"waits for pods of {service.service_name!r}")
        await service.missing.wait(pods)

    def read_soon(self, service: ServicePods, *, death: bool = False) -> None:
        """Read a table without waiting for it, and sooner if a death was announced."""
        announced = service.reads.deaths if death else service.reads.changes
        if not announced.refreshing:
            announced.refreshing = True
            work = self._refresh_announced(service, announced)
            self._tasks.start(work, f"reads the pods of {service.service_name!r}")

    def store_failed(self, service: ServicePods) -> None:
        """Note that the store did not answer a call: what is known of the pods is doubtful until it is read again.

        So it is once in a moment: the shard of a cluster that has some links may be away, and the others answer.
        """
        now = self._clock()
        namespace = service.namespace
        if now - self._doubted_at.get(namespace, -math.inf) >= _BETWEEN_LOOKS:
            recent = {each: at for each, at in self._doubted_at.items() if now - at < _BETWEEN_LOOKS}
            self._doubted_at = recent | {namespace: now}
            for other in self._services.values():
                if other.namespace == namespace:
                    other.doubt()
        service.listener.store_failed()

    async def report_unreachable(self, service: ServicePods, pod_index: int) -> None:
        """Avoid a pod until its next heartbeat, and look at the last one now.

        Raises:
            StoreError: if the store did not answer.

        """
        service.reads.used = True
        seen = service.loaded and service.pod(pod_index).reported is not None
        service.report_unreachable(pod_index, self._clock())
        if not seen or self._clock() - service.freshness.read_at >= _BETWEEN_LOOKS:
            async with within(self._config.call_deadline_seconds, "report_unreachable"):
                await self._look(service)

    async def bury(self, service: ServicePods, life: PodLife) -> bool:
        """Return whether a life of a pod that a link names is dead, so that another pod may take the link.

        Raises:
            StoreError: if the store had to be asked, and did not answer.

        """
        pod = service.pod(life.pod_index)
        if pod.reported is not None and self._clock() - service.freshness.read_at >= _BETWEEN_LOOKS:
            await self._look(service)
        if life not in service.suspicion.dead:
            # Or no pod of that index is known, and none has come in the time in which a living one would have.
            lease = max(self._config.lease_seconds, pod.absent_lease)
            # So it is if all that is known is the death of an older life: the store had forgotten the pod before that.
            # Or it has lost the newer life, as by a failover: a pod that lives registers again in less than a lease.
            unknown = pod.state is None or (pod.state.dead and pod.state.incarnation < life.incarnation)
            if unknown:
                pod.met(life, self._clock())
            absent = unknown and service.missing.absent_for(pod, lease) >= lease
            confirmable = absent or life in service.suspicion.confirmable(self._clock() + _SOON)
            if not (confirmable and await self._confirm(service, life)):
                return False
        service.suspicion.dead.met(life, service.freshness.now or 0.0)
        return True

    def is_watched(self, service: ServicePods) -> bool:
        """Whether all that matters in a table is seen without a reading now."""
        if not self._is_idle(service):
            return False
        if service.reads.awaited:
            return True
        # No pod is alive, and one that comes is announced: so it was since the table was read.
        return (
            service.loaded
            and service.reads.changes_read_at > service.listener.listening_since
            and service.suspicion.next_look(self._clock()) is None
        )

    async def refresh(self, service: ServicePods, *, watch: bool = False) -> None:
        """Look at a table, or only watch its leases, and from now on look again when the next lease ends."""
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

    # Reading -------------------------------------------------------------------------------------------------------

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
        doubts, missing = service.doubts, bool(service.missing.absent)
        if version is not None and service.reads.used:
            service.reads.used = False
            service.reads.last_used = read_at
        try:
            pods = await self._store.read_pods(
                service.namespace, service.service_name, since=version, also=service.suspicion.asked_for
            )
        except StoreError:
            service.freshness.broken()
            service.doubt()
            self.store_failed(service)
            raise
        received_at = self._clock()
        service.listener.store_answered()
        if read_at < service.freshness.read_at:  # a watch has overtaken a reading, or the other way round
            return version is None
        if version is not None:
            service.reads.changes_read_at = read_at
        longest_gap = 2 * self._config.refresh + self._config.call_deadline_seconds
        complete = service.apply(pods, read_at, longest_gap, received_at)
        if complete and version is not None:
            service.suspicion.resume(read_at)
            service.clear(doubts)
        self._flush_departed(service)
        if service.missing.absent and not missing:
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

    async def _await_end(self, service: ServicePods) -> None:
        """Look at a table just after a lease in it may have ended, or before its view is broken."""
        while left := service.suspicion.next_look(self._clock()):  # noqa: ASYNC110 - time itself is waited for
            await anyio.sleep(left + _AFTER_LEASE)
        service.reads.awaited = False
        if left is not None and self._services.get((service.namespace, service.service_name)) is service:
            await self.refresh(service, watch=self._is_idle(service))

    async def _poll(self, service: ServicePods) -> None:
        """Read a table often, as long as somebody waits for its pods."""
        try:
            while True:
                await anyio.sleep(_BETWEEN_POLLS * (1 + self._random.random()))
                if not service.missing.waited_for:
                    return
                await self.refresh(service)
        finally:
            service.reads.polled = False

    async def _refresh_announced(self, service: ServicePods, announced: Announced) -> None:
        """Read a table for what was announced: at once, or together with what else is announced in the next moment."""
        pause = announced.read_at + announced.pause * (1 + self._random.random()) - self._clock()
        if pause > 0:
            await anyio.sleep(pause)
        again = self._is_being_read(service)  # by a reading that may be older than what was announced
        # Before a reading begins: what is announced from here on may not be in it.
        announced.begin(self._clock())
        if again:
            await self.refresh(service)
        await self.refresh(service)

    def _is_being_read(self, service: ServicePods) -> bool:
        return self._reading.is_in_flight(service) or self._watching.is_in_flight(service)

    # Deaths --------------------------------------------------------------------------------------------------------

    async def _confirm_deaths(self, service: ServicePods) -> None:
        # All clients do this at once: each in an order of its own, and what one has confirmed the others need not.
        lives = service.suspicion.confirmable(self._clock() + _SOON)
        self._random.shuffle(lives)
        left_out = False
        for life in lives:
            if life in service.suspicion.rumoured:
                left_out = True
            elif life not in service.suspicion.dead:
                await self._confirm(service, life)
        if left_out:  # the store says whether that is so
            await self.read(service)
            for life in service.suspicion.confirmable(self._clock() + _SOON):
                if life not in service.suspicion.dead:
                    await self._confirm(service, life)

    async def _confirm(self, service: ServicePods, life: PodLife) -> bool:
        early = service.suspicion.ripe_at(service.pod(life.pod_index)) - self._clock()
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
        departed = service.suspicion.take_departed()
        for pod in departed:
            service.links.flush_pod(pod)
        if departed:
            service.suspicion.departures.note()
