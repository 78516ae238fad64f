"""Scripts over a pipe. A server that has forgotten a script is given it again, once for all who miss it."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from stateful_route._background.tasks import log_failure
from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.store.transport import resp
from stateful_route.store.transport.durable import DurableCall
from stateful_route.store.transport.durable_lane import DurableLane
from stateful_route.store.transport.errors import command_name, translate
from stateful_route.store.transport.pipe import Pipe
from stateful_route.store.transport.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.store.transport.primacy import Address
    from stateful_route.store.transport.resp import Command
    from stateful_route.store.transport.script import ScriptCall
    from stateful_route.store.transport.wire import Operation, Request

SecondTry: TypeAlias = "Callable[[ScriptPipe, ScriptCall, Any, float], Awaitable[Any]]"
"""Returns the reply to a call that was first answered with an error over that pipe, be it the same; it may be late."""


@attrs.frozen
class Reading:
    """A command that changes nothing, as an operation."""

    name: str
    writes: bool = False


def is_error(reply: object, code: str) -> bool:
    """Whether a reply is an error of that code."""
    return isinstance(reply, ReplyError) and reply.code == code


def answer(reply: Any, operation: Operation, at: str) -> Any:
    """Return the reply, or the ``StoreError`` that it means; ``at`` is the address of the server."""
    if isinstance(reply, ReplyError):
        return translate(reply, operation.name, sent=True, writes=operation.writes, at=at)
    return reply


def raised(answer: Any) -> Any:
    """Return an answer that is no ``StoreError``; raise one that is."""
    if isinstance(answer, StoreError):
        raise answer
    return answer


async def settled(second: Awaitable[Any], operation: Operation, at: str) -> Any:
    """Return the reply to a second try, or the ``StoreError`` that it means."""
    try:
        return answer(await second, operation, at)
    except StoreError as error:
        return error


def as_list(replies: Any, count: int) -> list[Any]:
    """Return what the future of so many commands gives as a list."""
    return [replies] if count == 1 else replies


class ScriptPipe(Pipe):
    """A pipe to a server that runs scripts."""

    def __init__(
        self,
        kind: Any,
        settings: dict[str, Any],
        deadline: float,
        max_pending: int,
        *,
        second: SecondTry,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """See ``Pipe``. ``second`` is tried after a first reply that is an error; ``on_fault`` hears of each other."""
        super().__init__(kind, settings, deadline, max_pending)
        self._second = second
        self._on_fault = on_fault
        self._on_error = self._end_first  # once, for it is a new object each time that it is asked for
        self._seconds: set[asyncio.Task[Any]] = set()
        self._lane: DurableLane | None = None
        self._given_durably: set[str] = set()
        """The scripts that were run over the connection for what waits for a replica."""
        self._on_the_way: set[str] = set()
        """The scripts that the server is being given, by their SHA-1."""
        self._given: set[str] = set()
        """The scripts that were run over this connection: the first time with their text, as it may be a new server."""

    def start(self, call: ScriptCall, expires: float | None = None) -> asyncio.Future[Any]:
        """Return the reply of a script, of the second try too: a bare future, a coroutine costs a tenth of it all.

        Raises:
            StoreUnavailableError: see ``submit``.

        """
        try:
            data = call.packed if call.script.sha in self._given else self._first(call)
            return self.submit(data, call, expires, on_error=self._on_error)
        except StoreError:
            self._on_fault()
            raise

    def _first(self, call: ScriptCall) -> bytes:
        """Return the command of a script that was not run over this connection: with its text, in one round trip."""
        self._given.add(call.script.sha)
        return resp.pack(call.eval)  # type: ignore[no-any-return]  # hiredis has no types

    def _connect_for_waiting(self) -> None:
        """See ``Pipe``; the next connection may be to another server."""
        if self._wire is None:
            self._given.clear()
        super()._connect_for_waiting()

    def replace(self) -> None:
        """See ``Pipe.replace``."""
        super().replace()
        if self._lane is not None:
            self._lane.replace()

    def leave(self, stay: Address | None) -> None:
        """See ``Pipe.leave``; the connection for what waits for a replica is looked at by itself."""
        if stay is None or self._leads_to != stay:
            super().replace()
        if self._lane is not None:
            self._lane.leave(stay)

    async def aclose(self) -> None:
        """See ``Pipe.aclose``; wait for the second tries too."""
        await super().aclose()
        if self._lane is not None:
            await self._lane.aclose()
        if self._seconds:
            await asyncio.wait(self._seconds)

    async def run(self, call: ScriptCall, expires: float, *before: Command) -> Any:
        """Return the reply of a script that is run right after other commands; be it an error.

        Raises:
            StoreError: if there is none.

        """
        if isinstance(call, DurableCall) and call.script.sha not in self._given_durably:
            self._given_durably.add(call.script.sha)  # to be told that it is missing would take another turn
            return await self._last(call.eval, call, expires, before)
        reply = await self._last(call.evalsha, call, expires, before)
        return await self.give(call, expires, *before) if is_error(reply, "NOSCRIPT") else reply

    async def give(self, call: ScriptCall, expires: float, *before: Command) -> Any:
        """Return the reply of a script that the server has forgotten, as ``run`` does.

        The first caller sends the text. Those who miss the script while that is on its way send the name again, behind
        the text; and the text, if the server has forgotten it by then.
        """
        sha = call.script.sha
        if sha in self._on_the_way:
            reply = await self._last(call.evalsha, call, expires, before)
            if not is_error(reply, "NOSCRIPT"):
                return reply
        self._on_the_way.add(sha)
        try:
            return await self._last(call.eval, call, expires, before)
        finally:
            self._on_the_way.discard(sha)

    def send(self, calls: Sequence[ScriptCall], expires: float) -> asyncio.Future[Any]:
        """Send calls of one script together; see ``submit``."""
        return self.submit(b"".join([call.packed for call in calls]), calls[0].script, expires, len(calls))

    async def ask(self, command: Command, expires: float) -> Any:
        """Return the reply to a command that changes nothing.

        Raises:
            StoreError: if there is none, or an error.

        """
        operation = Reading(command_name(command))
        return raised(answer(await self.submit(resp.pack(command), operation, expires), operation, self.address))

    def _end_first(self, first: Request, error: ReplyError | StoreError) -> None:
        """Go on after a call that was not answered, or with an error."""
        if isinstance(error, StoreError):
            self._on_fault()
            first.future.set_exception(error)
            return
        call: Any = first.operation
        task = asyncio.create_task(settled(self._second(self, call, error, first.expires), call, self.address))
        self._seconds.add(task)
        task.add_done_callback(functools.partial(self._end_second, first.future))

    def _end_second(self, future: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
        """Give the caller what came of the second try, whatever that is."""
        self._seconds.discard(task)
        if future.done():
            log_failure(task)
            return
        if task.cancelled():
            future.cancel()
            return
        outcome = task.exception() or task.result()
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _last(self, command: Command, call: ScriptCall, expires: float, before: tuple[Command, ...]) -> Any:
        if isinstance(call, DurableCall):
            return await self._lane_of_all().run((*before, command), call, expires)
        data = b"".join([resp.pack(one) for one in (*before, command)])
        count = len(before) + 1
        return raised(as_list(await self.submit(data, call.script, expires, count), count)[-1])

    def _lane_of_all(self) -> DurableLane:
        """Return the connection beside this one for what waits for a replica.

        Raises:
            StoreUnavailableError: if the pipe is closed.

        """
        if self._closed:
            raise StoreUnavailableError("it is closed", operation="connect", maybe_applied=False)
        if self._lane is None:
            self._lane = DurableLane(self.kind, self.settings, self._deadline, self._max_pending)
        return self._lane
