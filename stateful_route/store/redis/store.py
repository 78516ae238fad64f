"""The store on Redis or Valkey: each operation is one script, one round trip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stateful_route._validation import to_ms
from stateful_route.errors import StoreError, StoreProtocolError
from stateful_route.history import KEPT_SECONDS
from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.store.redis import codec, scripts
from stateful_route.store.redis.batches import LinkBatches
from stateful_route.store.redis.events import attach, listening
from stateful_route.store.redis.histories import Recording
from stateful_route.store.redis.inspection import Inspection
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.pods import PodScripts
from stateful_route.store.redis.rights import lacking
from stateful_route.store.transport.durable import Durably, of_operation
from stateful_route.store.transport.errors import is_cross_slot
from stateful_route.store.transport.script import ScriptCall
from stateful_route.store.transport.subscription import SharedSubscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.errors import StoreUnavailableError
    from stateful_route.history import LinkEvent
    from stateful_route.links import TopicEvent
    from stateful_route.pods import PodLife, PodRequest, Topic
    from stateful_route.store.operators import LinkPage, StoreFacts
    from stateful_route.store.protocol import StoreInfo, TopicListener
    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.durable import Runner
    from stateful_route.store.transport.script import Script

_GET, _PLACE, _CLAIM, _RELEASE, _ASSIGN = map(scripts.load, ("get", "place", "claim", "release", "assign"))
_MOVE = scripts.load("move")
_GET_MANY, _PLACE_MANY = map(scripts.load, ("get_many", "place_many"))
_HISTORY = scripts.load("history")


class RedisStore(PodScripts):
    """Implements ``store.protocol.Store`` by scripts. The protocol documents the methods."""

    def __init__(
        self,
        connections: Connections,
        *,
        keys: KeySpace | None = None,
        durable_within: float | None = None,
        history: int = 0,
        history_ttl: float = KEPT_SECONDS,
    ) -> None:
        """Run over ``connections``, which are closed with the store.

        With ``durable_within``, the deadline of a call in seconds, a changed link is answered once a replica has it.
        With ``history``, so many changes of a link are kept beside it, for ``history_ttl`` seconds after the latest.
        """
        super().__init__(connections, keys or KeySpace(database=connections.database))
        self._durable_within = durable_within
        self._history = history, to_ms(history_ttl)
        self._batches = LinkBatches(connections)
        self._durably = None if durable_within is None else Durably(connections, durable_within)
        changing = self._recording(self._durably or connections)
        self._changing = changing.run
        self._placing = LinkBatches(changing)
        self._inspection = Inspection(connections, self._keys, history=history > 0)
        self._subscription = SharedSubscription(connections)

    def __repr__(self) -> str:
        return f"<RedisStore over {type(self._connections).__name__}>"

    def in_flight(self) -> int:
        """Return how many calls wait for an answer now."""
        return self._connections.in_flight()

    async def get_link(self, key: LinkKey) -> Link | None:
        """See ``Store.get_link``."""
        return _found(codec.link_change(_GET, await self._connections.run(self._get_call(key))))

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """See ``Store.get_links``."""
        names = self._keys.of_links(namespace, service_name)

        def get(uid: str) -> ScriptCall:
            return self._get_call(LinkKey(namespace, uid, service_name))

        def get_all(uids: Sequence[str]) -> ScriptCall:
            return _GET_MANY.command(tuple(names.links(uids)), ())

        answers = await self._batches.run(uids, get, get_all)
        return [_found_or_error(answer) for answer in answers]

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """See ``Store.get_services``."""
        known = self._services.known(namespace)
        # One round trip, unless there is a service that was not known.
        services, links = await asyncio.gather(self._services.read(namespace), self._links_of(namespace, uid, known))
        links |= await self._links_of(namespace, uid, services - known)
        return {service_name: link.pod_index for service_name, link in links.items()}

    async def _links_of(self, namespace: str, uid: str, services: set[str]) -> dict[str, Link]:
        """Return the links of a uid in these services, without those that cannot be read."""

        def get(service_name: str) -> ScriptCall:
            return self._get_call(LinkKey(namespace, uid, service_name))

        def get_all(names: Sequence[str]) -> ScriptCall:
            return _GET_MANY.command(tuple([self._keys.link(namespace, uid, name) for name in names]), ())

        names = sorted(services)
        answers = await self._batches.run(names, get, get_all)
        for answer in answers:
            if isinstance(answer, StoreError) and not isinstance(answer, StoreProtocolError):
                raise answer
        return {
            name: answer.link
            for name, answer in zip(names, answers, strict=True)
            if isinstance(answer, LinkChange) and answer.link is not None
        }

    @property
    def places_together(self) -> bool:
        """See ``Store.places_together``; not durably, where a uid that has a link need not wait for a replica."""
        return self._placing.together and self._durably is None

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
        service = key.namespace, key.service_name
        if service not in self._services.added:
            self._services.add_soon(*service)
        lives = self._lives(*service, dead, leaving) if dead or leaving else ()
        call = self._place_call(key, candidate, to_ms(ttl), lives, born)
        if self._durably is not None and self._durable_within is not None:
            return await self._place_durably(key, call, dead, self._durably, self._durable_within)
        try:
            return codec.link_change(_PLACE, await self._changing(call))
        except StoreError as error:
            if not (self._placing.together and is_cross_slot(error)):
                raise
            self._placing.together = False  # a proxy hides a cluster
            return await self.place(key, candidate, ttl, dead=dead, leaving=leaving)

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
        if (namespace, service_name) not in self._services.added:
            self._services.add_soon(namespace, service_name)
        names = self._keys.of_links(namespace, service_name)
        ttl_ms, lives = to_ms(ttl), self._lives(namespace, service_name, dead, leaving)

        def place(candidate: tuple[str, PodLife]) -> ScriptCall:
            uid, pod = candidate
            return self._place_call(LinkKey(namespace, uid, service_name), pod, ttl_ms, lives, born)

        def place_all(candidates: Sequence[tuple[str, PodLife]]) -> ScriptCall:
            uids = [uid for uid, _ in candidates]
            keys = names.links_and_ended(uids) if dead or leaving else names.links(uids)
            owners: list[int] = []
            for _, pod in candidates:
                owners += pod.pod_index, pod.incarnation
            if born:
                keys.append(self._keys.pods(namespace, service_name))
            floor = self._versions.get((namespace, service_name), 0)
            return _PLACE_MANY.command(tuple(keys), (ttl_ms, floor, born, *lives, *owners))

        if self._durably is None or self._durable_within is None:
            return await self._placing.run(candidates, place, place_all)
        began = asyncio.get_running_loop().time()
        found = await self.get_links(namespace, [uid for uid, _ in candidates], service_name)
        known = [_known(answer, dead) for answer in found]
        rest = [candidate for candidate, answer in zip(candidates, known, strict=True) if answer is None]
        placing = LinkBatches(self._recording(self._durably.until(began + self._durable_within)))
        placed = await placing.run(rest, place, place_all)
        answers = iter(placed)
        return [next(answers) if answer is None else answer for answer in known]

    async def claim(self, key: LinkKey, owner: PodLife, *, steal_temporary: bool = False) -> LinkChange:
        """See ``Store.claim``."""
        service = key.namespace, key.service_name
        channel, floor = self._keys.events(*service), self._versions.get(service, 0)
        args = (owner.pod_index, owner.incarnation, "1" if steal_temporary else "", channel, floor)
        change = codec.claim_change(_CLAIM, await self._take(_CLAIM, key, *args))
        if change.link is not None and change.link.epoch > self._epochs.get(service, 0):
            self._epochs[service] = change.link.epoch
        return change

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
        matching = (codec.optional(pod_index), codec.optional(incarnation), codec.optional(epoch))
        rest = self._told(key, announced=announced, by_operator=by_operator)
        call = self._link_call(_RELEASE, key, *matching, to_ms(grace), *rest)
        return codec.link_change(_RELEASE, await self._changing(call))

    async def assign(
        self, key: LinkKey, owner: PodLife, *, expected_epoch: int | None = None, by_operator: bool = False
    ) -> LinkChange:
        """See ``Store.assign``."""
        rest = self._told(key, by_operator=by_operator)
        floor = self._versions.get((key.namespace, key.service_name), 0)
        args = (owner.pod_index, owner.incarnation, codec.optional(expected_epoch), floor, *rest)
        return codec.link_change(_ASSIGN, await self._take(_ASSIGN, key, *args))

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
        rest = self._told(key, announced=announced, by_operator=by_operator)
        args: tuple[str | int, ...] = (owner.pod_index, owner.incarnation, epoch, to.pod_index, to.incarnation, name)
        return codec.link_change(_MOVE, await self._changing(self._link_call(_MOVE, key, *args, *rest)))

    async def history(self, key: LinkKey) -> list[LinkEvent]:
        """See ``Store.history``."""
        name = self._keys.history(key.namespace, key.uid, key.service_name)
        return codec.link_events(_HISTORY, await self._connections.run(_HISTORY.command((name,), ())))

    def listen(self, topic: Topic, patience: float) -> AbstractAsyncContextManager[AsyncIterator[TopicEvent | None]]:
        """See ``Store.listen``."""
        return listening(self._subscription, self._keys, topic, patience)

    def attach(self, topic: Topic, patience: float, listener: TopicListener) -> Callable[[], Awaitable[None]]:
        """See ``SharesSubscription.attach``."""
        return attach(self._subscription, self._keys, topic, patience, listener)

    async def lacking(self) -> StoreUnavailableError | None:
        """Return the error of the rights that ``history`` and ``durable`` need and the user lacks; ``None`` if none.

        One round trip, and none without these settings.
        """
        history, durable = self._history[0] > 0, self._durably is not None
        return await lacking(self._connections, history=history, durable=durable)

    async def info(self) -> StoreInfo:
        """See ``Store.info``."""
        return await self._inspection.info()

    async def list_services(self, namespace: str) -> list[str]:
        """See ``OperatorStore.list_services``."""
        return sorted(await self._services.read(namespace))

    async def scan_links(
        self, namespace: str, service_name: str, *, after: str | None = None, count: int = 500
    ) -> LinkPage:
        """See ``OperatorStore.scan_links``."""
        return await self._inspection.scan_links(namespace, service_name, after, count)

    async def ask_pod(self, request: PodRequest) -> None:
        """See ``OperatorStore.ask_pod``."""
        await self._inspection.ask_pod(request)

    async def is_asked(self, request: PodRequest) -> bool:
        """See ``OperatorStore.is_asked``."""
        return await self._inspection.is_asked(request)

    async def facts(self) -> StoreFacts:
        """See ``OperatorStore.facts``."""
        return await self._inspection.facts()

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        try:
            await self._tasks.stop()
            await self._services.aclose()
            await self._subscription.aclose()
        finally:
            await self._connections.aclose()

    async def _place_durably(
        self, key: LinkKey, call: ScriptCall, dead: Sequence[PodLife], durably: Durably, deadline: float
    ) -> LinkChange:
        """Place a uid once a replica has it; a persistent link was placed by nobody, so to read it is enough."""
        began = asyncio.get_running_loop().time()
        try:
            found = codec.link_change(_GET, await self._connections.run(self._get_call(key))).link
        except StoreError as error:
            raise of_operation(error, _PLACE.name, maybe_applied=False) from error
        if (known := _known(found, dead)) is not None and not isinstance(known, StoreError):
            return known
        return codec.link_change(_PLACE, await self._recording(durably.until(began + deadline)).run(call))

    def _recording(self, runner: Runner) -> Runner:
        """Return what runs scripts by ``runner`` and keeps histories of the links, if this store does."""
        kept, kept_ms = self._history
        return Recording(runner, self._keys, kept, kept_ms) if kept else runner

    def _told(self, key: LinkKey, *, announced: bool = True, by_operator: bool = False) -> tuple[str, ...]:
        """Return the last arguments of a script: on which channel it tells of a change, and whether one was ordered."""
        channel = self._keys.events(key.namespace, key.service_name) if announced else ""
        if by_operator:
            return channel, codec.OPERATOR.decode()
        return (channel,) if announced else ()

    def _take(self, script: Script, key: LinkKey, *args: str | int) -> Awaitable[Any]:
        """Return the reply of a script that may make a link."""
        if (key.namespace, key.service_name) not in self._services.added:
            self._services.add_soon(key.namespace, key.service_name)
        return self._changing(self._link_call(script, key, *args))

    def _link_call(self, script: Script, key: LinkKey, *args: str | int) -> ScriptCall:
        """Return the call of a script that may change a link."""
        names = self._keys.of_links(key.namespace, key.service_name)
        return script.command(names.link_and_ended(key.uid), args)

    def _lives(
        self, namespace: str, service_name: str, dead: Sequence[PodLife], leaving: Sequence[PodLife]
    ) -> tuple[str, ...]:
        """Return what a placement needs that may take a link from its owner."""
        return codec.lives(dead), codec.lives(leaving), self._keys.events(namespace, service_name)

    def _get_call(self, key: LinkKey) -> ScriptCall:
        return _GET.command((self._keys.link(key.namespace, key.uid, key.service_name),), ())

    def _place_call(
        self, key: LinkKey, candidate: PodLife, ttl_ms: int, lives: tuple[str, ...], born: int
    ) -> ScriptCall:
        """Return the call that places a uid; ``lives`` are those that are dead and leaving, or nothing for neither."""
        service = key.namespace, key.service_name
        names = self._keys.of_links(*service)
        if not self._placing.together:
            born = 0
        keys: tuple[str, ...] = names.link_and_ended(key.uid) if lives or born else (names.link(key.uid),)
        if born:
            keys = *keys, self._keys.pods(*service)
        floor = self._versions.get(service, 0)
        args: tuple[str | int, ...] = (candidate.pod_index, candidate.incarnation, ttl_ms, floor, born, *lives)
        return ScriptCall(_PLACE, keys, args)


def _known(found: Link | StoreError | None, dead: Sequence[PodLife]) -> LinkChange | StoreError | None:
    """Return what a placement answers where a link was read, or an error; ``None`` if it may have to write."""
    if isinstance(found, StoreProtocolError):  # the placement overwrites it
        return None
    if isinstance(found, StoreError):
        return of_operation(found, _PLACE.name, maybe_applied=False)
    if found is None or found.kind is not LinkKind.PERSISTENT:
        return None
    if any(life.pod_index == found.pod_index and life.incarnation >= found.incarnation for life in dead):
        return None
    return LinkChange(Outcome.UNCHANGED, found, None)


def _found(answer: LinkChange) -> Link | None:
    if answer.outcome is Outcome.UNREADABLE:
        raise StoreProtocolError("the value of the link cannot be read", operation="get", maybe_applied=False)
    return answer.link


def _found_or_error(answer: LinkChange | StoreError) -> Link | StoreError | None:
    if isinstance(answer, StoreError):
        return answer
    try:
        return _found(answer)
    except StoreProtocolError as error:
        return error
