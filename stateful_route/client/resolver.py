"""What a client does when the cache has no answer: ask the store, place, and remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.client.flights import SingleFlight
from stateful_route.errors import NoRoutablePodError, StoreError, StoreProtocolError
from stateful_route.models import Link, LinkChange, LinkKey, LinkKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from stateful_route.client.cache import LinkCache
    from stateful_route.client.placement import PlacementStrategy
    from stateful_route.client.routing import Pod, RoutingTable, ServiceTable
    from stateful_route.store.port import Store

_NEW_OWNER = frozenset({Outcome.CREATED, Outcome.REPLACED, Outcome.OVERWRITTEN})


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
        self._placing = SingleFlight[LinkKey, Link]()
        self._finding = SingleFlight[LinkKey, Link | None]()
        self.misses = 0
        self.placed = 0
        self.unreadable = 0

    @property
    def joined(self) -> int:
        """How many calls got the answer of another one for the same uid."""
        return self._placing.joined + self._finding.joined

    async def place(self, key: LinkKey) -> Link:
        """Return the link of a uid, made for a pod of the strategy's choice if there is none.

        Raises:
            NoRoutablePodError: if there is none, and no pod takes new uids.

        """
        self.misses += 1
        return await self._placing.run(key, lambda: self._place(key))

    async def find(self, key: LinkKey) -> Link | None:
        """Return the link of a uid, if there is one."""
        self.misses += 1
        return await self._finding.run(key, lambda: self._find(key))

    async def get(self, key: LinkKey) -> Link | None:
        """Return the link of a uid, leaving the cache alone."""
        self.misses += 1
        try:
            return await self._store.get_link(key)
        except StoreProtocolError:
            self.unreadable += 1
            raise

    async def place_on(self, key: LinkKey, pod_index: int) -> Link:
        """Return the link of a uid, made for that pod if there is none."""
        self.misses += 1
        table = await self._table.table(key.namespace, key.service_name)
        return await self._place_on(key, table, table.pod(pod_index))

    async def find_many(self, namespace: str, uids: Sequence[str], service_name: str) -> dict[str, Link]:
        """Return the links of those uids that have one that can be read.

        Raises:
            StoreError: if the store did not answer for one of them.

        """
        self.misses += len(uids)
        table = self._table.peek(namespace, service_name)
        asked_at = self._clock()
        answers = await self._store.get_links(namespace, uids, service_name)
        links = {}
        for uid, answer in zip(uids, answers, strict=True):
            if isinstance(answer, Link):
                links[uid] = answer
                self._keep_found(LinkKey(namespace, uid, service_name), table, answer, asked_at)
            elif isinstance(answer, StoreProtocolError):
                self.unreadable += 1
            elif answer is not None:
                raise answer
        return links

    async def place_many(self, namespace: str, uids: Sequence[str], service_name: str) -> dict[str, Link]:
        """Return the link of each uid, made for pods of the strategy's choice where there is none.

        Raises:
            NoRoutablePodError: if one has none, and no pod takes new uids.
            StoreError: if the store did not answer for one of them; the others may have been placed.

        """
        table = await self._table_to_place(namespace, service_name)
        if not table.routable:
            links = await self.find_many(namespace, uids, service_name)
            if len(links) < len(uids):
                raise NoRoutablePodError(namespace, service_name, table.states)
            return links
        self.misses += len(uids)
        candidates = [(uid, self._choose(table)) for uid in uids]
        asked_at = self._clock()
        try:
            answers = await self._store.place_links(
                namespace,
                [(uid, pod.life) for uid, pod in candidates],
                service_name,
                self._link_ttl,
                leaving=table.leaving,
            )
        finally:
            for _, pod in candidates:
                pod.own.pending -= 1
        for answer in answers:
            if isinstance(answer, StoreError):
                raise answer
        return {
            uid: self._keep_placed(LinkKey(namespace, uid, service_name), table, answer, asked_at)
            for uid, answer in zip(uids, answers, strict=True)
            if isinstance(answer, LinkChange)
        }

    async def _place(self, key: LinkKey) -> Link:
        table = await self._table_to_place(key.namespace, key.service_name)
        if table.routable:
            pod = self._choose(table)
            try:
                return await self._place_on(key, table, pod)
            finally:
                pod.own.pending -= 1
        link = await self._find(key)
        if link is None:
            raise NoRoutablePodError(key.namespace, key.service_name, table.states)
        return link

    async def _table_to_place(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service, read again if it knows no routable pod: the call is about to fail."""
        table = await self._table.table(namespace, service_name)
        if not table.routable:
            await self._table.read(table)
        return table

    def _choose(self, table: ServiceTable) -> Pod:
        """Return the pod for a new uid, with the placement counted as pending."""
        pod = self._strategy(table.routable, self._random)
        pod.own.pending += 1
        return pod

    async def _place_on(self, key: LinkKey, table: ServiceTable, pod: Pod) -> Link:
        asked_at = self._clock()
        answer = await self._store.place(key, pod.life, self._link_ttl, leaving=table.leaving)
        return self._keep_placed(key, table, answer, asked_at)

    async def _find(self, key: LinkKey) -> Link | None:
        asked_at = self._clock()
        try:
            link = await self._store.get_link(key)
        except StoreProtocolError:
            self.unreadable += 1
            raise
        if link is not None:
            self._keep_found(key, self._table.peek(key.namespace, key.service_name), link, asked_at)
        return link

    def _keep_placed(self, key: LinkKey, table: ServiceTable, answer: LinkChange, asked_at: float) -> Link:
        """Take in the answer to a placement, and return the link."""
        link = answer.link
        if link is None:
            raise StoreProtocolError(f"no link, but {answer.outcome}", operation="place", maybe_applied=True)
        pod = table.pod(link.pod_index)
        if answer.outcome in _NEW_OWNER:
            self.placed += 1
            self.unreadable += answer.outcome is Outcome.OVERWRITTEN
            pod.own.placed(at=link.epoch / 1_000_000)  # a new link's epoch is its time, by the clock of the store
        self._cache.put(_cache_key(key), pod, link, asked_at)
        return link

    def _keep_found(self, key: LinkKey, table: ServiceTable, link: Link, asked_at: float) -> None:
        """Keep a link in the cache, unless it is in grace: the next placement has to revive it."""
        if link.kind is not LinkKind.GRACE:
            self._cache.put(_cache_key(key), table.pod(link.pod_index), link, asked_at)


def _cache_key(key: LinkKey) -> tuple[str, str, str]:
    return key.namespace, key.uid, key.service_name
