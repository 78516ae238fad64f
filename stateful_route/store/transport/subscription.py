"""One subscription connection for all that a process listens to.

Channels are subscribed to and left as they are wanted, each once, however many listen to it. There is one connection,
one task that reads it, one question for a sign of life and one back-off, for 300 namespaces as for one.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import math
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import redis.exceptions

from stateful_route._background.tasks import log_failure
from stateful_route.errors import LifecycleError, StoreError, StoreUnavailableError
from stateful_route.store.transport.errors import timed_out, translate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.subscriber import Subscriber

_log = logging.getLogger("stateful_route")

# Seconds between two connections: doubled with each that fails, and up to half of it random. Those who listen in a task
# of their own (``ListeningTask``) wait besides, for longer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

# Seconds before a channel that was refused is asked for again, up to half of it random.
_AFTER_REFUSAL = 2.0

# Replies that are read before the event loop gets its turn.
_SLICE = 256

_CONFIRMED_BY = {"SUBSCRIBE": b"subscribe", "UNSUBSCRIBE": b"unsubscribe"}


class ChannelListener(abc.ABC):
    """Is told what is heard in a channel, in callbacks that neither wait nor raise.

    ``begin`` and ``lose`` alternate, save that a loss may be told again: the reason may be another one.
    """

    def __init__(self, channel: str, patience: float) -> None:
        """Listen to ``channel``; ``patience`` is that of ``Store.listen``, in seconds."""
        self.channel = channel
        self.patience = patience

    @abc.abstractmethod
    def begin(self) -> None:
        """Take in that the subscription stands: from here on nothing is missed."""

    @abc.abstractmethod
    def take_in(self, message: list[Any]) -> None:
        """Take in a message."""

    @abc.abstractmethod
    def show_life(self) -> None:
        """Take in that the server answered, though there was no message."""

    @abc.abstractmethod
    def lose(self, error: StoreError) -> None:
        """Take in that nothing is heard any more, or that nothing could be, until ``begin``."""


@attrs.define(eq=False)
class _Channel:
    """A channel, as far as the commands that were sent over the present connection go."""

    name: str
    listeners: dict[ChannelListener, None] = attrs.field(factory=dict)
    asked: bool = False
    """Whether the last command was to subscribe, and was not refused."""
    in_flight: int = 0
    """How many commands are not answered."""
    stands: bool = False


@attrs.define(eq=False)
class _Sent:
    """A command that is not answered."""

    word: str
    channel: _Channel | None
    """What is subscribed to or left; ``None`` if a sign of life is asked for."""
    expires: float
    late: bool = False
    """Whether those who wait for it were told that it is."""


class SharedSubscription:
    """The subscriptions of a store, over one connection: made for the first listener, closed after the last.

    A lost connection is a loss for all listeners, for any of them may have missed something. It is made again as long
    as somebody listens.
    """

    def __init__(self, connections: Connections) -> None:
        """Connect nothing yet."""
        self._connections = connections
        self._channels: dict[bytes, _Channel] = {}
        self._patiences: Counter[float] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._session: _Session | None = None
        self._failure: StoreError | None = None
        self._pause = _FIRST_PAUSE
        self._retry_at = -math.inf
        self._closed = False
        self.connects = 0
        """How many connections were made."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._task is None else "lost" if self._failure else "open"
        return f"<SharedSubscription to {len(self._channels)} channels: {state}>"

    @property
    def deadline(self) -> float:
        """Seconds within which a subscription stands, or is refused."""
        return self._connections.deadline

    @property
    def patience(self) -> float:
        """The shortest patience of all listeners, in seconds."""
        return min(self._patiences, default=math.inf)

    @property
    def failure(self) -> StoreError | None:
        """Why there is no connection, if the last attempt failed or it was lost, until there is one."""
        return self._failure

    def add(self, listener: ChannelListener) -> None:
        """Listen from now until ``leave``. The listener is told when its subscription stands: at once, if it does.

        Raises:
            StoreUnavailableError: if the store is closed.
            LifecycleError: if others listen in another event loop.

        """
        if self._closed:
            raise _closed()
        self._check_loop()
        key = listener.channel.encode()
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(listener.channel)
        channel.listeners[listener] = None
        self._patiences[listener.patience] += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"stateful_route {self!r}")
            self._task.add_done_callback(log_failure)
        if self._session is None:
            return
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
        self._channels.clear()
        self._patiences.clear()
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
        self._task = self._session = self._failure = None

    def _remove(self, listener: ChannelListener) -> None:
        key = listener.channel.encode()
        channel = self._channels.get(key)
        if channel is None or listener not in channel.listeners:
            return
        del channel.listeners[listener]
        self._patiences[listener.patience] -= 1
        self._patiences += Counter()  # without those that nobody has any more
        if channel.listeners:
            return
        if self._session is not None:
            self._session.leave(channel)
        self._tidy(channel)
        if not self._patiences:
            self._channels.clear()
            self._end()

    def _tidy(self, channel: _Channel) -> None:
        """Forget a channel that nobody listens to, and of which no answer will come."""
        if not channel.listeners and not channel.in_flight:
            self._channels.pop(channel.name.encode(), None)

    def _end(self) -> None:
        """End the connection. Whoever listens next gets another one, while this one is still being closed."""
        task, self._task = self._task, None
        self._session = self._failure = None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(self._retry_at - loop.time())
                error = await self._hear()
                self._back_off(loop.time())
                self._failure = error
                self._lose_all(error)
        finally:
            if self._task is asyncio.current_task():  # nobody of ours has ended it: the event loop ends
                self._task = self._session = None
                self._lose_all(_closed())

    async def _hear(self) -> StoreError:
        """Hear over one connection as long as it stands; return what it ended with."""
        session = None
        try:
            subscriber = await self._connections.open_subscriber()
            try:
                session = _Session(self, subscriber)
                self._session, self._failure = session, None
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
            _log.exception("the subscription ended by an unexpected error; it begins again")
            self._pause = _LONGEST_PAUSE
            return translate(error, "listen", sent=True, writes=False)

    def _back_off(self, now: float) -> None:
        self._retry_at = now + self._pause * (1 - random.random() / 2)  # noqa: S311
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _lose_all(self, error: StoreError) -> None:
        for channel in tuple(self._channels.values()):
            channel.asked, channel.in_flight, channel.stands = False, 0, False
            self._tidy(channel)
            self.lose(channel, error)

    # What a session asks for -------------------------------------------------------------------------------------

    def lose(self, channel: _Channel, error: StoreError) -> None:
        """Tell those who listen to a channel that they hear nothing."""
        for listener in tuple(channel.listeners):
            try:
                listener.lose(error)
            except Exception:  # noqa: BLE001 - the others are told all the same
                _log.exception("a listener does not take in that its subscription is lost")

    def confirmed(self, channel: _Channel) -> None:
        """Take in that the last command about a channel was answered."""
        self._pause = _FIRST_PAUSE
        if channel.asked and not channel.stands:
            channel.stands = True
            for listener in tuple(channel.listeners):
                listener.begin()
        self._tidy(channel)

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

    def refused(self) -> Iterable[_Channel]:
        """Return the channels that somebody wants, and that the server would not let us have."""
        return [channel for channel in self._channels.values() if channel.listeners and not channel.asked]


