"""A second connection to a server, for scripts whose callers wait until a replica has what they wrote.

``WAIT`` holds up all that is behind it on its connection, so reads do not go this way. Nor does each script have a
``WAIT`` of its own: the calls that come while one is waited for go out together behind it, with one for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._tasks import log_failure
from stateful_route.errors import StoreError
from stateful_route.store import resp
from stateful_route.store.durable import marker, of_operation, shortfall
from stateful_route.store.faults import timed_out
from stateful_route.store.pipelined.pipe import Pipe
from stateful_route.store.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.store.durable import DurableCall
    from stateful_route.store.resp import Command

# Calls that share a WAIT at most: the server does some milliseconds of work for them.
_MOST = 512


@attrs.frozen
class _Together:
    """What calls of several scripts are, as one operation."""

    name: str = "change"
    writes: bool = True


_TOGETHER = _Together()


@attrs.define(eq=False)
class _Change:
    """One call that waits for its turn, or for a replica."""

    data: bytes
    count: int
    call: DurableCall
    expires: float
    future: asyncio.Future[Any]
    sent: bool = False


class DurableLane:
    """Runs scripts over a connection of its own, and answers once a replica has what they wrote."""

    def __init__(self, kind: Any, settings: dict[str, Any], deadline: float, max_pending: int) -> None:
        """See ``Pipe``."""
        self._pipe = Pipe(kind, settings, deadline, max_pending + 2)
        self._most = min(_MOST, max_pending)
        self._deadline = deadline
        self._waiting: deque[_Change] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def run(self, commands: Sequence[Command], call: DurableCall, expires: float) -> Any:
        """Return the reply to the last of the commands, be it an error: the others are to be sent right before it.

        Raises:
            StoreError: if there is none in time, or a replica is not known to have what was written.

        """
        loop = asyncio.get_running_loop()
        data = b"".join([resp.pack(command) for command in commands])
        change = _Change(data, len(commands), call, expires, loop.create_future())
        self._waiting.append(change)
        if self._committing is None:
            self._committing = loop.create_task(self._commit(), name=f"stateful_route writes durably: {self._pipe!r}")
            self._committing.add_done_callback(log_failure)
        try:
            async with asyncio.timeout_at(expires):
                return await change.future
        except TimeoutError:
            at = self._pipe.address
            raise timed_out(call.name, self._deadline, sent=change.sent, writes=True, at=at) from None

    def replace(self) -> None:
        """See ``Pipe.replace``."""
        self._pipe.replace()

    async def aclose(self) -> None:
        """Wait for what is under way, for a deadline at most, and close the connection."""
        if self._committing is not None:
            await asyncio.wait([self._committing], timeout=self._deadline)
        await self._pipe.aclose()
        if self._committing is not None:
            await asyncio.wait([self._committing])

    async def _commit(self) -> None:
        try:
            while self._waiting:
                changes: list[_Change] = []
                while self._waiting and len(changes) < self._most:
                    change = self._waiting.popleft()
                    if not change.future.done():  # cancelled, or too late
                        changes.append(change)
                if changes:
                    await self._commit_together(changes)
        finally:
            self._committing = None

    async def _commit_together(self, changes: list[_Change]) -> None:
        last = changes[-1].call
        behind = marker(last.keys[0], last.wait)
        for change in changes:
            change.sent = True
        data = b"".join([change.data for change in changes] + [resp.pack(command) for command in behind])
        count = sum(change.count for change in changes) + len(behind)
        try:
            replies = await self._pipe.submit(data, _TOGETHER, max(change.expires for change in changes), count)
        except StoreError as error:  # it was not sent
            replies = [error] * count
        begin = 0
        for change in changes:
            begin += change.count
            self._answer(change, replies[begin - 1], replies[-len(behind) :])

    def _answer(self, change: _Change, reply: Any, behind: list[Any]) -> None:
        if change.future.done():
            return
        name = change.call.name
        if isinstance(reply, StoreError):
            change.future.set_exception(of_operation(reply, name, maybe_applied=reply.maybe_applied))
        elif isinstance(reply, ReplyError):  # it wrote nothing that would have to be kept
            change.future.set_result(reply)
        elif (fault := shortfall(behind, name, change.call.wait, self._pipe.address)) is not None:
            change.future.set_exception(fault)
        else:
            change.future.set_result(reply)
