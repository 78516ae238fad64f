"""One attempt at a script or a command: over a redis-py client, within a deadline, never run again by itself.

redis-py's own clients repeat a command whose reply was lost, up to ten times. These classes use its connections and
not its retries: what is not known to have failed before it was sent is reported, with ``maybe_applied``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import anyio
import redis.exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route.errors import ConfigError, StoreError
from stateful_route.store.faults import REDIS_ERRORS, timed_out, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from redis.asyncio.connection import AbstractConnection

    from stateful_route.store.scripts import ScriptCall

RedisClient: TypeAlias = Redis | RedisCluster
"""The asyncio clients of redis-py that can be borrowed."""

Command: TypeAlias = tuple[str | int, ...]
"""A command and its arguments."""


def _pack(command: Command) -> bytes:
    """Encode a command in the protocol of Redis."""
    parts = [str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


with contextlib.suppress(ImportError):  # hiredis does the same seven times faster, but a platform may lack its wheel
    from hiredis import pack_command as _pack  # type: ignore[assignment]  # its own type has a tuple of one


class Connections(Protocol):
    """Runs scripts on the server that has their keys."""

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script, with bytes for strings.

        Raises:
            StoreError: within the deadline, saying whether the script may have been applied.

        """
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply of each script, or its ``StoreError``, in their order."""
        ...

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command that changes nothing and has no key."""
        ...

    async def subscribe(self, channel: str) -> Subscription:
        """Subscribe to a channel, over a connection of its own."""
        ...


def check_client(client: object) -> None:
    """Refuse what is not an asyncio client of redis-py.

    Raises:
        ConfigError: saying what it is.

    """
    if not isinstance(client, Redis | RedisCluster):
        raise ConfigError("redis_client", client, "a redis.asyncio.Redis or RedisCluster")


def connections_of(client: RedisClient, deadline: float, limit: int) -> Connections:
    """Return the connections of a redis-py client; calls over ``limit`` at once wait for their turn."""
    if isinstance(client, RedisCluster):
        return ClusterConnections(client, deadline, limit)
    return NodeConnections(client, deadline, limit)


class NodeConnections:
    """The pool of a client of one server, or of the primary that Sentinel names."""

    def __init__(self, client: Redis, deadline: float, limit: int) -> None:
        """Borrow the pool of ``client``."""
        self._pool = client.connection_pool
        self._deadline = deadline
        self._places = asyncio.Semaphore(min(limit, self._pool.max_connections))

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        script = call.script
        async with _Attempt(script.name, self._deadline, writes=script.writes) as attempt, self._places:
            connection = await self._pool.get_connection()
            try:
                attempt.sent = True
                try:
                    return await _exchange(connection, call.evalsha)
                except redis.exceptions.NoScriptError:
                    return await _exchange(connection, call.eval)
            finally:
                await self._pool.release(connection)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script, sent in one pipeline."""
        script = calls[0].script
        async with _Attempt(script.name, self._deadline, writes=script.writes) as attempt, self._places:
            connection = await self._pool.get_connection()
            try:
                attempt.sent = True
                replies = await _pipeline(connection, [call.evalsha for call in calls])
                unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
                again = await _pipeline(connection, [calls[i].eval for i in unknown])
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
            finally:
                await self._pool.release(connection)
        return [
            translate(reply, script.name, sent=True, writes=script.writes) if isinstance(reply, Exception) else reply
            for reply in replies
        ]

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command."""
        async with _Attempt(str(command[0]), self._deadline, writes=False), self._places:
            connection = await self._pool.get_connection()
            try:
                return await _exchange(connection, command)
            finally:
                await self._pool.release(connection)

    async def subscribe(self, channel: str) -> Subscription:
        """Subscribe to a channel of the server."""
        return await _subscribe(self._pool.connection_class, self._pool.connection_kwargs, channel, self._deadline)


