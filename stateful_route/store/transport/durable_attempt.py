"""A durable call over a connection of a borrowed client, which it holds for as long as ``WAIT`` takes.

When such a call is too late, its caller has to know whether the server is away or no replica has the change. So the
``WAIT`` takes only a share of the time that is left; and a call without an answer to it, or without a turn, looks at
what the server has answered meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import redis.exceptions

from stateful_route.errors import NotReplicatedError
from stateful_route.store.transport.attempt import ScriptAttempt
from stateful_route.store.transport.durable import (
    MARGIN,
    counts_only_replicated,
    marker,
    patience,
    replicated,
    shortfall,
)
from stateful_route.store.transport.errors import translate

if TYPE_CHECKING:
    from stateful_route.errors import StoreError
    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.resp import Command

# Share of the places for calls that durable ones may hold: other calls do not wait behind them.
_SHARE_OF_PLACES = 0.75


class DurableTurns:
    """What the durable calls over the connections of a client share."""

    def __init__(self, places: int) -> None:
        """Let a share of the ``places`` wait for a replica at the same time."""
        self.turn = asyncio.Semaphore(max(1, int(_SHARE_OF_PLACES * places)))
        self.short_at = -math.inf
        """When a server last answered that no replica had a change, by the clock of the event loop."""
        self.given: set[tuple[str, str]] = set()
        """Which servers have which scripts, by address and SHA-1: behind a ``NOSCRIPT`` the ``WAIT`` is in vain."""


class DurableAttempt(ScriptAttempt):
    """An attempt that ends before the deadline of its call, and says so if that is for want of a replica.

    Its ``replies`` are those of the script and of its ``marker``.
    """

    __slots__ = ("_began", "_placed_at", "_sent_at", "_turns", "_wait")

    def __init__(self, call: DurableCall, deadline: float, turns: DurableTurns, at: str = "") -> None:
        """Bound a call by its ``expires``, or else by ``deadline`` seconds; ``at`` as of ``Attempt``."""
        self._began = asyncio.get_running_loop().time()
        super().__init__(call, deadline, at=at, expires=call.expires, spared=MARGIN * deadline)
        self._turns = turns
        self._placed_at: float | None = None
        self._sent_at = self._began
        self._wait = 0.0

    def placed(self) -> None:
        """Note that it is the turn of the call."""
        self._placed_at = asyncio.get_running_loop().time()

    def send(self) -> tuple[Command, Command, Command]:
        """Note that the script is in flight, and return the command that runs it and its ``marker``.

        Raises:
            StoreError: if it is too late for that.

        """
        if not self.has_time_for(0.0):
            raise self.late()
        self._learn()
        self._sent_at = asyncio.get_running_loop().time()
        self._wait = patience(self._deadline, self._expires - self._sent_at)
        self.replies = []
        self.sent = True
        call = self._call
        given = (self.at, call.script.sha) in self._turns.given
        return (call.evalsha if given else call.eval, *marker(call.keys[0], self._wait))

    def result(self) -> Any:
        """Return the reply of the script if those to its ``marker`` say that a replica has it.

        Raises:
            RedisError: if the server refused it.
            StoreError: if no replica is known to have it.

        """
        self._learn()
        reply, *acknowledged = self.replies
        if isinstance(reply, Exception):
            raise reply
        if isinstance(acknowledged[-1], redis.exceptions.TimeoutError | TimeoutError):  # of the client: it waits less
            fault: StoreError | None = self._unacknowledged(maybe_applied=True)
        else:
            fault = shortfall(acknowledged, self._call.name, self._wait, self.at)
            if isinstance(fault, NotReplicatedError):
                self._turns.short_at = asyncio.get_running_loop().time()
        return replicated(reply, self._call.name, fault)

    def late(self) -> StoreError:
        """Return the error of a call whose time is up."""
        self._learn()
        name = self._call.name
        if self.replies:  # the server has answered
            match self.replies[0]:
                case redis.exceptions.NoScriptError():
                    return self._unacknowledged(maybe_applied=False)
                case Exception() as error:
                    return translate(error, name, sent=True, writes=True, at=self.at)
                case reply:
                    return self._unacknowledged(maybe_applied=counts_only_replicated(reply, name))
        waited = (asyncio.get_running_loop().time() if self._placed_at is None else self._placed_at) - self._began
        if not self.sent and waited > (self._expires - self._began) / 2 and self._turns.short_at >= self._began:
            return NotReplicatedError(
                f"no replica{self._of} has what others wrote, who were first", operation=name, maybe_applied=False
            )
        return super().late()

    def _learn(self) -> None:
        """Note whether the server has the script."""
        place = self.at, self._call.script.sha
        if self.replies and isinstance(self.replies[0], redis.exceptions.NoScriptError):
            self._turns.given.discard(place)
        elif self.replies and not isinstance(self.replies[0], Exception):
            self._turns.given.add(place)

    def _unacknowledged(self, *, maybe_applied: bool) -> NotReplicatedError:
        """Return the error of a call for which the server did not say in time whether a replica has it."""
        self._turns.short_at = max(self._turns.short_at, self._sent_at)
        message = f"no replica{self._of} is known to have it" + "; a failover now would lose it" * maybe_applied
        return NotReplicatedError(message, operation=self._call.name, maybe_applied=maybe_applied)

    @property
    def _of(self) -> str:
        return f" of {self.at}" if self.at else ""
