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
        self._finding = SingleFlight[LinkKey, tuple[Link | None, float]]()
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

    async def place_on(self, key: LinkKey, pod_index: int) -> Link:
        """Return the link of a uid, made for that pod if there is none."""
        self.misses += 1
        table = await self._table.table(key.namespace, key.service_name)
        return await self._place_on(key, table, table.pod(pod_index))

    async def find(self, key: LinkKey) -> Link | None:
        """Return the link of a uid, if there is one, and keep it in the cache."""
        link, asked_at = await self._look_up(key)
        # A link in grace is left to the next placement, which has to revive it.
        if link is not None and link.kind is not LinkKind.GRACE:
            self._keep(key, self._table.peek(key.namespace, key.service_name), link, asked_at)
        return link

    async def find_persistent(self, key: LinkKey) -> Link | None:
        """Return the link of a uid, if there is one that is persistent, and keep it in the cache."""
        link, asked_at = await self._look_up(key)
        if link is None or link.kind is not LinkKind.PERSISTENT:
            return None
        self._keep(key, self._table.peek(key.namespace, key.service_name), link, asked_at)
        return link

    async def get(self, key: LinkKey) -> Link | None:
        """Return the link of a uid, if there is one, leaving the cache alone."""
        return (await self._look_up(key))[0]

    async def find_many(self, namespace: str, uids: Sequence[str], service_name: str) -> dict[str, Link]:
        """Return the links of those uids that have one that can be read, and keep them in the cache.

        Raises:
            StoreError: if the store did not answer for one of them.

        """
        self.misses += len(uids)
        table = self._table.peek(namespace, service_name)
        asked_at = self._clock()
        answers = await self._store.get_links(namespace, uids, service_name)
        links: dict[str, Link] = {}
        failures: list[StoreError] = []
        for uid, answer in zip(uids, answers, strict=True):
            if isinstance(answer, Link):
                links[uid] = answer
                if answer.kind is not LinkKind.GRACE:
                    self._keep(LinkKey(namespace, uid, service_name), table, answer, asked_at)
            elif isinstance(answer, StoreProtocolError):
                self.unreadable += 1
            elif answer is not None:
                failures.append(answer)
        if failures:
            raise failures[0]
        return links

    async def place_many(self, namespace: str, uids: Sequence[str], service_name: str) -> dict[str, Link]:
        """Return the link of each uid, made for pods of the strategy's choice where there is none.

        Raises:
            NoRoutablePodError: if one has none, and no pod takes new uids.
            StoreError: if the store did not answer for one of them; the others are placed, and in the cache.

        """
        table = await self._table_to_place(namespace, service_name)
        if not table.routable:
            links = await self.find_many(namespace, uids, service_name)
            if len(links) < len(uids):
                raise NoRoutablePodError(namespace, service_name, table.states)
            return links
        self.misses += len(uids)
        chosen: list[Pod] = []
        try:
            for _ in uids:
                chosen.append(self._choose(table))  # noqa: PERF401 - what was chosen must be known if one fails
            asked_at = self._clock()
            candidates = [(uid, pod.life) for uid, pod in zip(uids, chosen, strict=True)]
            answers = await self._store.place_links(
                namespace, candidates, service_name, self._link_ttl, leaving=table.leaving
            )
        finally:
            for pod in chosen:
                pod.own.pending -= 1
        links = {}
        failures: list[StoreError] = []
        for uid, answer in zip(uids, answers, strict=True):
            if isinstance(answer, LinkChange):
                links[uid] = self._keep_placed(LinkKey(namespace, uid, service_name), table, answer, asked_at)
            else:
                failures.append(answer)
        if failures:
            raise failures[0]
        return links

    async def _place(self, key: LinkKey) -> Link:
        table = await self._table_to_place(key.namespace, key.service_name)
        if table.routable:
            pod = self._choose(table)
            try:
                return await self._place_on(key, table, pod)
            finally:
                pod.own.pending -= 1
        link = await self.find(key)
        if link is None:
            raise NoRoutablePodError(key.namespace, key.service_name, table.states)
        return link

    async def _table_to_place(self, namespace: str, service_name: str) -> ServiceTable:
        """Return the table of a service; if it knows no routable pod, read it: the call is about to fail."""
        table = self._table.peek(namespace, service_name)
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

    async def _look_up(self, key: LinkKey) -> tuple[Link | None, float]:
        """Return the link of a uid, and when it was asked for."""
        self.misses += 1
        return await self._finding.run(key, lambda: self._ask(key))

    async def _ask(self, key: LinkKey) -> tuple[Link | None, float]:
        asked_at = self._clock()
        try:
            return await self._store.get_link(key), asked_at
        except StoreProtocolError:
            self.unreadable += 1
            raise

    def _keep_placed(self, key: LinkKey, table: ServiceTable, answer: LinkChange, asked_at: float) -> Link:
        """Take in the answer to a placement, and return the link."""
        link = answer.link
        if link is None:
            raise StoreProtocolError(f"no link, but {answer.outcome}", operation="place", maybe_applied=True)
        if answer.outcome in _NEW_OWNER:
            self.placed += 1
            self.unreadable += answer.outcome is Outcome.OVERWRITTEN
            table.placed(table.pod(link.pod_index), asked_at)
        self._keep(key, table, link, asked_at)
        return link

    def _keep(self, key: LinkKey, table: ServiceTable, link: Link, asked_at: float) -> None:
        self._cache.put((key.namespace, key.uid, key.service_name), table.pod(link.pod_index), link, asked_at)
