"""Scripts through a client of redis-py that the application owns, at the speed of that client.

redis-py's own clients repeat a command whose reply was lost, up to ten times. These classes use its connections and
not its retries: what is not known to have failed before it was sent is reported, with ``maybe_applied``.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import anyio
import redis.exceptions

from stateful_route.errors import StoreError
from stateful_route.store.exchange import Attempt, exchange, pipeline
from stateful_route.store.faults import address_of, command_name, translate
from stateful_route.store.subscriber import open_subscriber

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis, RedisCluster

    from stateful_route.store.resp import Command
    from stateful_route.store.scripts import ScriptCall
    from stateful_route.store.subscriber import Subscriber


class NodeConnections:
    """The pool of a client of one server, or of the primary that Sentinel names. Implements ``Connections``."""

    is_one_server = True

    def __init__(self, client: Redis, deadline: float, limit: int) -> None:
        """Borrow the pool of ``client``."""
        self._pool = client.connection_pool
        self.deadline = deadline
        self._places = asyncio.Semaphore(min(limit, self._pool.max_connections))

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        script = call.script
        async with self._attempt(script.name, writes=script.writes) as attempt, self._places:
            connection = await self._pool.get_connection()
            try:
                attempt.sent = True
                try:
                    return await exchange(connection, call.evalsha)
                except redis.exceptions.NoScriptError:
                    return await exchange(connection, call.eval)
            finally:
                await self._pool.release(connection)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script, sent in one pipeline."""
        script = calls[0].script
        async with self._attempt(script.name, writes=script.writes) as attempt, self._places:
            connection = await self._pool.get_connection()
            try:
                attempt.sent = True
                replies = await pipeline(connection, [call.evalsha for call in calls])
                unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
                again = await pipeline(connection, [calls[i].eval for i in unknown])
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
            finally:
                await self._pool.release(connection)
        return [
            translate(reply, script.name, sent=True, writes=script.writes, at=attempt.at)
            if isinstance(reply, Exception)
            else reply
            for reply in replies
        ]

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command."""
        async with self._attempt(command_name(command), writes=False), self._places:
            connection = await self._pool.get_connection()
            try:
                return await exchange(connection, command)
            finally:
                await self._pool.release(connection)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to the server, beside the pool."""
        return await open_subscriber(self._pool.connection_class, self._pool.connection_kwargs, self.deadline)

    def _attempt(self, operation: str, *, writes: bool) -> Attempt:
        return Attempt(operation, self.deadline, writes=writes, at=address_of(self._pool.connection_kwargs))


class ClusterConnections:
    """The nodes of a Redis Cluster, through the client's own redirections. Implements ``Connections``.

    A node named by the caller turns off the retries of the client, and keeps its answers to MOVED and ASK.
    """

    is_one_server = False

    def __init__(self, client: RedisCluster, deadline: float, limit: int) -> None:
        """Borrow the nodes of ``client``."""
        self._client = client
        self.deadline = deadline
        self._places = asyncio.Semaphore(limit)

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        script = call.script
        async with Attempt(script.name, self.deadline, writes=script.writes) as attempt, self._places:
            await self._client.initialize()
            node: Any = self._client.get_node_from_key(call.keys[0])
            attempt.at = "" if node is None else f"{node.host}:{node.port}"
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
        async with Attempt(command_name(command), self.deadline, writes=False), self._places:
            await self._client.initialize()
            return await self._execute(self._client.get_default_node(), command)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to any of the primaries: a message reaches all nodes."""
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
