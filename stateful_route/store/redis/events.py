"""Listens to what the scripts announce on a topic: invalidations of links, and changes of pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stateful_route._validation import to_ms, to_seconds
from stateful_route.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from stateful_route.links import LinkInvalidation, LinkKey, TopicEvent
from stateful_route.pods import Asked, PodChange, PodRequest
from stateful_route.store.redis.keys import decode, encode
from stateful_route.store.transport.subscription import ChannelListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stateful_route.pods import Topic
    from stateful_route.store.protocol import TopicListener
    from stateful_route.store.redis.keys import KeySpace
    from stateful_route.store.transport.subscription import SharedSubscription

E = TypeVar("E", bound=StoreError)

# Messages that wait for a slow listener, some 30 MB: what a server keeps by default for a subscriber that does not read
# (client-output-buffer-limit pubsub 32mb 8mb 60).
_MOST_WAITING = 100_000

# Events that a listener gets before the event loop has its turn.
_SLICE = 256


@contextlib.asynccontextmanager
async def listening(
    shared: SharedSubscription, keys: KeySpace, topic: Topic, patience: float
) -> AsyncIterator[AsyncIterator[TopicEvent | None]]:
    """Listen to the events on a topic; see ``Store.listen``."""
    events = _Events(keys, topic, patience)
    shared.add(events.listener)
    try:
        await events.entered(shared)
        yield events
    finally:
        await shared.leave(events.listener)


def attach(
    shared: SharedSubscription, keys: KeySpace, topic: Topic, patience: float, listener: TopicListener
) -> Callable[[], Awaitable[None]]:
    """Have a listener told what is announced on a topic; see ``SharesSubscription.attach``."""

    def take_in(message: list[Any]) -> None:
        if (event := parse(message, topic)) is not None:
            listener.take_in(event)

    attached = ChannelListener(
        keys.channel(topic),
        patience,
        begin=listener.begin,
        take_in=take_in,
        lose=listener.lose,
    )
    try:
        shared.add(attached)
    except StoreUnavailableError as error:
        listener.lose(error)
    if shared.failure is not None:
        listener.lose(shared.failure)
    return lambda: shared.leave(attached)


class _Events:
    """The events on a topic, in order, until the subscription is lost."""

    def __init__(self, keys: KeySpace, topic: Topic, patience: float) -> None:
        self.listener = ChannelListener(
            keys.channel(topic),
            patience,
            begin=self._begin,
            take_in=self._take_in,
            lose=self._lose,
            show_life=self._show_life,
        )
        self._topic = topic
        self._waiting: deque[list[Any]] = deque()
        self._stands = False
        self._shown_life = False
        self._error: StoreError | None = None
        self._woken: asyncio.Future[None] | None = None
        self._given = 0

    async def entered(self, shared: SharedSubscription) -> None:
        """Return once the subscription stands.

        Raises:
            StoreError: if it does not within the deadline.

        """
        try:
            async with asyncio.timeout(shared.deadline):
                while not self._stands and self._error is None:
                    await self._wake_up()
        except TimeoutError:
            if shared.failure is not None:  # the next attempt is still to come
                raise again(shared.failure) from shared.failure.__cause__
            late = f"no subscription within {shared.deadline:g} s"
            raise StoreTimeoutError(late, operation="listen", maybe_applied=False) from None
        if not self._stands and self._error is not None:
            raise again(self._error) from self._error.__cause__

    def _begin(self) -> None:
        self._stands = True
        self._wake()

    def _take_in(self, message: list[Any]) -> None:
        if self._error is not None:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            behind = f"the listener is behind by more than {_MOST_WAITING} events"
            self._lose(StoreUnavailableError(behind, operation="listen", maybe_applied=False))
            return
        self._waiting.append(message)
        self._wake()

    def _show_life(self) -> None:
        self._shown_life = True
        self._wake()

    def _lose(self, error: StoreError) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TopicEvent | None:
        self._given += 1
        if self._given % _SLICE == 0:
            await asyncio.sleep(0)
        while True:
            if self._waiting:
                return parse(self._waiting.popleft(), self._topic)
            if self._error is not None:
                raise again(self._error) from self._error.__cause__
            if self._shown_life:
                self._shown_life = False
                return None
            await self._wake_up()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _wake_up(self) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None


def again(error: E) -> E:
    """Return a copy of an error: each listener raises one of its own, with a traceback of its own."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied


def parse(message: list[Any], topic: Topic) -> TopicEvent | None:
    """Return the event that a message of the subscription is; ``None`` for anything else, a sign of life."""
    try:
        if message[0] != b"message":
            return None
        kind, *parts = message[2].decode().split(" ")
        if kind == "link":
            uid, epoch, *_appended = parts  # by a newer release
            return LinkInvalidation(LinkKey(topic.namespace, decode(uid), topic.service_name), int(epoch))
        if kind == "pod":
            pod_index, incarnation, state, *_appended = parts
            return PodChange(topic.namespace, topic.service_name, int(pod_index), int(incarnation), state)
        if kind == "request" and topic.pod_index is not None:
            return _request(parts, topic, topic.pod_index)
    except (ValueError, TypeError, LookupError, AttributeError):
        pass  # of a newer release, or nobody's, or no message at all
    return None


def request_message(request: PodRequest) -> str:
    """Return the words of a request, which is the message on the channel of its pod; ``parse`` reads it.

    A release that does not know what is asked, or requests at all, takes it for a sign of life.
    """
    words = ["request", request.asked.value, request.name, str(to_ms(request.deadline))]
    if request.uid is not None and request.to is not None:
        words += [encode(request.uid), str(request.to)]
    if request.incarnation is not None:
        words.append(str(request.incarnation))
    return " ".join(words)


def _request(parts: list[str], topic: Topic, pod_index: int) -> PodRequest:
    asked, name, deadline_ms, *more = parts
    uid, to = (decode(more.pop(0)), int(more.pop(0))) if asked == Asked.MOVE else (None, None)
    return PodRequest(
        namespace=topic.namespace,
        service_name=topic.service_name,
        pod_index=pod_index,
        asked=Asked(asked),
        name=name,
        deadline=to_seconds(int(deadline_ms)),
        uid=uid,
        to=to,
        incarnation=int(more[0]) if more else None,  # the rest is a newer release's
    )
