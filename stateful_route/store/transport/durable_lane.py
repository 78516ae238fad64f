"""A second connection to a server, for durable writes.

``WAIT`` blocks all that is behind it on its connection, so reads do not go this way. The calls that come during one
``WAIT`` go out together after it, and share the next one.

On a cluster the marker needs a slot that the server serves. If its slot is moving, the marker may be refused, which
says nothing of the other slots: it is then written again in one of those.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._background.tasks import log_failure
from stateful_route.errors import NotReplicatedError, StoreError
from stateful_route.store.transport import resp
from stateful_route.store.transport.durable import (
    MARGIN,
    counts_only_replicated,
    marker,
    of_operation,
    patience,
    replicated,
    shortfall,
)
from stateful_route.store.transport.errors import timed_out
from stateful_route.store.transport.pipe import Pipe
from stateful_route.store.transport.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.primacy import Address
    from stateful_route.store.transport.resp import Command

# Most calls that share a WAIT: some milliseconds of work for the server.
_MOST = 512

# What a server answers to a marker whose slot is moving, or was moved.
_ELSEWHERE = frozenset({"ASK", "MOVED", "TRYAGAIN"})

# A call with less than this share of its deadline left does not shorten the wait that it shares.
_ENOUGH = 0.4

# Most slots in which the marker is tried again.
_MOST_MARKERS = 4


@attrs.frozen
class _Together:
    """Calls of several scripts, as one operation."""

    name: str = "change"
    writes: bool = True


_TOGETHER = _Together()


@attrs.define(eq=False)
class _Change:
    """A call that waits for its turn, or for a replica."""

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
        self._pipe = Pipe(kind, settings, deadline, max_pending + 3)
        self._most = min(_MOST, max_pending)
        self._deadline = deadline
        self._waiting: deque[_Change] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._short_at = -math.inf
        """When the server last answered that no replica had what was written, by the clock of the event loop."""
        self._home: str | None = None
        """A key in whose slot the server took the last marker."""

    async def run(self, commands: Sequence[Command], call: DurableCall, expires: float) -> Any:
        """Return the reply to the last of the commands, which go out together; an error of the server is a reply.

        Raises:
            StoreError: if there is none in time, or no replica is known to have the change.

        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        data = b"".join([resp.pack(command) for command in commands])
        change = _Change(data, len(commands), call, expires, loop.create_future())
        self._waiting.append(change)
        if self._committing is None:
            self._committing = loop.create_task(self._commit(), name=f"stateful_route writes durably: {self._pipe!r}")
            self._committing.add_done_callback(log_failure)
        try:
            async with asyncio.timeout_at(expires - MARGIN * self._deadline):
                return await change.future
        except TimeoutError:
            at = self._pipe.address
            if self._short_at >= began:  # the server has answered since: the turns of others took all the time
                late = f"no replica of {at} has what others wrote, who were first"
                raise NotReplicatedError(late, operation=call.name, maybe_applied=change.sent) from None
            raise timed_out(call.name, self._deadline, sent=change.sent, writes=True, at=at) from None

    def replace(self) -> None:
        """See ``Pipe.replace``."""
        self._pipe.replace()

    def leave(self, stay: Address | None) -> None:
        """See ``Pipe.leave``."""
        self._pipe.leave(stay)

    async def aclose(self) -> None:
        """Wait for what is in flight, for a deadline at most, and close the connection."""
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
        last = changes[-1]
        key, wait = last.call.keys[0] if self._home is None else self._home, self._patience(changes)
        asking = self._home is None and last.count > 1  # its slot is on its way here, and takes nothing else
        behind = _behind(key, wait, asking=asking)
        for change in changes:
            change.sent = True
        data = b"".join([change.data for change in changes] + [resp.pack(command) for command in behind])
        count = sum(change.count for change in changes) + len(behind)
        expires = max(change.expires for change in changes)
        connection = self._connection()
        try:
            replies = await self._pipe.submit(data, _TOGETHER, expires, count)
        except StoreError as error:  # it was not sent
            replies = [error] * count
        answers = []
        begin = 0
        for change in changes:
            begin += change.count
            answers.append((change, replies[begin - 1]))
        marked = replies[-2:]
        if _is_elsewhere(marked):
            self._home = None
            # If no replica has what was written before, none has the rest.
            short = marked[1] == 0
            marked = marked[1:] if short else await self._mark_elsewhere(answers, marked, wait, expires, connection)
        elif not (isinstance(marked[0], Exception) or asking):
            self._home = key
        if isinstance(shortfall(marked, "", wait, ""), NotReplicatedError):
            self._short_at = asyncio.get_running_loop().time()
        for change, reply in answers:
            self._answer(change, reply, marked, wait)

    def _patience(self, changes: list[_Change]) -> float:
        """Return how long to wait for a replica, so that each call with enough time left is answered in time."""
        now = asyncio.get_running_loop().time()
        left = [change.expires - now for change in changes]
        enough = [seconds for seconds in left if seconds >= _ENOUGH * self._deadline]
        return patience(self._deadline, min(enough, default=max(left)))

    async def _mark_elsewhere(
        self, answers: list[tuple[_Change, Any]], marked: list[Any], wait: float, expires: float, connection: int
    ) -> list[Any]:
        """Return the replies to a marker in a slot that has not moved, over the same connection."""
        sure = {
            change.call.keys[0]: change for change, reply in answers if counts_only_replicated(reply, change.call.name)
        }
        for key, change in list(sure.items())[:_MOST_MARKERS]:
            asking = change.count > 1
            behind = _behind(key, wait, asking=asking)
            data = b"".join([resp.pack(command) for command in behind])
            try:
                again: list[Any] = (await self._pipe.submit(data, _TOGETHER, expires, len(behind)))[-2:]
            except StoreError as error:
                return [error]
            if self._connection() != connection:  # to another server, it may be, which has nothing of the first one
                return marked
            if not _is_elsewhere(again):
                if not (isinstance(again[0], Exception) or asking):
                    self._home = key
                return again
        return marked

    def _connection(self) -> int:
        """Return which connection the next request goes over, if none is lost."""
        return self._pipe.connects + (not self._pipe.connected)

    def _answer(self, change: _Change, reply: Any, behind: list[Any], wait: float) -> None:
        if change.future.done():
            return
        name = change.call.name
        if isinstance(reply, StoreError):
            change.future.set_exception(of_operation(reply, name, maybe_applied=reply.maybe_applied))
        elif isinstance(reply, ReplyError):  # it wrote nothing that would have to be kept
            change.future.set_result(reply)
        else:
            fault = shortfall(behind, name, wait, self._pipe.address)
            try:
                change.future.set_result(replicated(reply, name, fault))
            except StoreError as error:
                change.future.set_exception(error)


def _behind(key: str, wait: float, *, asking: bool) -> list[Command]:
    """Return the commands that follow scripts; the last two are those of ``marker``."""
    return [*([("ASKING",)] if asking else []), *marker(key, wait)]


def _is_elsewhere(marked: list[Any]) -> bool:
    """Whether a marker was refused only because of its slot."""
    return isinstance(marked[0], ReplyError) and marked[0].code in _ELSEWHERE
