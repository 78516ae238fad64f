"""What a client does when the cache has no answer: ask the store, place, and remember."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._deadline import within
from stateful_route._single_flight import SingleFlight
from stateful_route.client.placer import Placer
from stateful_route.client.recovery import Recovery, not_yet
from stateful_route.errors import (
    NoCapacityError,
    NoRoutablePodError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.links import LinkKey, LinkKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.client.pods.pod import Pod
    from stateful_route.client.pods.reader import PodReader
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.links import Link
    from stateful_route.statistics import ClientCounts
    from stateful_route.store.protocol import Store

AWAY = (StoreUnavailableError, StoreTimeoutError)

# What a look-up keeps in the cache. A link in grace is left to the next placement, which has to revive it.
CACHED_KINDS = (LinkKind.TEMPORARY, LinkKind.PERSISTENT)
_PERSISTENT = (LinkKind.PERSISTENT,)
_NONE = ()

# The first finds a link whose owner has died since the pods were read, the second takes it over; one to spare.
_PLACEMENTS = 3


class Resolver:
    """Asks the store for links and makes them. Concurrent calls for one uid share one question."""

    def __init__(
        self,
        store: Store,
        reader: PodReader,
        strategy: PlacementStrategy,
        *,
        link_ttl: float,
        deadline: float,
        random: Random,
        clock: Callable[[], float],
        counts: ClientCounts,
    ) -> None:
        """Make links of ``link_ttl`` seconds, on pods that ``strategy`` chooses among those that ``reader`` reads.

        Every call ends within ``deadline`` seconds. A single question to the store has its own deadline, which is as
        long: only what needs more than that is bounded here.
        """
        self._store = store
        self._reader = reader
        self._clock = clock
        self._deadline = deadline
        self.recovery = Recovery(reader, deadline)
        self.placer = Placer(
            store,
            strategy,
            self.recovery,
            link_ttl=link_ttl,
            deadline=deadline,
            random=random,
            clock=clock,
            counts=counts,
        )
        self._placing: SingleFlight[str, Link] = SingleFlight(deadline, "place")
        self._finding: SingleFlight[tuple[ServicePods, str, tuple[LinkKind, ...]], Link | None] = SingleFlight(
            deadline, "get_link", writes=False
        )
        self.counts = counts

    @property
    def joined(self) -> int:
        """How many calls got the answer of another one for the same uid."""
        return self._placing.joined + self._finding.joined

    async def place(self, service: ServicePods, uid: str) -> Link:
        """Return the link of a uid, made for a pod of the strategy's choice if there is none.

        Raises:
            NoRoutablePodError: if there is none, and no pod takes new uids.
            NoCapacityError: if there is none, and all pods that take new uids are full.
            StoreError: if the store did not answer; ``suspect_link`` may know the link.

        """
        self.counts.misses += 1
        service.reads.used = True
        flight, placing = service.links.prefix + uid, self._placing
        if not placing.begin(flight):
            return await placing.join(flight, self._place_in_steps, service, uid)
        try:
            began = self._clock()
            asked = self.placer.place(service, uid)
            placed = None if asked is None else await asked
            if placed is not None and placed[1].trusted:
                link = placed[2]
            else:
                found = None if placed is None else placed[2]
                link = await self._place_in_steps(service, uid, found, self._clock() - began)
        except BaseException as error:
            placing.fail(flight, error)
            raise
        placing.end(flight, link)
        return link

    async def place_on(self, service: ServicePods, uid: str, pod_index: int) -> Link:
        """Return the link of a uid, made for that pod if there is none."""
        self.counts.misses += 1
        service.reads.used = True
        pod = service.pod(pod_index)
        began = asyncio.get_running_loop().time()
        link = None
        if service.loaded and not (service.doubtful or self.recovery.may_be_elsewhere(service, (uid,))):
            link = await self._place_on(service, uid, pod)
        if link is not None:
            return link
        async with within(self._deadline, "place", since=began):
            while link is None:
                await self.recovery.read_anew(service)
                link = await self._recovered(service, uid, began + self._deadline, pod)
                if link is None:
                    link = await self._place_on(service, uid, pod)
            return link

    async def choose(self, service: ServicePods) -> Pod:
        """Return a pod for a uid that is not known yet, by the strategy of a placement; it counts as one.

        Raises:
            NoRoutablePodError: if no pod takes new uids.
            NoCapacityError: if all pods that take new uids are full.
            StoreError: if the pods had to be read, and the store did not answer.

        """
        service.reads.used = True
        if service.doubtful or not service.placements.candidates:
            async with within(self._deadline, "choose", writes=False):
                await self.recovery.read_anew(service)
            if not service.placements.candidates:
                raise nowhere(service)
        return self.placer.choose(service)

    async def find(self, service: ServicePods, uid: str) -> Link | None:
        """Return the link of a uid, if there is one, and keep it in the cache."""
        return await self._look_up(service, uid, CACHED_KINDS)

    async def find_surely(self, service: ServicePods, uid: str) -> Link | None:
        """Return the link of a uid, or nothing once it is known that no pod has it that the store has lost.

        Raises:
            NoRoutablePodError: if that takes too long: pods are claiming again what they own.
            StoreError: if the store did not answer, and nothing is cached that may be used.

        """
        until = asyncio.get_running_loop().time() + self._deadline
        link = await self.find(service, uid)
        if link is not None or not (service.doubtful or self.recovery.may_be_elsewhere(service, (uid,))):
            return link
        async with within(self._deadline, "get_link", writes=False):
            await self.recovery.read_anew(service)
            found = await self._recovered(service, uid, until, places=False)
            return await self._ask(service, uid, CACHED_KINDS) if found is None else found

    async def find_persistent(self, service: ServicePods, uid: str) -> Link | None:
        """Return the link of a uid, if there is one that is persistent, and keep it in the cache."""
        link = await self._look_up(service, uid, _PERSISTENT)
        return link if link is not None and link.kind is LinkKind.PERSISTENT else None

    async def get(self, service: ServicePods, uid: str) -> Link | None:
        """Return the link of a uid, if there is one, leaving the cache alone."""
        self.counts.misses += 1
        service.reads.used = True
        try:
            return await self._finding.run((service, uid, _NONE), self._ask, service, uid, _NONE)
        except AWAY:
            self._reader.store_failed(service)
            raise

    def suspect_link(self, service: ServicePods, uid: str) -> Link:
        """Return a cached link that may be used only while the store is away; called while its error is handled."""
        self._reader.store_failed(service)
        link = service.links.link(uid)
        if link is None:
            raise  # noqa: PLE0704 - the error that is handled by the caller
        self.counts.away += 1
        return link

    # Shared with the resolver of batches -----------------------------------------------------------------------------

    async def is_stranded(self, service: ServicePods, link: Link) -> bool:
        """Whether the owner of a link is dead, though the store was not told so when it was asked for the link."""
        return not service.pod(link.pod_index).trusted and await self._reader.bury(service, link.owner)

    # Inside ----------------------------------------------------------------------------------------------------------

    async def _place_in_steps(
        self, service: ServicePods, uid: str, link: Link | None = None, elapsed: float = 0.0
    ) -> Link:
        """Place a uid that one placement is not enough for; that took so many seconds, and made or found ``link``.

        There are no candidates, its owner may be dead, or the store may be another one than it was.
        """
        began = self._placing.began(service.links.prefix + uid, asyncio.get_running_loop().time() - elapsed)
        until = began + self._deadline
        async with within(self._deadline, "place", since=began):
            placements = 0 if link is None else 1
            if link is None:
                await self.recovery.read_anew(service)
                link = await self._recovered(service, uid, until)
            if link is None and service.table.settling:
                found = await self._ask(service, uid, CACHED_KINDS)
                link = found if found is not None and found.kind in CACHED_KINDS else None
            while link is None or await self.is_stranded(service, link):
                await self.recovery.settled(service, until)
                if placements == _PLACEMENTS or not service.placements.candidates:
                    found = await self._ask(service, uid, CACHED_KINDS)
                    if found is None or found.owner in service.suspicion.dead:
                        raise nowhere(service)
                    return found
                placed = await self.placer.place_chosen(service, uid, self.recovery.preferred(service, uid))
                placements += 1
                if placed is not None:
                    link = placed[2]
                else:  # the store has lost the pods that were known
                    await self.recovery.read_anew(service)
                    link = await self._recovered(service, uid, until)
            return link

    async def _recovered(
        self, service: ServicePods, uid: str, until: float, pod: Pod | None = None, *, places: bool = True
    ) -> Link | None:
        """Return the link of a uid, or nothing once it is known that no pod has it that the store has lost.

        That is so as soon as all pods are there again and have claimed what they own, or their leases have ended. Who
        ``places`` the uid goes on before that if this client knows where it was, and that pod is claiming again what it
        owns, and is ``pod`` if one is given.

        Raises:
            NoRoutablePodError: if that takes too long.

        """
        asked = False
        recovery = self.recovery
        awaited = recovery.awaited(service, uid)
        while service.recovering or awaited is not None:
            preferred = recovery.preferred(service, uid)
            if places and preferred is not None and pod in (None, preferred):
                return None
            last = asked and recovery.time_is_up(until)
            if last or not asked:
                asked = True
                found = await self._ask(service, uid, CACHED_KINDS)
                if found is not None:
                    return found if found.kind in CACHED_KINDS else None
            if last:
                raise not_yet(service, {awaited})
            await recovery.wait(service, {awaited}, until)
            awaited = recovery.awaited(service, uid)
        return None

    async def _place_on(self, service: ServicePods, uid: str, pod: Pod) -> Link | None:
        pod.chosen()
        placed = await self.placer.place_on(service, uid, pod)
        return None if placed is None else placed[2]

    async def _look_up(self, service: ServicePods, uid: str, kept: tuple[LinkKind, ...]) -> Link | None:
        """Return the link of a uid, and keep it in the cache if it is of one of those kinds."""
        self.counts.misses += 1
        service.reads.used = True
        try:
            return await self._finding.run((service, uid, kept), self._ask, service, uid, kept)
        except AWAY:
            return self.suspect_link(service, uid)

    async def _ask(self, service: ServicePods, uid: str, kept: tuple[LinkKind, ...]) -> Link | None:
        if service.listener.was_tried:
            return await self._ask_now(service, uid, kept)
        async with within(self._deadline, "get_link", writes=False):
            await self._reader.tried(service)
            return await self._ask_now(service, uid, kept)

    async def _ask_now(self, service: ServicePods, uid: str, kept: tuple[LinkKind, ...]) -> Link | None:
        asked_at = self._clock()
        try:
            link = await self._store.get_link(LinkKey(service.namespace, uid, service.service_name))
        except StoreProtocolError:
            self.counts.unreadable += 1
            raise
        if service.store_away:
            service.listener.store_answered()
        if link is not None and link.kind in kept:
            if not service.loaded:  # or nobody finds out for a while that its pod is dead
                self._reader.read_soon(service)
            service.links.put(uid, service.pod(link.pod_index), link, asked_at)
        return link


def nowhere(service: ServicePods) -> NoRoutablePodError | NoCapacityError:
    """Return the error of a uid that has no link, and that no pod takes."""
    error = NoCapacityError if service.placements.routable else NoRoutablePodError
    return error(service.namespace, service.service_name, service.states, service.freshness.now)
