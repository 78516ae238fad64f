"""Commands over one connection of redis-py, within a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import redis.exceptions

from stateful_route.errors import StoreError
from stateful_route.store.transport import resp
from stateful_route.store.transport.errors import REDIS_ERRORS, timed_out, translate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from redis.asyncio.connection import AbstractConnection

    from stateful_route.store.redis.scripts import ScriptCall
    from stateful_route.store.transport.resp import Command

# Of the deadline of a call: if less is left, nothing more is sent.
LAST = 0.25


class Attempt:
    """A deadline around one attempt, and the translation of what it raises."""

    __slots__ = ("_deadline", "_operation", "_timeout", "_writes", "at", "sent")

    def __init__(
        self, operation: str, deadline: float, *, writes: bool, at: str = "", until: float | None = None
    ) -> None:
        """Bound an operation by ``deadline`` seconds, or by ``until`` on the clock of the event loop.

        Set ``sent`` once the command is in flight, and ``at`` once the address of the server is known.
        """
        self._operation = operation
        self._deadline = deadline
        self._writes = writes
        self._timeout = asyncio.timeout(deadline) if until is None else asyncio.timeout_at(until)
        self.at = at
        self.sent = False

    async def __aenter__(self) -> Self:
        """Begin the attempt."""
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the attempt; raise any failure as a ``StoreError``.

        redis-py also raises a ``TypeError`` or an ``AttributeError`` over a socket that was closed.
        """
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self.late() from error
        if isinstance(error, Exception) and not isinstance(error, StoreError):
            fault = translate(error, self._operation, sent=self.sent, writes=self._writes, at=self.at)
            raise fault from fault.__cause__

    def late(self) -> StoreError:
        """Return the error of an attempt that took too long."""
        return timed_out(self._operation, self._deadline, sent=self.sent, writes=self._writes, at=self.at)


class ScriptAttempt(Attempt):
    """An attempt at a script, which a cluster may redirect.

    Attributes:
        replies: those that have come, in their order. They are to be put here.

    """

    __slots__ = ("_call", "_expires", "replies")

    def __init__(
        self, call: ScriptCall, deadline: float, *, at: str = "", expires: float | None = None, spared: float = 0.0
    ) -> None:
        """Bound a call by ``expires``, by default in ``deadline`` seconds; it ends ``spared`` seconds before that."""
        self._expires = asyncio.get_running_loop().time() + deadline if expires is None else expires
        super().__init__(call.name, deadline, writes=call.writes, at=at, until=self._expires - spared)
        self._call = call
        self.replies: list[Any] = []

    def send(self) -> Sequence[Command]:
        """Note that the script is in flight, and return the commands that run it."""
        unknown = bool(self.replies) and isinstance(self.replies[0], redis.exceptions.NoScriptError)
        self.replies = []
        self.sent = True
        return (self._call.eval if unknown else self._call.evalsha,)

    def has_time_for(self, seconds: float) -> bool:
        """Whether the script can be sent once more if it takes ``seconds`` until it is answered."""
        return self._expires - asyncio.get_running_loop().time() > max(seconds, LAST * self._deadline)

    def redirected(self) -> None:
        """Note that the script was not run, and goes to another server."""
        self.replies = []
        self.sent = False

    def result(self) -> Any:
        """Return the reply of the script.

        Raises:
            RedisError: if the server refused it.

        """
        if isinstance(self.replies[0], Exception):
            raise self.replies[0]
        return self.replies[0]


async def exchange(connection: AbstractConnection, command: Command) -> Any:
    """Return the reply of a command."""
    await connection.send_packed_command(resp.pack(command))
    return await connection.read_response(disable_decoding=True)


async def pipeline(
    connection: AbstractConnection, commands: Sequence[Command], replies: list[Any] | None = None
) -> list[Any]:
    """Return the reply or the error of each command; if the connection is lost, its error for all the rest.

    They go into the empty list ``replies`` as they come, so that a caller that is cancelled has what has come.
    """
    if replies is None:
        replies = []
    if not commands:
        return replies
    await connection.send_packed_command(b"".join(map(resp.pack, commands)))
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except redis.exceptions.ResponseError as error:
            replies.append(error)
        except REDIS_ERRORS as error:
            replies += [error] * (len(commands) - len(replies))
            break
    return replies
