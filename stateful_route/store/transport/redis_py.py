"""Scripts through a client of redis-py that the application owns, at the speed of that client.

redis-py retries a command whose reply was lost, up to ten times. These classes use its connections and not its retries:
unless a command is known not to have run, its error says ``maybe_applied``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
from typing import TYPE_CHECKING, Any

import anyio
import redis.exceptions
from redis.asyncio.cluster import PipelineCommand

from stateful_route.errors import StoreError
from stateful_route.store.transport.attempt import Attempt, ScriptAttempt, exchange, pipeline
from stateful_route.store.transport.durable_attempt import DurableAttempt, DurableTurns
from stateful_route.store.transport.errors import REDIS_ERRORS, address_of, command_name, not_a_primary, translate
from stateful_route.store.transport.primacy import PROOF, Known, count_votes, not_proven, primacy_of
from stateful_route.store.transport.resp import INCOMPLETE
from stateful_route.store.transport.subscriber import open_subscriber

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.connection import ConnectionPool

    from stateful_route.store.redis.scripts import ScriptCall
    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.primacy import Address
    from stateful_route.store.transport.resp import Command
    from stateful_route.store.transport.subscriber import Subscriber

# Seconds before a call is tried again whose keys are moving from one primary to another.
_MOVING = 0.01

# Errors after which a client of a cluster reads the table of slots again.
_AWAY = redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.ClusterDownError


class _Connection:
    """Takes a connection from a pool for a block; a tenth of a call faster than a context manager of ``contextlib``."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.get_connection()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._pool.release(self._connection)


