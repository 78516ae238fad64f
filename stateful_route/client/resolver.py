"""What a client does when the cache has no answer: ask the store, place, and remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._flights import SingleFlight
from stateful_route.client.cache import CacheKey
from stateful_route.client.pod import Pod
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
    from stateful_route.client.cache import LinkCache
    from stateful_route.client.refresh import RoutingTable
    from stateful_route.client.routing import ServiceTable
    from stateful_route.client.strategies import PlacementStrategy
    from stateful_route.store.port import Store

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
        table: RoutingTable,
        strategy: PlacementStrategy,
        *,
        link_ttl: float,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        """Make links of ``link_ttl`` seconds, on pods that ``strategy`` chooses among those of ``table``."""
        self._store = store
        self._cache = cache
        self._table = table
        self._strategy = strategy
        self._link_ttl = link_ttl
        self._random = random
        self._clock = clock
        self._placing = SingleFlight[CacheKey, Link]()
        self._finding = SingleFlight[tuple[CacheKey, tuple[LinkKind, ...]], Link | None]()
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
        table = await self._table.table(namespace, service_name)
        return await self._place_on(key, table, table.pod(pod_index))

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
            self._table.store_failed(key[0])
            raise

    async def find_many(self, namespace: str, uids: Sequence[str], service_name: str) -> Answers:
        """Return the link of each uid that has one that can be read, and keep these in the cache.

        A uid for which the store did not answer has an error instead.
        """
        self.misses += len(uids)
        table = self._table.peek(namespace, service_name)
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
                        self._cache.put(key, table.pod(answer.pod_index), answer, asked_at)
        self._note(namespace, found)
        return found

    async def place_many(self, namespace: str, uids: Sequence[str], service_name: str) -> Answers:
        """Return the link of each uid, made for pods of the strategy's choice where there is none.

        A uid for which the store did not answer has an error instead.

        Raises:
            NoRoutablePodError: if one has none, and no pod takes new uids.
            NoCapacityError: if the pods that take new uids have no room for all that have none; none was placed.
            StoreError: if what is known of the pods is not enough, and the store did not tell it.

        """
        table = self._table.peek(namespace, service_name)
        if not table.has_room(len(uids)):
            await self._table.read(table)  # what follows is about to fail
        placed: Answers = {}
        if table.has_room(len(uids)):
            self.misses += len(uids)
        else:
            found = await self.find_many(namespace, uids, service_name)
            placed = {uid: link for uid, link in found.items() if not _is_dead(table, link)}
            uids = [uid for uid in uids if uid not in placed]
            if uids and not table.has_room(len(uids)):
                raise _nowhere(table)
        if uids:
            placed |= await self._place_all(table, uids)
        stranded = [uid for uid, link in placed.items() if await self._is_stranded(table, link)]
        if stranded:
            if not table.has_room(len(stranded)):
                raise _nowhere(table)
            placed |= await self._place_all(table, stranded)
        return placed

    async def _place_all(self, table: ServiceTable, uids: Sequence[str]) -> Answers:
        """Place uids, each on a pod of the strategy's choice."""
        namespace, service_name = table.namespace, table.service_name
        placed: Answers = {}
        chosen: list[Pod] = []
        with self._cache.asking([(namespace, uid, service_name) for uid in uids]) as keys:
            try:
                pods = table.candidates
                for _ in uids:
                    chosen.append(self._choose(pods))
                    if chosen[-1].full:
                        pods = table.candidates
                asked_at = self._clock()
                candidates = [(uid, pod.life) for uid, pod in zip(uids, chosen, strict=True)]
                answers = await self._store.place_links(
                    namespace, candidates, service_name, self._link_ttl, dead=table.dead, leaving=table.leaving
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
                    placed[uid] = self._keep_placed(key, table, answer, asked_at)
        self._note(namespace, placed)
        return placed

    def _note(self, namespace: str, answers: Answers) -> None:
        """Note whether the store answered for all uids, or is away."""
        if any(isinstance(answer, _AWAY) for answer in answers.values()):
            self._table.store_failed(namespace)
        elif not any(isinstance(answer, StoreError) for answer in answers.values()):
            self._table.store_answered(namespace)

    async def _is_stranded(self, table: ServiceTable, link: Link | StoreError) -> bool:
        """Whether the owner of a link is dead, though the store was not told so when it was asked for the link."""
        if isinstance(link, StoreError):
            return False
        return not table.pod(link.pod_index).trusted and await self._table.bury(table, link.owner)

    async def _place(self, key: CacheKey) -> Link:
        namespace, _, service_name = key
        table = self._table.peek(namespace, service_name)
        if not table.candidates:
            await self._table.read(table)  # what follows is about to fail
        for _ in range(_PLACEMENTS):
            pods = table.candidates
            if not pods:
                break
            pod = self._choose(pods)
            try:
                link = await self._place_on(key, table, pod)
            finally:
                pod.own.answered()
            if table.pod(link.pod_index).trusted or not await self._is_stranded(table, link):
                return link
        found = await self._ask(key, _FOUND)
        if found is None or table.is_dead(found.owner):
            raise _nowhere(table)
        return found

    def _choose(self, pods: list[Pod]) -> Pod:
        """Return the pod for a new uid, with the placement counted as pending."""
        pod = self._strategy(pods, self._random)
        try:
            pod.own.chosen()
        except AttributeError:
            if isinstance(pod, Pod):
                raise
            raise InvalidArgumentError("strategy", pod, "one that returns one of its candidates") from None
        return pod

    async def _place_on(self, key: CacheKey, table: ServiceTable, pod: Pod) -> Link:
        asked_at = self._clock()
        self._cache.ask(key)
        try:
            answer = await self._store.place(
                LinkKey(*key), pod.life, self._link_ttl, dead=table.dead, leaving=table.leaving
            )
            self._table.store_answered(table.namespace)
            return self._keep_placed(key, table, answer, asked_at)
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
        asked_at = self._clock()
        self._cache.ask(key)
        try:
            link = await self._store.get_link(LinkKey(*key))
            self._table.store_answered(namespace)
            if link is not None and link.kind in kept:
                pod = self._table.peek(namespace, service_name).pod(link.pod_index)
                self._cache.put(key, pod, link, asked_at)
        except StoreProtocolError:
            self.unreadable += 1
            raise
        else:
            return link
        finally:
            self._cache.answered(key)

    def suspect_link(self, key: CacheKey) -> Link:
        """Return a cached link that may be used only while the store is away; called while its error is handled."""
        self._table.store_failed(key[0])
        link = self._cache.link(key)
        if link is None:
            raise  # noqa: PLE0704 - the error that is handled by the caller
        return link

    def _keep_placed(self, key: CacheKey, table: ServiceTable, answer: LinkChange, asked_at: float) -> Link:
        """Take in the answer to a placement, and return the link."""
        link = answer.link
        if link is None:
            raise StoreProtocolError(f"no link, but {answer.outcome}", operation="place", maybe_applied=True)
        pod = table.pod(link.pod_index)
        if answer.outcome in _NEW_OWNER:
            self.placed += 1
            self.unreadable += answer.outcome is Outcome.OVERWRITTEN
            table.placed(pod, asked_at)
        self._cache.put(key, pod, link, asked_at)
        return link


def _is_dead(table: ServiceTable, link: Link | StoreError) -> bool:
    return isinstance(link, Link) and table.is_dead(link.owner)


def _nowhere(table: ServiceTable) -> NoRoutablePodError | NoCapacityError:
    """Return the error of a uid that has no link, and that no pod takes."""
    error = NoCapacityError if table.routable else NoRoutablePodError
    return error(table.namespace, table.service_name, table.states, table.now)
