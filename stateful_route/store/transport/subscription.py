"""One subscription connection for all that a process listens to.

Channels are subscribed to and left as they are wanted, each once, however many listen to it. There is one connection,
one PING for a sign of life and one back-off, for 300 namespaces as for one.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import log_failure
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StoreError, StoreUnavailableError
from stateful_route.store.transport.errors import translate
from stateful_route.store.transport.subscription_session import Channel, SubscriptionSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.store.transport.base import Connections

# Seconds between two connections. Those who listen in a task of their own (``ListeningTask``) wait besides, for longer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@attrs.frozen(eq=False)
class ChannelListener:
    """Who listens to a channel: callbacks that neither wait nor raise.

    Attributes:
        channel: the name of the channel.
        patience: that of ``Store.listen``, in seconds.
        begin: called when the subscription stands: nothing is missed from here on.
        take_in: called with each message.
        lose: called when nothing is heard until ``begin``; it may be called again, with another reason.
        show_life: called when the server answered, though there was no message.

    """

    channel: str
    patience: float
    begin: Callable[[], None]
    take_in: Callable[[list[Any]], None]
    lose: Callable[[StoreError], None]
    show_life: Callable[[], None] = lambda: None


class SharedSubscription:
    """The subscriptions of a store, over one connection: made for the first listener, closed after the last.

    A lost connection is a loss for all listeners, for any of them may have missed something. It is made again as long
    as somebody listens.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._channels: dict[bytes, Channel] = {}
        self._patiences: Counter[float] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._session: SubscriptionSession | None = None
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random.SystemRandom())
        self._retry_at = -math.inf
        self._closed = False
        self.failure: StoreError | None = None
        """Why there is no connection, if the last attempt failed or it was lost, until there is one."""
        self.connects = 0
        """How many connections were made."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._task is None else "lost" if self.failure else "open"
        return f"<SharedSubscription to {len(self._channels)} channels: {state}>"

    @property
    def deadline(self) -> float:
        """Seconds within which a subscription stands, or is refused."""
        return self._connections.deadline

    @property
    def patience(self) -> float:
        """The shortest patience of all listeners, in seconds."""
        return min(self._patiences, default=math.inf)

    def add(self, listener: ChannelListener) -> None:
        """Listen from now until ``leave``. The listener is told when its subscription stands: at once, if it does.

        Raises:
            StoreUnavailableError: if the store is closed.
            LifecycleError: if others listen in another event loop.

        """
        if self._closed:
            raise _closed()
        self._check_loop()
        channel = self._channels.setdefault(listener.channel.encode(), Channel(listener.channel))
        channel.listeners[listener] = None
        self._patiences[listener.patience] += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"stateful_route {self!r}")
            self._task.add_done_callback(log_failure)
        if self._session is not None:
            if channel.stands:
                listener.begin()
            self._session.want(channel)

    async def leave(self, listener: ChannelListener) -> None:
        """Listen no more; if nobody does, return once the connection is closed."""
        self._remove(listener)
        if self._ending:
            await asyncio.wait(self._ending)

    async def aclose(self) -> None:
        """Close the connection; those who still listen lose their subscriptions."""
        self._closed = True
        self._lose_all(_closed())
        self._end()
        if self._ending:
            await asyncio.wait(self._ending)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._channels and self._loop is not None and not self._loop.is_closed():
            raise LifecycleError("others listen in another event loop: make one store for each")
        self._loop = loop
        self._channels.clear()
        self._patiences.clear()
        self._ending.clear()
        self._task = self._session = self.failure = None

    def _remove(self, listener: ChannelListener) -> None:
        channel = self._channels.get(listener.channel.encode())
        if channel is None or listener not in channel.listeners:
            return
        del channel.listeners[listener]
        self._patiences[listener.patience] -= 1
        self._patiences += Counter()  # without those that nobody has any more
        if not self._patiences:
            self._end()
        elif not channel.listeners:
            if self._session is not None:
                self._session.leave(channel)
            self._forget_unused(channel)

    def _forget_unused(self, channel: Channel) -> None:
        """Forget a channel that nobody listens to, and of which no answer will come."""
        if not channel.listeners and not channel.in_flight:
            self._channels.pop(channel.name.encode(), None)

    def _end(self) -> None:
        """End the connection. Whoever listens next gets another one, while this one is still being closed."""
        self._channels.clear()
        self._patiences.clear()
        if self._session is not None:
            self._session.give_up("it is closed")  # at once: what it hears now is for those who have left
        task, self._task = self._task, None
        self._session = self.failure = None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(self._retry_at - loop.time())
                self.failure = await self._listen_once()
                self._retry_at = loop.time() + self._backoff.next()
                self._lose_all(self.failure)
        finally:
            if self._task is asyncio.current_task():  # nobody of ours has ended it: the event loop ends
                self._task = self._session = None
                self._lose_all(_closed())

    async def _listen_once(self) -> StoreError:
        """Listen over one connection until it is lost; return why it was."""
        session = None
        try:
            subscriber = await self._connections.open_subscriber()
            try:
                session = self._session = SubscriptionSession(self, subscriber)
                self.failure = None
                self.connects += 1
                for channel in self._channels.values():
                    session.want(channel)
                await session.run()
            finally:
                if self._session is session:
                    self._session = None
                await subscriber.close()
        except StoreError as error:
            return error
        except Exception as error:  # noqa: BLE001 - it is logged, and all have lost what they heard
            log.exception("subscription_failed", "the subscription ended by an unexpected error; it begins again")
            self._backoff.exhaust()
            return translate(error, "listen", sent=True, writes=False)

    def _lose_all(self, error: StoreError) -> None:
        for channel in tuple(self._channels.values()):
            channel.asked, channel.in_flight, channel.stands = False, 0, False
            self._forget_unused(channel)
            self.lose(channel, error)

    # What a session asks for -----------------------------------------------------------------------------------------

    def lose(self, channel: Channel, error: StoreError) -> None:
        """Tell those who listen to a channel that they hear nothing."""
        for listener in tuple(channel.listeners):
            try:
                listener.lose(error)
            except Exception:  # noqa: BLE001 - the others are told all the same
                log.exception("listener_not_told", "a listener failed to note that its subscription is lost")

    def confirmed(self, channel: Channel) -> None:
        """Note that the last command about a channel was answered."""
        self._backoff.reset()
        if channel.asked and not channel.stands:
            channel.stands = True
            for listener in tuple(channel.listeners):
                listener.begin()
        self._forget_unused(channel)

    def take_in(self, message: list[Any]) -> None:
        """Hand a message to those who listen; one that nobody wants any more is dropped."""
        channel = self._channels.get(message[1])
        if channel is not None and channel.stands:
            for listener in tuple(channel.listeners):
                listener.take_in(message)

    def show_life(self) -> None:
        """Tell all who hear that the server answered."""
        for channel in tuple(self._channels.values()):
            if channel.stands:
                for listener in tuple(channel.listeners):
                    listener.show_life()

    def want_refused(self, session: SubscriptionSession) -> None:
        """Ask again for the channels that somebody wants, and that the server refused."""
        for channel in self._channels.values():
            session.want(channel)


def _closed() -> StoreUnavailableError:
    return StoreUnavailableError("it is closed", operation="listen", maybe_applied=False)