class NodeConnections:
    """The pool of a client of one server, or of the primary that Sentinel names. Implements ``Connections``."""

    is_one_server = True

    def __init__(self, client: Redis, deadline: float, limit: int) -> None:
        """Borrow the pool of ``client``."""
        self._pool = client.connection_pool
        self.database = int(self._pool.connection_kwargs.get("db") or 0)
        self.deadline = deadline
        self._primacy = primacy_of(self._pool.connection_class, self._pool.connection_kwargs, deadline, self._pool)
        places = min(limit, self._pool.max_connections)
        self._places = asyncio.Semaphore(places)
        self._durable = DurableTurns(places)

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        async with (
            self._attempt(call.name, writes=call.writes) as attempt,
            self._places,
            _Connection(self._pool) as connection,
        ):
            attempt.sent = True
            try:
                return await exchange(connection, call.evalsha)
            except redis.exceptions.NoScriptError:
                return await exchange(connection, call.eval)

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica has what it wrote."""
        at = address_of(self._pool.connection_kwargs)
        async with DurableAttempt(call, self.deadline, self._durable, at) as attempt, self._durable.turn, self._places:
            attempt.placed()
            async with _Connection(self._pool) as connection:
                await pipeline(connection, attempt.send(), attempt.replies)
                if isinstance(attempt.replies[0], redis.exceptions.NoScriptError):
                    await pipeline(connection, attempt.send(), attempt.replies)
            return attempt.result()

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script, sent in one pipeline."""
        name, writes = calls[0].name, calls[0].writes
        async with self._attempt(name, writes=writes) as attempt, self._places, _Connection(self._pool) as connection:
            attempt.sent = True
            replies = await pipeline(connection, [call.evalsha for call in calls])
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
            again = await pipeline(connection, [calls[i].eval for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return [
            translate(reply, name, sent=True, writes=writes, at=attempt.at) if isinstance(reply, Exception) else reply
            for reply in replies
        ]

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command."""
        async with (
            self._attempt(command_name(command), writes=False),
            self._places,
            _Connection(self._pool) as connection,
        ):
            return await exchange(connection, command)

    async def prove(self, key: str) -> float:  # noqa: ARG002 - the server has all keys
        """Prove that the server is the primary."""
        return await self._primacy.prove(self)

    async def leave(self, stay: Address | None = None) -> None:
        """Close the connections that are not in use, but those to that address."""
        if stay is None:
            await self._pool.disconnect(inuse_connections=False)
            return
        pool: Any = self._pool  # of Sentinel
        if pool.master_address not in {None, stay}:
            async with self._attempt(PROOF, writes=False):
                if await pool.get_master_address() != stay:
                    raise not_proven("the sentinel that redis-py asks names another primary than the majority")

    async def primaries(self) -> list[str]:
        """Return the address of the server."""
        await self.command("PING")
        return [address_of(self._pool.connection_kwargs)]

    async def command_at(self, address: str, *command: str | int) -> Any:
        """Return the reply of a command, if the server has that address."""
        if address != address_of(self._pool.connection_kwargs):
            raise not_a_primary(address, command)
        return await self.command(*command)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to the server, beside the pool."""
        return await open_subscriber(self._pool.connection_class, self._pool.connection_kwargs, self.deadline)

    def _attempt(self, operation: str, *, writes: bool) -> Attempt:
        return Attempt(operation, self.deadline, writes=writes, at=address_of(self._pool.connection_kwargs))


class ClusterConnections:
    """The nodes of a Redis Cluster, as the client knows them. Implements ``Connections``."""

    is_one_server = False
    database = 0

    def __init__(self, client: RedisCluster, deadline: float, limit: int) -> None:
        """Borrow the nodes of ``client``."""
        self._client = client
        self.deadline = deadline
        self._places = asyncio.Semaphore(limit)
        self._learning = asyncio.Lock()
        self._known: dict[str, Known] = {}
        self._durable = DurableTurns(limit)

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        async with ScriptAttempt(call, self.deadline) as attempt, self._places:
            return await self._follow(attempt, call.keys[0])

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica of the primary that has its key has what it wrote."""
        async with DurableAttempt(call, self.deadline, self._durable) as attempt, self._durable.turn, self._places:
            attempt.placed()
            return await self._follow(attempt, call.keys[0])

    async def _follow(self, attempt: ScriptAttempt, key: str) -> Any:
        """Return the result of an attempt, sent wherever the nodes say that the key is.

        The client itself would send ASKING and the script over two connections of its pool, and be refused.
        """
        loop = asyncio.get_running_loop()
        asked: Any = None
        while True:
            began = loop.time()
            await self._client.initialize()
            node: Any = self._client.get_node_from_key(key) if asked is None else asked
            attempt.at = f"{node.host}:{node.port}"
            await _together(node, attempt.send(), attempt.replies, asking=asked is not None)
            match attempt.replies[0]:
                case redis.exceptions.NoScriptError():
                    pass
                case redis.exceptions.MovedError():
                    attempt.redirected()
                    await self._learn(node, key)
                    asked = None
                case redis.exceptions.AskError() as error:
                    asked = self._client.get_node(host=error.host, port=error.port)
                    if asked is None:
                        raise error
                    attempt.redirected()
                case redis.exceptions.TryAgainError() as error:
                    # One that is in flight when the time is up is unsure.
                    if not attempt.has_time_for(_MOVING + 2 * (loop.time() - began)):
                        raise error
                    attempt.sent = False
                    await asyncio.sleep(_MOVING)
                case reply:
                    if isinstance(reply, _AWAY) and not self._learning.locked():
                        with contextlib.suppress(*REDIS_ERRORS):
                            await self._learn(node, key)
                    return attempt.result()

    async def _learn(self, node: Any, key: str) -> None:
        """Have the client notice what is wrong with a node, by a read that changes nothing; one caller does for all."""
        async with self._learning:
            if self._client.get_node_from_key(key) is node:
                await self._execute(node, ("EXISTS", key))

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script; those for one key run in order, the others concurrently."""
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
        """Return the reply of a command from any node."""
        async with Attempt(command_name(command), self.deadline, writes=False), self._places:
            await self._client.initialize()
            return await self._execute(self._client.get_default_node(), command)

    async def prove(self, key: str) -> float:
        """Prove that a majority of the primaries names the one that has a key.

        If they name another one, or do not agree yet, they are asked again, as long as there is time.
        """
        async with Attempt(PROOF, self.deadline, writes=False):
            await self._client.initialize()
        loop = asyncio.get_running_loop()
        expires = loop.time() + self.deadline / 2

        async def names_it(node: Any, other: Any) -> bool:
            try:
                await other.execute_command("GET", key)
            except redis.exceptions.MovedError as error:
                return (error.host, error.port) == (node.host, node.port)
            except REDIS_ERRORS:
                return False
            return False

        while True:
            node: Any = self._client.get_node_from_key(key)
            others: list[Any] = [other for other in self._client.get_primaries() if other is not node]
            try:
                await count_votes(others, functools.partial(names_it, node), expires - loop.time())
            except StoreError:
                with contextlib.suppress(*REDIS_ERRORS):
                    await self._learn(node, key)
                if loop.time() + _MOVING >= expires:
                    raise
                await asyncio.sleep(_MOVING)
            else:
                return self._known.setdefault(key, Known()).proven(node.name)

    async def primaries(self) -> list[str]:
        """Return the addresses of the primaries that the client knows, sorted."""
        async with Attempt("slots", self.deadline, writes=False):
            await self._client.initialize()
        return sorted(f"{node.host}:{node.port}" for node in self._client.get_primaries())

    async def command_at(self, address: str, *command: str | int) -> Any:
        """Return the reply of a command from the primary with that address."""
        async with Attempt(command_name(command), self.deadline, writes=False), self._places:
            await self._client.initialize()
            for node in self._client.get_primaries():
                if f"{node.host}:{node.port}" == address:
                    asked: Any = node  # not by the client, which makes one answer of those of all nodes
                    return await asked.execute_command(*command, NEVER_DECODE=True)
        raise not_a_primary(address, command)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to any primary: a message reaches all nodes."""
        expires = asyncio.get_running_loop().time() + self.deadline
        async with Attempt("listen", self.deadline, writes=False):
            await self._client.initialize()
        node: Any = random.choice(self._client.get_primaries())  # noqa: S311 - it spreads load

        def moved() -> bool:
            primaries = self._client.get_primaries()
            return bool(primaries) and node.name not in {primary.name for primary in primaries}

        left = round(expires - asyncio.get_running_loop().time(), 2)
        return await open_subscriber(node.connection_class, node.connection_kwargs, left, moved)

    async def _execute(self, node: Any, command: Command) -> Any:
        return await self._client.execute_command(*command, target_nodes=node, NEVER_DECODE=True)


async def _together(node: Any, commands: Sequence[Command], replies: list[Any], *, asking: bool) -> None:
    """Run commands on a node of a cluster over one connection, ``asking`` for a slot that moves there.

    Their replies, or errors, go into the empty list ``replies``; if this is cancelled, those that have come.
    """
    ask, *sent = (PipelineCommand(0, *command, NEVER_DECODE=True) for command in (("ASKING",), *commands))
    for command in sent:
        command.result = INCOMPLETE
    try:
        await node.execute_pipeline([ask, sent[0], ask, *sent[1:]] if asking else sent)
    except REDIS_ERRORS as error:
        if sent[0].result is INCOMPLETE:
            sent[0].result = error
    finally:
        replies += itertools.takewhile(lambda reply: reply is not INCOMPLETE, [command.result for command in sent])
