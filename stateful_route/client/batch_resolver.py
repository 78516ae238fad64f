"""What a client does for many uids that are not cached: a few questions for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._deadline import within
from stateful_route.client.recovery import not_yet
from stateful_route.client.resolver import AWAY, CACHED_KINDS, nowhere
from stateful_route.errors import StoreError, StoreProtocolError
from stateful_route.links import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.client.batch import Answers
    from stateful_route.client.pods.pod import Pod
    from stateful_route.client.pods.reader import PodReader
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.client.resolver import Resolver
    from stateful_route.pods import PodLife
    from stateful_route.store.protocol import Store


class BatchResolver:
    """Asks the store for the links of many uids of one service, and makes them, as ``Resolver`` does for one."""

    def __init__(
        self,
        store: Store,
        reader: PodReader,
        resolver: Resolver,
        *,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        """Choose pods by ``resolver``, and count there; for the others see ``Resolver``."""
        self._store = store
        self._reader = reader
        self._resolver = resolver
        self._recovery = resolver.recovery
        self._deadline = deadline
        self._clock = clock

    async def find(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Return the link of each uid that has one that can be read, and keep these in the cache.

        A uid for which the store did not answer has an error instead.
        """
        self._resolver.counts.misses += len(uids)
        if service.listener.was_tried:
            return await self._find_now(service, uids)
        try:
            async with within(self._deadline, "get_links", writes=False):
                await self._reader.tried(service)
                return await self._find_now(service, uids)
        except StoreError as error:
            return dict.fromkeys(uids, error)

    async def place(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Return the link of each uid, made for pods of the strategy's choice where there is none.

        A uid for which the store did not answer has an error instead.

        Raises:
            NoRoutablePodError: if one has none, and no pod takes new uids.
            NoCapacityError: if the pods that take new uids have no room for all that have none; none was placed.
            StoreError: if what is known of the pods is not enough, and the store did not tell it.

        """
        began = asyncio.get_running_loop().time()
        placed: Answers = {}
        if service.placements.has_room(len(uids)) and self._resolver.placer.candidates(service, uids):
            self._resolver.counts.misses += len(uids)
            placed = await self._place_all(service, uids)
        else:
            try:
                async with within(self._deadline, "place_links", since=began):
                    placed = await self._place_where_room_is(service, uids, began + self._deadline)
            except AWAY:
                self._reader.store_failed(service)
                raise
        owners = {link.pod_index for link in placed.values() if isinstance(link, Link)}
        suspects = {pod_index for pod_index in owners if not service.pod(pod_index).trusted}
        if suspects:
            suspected = [uid for uid, link in placed.items() if isinstance(link, Link) and link.pod_index in suspects]
            try:
                async with within(self._deadline, "place_links", since=began):
                    await self._recovery.settled(service, began + self._deadline)
                    placed |= await self._place_stranded(service, placed, suspected)
            except StoreError as error:
                placed |= dict.fromkeys(suspected, error)
                self._note(service, placed)
        return placed

    async def _find_now(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        found: Answers = {}
        kept: list[tuple[str, Pod, Link]] = []
        asked_at = self._clock()
        try:
            answers = await self._store.get_links(service.namespace, uids, service.service_name)
        except StoreError as error:
            answers = [error] * len(uids)
        for uid, answer in zip(uids, answers, strict=True):
            if isinstance(answer, StoreProtocolError):
                self._resolver.counts.unreadable += 1
            elif answer is not None:
                found[uid] = answer
                if isinstance(answer, Link) and answer.kind in CACHED_KINDS:
                    kept.append((uid, service.pod(answer.pod_index), answer))
        service.links.put_all(kept, asked_at)
        if found and not service.loaded:  # or nobody finds out for a while that a pod is dead
            self._reader.read_soon(service)
        self._note(service, found)
        return found

    async def _place_where_room_is(self, service: ServicePods, uids: Sequence[str], until: float) -> Answers:
        """Place uids once it is known where: the pods seem to have no room, or the store to be another one."""
        await self._recovery.read_anew(service)
        placed: Answers = {}
        if self._recovery.may_be_elsewhere(service, uids):
            placed = await self._place_recovering(service, uids, until)
            uids = [uid for uid in uids if uid not in placed]
        if service.table.settling:
            placed |= await self._found_alive(service, uids)
            uids = [uid for uid in uids if uid not in placed]
            if uids:
                await self._recovery.settled(service, until)
        if not service.placements.has_room(len(uids)):
            placed |= await self._found_alive(service, uids)
            uids = [uid for uid in uids if uid not in placed]
            if uids and not service.placements.has_room(len(uids)):
                raise nowhere(service)
        else:
            self._resolver.counts.misses += len(uids)
        return placed | await self._place_all(service, uids) if uids else placed

    async def _found_alive(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Return the links of those uids that have one whose owner is not known to be dead."""
        found = await self.find(service, uids)
        return {
            uid: link
            for uid, link in found.items()
            if not (isinstance(link, Link) and link.owner in service.suspicion.dead)
        }

    async def _place_recovering(self, service: ServicePods, uids: Sequence[str], until: float) -> Answers:
        """Place those of which it is known that no other pod has them, and wait for the others.

        Raises:
            NoRoutablePodError: if that takes too long.

        """
        placed: Answers = {}
        asked = False
        while True:
            ready, missing = self._recovery.ready_and_missing(service, uids)
            if ready:
                self._resolver.counts.misses += len(ready)
                placed |= await self._place_all(service, ready)
            uids = [uid for uid in uids if uid not in placed]
            last = asked and self._recovery.time_is_up(until)
            if uids and (last or not asked):
                asked = True
                found = await self._found_alive(service, uids)
                fading = [
                    uid for uid, link in found.items() if isinstance(link, Link) and link.kind not in CACHED_KINDS
                ]
                if fading and service.placements.has_room(len(fading)):  # a placement revives a link in grace
                    found |= await self._place_all(service, fading)
                if found:  # the others may wait for less
                    placed |= found
                    uids = [uid for uid in uids if uid not in placed]
                    continue
            if not missing:  # of none that is left
                return placed
            if last:
                raise not_yet(service, missing)
            await self._recovery.wait(service, missing, until)

    async def _place_stranded(self, service: ServicePods, placed: Answers, doubtful: Sequence[str]) -> Answers:
        """Place those again whose owner is dead, though the store was not told so when it was asked for them."""
        dead: dict[PodLife, bool] = {}
        stranded: list[str] = []
        for uid in doubtful:
            link = placed[uid]
            if isinstance(link, Link):
                if link.owner not in dead:
                    dead[link.owner] = await self._resolver.is_stranded(service, link)
                if dead[link.owner]:
                    stranded.append(uid)
        if not stranded:
            return {}
        if not service.placements.has_room(len(stranded)):
            raise nowhere(service)
        return await self._place_all(service, stranded)

    async def _place_all(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Place uids, each on a pod of the strategy's choice."""
        placed: Answers = {}
        lost: list[str] = []
        for uid, outcome in zip(uids, await self._resolver.placer.place_all(service, uids), strict=True):
            if outcome is None and not service.doubtful:
                raise nowhere(service)
            if outcome is None:
                lost.append(uid)
            else:
                placed[uid] = outcome if isinstance(outcome, StoreError) else outcome[2]
        if not lost:
            self._note(service, placed)
            return placed
        # The store has lost the pods that were known: these may be those of living pods.
        async with within(self._deadline, "place_links"):
            until = asyncio.get_running_loop().time() + self._deadline
            return placed | await self._place_where_room_is(service, lost, until)

    def _note(self, service: ServicePods, answers: Answers) -> None:
        """Note whether the store answered for all uids, or is away."""
        errors = [answer for answer in answers.values() if isinstance(answer, StoreError)]
        if not errors:
            service.listener.store_answered()
        elif any(isinstance(error, AWAY) for error in errors):
            self._reader.store_failed(service)
