"""One server, through one pipe."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stateful_route.store.transport.errors import not_a_primary
from stateful_route.store.transport.primacy import primacy_of
from stateful_route.store.transport.resp import ReplyError
from stateful_route.store.transport.script_pipe import ScriptPipe, answer, as_list, is_error, raised, settled
from stateful_route.store.transport.subscriber import open_subscriber

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.primacy import Address
    from stateful_route.store.transport.script import ScriptCall
    from stateful_route.store.transport.subscriber import Subscriber


async def nothing() -> None:
    """Close nothing."""


class PipelinedServer:
    """One server, or the primary that Sentinel names. Implements ``Connections``."""

    is_one_server = True

    def __init__(
        self,
        kind: Any,
        settings: dict[str, Any],
        deadline: float,
        max_pending: int,
        close: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        """See ``Pipe``; ``close`` ends what was started for it."""
        self._pipe = ScriptPipe(kind, settings, deadline, max_pending, second=_second)
        self.run: Callable[[ScriptCall], asyncio.Future[Any]] = self._pipe.start
        """Return the reply of a script: without a call in between, as it is one of each miss."""
        self._primacy = primacy_of(kind, settings, deadline)
        self.deadline = deadline
        self._close = close
        self.database = int(settings.get("db") or 0)

    def __repr__(self) -> str:
        return f"<PipelinedServer over {self._pipe!r}>"

    def in_flight(self) -> int:
        """Return how many calls wait for an answer now."""
        return self._pipe.pending

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script, sent in one pipeline."""
        expires = asyncio.get_running_loop().time() + self.deadline
        replies = as_list(await self._pipe.send(calls, expires), len(calls))

        async def settle(i: int) -> None:
            second = _second(self._pipe, calls[i], replies[i], expires)
            replies[i] = await settled(second, calls[i].script, self._pipe.address)

        await asyncio.gather(*(settle(i) for i, reply in enumerate(replies) if isinstance(reply, ReplyError)))
        return replies

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica has what it wrote."""
        expires = asyncio.get_running_loop().time() + self.deadline if call.expires is None else call.expires
        reply = await _second(self._pipe, call, await self._pipe.run(call, expires), expires)
        return raised(answer(reply, call, self._pipe.address))

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command."""
        return await self._pipe.ask(command, asyncio.get_running_loop().time() + self.deadline)

    async def prove(self, key: str) -> float:  # noqa: ARG002 - the server has all keys
        """Prove that the server is the primary."""
        return await self._primacy.prove(self)

    async def leave(self, stay: Address | None = None) -> None:
        """Use the present connections no more, but those to that address."""
        self._pipe.leave(stay)

    async def primaries(self) -> list[str]:
        """Return the address of the server; with Sentinel that of the primary to which it is connected."""
        await self.command("PING")
        return [self._pipe.address]

    async def command_at(self, address: str, *command: str | int) -> Any:
        """Return the reply of a command, if the server has that address."""
        if address != self._pipe.address:
            raise not_a_primary(address, command)
        return await self.command(*command)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to the server."""
        return await open_subscriber(self._pipe.kind, self._pipe.settings, self.deadline)

    async def aclose(self) -> None:
        """Wait for what is in flight, and close the connection."""
        await self._pipe.aclose()
        close, self._close = self._close, nothing
        await close()


async def _second(pipe: ScriptPipe, call: ScriptCall, reply: Any, expires: float) -> Any:
    """See ``SecondTry``."""
    if is_error(reply, "NOSCRIPT"):
        reply = await pipe.give(call, expires)
    if is_error(reply, "READONLY"):  # the next connection is to one that is not
        pipe.replace()
    return reply
