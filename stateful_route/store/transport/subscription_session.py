"""The subscriptions over one connection, until it is lost: what was asked for, what stands, and signs of life."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import redis.exceptions

from stateful_route._log import log
from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.store.transport.errors import timed_out, translate

if TYPE_CHECKING:
    from stateful_route.store.transport.subscriber import Subscriber
    from stateful_route.store.transport.subscription import ChannelListener, SharedSubscription

# Seconds before a channel that was refused is asked for again, up to half of it random.
_AFTER_REFUSAL = 2.0

_CONFIRMED_BY = {"SUBSCRIBE": b"subscribe", "UNSUBSCRIBE": b"unsubscribe"}


@attrs.define(eq=False)
class Channel:
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
    channel: Channel | None
    """What is subscribed to or left; ``None`` for a PING."""
    expires: float
    late: bool = False
    """Whether those who wait for it were told that it is."""


class SubscriptionSession:
    """Matches the answers of one connection to the commands, which they follow in order."""

    def __init__(self, shared: SharedSubscription, subscriber: Subscriber) -> None:
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
        self._stood_still = False

    def want(self, channel: Channel) -> None:
        """Subscribe to a channel, unless that is so or was asked for."""
        if not channel.asked and channel.listeners:
            channel.asked = True
            self._send("SUBSCRIBE", channel)
        self._look_by(self._heard_at + self._shared.patience)

    def leave(self, channel: Channel) -> None:
        """Leave a channel. A user without the right to do so goes on hearing it, and nobody listens."""
        if channel.asked:
            channel.asked = channel.stands = False
            self._send("UNSUBSCRIBE", channel)

    def give_up(self, reason: str) -> None:
        """End the connection: nothing is heard over it any more."""
        message = f"{self._subscriber.address}: {reason}"
        self._subscriber.abort(StoreUnavailableError(message, operation="listen", maybe_applied=False))

    async def run(self) -> NoReturn:
        """Handle what comes until the connection is lost.

        Raises:
            StoreError: when it is.

        """
        self._look_by(self._loop.time() + self._shared.patience)
        try:
            await self._subscriber.run(self._hear)
        finally:
            self._look_at = -math.inf  # no look any more
            if self._looking is not None:
                self._looking.cancel()

    def _hear(self, reply: Any) -> None:
        self._heard_at = self._loop.time()
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":  # noqa: PLR2004
            self._shared.take_in(reply)
        else:
            self._answered(reply)

    def _send(self, word: str, channel: Channel | None = None) -> None:
        expires = self._loop.time() + self._shared.deadline
        self._sent.append(_Sent(word, channel, expires))
        if channel is None:
            self._subscriber.send((word,))
        else:
            channel.in_flight += 1
            self._subscriber.send((word, channel.name))
        self._look_by(expires)

    def _answered(self, reply: Any) -> None:
        """Handle the answer to the first of the commands that have none."""
        if not self._sent:
            raise self._fault(_unreadable(reply))
        sent = self._sent.popleft()
        channel = sent.channel
        if channel is None:
            if isinstance(reply, Exception):  # nobody knows then whether anything is heard
                raise self._fault(reply)
            if isinstance(reply, list) and reply[:1] != [b"pong"]:
                raise self._fault(_unreadable(reply))
            self._shared.show_life()
            return
        channel.in_flight -= 1
        if isinstance(reply, Exception):
            self._refused(sent.word, channel, self._fault(reply))
        elif not isinstance(reply, list) or reply[:2] != [_CONFIRMED_BY[sent.word], channel.name.encode()]:
            raise self._fault(_unreadable(reply))
        if not channel.in_flight:
            self._shared.confirmed(channel)

    def _refused(self, word: str, channel: Channel, error: StoreError) -> None:
        """Handle the refusal of a command: one to subscribe is a loss for those who wanted that channel alone."""
        if word == "UNSUBSCRIBE":
            log.debug(
                "channel_not_left", "not unsubscribed from %(channel)s: %(error)s", channel=channel.name, error=error
            )
        elif not channel.in_flight:  # else it was left meanwhile
            channel.asked = channel.stands = False
            pause = _AFTER_REFUSAL * (1 - random.random() / 2)  # noqa: S311
            self._retry_at = min(self._retry_at, self._loop.time() + pause)
            self._look_by(self._retry_at)
            self._shared.lose(channel, error)

    def _look_by(self, when: float) -> None:
        """Look at ``when`` whether all is well, unless there is a look before."""
        if when < self._look_at:
            if self._looking is not None:
                self._looking.cancel()
            self._look_at = when
            self._looking = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Ask for a sign of life, or give the connection up."""
        now, due = self._loop.time(), self._look_at
        self._look_at = math.inf
        patience = self._shared.patience
        self._stood_still = now - due > patience / 2 and not self._stood_still
        if self._stood_still:  # the event loop, so that what has come meanwhile is not read yet
            self._look_by(now + patience / 4)
            return
        pinging = any(sent.channel is None for sent in self._sent)
        silent_at = max(self._heard_at, self._pinged_at if pinging else -math.inf) + patience
        late_at = self._sent[0].expires + patience if self._sent else math.inf
        if self._subscriber.moved():
            self.give_up("it is not the right server any more")
        elif now >= late_at:
            self.give_up(f"it has not answered for {now - late_at + patience + self._shared.deadline:.1f} s")
        elif now >= silent_at and pinging:
            self.give_up("nothing is heard from it any more")
        else:
            self._tell_who_waits(now)
            if now >= silent_at:
                self._pinged_at = now
                silent_at = now + patience
                self._send("PING")
            if now >= self._retry_at:
                self._retry_at = math.inf
                self._shared.want_refused(self)
            next_late = next((sent.expires for sent in self._sent if not sent.late), math.inf)
            self._look_by(min(silent_at, self._retry_at, late_at, next_late))

    def _tell_who_waits(self, now: float) -> None:
        """Tell those who have waited for a deadline that they hear nothing yet: the others are not to suffer for it."""
        for sent in self._sent:
            if now < sent.expires:
                break
            if not sent.late and sent.channel is not None and not sent.channel.stands:
                error = timed_out("listen", self._shared.deadline, sent=True, writes=False, at=self._subscriber.address)
                self._shared.lose(sent.channel, error)
            sent.late = True

    def _fault(self, error: Exception) -> StoreError:
        return translate(error, "listen", sent=True, writes=False, at=self._subscriber.address)


def _unreadable(reply: Any) -> Exception:
    return redis.exceptions.InvalidResponse(f"no answer to what was asked: {reply!r:.80}")
