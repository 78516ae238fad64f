"""The same operation on many links: in chunks, and on one server by one script for each chunk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from stateful_route.errors import StoreError, StoreProtocolError
from stateful_route.store.redis import codec
from stateful_route.store.transport.errors import is_cross_slot, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.models import LinkChange
    from stateful_route.store.redis.scripts import Script, ScriptCall
    from stateful_route.store.transport.durable import Runner

T = TypeVar("T")

# Uids in one script: few, as the server serves nobody else meanwhile.
_CHUNK = 64

# Fewer links than this are slower by one script than by one for each.
_FEWEST = 4


class LinkBatches:
    """Runs an operation on many links.

    One script for a chunk costs the server a third less than one for each link. It needs all keys on one server.
    """

    def __init__(self, connections: Runner) -> None:
        """Run scripts over ``connections``."""
        self._connections = connections
        self._together = connections.is_one_server
        """Whether one script may take many links."""

    async def run(
        self,
        items: Sequence[T],
        call: Callable[[T], ScriptCall],
        call_for_all: Callable[[Sequence[T]], ScriptCall],
    ) -> list[LinkChange | StoreError]:
        """Return the answer for each item, which ``call`` asks for, and ``call_for_all`` for many."""

        async def run_chunk(chunk: Sequence[T]) -> list[LinkChange | StoreError]:
            if self._together and len(chunk) >= _FEWEST:
                try:
                    return await self._run_one(call_for_all(chunk), len(chunk))
                except StoreError as error:
                    if not is_cross_slot(error):
                        return [error] * len(chunk)
                    self._together = False  # a proxy hides a cluster
            return await self._run_each([call(item) for item in chunk])

        async with asyncio.TaskGroup() as group:
            running = []
            for start in range(0, len(items), _CHUNK):
                running.append(group.create_task(run_chunk(items[start : start + _CHUNK])))
                await asyncio.sleep(0)  # it goes out while the next one is made
        return [answer for task in running for answer in task.result()]

    async def _run_one(self, call: ScriptCall, count: int) -> list[LinkChange | StoreError]:
        """Run a script that has so many answers."""
        replies = await self._connections.run(call)
        if not isinstance(replies, list) or len(replies) != count:
            raise codec.unreadable_reply(call.script, replies)
        return [_change_or_error(call.script, reply) for reply in replies]

    async def _run_each(self, calls: Sequence[ScriptCall]) -> list[LinkChange | StoreError]:
        """Run scripts in one pipeline; if it fails as a whole, that is the answer to each of them."""
        try:
            replies = await self._connections.run_many(calls)
        except StoreError as error:
            return [error] * len(calls)
        return [_change_or_error(call.script, reply) for call, reply in zip(calls, replies, strict=True)]


def _change_or_error(script: Script, reply: Any) -> LinkChange | StoreError:
    if isinstance(reply, StoreError):
        return reply
    if isinstance(reply, Exception):
        return translate(reply, script.name, sent=True, writes=script.writes)
    try:
        return codec.link_change(script, reply)
    except StoreProtocolError as error:
        return error
