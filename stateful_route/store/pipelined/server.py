"""One server, through one pipe."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from stateful_route.store.pipelined.script_pipe import ScriptPipe, as_list, is_error, settled
from stateful_route.store.resp import ReplyError
from stateful_route.store.subscription import subscribe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.store.pipelined.wire import Submission
    from stateful_route.store.scripts import ScriptCall
    from stateful_route.store.subscription import Subscription


class PipelinedServer:
    """One server, or the primary that Sentinel names. Implements ``Connections``."""

    def __init__(self, kind: Any, settings: dict[str, Any], deadline: float, max_pending: int) -> None:
        """See ``Pipe``."""
        self._pipe = ScriptPipe(kind, settings, deadline, max_pending)
        self._deadline = deadline
        self._seconds: set[asyncio.Task[Any]] = set()
        """Second tries of calls that were first answered with an error."""

    def __repr__(self) -> str:
        return f"<PipelinedServer over {self._pipe!r}>"

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """Return the reply of a script: its bare future, for a coroutine more would be a tenth of what it costs."""
        return self._pipe.submit(call.packed, call, on_error=self._begin_second)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script, sent in one pipeline."""
        expires = asyncio.get_running_loop().time() + self._deadline
        replies = as_list(await self._pipe.send(calls, expires), len(calls))

        async def settle(i: int) -> None:
            replies[i] = await settled(self._second(calls[i], replies[i], expires), calls[i].script)

        await asyncio.gather(*(settle(i) for i, reply in enumerate(replies) if isinstance(reply, ReplyError)))
        return replies

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command."""
        return await self._pipe.ask(command, asyncio.get_running_loop().time() + self._deadline)

    async def subscribe(self, channel: str) -> Subscription:
        """Subscribe to a channel of the server."""
        return await subscribe(self._pipe.kind, self._pipe.settings, channel, self._deadline)

    async def aclose(self) -> None:
        """Wait for what is under way, and close the connection."""
        await self._pipe.aclose()
        if self._seconds:
            await asyncio.wait(self._seconds)

    def _begin_second(self, first: Submission, reply: ReplyError) -> None:
        call: Any = first.operation
        task = asyncio.create_task(settled(self._second(call, reply, first.expires), call))
        self._seconds.add(task)
        task.add_done_callback(functools.partial(self._end_second, first))

    def _end_second(self, first: Submission, task: asyncio.Task[Any]) -> None:
        """Give the caller of a script what came of it after a reply that was an error, whatever that is."""
        self._seconds.discard(task)
        if first.future.done():
            return
        if task.cancelled():
            first.future.cancel()
            return
        outcome = task.exception() or task.result()
        if isinstance(outcome, BaseException):
            first.future.set_exception(outcome)
        else:
            first.future.set_result(outcome)

    async def _second(self, call: ScriptCall, reply: Any, expires: float) -> Any:
        """Return the reply to a call that was first answered with an error, be it the same."""
        if is_error(reply, "NOSCRIPT"):
            reply = await self._pipe.give(call, expires)
        if is_error(reply, "READONLY"):  # the next connection is to the one that is
            self._pipe.replace()
        return reply
