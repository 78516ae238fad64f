"""A store that notes the calls on links in a history."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from stateful_route.errors import StoreError
from stateful_route.links import Link, LinkChange, LinkKey
from tests.linearizable.link_model import LinkCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.history import LinkEvent
    from stateful_route.links import TopicEvent
    from stateful_route.pods import HeartbeatOutcome, PodLife, PodReport, PodTable, Registration, ServerInfo, Topic
    from stateful_route.store.protocol import Store, StoreInfo
    from tests.linearizable.history import History

_Answer = TypeVar("_Answer")


class RecordingStore:
    """A ``Store`` that passes every call on, and notes those on links in a history."""

    def __init__(
        self, store: Store, history: History, clock: Callable[[], float] = time.monotonic, name: str = ""
    ) -> None:
        """Record what goes to ``store``; ``clock`` is shared by all who record into ``history``."""
        self._store = store
        self._history = history
        self._clock = clock
        self._name = name

    def __repr__(self) -> str:
        return f"<RecordingStore {self._name} over {self._store!r}>"

    async def get_link(self, key: LinkKey) -> Link | None:
        """See ``Store.get_link``."""
        return await self._one(key, LinkCall("get"), self._store.get_link(key))

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """See ``Store.get_links``."""
        keys = [LinkKey(namespace, uid, service_name) for uid in uids]
        return await self._many(
            [(key, LinkCall("get")) for key in keys], self._store.get_links(namespace, uids, service_name)
        )

    @property
    def places_together(self) -> bool:
        """See ``Store.places_together``."""
        return self._store.places_together

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """See ``Store.get_services``."""
        return await self._store.get_services(namespace, uid)

    async def place(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> LinkChange:
        """See ``Store.place``."""
        call = LinkCall("place", candidate, ttl, tuple(dead), tuple(leaving))
        placing = self._store.place(key, candidate, ttl, dead=dead, leaving=leaving, born=born)
        return await self._one(key, call, placing)

    async def place_links(
        self,
        namespace: str,
        candidates: Sequence[tuple[str, PodLife]],
        service_name: str,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> list[LinkChange | StoreError]:
        """See ``Store.place_links``."""
        calls = [
            (LinkKey(namespace, uid, service_name), LinkCall("place", life, ttl, tuple(dead), tuple(leaving)))
            for uid, life in candidates
        ]
        placing = self._store.place_links(
            namespace, candidates, service_name, ttl, dead=dead, leaving=leaving, born=born
        )
        return await self._many(calls, placing)

    async def claim(self, key: LinkKey, owner: PodLife, *, steal_temporary: bool = False) -> LinkChange:
        """See ``Store.claim``."""
        call = LinkCall("claim", owner, steal=steal_temporary)
        return await self._one(key, call, self._store.claim(key, owner, steal_temporary=steal_temporary))

    async def release(
        self,
        key: LinkKey,
        *,
        pod_index: int | None = None,
        incarnation: int | None = None,
        epoch: int | None = None,
        grace: float = 0.0,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """See ``Store.release``."""
        call = LinkCall("release", seconds=grace, pod_index=pod_index, incarnation=incarnation, epoch=epoch)
        answer = self._store.release(
            key,
            pod_index=pod_index,
            incarnation=incarnation,
            epoch=epoch,
            grace=grace,
            announced=announced,
            by_operator=by_operator,
        )
        return await self._one(key, call, answer)

    async def assign(
        self, key: LinkKey, owner: PodLife, *, expected_epoch: int | None = None, by_operator: bool = False
    ) -> LinkChange:
        """See ``Store.assign``."""
        call = LinkCall("assign", owner, epoch=expected_epoch)
        answer = self._store.assign(key, owner, expected_epoch=expected_epoch, by_operator=by_operator)
        return await self._one(key, call, answer)

    async def move(
        self,
        key: LinkKey,
        owner: PodLife,
        epoch: int,
        to: PodLife,
        *,
        name: str,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """See ``Store.move``."""
        call = LinkCall("move", to, pod_index=owner.pod_index, incarnation=owner.incarnation, epoch=epoch)
        answer = self._store.move(key, owner, epoch, to, name=name, announced=announced, by_operator=by_operator)
        return await self._one(key, call, answer)

    async def history(self, key: LinkKey) -> list[LinkEvent]:
        """See ``Store.history``."""
        return await self._store.history(key)

    async def register(
        self,
        server: ServerInfo,
        report: PodReport,
        lease: float,
        retention: float,
        *,
        process: str = "",
        expected: int | None = None,
        above: int = 0,
        can_wait: bool = False,
    ) -> Registration:
        """See ``Store.register``."""
        return await self._store.register(
            server, report, lease, retention, process=process, expected=expected, above=above, can_wait=can_wait
        )

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """See ``Store.heartbeat``."""
        return await self._store.heartbeat(server, incarnation, sequence, report, lease, retention)

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store.confirm_death``."""
        return await self._store.confirm_death(namespace, service_name, life, retention)

    async def end_life(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store.end_life``."""
        return await self._store.end_life(namespace, service_name, life, retention)

    async def read_pods(
        self, namespace: str, service_name: str, *, since: int | None = 0, also: Sequence[int] = ()
    ) -> PodTable:
        """See ``Store.read_pods``."""
        return await self._store.read_pods(namespace, service_name, since=since, also=also)

    def listen(self, topic: Topic, patience: float) -> AbstractAsyncContextManager[AsyncIterator[TopicEvent | None]]:
        """See ``Store.listen``."""
        return self._store.listen(topic, patience)

    async def info(self) -> StoreInfo:
        """See ``Store.info``."""
        return await self._store.info()

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        await self._store.aclose()

    async def _one(self, key: LinkKey, call: LinkCall, answer: Awaitable[_Answer]) -> _Answer:
        (number,) = self._begin([(key, call)])
        try:
            reply = await answer
        except StoreError as error:
            self._end([number], [error])
            raise
        self._end([number], [reply])
        return reply

    async def _many(
        self, calls: list[tuple[LinkKey, LinkCall]], answers: Awaitable[list[_Answer | StoreError]]
    ) -> list[_Answer | StoreError]:
        numbers = self._begin(calls)
        replies = await answers
        self._end(numbers, replies)
        return replies

    def _begin(self, calls: list[tuple[LinkKey, LinkCall]]) -> list[int]:
        now = self._clock()
        return [self._history.begin(key, call, now, self._name) for key, call in calls]

    def _end(self, numbers: list[int], replies: Iterable[object]) -> None:
        now = self._clock()
        for number, reply in zip(numbers, replies, strict=True):
            if not isinstance(reply, StoreError):
                self._history.end(number, reply, now)
            elif not reply.maybe_applied:
                self._history.drop(number)
