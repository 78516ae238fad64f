"""The same operation on many links: in chunks, and on one server by one script for each chunk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from stateful_route.errors import StoreError, StoreProtocolError
from stateful_route.store.redis import codec
from stateful_route.store.transport.errors import is_cross_slot, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.links import LinkChange
    from stateful_route.store.transport.durable import Runner
    from stateful_route.store.transport.script import Script, ScriptCall

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
        self.together = connections.is_one_server
        """Whether one script may take many links."""

    async def run(
        self,
        items: Sequence[T],
        call: Callable[[T], ScriptCall],
        call_for_all: Callable[[Sequence[T]], ScriptCall],
    ) -> list[LinkChange | StoreError]:
        """Return the answer for each item, which ``call`` asks for, and ``call_for_all`` for many."""
        if not items:
            return []
        if len(items) <= _CHUNK:
            return await self._run_chunk(items, call, call_for_all)
        async with asyncio.TaskGroup() as group:
            running = []
            for start in range(0, len(items), _CHUNK):
                chunk = items[start : start + _CHUNK]
                running.append(group.create_task(self._run_chunk(chunk, call, call_for_all)))
                await asyncio.sleep(0)  # it goes out while the next one is made
        return [answer for task in running for answer in task.result()]

    async def _run_chunk(
        self,
        chunk: Sequence[T],
        call: Callable[[T], ScriptCall],
        call_for_all: Callable[[Sequence[T]], ScriptCall],
    ) -> list[LinkChange | StoreError]:
        if self.together and len(chunk) >= _FEWEST:
            together = call_for_all(chunk)
            try:
                replies = await self._connections.run(together)
                if not isinstance(replies, list) or len(replies) != len(chunk):
                    raise codec.unreadable_reply(together.script, replies)
                return _changes(together.script, replies)
            except StoreError as error:
                if not is_cross_slot(error):
                    return [error] * len(chunk)
                self.together = False  # a proxy hides a cluster
        return await self._run_each([call(item) for item in chunk])

    async def _run_each(self, calls: Sequence[ScriptCall]) -> list[LinkChange | StoreError]:
        """Run scripts in one pipeline; if it fails as a whole, that is the answer to each of them."""
        try:
            replies = await self._connections.run_many(calls)
        except StoreError as error:
            return [error] * len(calls)
        return _changes(calls[0].script, replies)


def _changes(script: Script, replies: Sequence[Any]) -> list[LinkChange | StoreError]:
    """Return what each reply of a script, or each error, says."""
    changes: list[LinkChange | StoreError] = []
    for reply in replies:
        if isinstance(reply, StoreError):
            changes.append(reply)
        elif isinstance(reply, Exception):
            changes.append(translate(reply, script.name, sent=True, writes=script.writes))
        else:
            try:
                changes.append(codec.link_change(script, reply))
            except StoreProtocolError as error:
                changes.append(error)
    return changes
