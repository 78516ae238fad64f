"""A store whose calls are told to ``Instrumentation``. Without a hook there is no such layer, and it costs nothing."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, cast

from stateful_route.errors import StoreError
from stateful_route.history import REASONS
from stateful_route.instrumentation import (
    HearingLost,
    HearingRegained,
    HeartbeatSent,
    LinkChanged,
    PodDied,
    StoreCalled,
)
from stateful_route.store.protocol import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from stateful_route.instrumentation import Teller
    from stateful_route.links import LinkChange
    from stateful_route.pods import Topic
    from stateful_route.store.protocol import SharesSubscription, TopicListener

_OPERATIONS = {
    name: tuple(inspect.signature(method).parameters)[1:]
    for name, method in vars(Store).items()
    if inspect.iscoroutinefunction(method) and name not in {"info", "aclose"}
}
"""The operations of the protocol, each with the names of its parameters."""


def instrumented(store: Store, teller: Teller, clock: Callable[[], float] = time.monotonic) -> Store:
    """Return a store that asks ``store``, and tells of each call when it has ended; ``clock`` is in seconds."""
    return cast("Store", _InstrumentedStore(store, teller, clock))


class _InstrumentedStore:
    """Has each operation of the protocol as an attribute; the rest is that of the store."""

    def __init__(self, store: Store, teller: Teller, clock: Callable[[], float]) -> None:
        self._store = store
        self._teller = teller
        self._clock = clock
        for operation in _OPERATIONS:
            setattr(self, operation, self._told(operation))
        if hasattr(store, "attach"):
            self.attach = self._attach

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _told(self, operation: str) -> Callable[..., Awaitable[Any]]:
        ask, clock, parameters = getattr(self._store, operation), self._clock, _OPERATIONS[operation]

        async def told(*args: Any, **named: Any) -> Any:
            began = clock()
            try:
                answer = await ask(*args, **named)
            except BaseException as error:
                self._tell(operation, dict(zip(parameters, args, strict=False)) | named, clock() - began, None, error)
                raise
            self._tell(operation, dict(zip(parameters, args, strict=False)) | named, clock() - began, answer, None)
            return answer

        return told

    def _attach(self, topic: Topic, patience: float, listener: TopicListener) -> Callable[[], Awaitable[None]]:
        heard = _InstrumentedListener(listener, topic, self._teller, self._clock)
        return cast("SharesSubscription", self._store).attach(topic, patience, heard)

    def _tell(
        self, operation: str, given: Mapping[str, Any], seconds: float, answer: Any, error: BaseException | None
    ) -> None:
        about = given.get("key") or given.get("server")
        if about is None:
            namespace, service_name = given["namespace"], given.get("service_name", "")
        else:
            namespace, service_name = about.namespace, about.service_name
        called = StoreCalled(
            operation=operation, namespace=namespace, service_name=service_name, seconds=seconds, error=error
        )
        self._teller.store_called(called)
        if operation == "heartbeat":
            heartbeat = HeartbeatSent(
                namespace=namespace,
                service_name=service_name,
                pod_index=given["server"].pod_index,
                incarnation=given["incarnation"],
                seconds=seconds,
                outcome=answer,
                error=error,
            )
            self._teller.heartbeat_sent(heartbeat)
        elif operation in {"confirm_death", "end_life"} and answer:
            died = PodDied(
                namespace=namespace,
                service_name=service_name,
                pod_index=given["life"].pod_index,
                incarnation=given["life"].incarnation,
                proven=operation == "end_life",
            )
            self._teller.pod_died(died)
        elif operation == "place_links" and error is None:
            for (uid, _), change in zip(given["candidates"], answer, strict=False):
                if not isinstance(change, StoreError):
                    self._tell_change(operation, namespace, service_name, uid, change)
        elif operation in REASONS and error is None:
            self._tell_change(operation, namespace, service_name, given["key"].uid, answer)

    def _tell_change(self, operation: str, namespace: str, service_name: str, uid: str, change: LinkChange) -> None:
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


class _InstrumentedListener:
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
