"""A store whose calls are told to ``Instrumentation``; without one there is no such layer, and it costs nothing."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

from stateful_route.errors import StoreError
from stateful_route.instrumentation import (
    REASONS,
    HearingLost,
    HearingRegained,
    HeartbeatSent,
    LinkChanged,
    PodDied,
    StoreCalled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from stateful_route.history import LinkEvent
    from stateful_route.instrumentation import Teller
    from stateful_route.models import (
        HeartbeatOutcome,
        Link,
        LinkChange,
        LinkKey,
        PodLife,
        PodReport,
        PodTable,
        Registration,
        ServerInfo,
        Topic,
        TopicEvent,
    )
    from stateful_route.store.protocol import Store, StoreInfo, TopicListener


class ToldStore:
    """Is a ``Store``: asks another one, and tells of each call when it has ended. See there for the methods."""

    def __init__(self, store: Store, teller: Teller, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask ``store`` and tell ``teller``; ``clock`` is in seconds."""
        self._store = store
        self._teller = teller
        self._clock = clock
        attach = getattr(store, "attach", None)
        if attach is not None:  # what a store may have besides: ``SharesSubscription``

            def told(topic: Topic, patience: float, listener: TopicListener) -> Callable[[], Awaitable[None]]:
                heard = _ToldListener(listener, topic, teller, clock)
                return cast("Callable[[], Awaitable[None]]", attach(topic, patience, heard))

            self.attach = told

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Any:
        """Return what the store has besides what the protocol names."""
        return getattr(self._store, name)

    # Links --------------------------------------------------------------------------------------------------------

    async def get_link(self, key: LinkKey) -> Link | None:
        """See ``Store``."""
        with self._told("get_link", key.namespace, key.service_name):
            return await self._store.get_link(key)

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """See ``Store``."""
        with self._told("get_links", namespace, service_name):
            return await self._store.get_links(namespace, uids, service_name)

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """See ``Store``."""
        with self._told("get_services", namespace, ""):
            return await self._store.get_services(namespace, uid)

    @property
    def places_together(self) -> bool:
        """See ``Store``."""
        return self._store.places_together

    async def place(self, key: LinkKey, candidate: PodLife, ttl: float, **named: Any) -> LinkChange:
        """See ``Store``."""
        with self._told("place", key.namespace, key.service_name):
            change = await self._store.place(key, candidate, ttl, **named)
        return self._tell_change("place", key.namespace, key.uid, key.service_name, change)

    async def place_links(
        self, namespace: str, candidates: Sequence[tuple[str, PodLife]], service_name: str, ttl: float, **named: Any
    ) -> list[LinkChange | StoreError]:
        """See ``Store``."""
        with self._told("place_links", namespace, service_name):
            answers = await self._store.place_links(namespace, candidates, service_name, ttl, **named)
        for (uid, _), answer in zip(candidates, answers, strict=False):
            if not isinstance(answer, StoreError):
                self._tell_change("place_links", namespace, uid, service_name, answer)
        return answers

    async def claim(self, key: LinkKey, owner: PodLife, **named: Any) -> LinkChange:
        """See ``Store``."""
        with self._told("claim", key.namespace, key.service_name):
            change = await self._store.claim(key, owner, **named)
        return self._tell_change("claim", key.namespace, key.uid, key.service_name, change)

    async def release(self, key: LinkKey, **named: Any) -> LinkChange:
        """See ``Store``."""
        with self._told("release", key.namespace, key.service_name):
            change = await self._store.release(key, **named)
        return self._tell_change("release", key.namespace, key.uid, key.service_name, change)

    async def assign(self, key: LinkKey, owner: PodLife, **named: Any) -> LinkChange:
        """See ``Store``."""
        with self._told("assign", key.namespace, key.service_name):
            change = await self._store.assign(key, owner, **named)
        return self._tell_change("assign", key.namespace, key.uid, key.service_name, change)

    async def move(self, key: LinkKey, owner: PodLife, epoch: int, to: PodLife, **named: Any) -> LinkChange:
        """See ``Store``."""
        with self._told("move", key.namespace, key.service_name):
            change = await self._store.move(key, owner, epoch, to, **named)
        return self._tell_change("move", key.namespace, key.uid, key.service_name, change)

    async def history(self, key: LinkKey) -> list[LinkEvent]:
        """See ``Store``."""
        with self._told("history", key.namespace, key.service_name):
            return await self._store.history(key)

    # Pods ---------------------------------------------------------------------------------------------------------

    async def register(
        self, server: ServerInfo, report: PodReport, lease: float, retention: float, **named: Any
    ) -> Registration:
        """See ``Store``."""
        with self._told("register", server.namespace, server.service_name):
            return await self._store.register(server, report, lease, retention, **named)

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """See ``Store``."""
        outcome, error = None, None
        began = self._clock()
        try:
            with self._told("heartbeat", server.namespace, server.service_name):
                outcome = await self._store.heartbeat(server, incarnation, sequence, report, lease, retention)
        except BaseException as why:
            error = why
            raise
        finally:
            event = HeartbeatSent(
                namespace=server.namespace,
                service_name=server.service_name,
                pod_index=server.pod_index,
                incarnation=incarnation,
                seconds=self._clock() - began,
                outcome=outcome,
                error=error,
            )
            self._teller.heartbeat_sent(event)
        return outcome

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store``."""
        with self._told("confirm_death", namespace, service_name):
            dead = await self._store.confirm_death(namespace, service_name, life, retention)
        self._tell_death(namespace, service_name, life, dead=dead, proven=False)
        return dead

    async def end_life(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store``."""
        with self._told("end_life", namespace, service_name):
            ended = await self._store.end_life(namespace, service_name, life, retention)
        self._tell_death(namespace, service_name, life, dead=ended, proven=True)
        return ended

    async def read_pods(self, namespace: str, service_name: str, **named: Any) -> PodTable:
        """See ``Store``."""
        with self._told("read_pods", namespace, service_name):
            return await self._store.read_pods(namespace, service_name, **named)

    @contextlib.asynccontextmanager
    async def listen(self, topic: Topic, patience: float) -> AsyncIterator[AsyncIterator[TopicEvent | None]]:
        """See ``Store``."""
        async with self._store.listen(topic, patience) as events:
            yield events

    async def info(self) -> StoreInfo:
        """See ``Store``."""
        return await self._store.info()

    async def aclose(self) -> None:
        """See ``Store``."""
        await self._store.aclose()

    # Telling ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _told(self, operation: str, namespace: str, service_name: str) -> Iterator[None]:
        error: BaseException | None = None
        began = self._clock()
        try:
            yield
        except BaseException as why:
            error = why
            raise
        finally:
            seconds = self._clock() - began
            event = StoreCalled(
                operation=operation, namespace=namespace, service_name=service_name, seconds=seconds, error=error
            )
            self._teller.store_called(event)

    def _tell_change(
        self, operation: str, namespace: str, uid: str, service_name: str, change: LinkChange
    ) -> LinkChange:
        why = REASONS[operation].get(change.outcome)
        if why is not None:
            link = change.link
            event = LinkChanged(
                namespace=namespace,
                service_name=service_name,
                uid=uid,
                why=why,
                pod_index=None if link is None else link.pod_index,
                epoch=None if link is None else link.epoch,
                previous=change.previous,
            )
            self._teller.link_changed(event)
        return change

    def _tell_death(self, namespace: str, service_name: str, life: PodLife, *, dead: bool, proven: bool) -> None:
        if dead:
            event = PodDied(
                namespace=namespace,
                service_name=service_name,
                pod_index=life.pod_index,
                incarnation=life.incarnation,
                proven=proven,
            )
            self._teller.pod_died(event)


class _ToldListener:
    """Tells when nothing is heard any more, and when it is again; hands on all that is."""

    def __init__(self, listener: TopicListener, topic: Topic, teller: Teller, clock: Callable[[], float]) -> None:
        self._listener = listener
        self._names = {"namespace": topic.namespace, "service_name": topic.service_name}
        self._teller = teller
        self._clock = clock
        self._lost_at: float | None = None
        self._hears = False
        self.take_in = listener.take_in

    def begin(self) -> None:
        """See ``TopicListener``."""
        self._listener.begin()
        lost_at, self._lost_at, self._hears = self._lost_at, None, True
        if lost_at is not None:
            self._teller.hearing_regained(HearingRegained(**self._names, seconds=self._clock() - lost_at))

    def lose(self, error: StoreError) -> None:
        """See ``TopicListener``."""
        self._listener.lose(error)
        if self._hears:
            self._hears = False
            self._lost_at = self._clock()
            self._teller.hearing_lost(HearingLost(**self._names, error=error))