class ClusterConnections:
    """The nodes of a Redis Cluster, through the client's own redirections.

    A node named by the caller turns off the retries of the client, and keeps its answers to MOVED and ASK.
    """

    def __init__(self, client: RedisCluster, deadline: float, limit: int) -> None:
        """Borrow the nodes of ``client``."""
        self._client = client
        self._deadline = deadline
        self._places = asyncio.Semaphore(limit)

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        script = call.script
        async with _Attempt(script.name, self._deadline, writes=script.writes) as attempt, self._places:
            await self._client.initialize()
            node = self._client.get_node_from_key(call.keys[0])
            attempt.sent = True
            try:
                return await self._execute(node, call.evalsha)
            except redis.exceptions.NoScriptError:
                return await self._execute(node, call.eval)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script: those for one key in their order, the others side by side."""
        places: dict[str, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call.keys[0], []).append(place)
        replies: list[Any] = [None] * len(calls)

        async def run_in_order(key: str) -> None:
            for place in places[key]:
                try:
                    replies[place] = await self.run(calls[place])
                except StoreError as error:
                    replies[place] = error

        async with anyio.create_task_group() as group:
            for key in places:
                group.start_soon(run_in_order, key)
        return replies

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command, from any primary."""
        async with _Attempt(str(command[0]), self._deadline, writes=False), self._places:
            await self._client.initialize()
            return await self._execute(self._client.get_default_node(), command)

    async def subscribe(self, channel: str) -> Subscription:
        """Subscribe to a channel of the cluster, at any of its primaries: a message reaches all nodes."""
        async with _Attempt("listen", self._deadline, writes=False):
            await self._client.initialize()
        node: Any = random.choice(self._client.get_primaries())  # noqa: S311 - it spreads load
        return await _subscribe(node.connection_class, node.connection_kwargs, channel, self._deadline)

    async def _execute(self, node: Any, command: Command) -> Any:
        return await self._client.execute_command(*command, target_nodes=node, NEVER_DECODE=True)


class _Attempt:
    """A deadline around one attempt, and the translation of what it raises."""

    __slots__ = ("_deadline", "_operation", "_timeout", "_writes", "sent")

    def __init__(self, operation: str, deadline: float, *, writes: bool) -> None:
        self._operation = operation
        self._deadline = deadline
        self._writes = writes
        self._timeout = asyncio.timeout(deadline)
        self.sent = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise timed_out(self._operation, self._deadline, sent=self.sent, writes=self._writes) from error
        if isinstance(error, REDIS_ERRORS):
            raise translate(error, self._operation, sent=self.sent, writes=self._writes) from error


class Subscription:
    """A connection that hears a channel. Lost is lost: it is not made again, so that nobody misses it unknowingly."""

    def __init__(self, connection: AbstractConnection) -> None:
        """Own a connection that has subscribed."""
        self._connection = connection

    async def next(self, patience: float) -> list[Any] | None:
        """Return the next message, or ``None`` if there is none within ``patience`` seconds.

        Raises:
            StoreError: if the connection is lost.

        """
        with _translated("listen"):
            message: list[Any] | None = await self._connection.read_response(disable_decoding=True, timeout=patience)
            return message

    async def ping(self) -> None:
        """Ask for a sign of life, which comes as a message.

        Raises:
            StoreError: if the connection is lost.

        """
        with _translated("listen"):
            await self._connection.send_packed_command(_pack(("PING",)), check_health=False)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)


async def _subscribe(kind: Any, settings: dict[str, Any], channel: str, deadline: float) -> Subscription:
    """Open a connection as those of a pool are, but one that waits for ever and is never made again by itself."""
    # The older protocol, in which messages are replies like others; what belongs to the newer one is left out.
    ours = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "retry": Retry(NoBackoff(), 0)}
    kept = {name: value for name, value in settings.items() if "maint_notifications" not in name}
    connection = kind(**kept | ours)
    try:
        async with _Attempt("listen", deadline, writes=False):
            await connection.connect()
            await _exchange(connection, ("SUBSCRIBE", channel))
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return Subscription(connection)


@contextlib.contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except REDIS_ERRORS as error:
        raise translate(error, operation, sent=True, writes=False) from error


async def _exchange(connection: AbstractConnection, command: Command) -> Any:
    await connection.send_packed_command(_pack(command))
    return await connection.read_response(disable_decoding=True)


async def _pipeline(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Return the reply of each command, or the error that came for it; one for all the rest if that is lost."""
    if not commands:
        return []
    await connection.send_packed_command(b"".join(map(_pack, commands)))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except redis.exceptions.ResponseError as error:
            replies.append(error)
        except REDIS_ERRORS as error:
            return replies + [error] * (len(commands) - len(replies))
    return replies