class _Session:
    """The subscriptions over one connection, until it is lost. Answers come in the order of the commands."""

    def __init__(self, shared: SharedSubscription, subscriber: Subscriber) -> None:
        """Begin with none."""
        self._shared = shared
        self._subscriber = subscriber
        self._loop = asyncio.get_running_loop()
        self._sent: deque[_Sent] = deque()
        self._heard_at = self._loop.time()
        self._pinged_at = -math.inf
        self._retry_at = math.inf
        """When to ask again for the channels that were refused."""
        self._look_at = math.inf
        self._looking: asyncio.TimerHandle | None = None
        self._bound = asyncio.timeout(None)
        self._verdict: StoreError | None = None
        self._stood_still = False

    def want(self, channel: _Channel) -> None:
        """Subscribe to a channel, if that is not so yet."""
        if not channel.asked and channel.listeners:
            channel.asked = True
            self._send("SUBSCRIBE", channel)
        self._look_by(self._heard_at + self._shared.patience)

    def leave(self, channel: _Channel) -> None:
        """Leave a channel. A user without the right to do so goes on hearing it, and nobody listens."""
        if channel.asked:
            channel.asked = channel.stands = False
            self._send("UNSUBSCRIBE", channel)

    async def run(self) -> NoReturn:
        """Read until the connection is lost.

        Raises:
            StoreError: when it is.

        """
        self._look_by(self._loop.time() + self._shared.patience)
        try:
            async with self._bound:
                await self._read()
        except TimeoutError:
            if self._verdict is None:
                raise
            raise self._verdict from None
        finally:
            self._look_at = -math.inf  # no look any more
            if self._looking is not None:
                self._looking.cancel()

    async def _read(self) -> NoReturn:
        read = self._subscriber.read
        while True:
            for _ in range(_SLICE):
                reply = await read()
                self._heard_at = self._loop.time()
                if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":  # noqa: PLR2004
                    self._shared.take_in(reply)
                else:
                    self._answered(reply)
            await asyncio.sleep(0)

    def _send(self, word: str, channel: _Channel | None = None) -> None:
        expires = self._loop.time() + self._shared.deadline
        self._sent.append(_Sent(word, channel, expires))
        if channel is not None:
            channel.in_flight += 1
        match word, channel:
            case "SUBSCRIBE", _Channel():
                self._subscriber.send(("SUBSCRIBE", channel.name))
            case "UNSUBSCRIBE", _Channel():
                self._subscriber.send(("UNSUBSCRIBE", channel.name))
            case _:
                self._subscriber.send(("PING",))
        self._look_by(expires)

    def _answered(self, reply: Any) -> None:
        """Take in the answer to the command that was sent first of those without one."""
        if not self._sent:
            raise _unreadable(reply, self._subscriber.address)
        sent = self._sent.popleft()
        channel = sent.channel
        if channel is not None:
            channel.in_flight -= 1
        if isinstance(reply, Exception):
            self._refused(sent, translate(reply, "listen", sent=True, writes=False, at=self._subscriber.address))
        elif channel is None:
            if isinstance(reply, list) and reply[:1] != [b"pong"]:
                raise _unreadable(reply, self._subscriber.address)
            self._shared.show_life()
            return
        elif not isinstance(reply, list) or reply[:2] != [_CONFIRMED_BY[sent.word], channel.name.encode()]:
            raise _unreadable(reply, self._subscriber.address)
        if channel is not None and not channel.in_flight:
            self._shared.confirmed(channel)

    def _refused(self, sent: _Sent, error: StoreError) -> None:
        """Take in that the server would not do something: to subscribe is a loss for those who wanted it alone."""
        channel = sent.channel
        if channel is None:  # without an answer to a question nobody knows whether anything is heard
            raise error
        if sent.word == "UNSUBSCRIBE":
            _log.debug("not unsubscribed from %s: %s", channel.name, error)
        elif not channel.in_flight:  # else it was left meanwhile
            channel.asked = channel.stands = False
            pause = _AFTER_REFUSAL * (1 - random.random() / 2)  # noqa: S311
            self._retry_at = min(self._retry_at, self._loop.time() + pause)
            self._look_by(self._retry_at)
            self._shared.lose(channel, error)

    def _look_by(self, when: float) -> None:
        """Look at ``when`` whether all is well; that is before any other look, or it is not needed."""
        if when >= self._look_at:
            return
        if self._looking is not None:
            self._looking.cancel()
        self._look_at = when
        self._looking = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Ask for a sign of life, or give the connection up."""
        now, due = self._loop.time(), self._look_at
        self._look_at = math.inf
        patience = self._shared.patience
        if self._verdict is not None:
            return
        self._stood_still = now - due > patience / 2 and not self._stood_still
        if self._stood_still:  # the event loop, so that what has come meanwhile is not read yet
            self._look_by(now + patience / 4)
            return
        if self._subscriber.moved():
            self._give_up("it is not the right server any more")
            return
        if self._sent and now >= self._sent[0].expires + patience:
            self._give_up(f"it has not answered for {now - self._sent[0].expires + self._shared.deadline:.1f} s")
            return
        self._tell_who_waits(now)
        pinging = any(sent.channel is None for sent in self._sent)
        silent_at = max(self._heard_at, self._pinged_at if pinging else -math.inf) + patience
        if now >= silent_at:
            if pinging:
                self._give_up("nothing is heard from it any more")
                return
            self._pinged_at = now
            silent_at = now + patience
            self._send("PING")
        if now >= self._retry_at:
            self._retry_at = math.inf
            for channel in self._shared.refused():
                self.want(channel)
        late = self._sent[0].expires + patience if self._sent else math.inf
        next_late = next((sent.expires for sent in self._sent if not sent.late), math.inf)
        self._look_by(min(silent_at, self._retry_at, late, next_late))

    def _tell_who_waits(self, now: float) -> None:
        """Tell those who have waited for a deadline that they hear nothing yet: the others are not to suffer for it."""
        for sent in self._sent:
            if now < sent.expires:
                break
            if not sent.late and sent.channel is not None and not sent.channel.stands:
                error = timed_out("listen", self._shared.deadline, sent=True, writes=False, at=self._subscriber.address)
                self._shared.lose(sent.channel, error)
            sent.late = True

    def _give_up(self, reason: str) -> None:
        message = f"{self._subscriber.address}: {reason}"
        self._verdict = StoreUnavailableError(message, operation="listen", maybe_applied=False)
        self._bound.reschedule(self._loop.time())


def _unreadable(reply: Any, address: str) -> StoreError:
    error = redis.exceptions.InvalidResponse(f"no answer to what was asked: {reply!r:.80}")
    return translate(error, "listen", sent=True, writes=False, at=address)


def _closed() -> StoreUnavailableError:
    return StoreUnavailableError("it is closed", operation="listen", maybe_applied=False)
