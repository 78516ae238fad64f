"""What a client does when the cache has no answer: ask the store, place, and remember."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._deadline import within
from stateful_route._single_flight import SingleFlight
from stateful_route.client.cache.links import CacheKey
from stateful_route.client.pods.pod import Pod
from stateful_route.client.recovery import Recovery, not_yet
from stateful_route.errors import (
    InvalidArgumentError,
    NoCapacityError,
    NoRoutablePodError,
    StoreError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.models import Link, LinkChange, LinkKey, LinkKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from stateful_route.client.batch import Answers
    from stateful_route.client.cache.links import LinkCache
    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.client.pods.directory import PodDirectory
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.models import PodLife
    from stateful_route.store.protocol import Store

_NEW_OWNER = (Outcome.CREATED, Outcome.REPLACED, Outcome.OVERWRITTEN)
_AWAY = (StoreUnavailableError, StoreTimeoutError)

# What a look-up keeps in the cache. A link in grace is left to the next placement, which has to revive it.
_FOUND = (LinkKind.TEMPORARY, LinkKind.PERSISTENT)
_PERSISTENT = (LinkKind.PERSISTENT,)
_NONE = ()

# The first finds a link whose owner has died since the table was read, the second takes it over; one to spare.
_PLACEMENTS = 3


class Resolver:
    """Asks the store for links and makes them. Concurrent calls for one uid share one question."""

    def __init__(
        self,
        store: Store,
        cache: LinkCache,
        directory: PodDirectory,
        strategy: PlacementStrategy,
        *,
        link_ttl: float,
        deadline: float,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        """Make links of ``link_ttl`` seconds, on pods that ``strategy`` chooses among those of ``directory``.

        Every call ends within ``deadline`` seconds. A single question to the store has its own deadline, which is as
        long: only what needs more than that is bounded here.
        """
        self._store = store
        self._cache = cache
        self._directory = directory
        self._strategy = strategy
        self._link_ttl = link_ttl
        self._random = random
        self._clock = clock
        self._deadline = deadline
        self._recovery = Recovery(cache, directory, deadline)
        self._placing = SingleFlight[CacheKey, Link](deadline, "place")
        self._finding = SingleFlight[tuple[CacheKey, tuple[LinkKind, ...]], Link | None](
            deadline, "get_link", writes=False
        )
        self.misses = 0
        self.placed = 0
        self.unreadable = 0

    @property
    def joined(self) -> int:
        """How many calls got the answer of another one for the same uid."""
        return self._placing.joined + self._finding.joined

    def place(self, key: CacheKey) -> Awaitable[Link]:
        """Return the link of a uid, made for a pod of the strategy's choice if there is none.

        Raises:
            NoRoutablePodError: if there is none, and no pod takes new uids.
            NoCapacityError: if there is none, and all pods that take new uids are full.
            StoreError: if the store did not answer; ``suspect_link`` may know the link.

        """
        self.misses += 1
        return self._placing.run(key, self._place, key)

    async def place_on(self, key: CacheKey, pod_index: int) -> Link:
        """Return the link of a uid, made for that pod if there is none."""
        self.misses += 1
        namespace, _, service_name = key
        service = self._directory.peek(namespace, service_name)
        if service.loaded and not (service.doubtful or self._recovery.may_be_elsewhere(service, [key[1]])):
            return await self._place_on(key, service, service.pod(pod_index))
        until = asyncio.get_running_loop().time() + self._deadline
        async with within(self._deadline, "place"):
            await self._recovery.read_anew(service)
            found = await self._recovered(key, service, until, service.pod(pod_index))
            return await self._place_on(key, service, service.pod(pod_index)) if found is None else found

    async def find(self, key: CacheKey) -> Link | None:
        """Return the link of a uid, if there is one, and keep it in the cache."""
        return await self._look_up(key, _FOUND)

    async def find_persistent(self, key: CacheKey) -> Link | None:
        """Return the link of a uid, if there is one that is persistent, and keep it in the cache."""
        link = await self._look_up(key, _PERSISTENT)
        return link if link is not None and link.kind is LinkKind.PERSISTENT else None

    async def get(self, key: CacheKey) -> Link | None:
        """Return the link of a uid, if there is one, leaving the cache alone."""
        self.misses += 1
        try:
            return await self._finding.run((key, _NONE), self._ask, key, _NONE)
        except _AWAY:
            self._directory.store_failed(key[0], key[2])
            raise

    async def find_many(self, namespace: str, uids: Sequence[str], service_name: str) -> Answers:
        """Return the link of each uid that has one that can be read, and keep these in the cache.

        A uid for which the store did not answer has an error instead.
        """
        self.misses += len(uids)
        service = self._directory.peek(namespace, service_name)
        if self._directory.was_tried(service):
            return await self._find_many_now(service, uids)
        try:
            async with within(self._deadline, "get_links", writes=False):
                await self._directory.tried(service)
                return await self._find_many_now(service, uids)
        except StoreError as error:
            return dict.fromkeys(uids, error)

    async def _find_many_now(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        namespace, service_name = service.namespace, service.service_name
        found: Answers = {}
        with self._cache.asking([(namespace, uid, service_name) for uid in uids]) as keys:
            asked_at = self._clock()
            try:
                answers = await self._store.get_links(namespace, uids, service_name)
            except StoreError as error:
                answers = [error] * len(uids)
            for key, uid, answer in zip(keys, uids, answers, strict=True):
                if isinstance(answer, StoreProtocolError):
                    self.unreadable += 1
                elif answer is not None:
                    found[uid] = answer
                    if isinstance(answer, Link) and answer.kind in _FOUND:
                        self._cache.put(key, service.pod(answer.pod_index), answer, asked_at)
        if found and not service.loaded:  # or nobody finds out for a while that a pod is dead
            self._directory.read_soon(service)
        self._note(namespace, service_name, found)
        return found

    async def place_many(self, namespace: str, uids: Sequence[str], service_name: str) -> Answers:
        """Return the link of each uid, made for pods of the strategy's choice where there is none.

        A uid for which the store did not answer has an error instead.

        Raises:
            NoRoutablePodError: if one has none, and no pod takes new uids.
            NoCapacityError: if the pods that take new uids have no room for all that have none; none was placed.
            StoreError: if what is known of the pods is not enough, and the store did not tell it.

        """
        began = asyncio.get_running_loop().time()
        service = self._directory.peek(namespace, service_name)
        placed: Answers = {}
        if service.has_room(len(uids)) and not (service.doubtful or self._recovery.may_be_elsewhere(service, uids)):
            self.misses += len(uids)
            placed = await self._place_all(service, uids)
        else:
            try:
                async with within(self._deadline, "place_links", since=began):
                    placed = await self._place_where_room_is(service, uids, began + self._deadline)
            except _AWAY:
                self._directory.store_failed(namespace, service_name)
                raise
        doubtful = [
            uid for uid, link in placed.items() if isinstance(link, Link) and not service.pod(link.pod_index).trusted
        ]
        if doubtful:
            try:
                async with within(self._deadline, "place_links", since=began):
                    placed |= await self._place_stranded(service, placed, doubtful)
            except StoreError as error:
                placed |= dict.fromkeys(doubtful, error)
                self._note(namespace, service_name, placed)
        return placed

    async def _place_where_room_is(self, service: ServicePods, uids: Sequence[str], until: float) -> Answers:
        """Place uids once it is known where: the pods seem to have no room, or the store to be another one."""
        await self._recovery.read_anew(service)
        placed: Answers = {}
        if self._recovery.may_be_elsewhere(service, uids):
            placed = await self._place_recovering(service, uids, until)
            uids = [uid for uid in uids if uid not in placed]
        if not service.has_room(len(uids)):
            placed |= await self._found_alive(service, uids)
            uids = [uid for uid in uids if uid not in placed]
            if uids and not service.has_room(len(uids)):
                raise _nowhere(service)
        else:
            self.misses += len(uids)
        return placed | await self._place_all(service, uids) if uids else placed

    async def _found_alive(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Return the links of those uids that have one whose owner is not known to be dead."""
        found = await self.find_many(service.namespace, uids, service.service_name)
        return {uid: link for uid, link in found.items() if not _is_dead(service, link)}

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
                self.misses += len(ready)
                placed |= await self._place_all(service, ready)
            uids = [uid for uid in uids if uid not in placed]
            last = asked and self._recovery.time_is_up(until)
            if uids and (last or not asked):
                asked = True
                found = await self._found_alive(service, uids)
                fading = [uid for uid, link in found.items() if isinstance(link, Link) and link.kind not in _FOUND]
                if fading and service.has_room(len(fading)):  # a placement revives a link in grace
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
                    dead[link.owner] = await self._is_stranded(service, link)
                if dead[link.owner]:
                    stranded.append(uid)
        if not stranded:
            return {}
        if not service.has_room(len(stranded)):
            raise _nowhere(service)
        return await self._place_all(service, stranded)

    async def _place_all(self, service: ServicePods, uids: Sequence[str]) -> Answers:
        """Place uids, each on a pod of the strategy's choice."""
        namespace, service_name = service.namespace, service.service_name
        placed: Answers = {}
        chosen: list[Pod] = []
        with self._cache.asking([(namespace, uid, service_name) for uid in uids]) as keys:
            try:
                pods = service.candidates
                for key in keys:
                    chosen.append(
                        self._choose(pods, self._recovery.preferred(key, service) if service.recovering else None)
                    )
                    if chosen[-1].full:
                        pods = service.candidates
                asked_at = self._clock()
                candidates = [(uid, pod.life) for uid, pod in zip(uids, chosen, strict=True)]
                answers = await self._store.place_links(
                    namespace, candidates, service_name, self._link_ttl, dead=service.dead, leaving=service.leaving
                )
            except StoreError as error:
                answers = [error] * len(uids)
            finally:
                for pod in chosen:
                    pod.own.answered()
            for key, uid, answer in zip(keys, uids, answers, strict=True):
                if isinstance(answer, StoreError):
                    placed[uid] = answer
                else:
                    placed[uid] = self._keep_placed(key, service, answer, asked_at)
        self._note(namespace, service_name, placed)
        return placed

    def _note(self, namespace: str, service_name: str, answers: Answers) -> None:
        """Note whether the store answered for all uids, or is away."""
        if any(isinstance(answer, _AWAY) for answer in answers.values()):
            self._directory.store_failed(namespace, service_name)
        elif not any(isinstance(answer, StoreError) for answer in answers.values()):
            self._directory.store_answered(namespace, service_name)

    async def _is_stranded(self, service: ServicePods, link: Link) -> bool:
        """Whether the owner of a link is dead, though the store was not told so when it was asked for the link."""
        return not service.pod(link.pod_index).trusted and await self._directory.bury(service, link.owner)

    async def _place(self, key: CacheKey) -> Link:
        began = asyncio.get_running_loop().time()
        namespace, _, service_name = key
        service = self._directory.peek(namespace, service_name)
        link = None
        pods = service.candidates
        if pods and not (
            service.doubtful
            or service.recovering
            or (
                (self._cache.has_hints or not service.serves_cached)
                and self._recovery.awaited(key, service) is not None
            )
        ):
            pod = self._choose(pods)
            try:
                link = await self._place_on(key, service, pod)
            finally:
                pod.own.answered()
            if service.pod(link.pod_index).trusted:
                return link
        began = self._placing.began(key, began)
        async with within(self._deadline, "place", since=began):
            return await self._place_in_steps(key, service, link, began + self._deadline)

    async def _place_in_steps(self, key: CacheKey, service: ServicePods, link: Link | None, until: float) -> Link:
        """Place a uid that one placement is not enough for.

        There are no candidates, its owner may be dead, or the store may be another one than it was.
        """
        placements = 0 if link is None else 1
        if link is None:
            await self._recovery.read_anew(service)
            link = await self._recovered(key, service, until)
        while link is None or await self._is_stranded(service, link):
            pods = service.candidates
            if placements == _PLACEMENTS or not pods:
                found = await self._ask(key, _FOUND)
                if found is None or service.is_dead(found.owner):
                    raise _nowhere(service)
                return found
            pod = self._choose(pods, self._recovery.preferred(key, service))
            try:
                link = await self._place_on(key, service, pod)
            finally:
                pod.own.answered()
            placements += 1
        return link

    async def _recovered(
        self, key: CacheKey, service: ServicePods, until: float, pod: Pod | None = None
    ) -> Link | None:
        """Return the link of a uid, or nothing once it is known that no pod has it that the store has lost.

        That is so if this client knows where the uid was, and that pod is claiming again what it owns, and is ``pod``
        if one is given; or as soon as all pods are there again and have claimed what they own, or their leases have
        ended.

        Raises:
            NoRoutablePodError: if that takes too long.

        """
        asked = False
        recovery = self._recovery
        awaited = recovery.awaited(key, service)
        while service.recovering or awaited is not None:
            preferred = recovery.preferred(key, service)
            if preferred is not None and pod in (None, preferred):
                return None
            last = asked and recovery.time_is_up(until)
            if last or not asked:
                asked = True
                found = await self._ask(key, _FOUND)
                if found is not None:
                    return found if found.kind in _FOUND else None
            if last:
                raise not_yet(service, {awaited})
            await recovery.wait(service, {awaited}, until)
            awaited = recovery.awaited(key, service)
        return None

    def _choose(self, pods: list[Pod], preferred: Pod | None = None) -> Pod:
        """Return the pod for a new uid, with the placement counted as pending: the one that had it if that may be."""
        pod = self._strategy(pods, self._random) if preferred is None else preferred
        try:
            pod.own.chosen()
        except AttributeError:
            if isinstance(pod, Pod):
                raise
            raise InvalidArgumentError("strategy", pod, "one that returns one of its candidates") from None
        return pod

    async def _place_on(self, key: CacheKey, service: ServicePods, pod: Pod) -> Link:
        asked_at = self._clock()
        self._cache.ask(key)
        try:
            answer = await self._store.place(
                LinkKey(*key), pod.life, self._link_ttl, dead=service.dead, leaving=service.leaving
            )
            if service.store_away:
                self._directory.store_answered(service.namespace, service.service_name)
            return self._keep_placed(key, service, answer, asked_at)
        finally:
            self._cache.answered(key)

    async def _look_up(self, key: CacheKey, kept: tuple[LinkKind, ...]) -> Link | None:
        """Return the link of a uid, and keep it in the cache if it is of one of those kinds."""
        self.misses += 1
        try:
            return await self._finding.run((key, kept), self._ask, key, kept)
        except _AWAY:
            return self.suspect_link(key)

    async def _ask(self, key: CacheKey, kept: tuple[LinkKind, ...]) -> Link | None:
        namespace, _, service_name = key
        service = self._directory.peek(namespace, service_name)
        if self._directory.was_tried(service):
            return await self._ask_now(key, service, kept)
        async with within(self._deadline, "get_link", writes=False):
            await self._directory.tried(service)
            return await self._ask_now(key, service, kept)

    async def _ask_now(self, key: CacheKey, service: ServicePods, kept: tuple[LinkKind, ...]) -> Link | None:
        namespace, _, service_name = key
        asked_at = self._clock()
        self._cache.ask(key)
        try:
            link = await self._store.get_link(LinkKey(*key))
            if service.store_away:
                self._directory.store_answered(namespace, service_name)
            if link is not None and link.kind in kept:
                if not service.loaded:  # or nobody finds out for a while that its pod is dead
                    self._directory.read_soon(service)
                self._cache.put(key, service.pod(link.pod_index), link, asked_at)
        except StoreProtocolError:
            self.unreadable += 1
            raise
        else:
            return link
        finally:
            self._cache.answered(key)

    def suspect_link(self, key: CacheKey) -> Link:
        """Return a cached link that may be used only while the store is away; called while its error is handled."""
        self._directory.store_failed(key[0], key[2])
        link = self._cache.link(key)
        if link is None:
            raise  # noqa: PLE0704 - the error that is handled by the caller
        return link

    def _keep_placed(self, key: CacheKey, service: ServicePods, answer: LinkChange, asked_at: float) -> Link:
        """Take in the answer to a placement, and return the link."""
        link = answer.link
        if link is None:
            raise StoreProtocolError(f"no link, but {answer.outcome}", operation="place", maybe_applied=True)
        pod = service.pod(link.pod_index)
        if answer.outcome in _NEW_OWNER:
            self.placed += 1
            self.unreadable += answer.outcome is Outcome.OVERWRITTEN
            service.placed(pod, asked_at)
        self._cache.put(key, pod, link, asked_at)
        return link


def _is_dead(service: ServicePods, link: Link | StoreError) -> bool:
    return isinstance(link, Link) and service.is_dead(link.owner)


def _nowhere(service: ServicePods) -> NoRoutablePodError | NoCapacityError:
    """Return the error of a uid that has no link, and that no pod takes."""
    error = NoCapacityError if service.routable else NoRoutablePodError
    return error(service.namespace, service.service_name, service.states, service.now)
