"""A Redis Cluster: one pipe for each primary, so that what happens to one is not noticed at the others."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from stateful_route.errors import StoreError
from stateful_route.store.transport import resp
from stateful_route.store.transport.errors import command_name, not_a_primary
from stateful_route.store.transport.primacy import PROOF, Known, count_votes
from stateful_route.store.transport.resp import ReplyError
from stateful_route.store.transport.script_pipe import Reading, ScriptPipe, answer, as_list, raised, settled
from stateful_route.store.transport.slots import SlotTable
from stateful_route.store.transport.subscriber import open_subscriber

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.script import ScriptCall
    from stateful_route.store.transport.slots import Address
    from stateful_route.store.transport.subscriber import Subscriber

# Seconds before a call is tried again whose keys are moving from one primary to another.
_MOVING = 0.01

# No attempt begins with less than this share of the deadline of a call left.
_LAST = 0.15

_MOST_REDIRECTIONS = 8

# What a node answers that cannot serve a slot: another one may have it by now.
_ASK_WHO_HAS_IT = frozenset({"CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"})


class PipelinedCluster:
    """The primaries of a cluster. Implements ``Connections``."""

    is_one_server = False
    database = 0

    def __init__(
        self,
        kind: Any,
        settings: dict[str, Any],
        startup: Sequence[Address],
        deadline: float,
        max_pending: int,
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        """Make pipes of that ``kind`` and ``settings``; any node of ``startup`` can tell who the others are.

        ``remap`` gives the address at which a node is reached that names itself by another one.
        """

        def connect(address: Address) -> ScriptPipe:
            host, port = address
            place = {"host": host, "port": port}
            return ScriptPipe(
                kind, settings | place, deadline, max_pending, second=self._second, on_fault=self._table.refresh
            )

        self._known: dict[str, Known] = {}
        self._table = SlotTable(connect, startup, deadline, remap)
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<PipelinedCluster: {self._table!r}>"

    def in_flight(self) -> int:
        """Return how many calls wait for an answer now."""
        return sum(pipe.pending for pipe in self._table.pipes())

    def run(self, call: ScriptCall) -> Awaitable[Any]:
        """Return the reply of a script."""
        pipe = self._table.owner(call.keys[0])
        return self._find_and_run(call) if pipe is None else pipe.start(call)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply or the error of each script: one pipeline for each primary, concurrently."""
        expires = asyncio.get_running_loop().time() + self.deadline
        replies: list[Any] = [None] * len(calls)
        shares: dict[ScriptPipe, list[int]] = {}
        lost: list[int] = []
        for i, call in enumerate(calls):
            pipe = self._table.owner(call.keys[0])
            (lost if pipe is None else shares.setdefault(pipe, [])).append(i)

        async def run_share(pipe: ScriptPipe, share: list[int]) -> None:
            try:
                answers = as_list(await pipe.send([calls[i] for i in share], expires), len(share))
            except StoreError as error:
                answers = [error] * len(share)
            for i, reply in zip(share, answers, strict=True):
                replies[i] = reply
            if any(isinstance(reply, StoreError) for reply in answers):
                self._table.refresh()
            await asyncio.gather(*(settle(pipe, i) for i in share if isinstance(replies[i], ReplyError)))

        async def settle(pipe: ScriptPipe, i: int) -> None:
            second = self._second(pipe, calls[i], replies[i], expires)
            replies[i] = await settled(second, calls[i].script, pipe.address)

        async def run_alone(i: int) -> None:
            replies[i] = await settled(self._find_and_run(calls[i]), calls[i].script, "")  # its errors say where

        await asyncio.gather(*(run_share(pipe, share) for pipe, share in shares.items()), *map(run_alone, lost))
        return replies

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica of the primary that has its key has what it wrote."""
        expires = asyncio.get_running_loop().time() + self.deadline if call.expires is None else call.expires
        pipe = self._table.owner(call.keys[0])
        if pipe is None:
            pipe = await self._table.find_owner(call.keys[0], call.script, expires)
        try:
            reply = await self._second(pipe, call, await pipe.run(call, expires), expires)
        except StoreError:
            self._table.refresh()
            raise
        return raised(answer(reply, call, pipe.address))

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command from any primary."""
        expires = asyncio.get_running_loop().time() + self.deadline
        return await (await self._table.any_primary(Reading(command_name(command)), expires)).ask(command, expires)

    async def prove(self, key: str) -> float:
        """Prove that a majority of the primaries names the one that has a key.

        If they name another one than the table, or do not agree yet, the table is read again, as long as there is time.
        """
        loop = asyncio.get_running_loop()
        expires = loop.time() + self.deadline / 2
        operation = Reading(PROOF)

        async def names_it(pipe: ScriptPipe, other: ScriptPipe) -> bool:
            try:
                reply = await other.submit(resp.pack(("GET", key)), operation, expires)
                return isinstance(reply, ReplyError) and self._table.names(str(reply), other, pipe)
            except (StoreError, ValueError, IndexError):
                return False

        pipe = self._table.owner(key) or await self._table.find_owner(key, operation, expires)
        while True:
            others = [other for other in await self._table.all_primaries(operation, expires) if other is not pipe]
            try:
                await count_votes(others, functools.partial(names_it, pipe), expires - loop.time())
            except StoreError as not_named:
                try:
                    pipe = await self._table.find_owner(key, operation, expires)
                except StoreError:
                    raise not_named from None
            else:
                return self._known.setdefault(key, Known()).proven(pipe.address)

    async def primaries(self) -> list[str]:
        """Return the addresses of the primaries, sorted."""
        expires = asyncio.get_running_loop().time() + self.deadline
        return sorted(pipe.address for pipe in await self._table.all_primaries(Reading("slots"), expires))

    async def command_at(self, address: str, *command: str | int) -> Any:
        """Return the reply of a command from the primary with that address."""
        expires = asyncio.get_running_loop().time() + self.deadline
        pipes = await self._table.all_primaries(Reading(command_name(command)), expires)
        for pipe in pipes:
            if pipe.address == address:
                return await pipe.ask(command, expires)
        raise not_a_primary(address, command)

    async def open_subscriber(self) -> Subscriber:
        """Open a connection to any primary: a message reaches all nodes."""
        loop = asyncio.get_running_loop()
        expires = loop.time() + self.deadline
        pipe = await self._table.any_primary(Reading("listen"), expires)
        try:
            left = round(expires - loop.time(), 2)
            return await open_subscriber(pipe.kind, pipe.settings, left, lambda: not self._table.is_primary(pipe))
        except StoreError:
            self._table.refresh()
            raise

    async def aclose(self) -> None:
        """Wait for what is in flight, and close all connections."""
        await self._table.aclose()

    async def _find_and_run(self, call: ScriptCall) -> Any:
        """Return the reply of a script once its primary is known."""
        expires = asyncio.get_running_loop().time() + self.deadline
        pipe = await self._table.find_owner(call.keys[0], call.script, expires)
        return await pipe.start(call, expires)

    async def _second(self, pipe: ScriptPipe, call: ScriptCall, reply: Any, expires: float) -> Any:
        """See ``SecondTry``. Follows redirections."""
        loop = asyncio.get_running_loop()
        left, began = _MOST_REDIRECTIONS, loop.time()
        while left and isinstance(reply, ReplyError):
            left -= 1
            match reply.code:
                case "NOSCRIPT":
                    reply = await pipe.give(call, expires)
                case "MOVED":
                    pipe = self._table.redirected(str(reply), pipe)
                    reply = await pipe.run(call, expires)
                case "ASK":  # for this call only: the slot is moving
                    reply = await self._table.redirected(str(reply), pipe).run(call, expires, ("ASKING",))
                # It has changed nothing yet; a call that is in flight at its deadline is unsure.
                case "TRYAGAIN" if (now := loop.time()) + max(
                    _LAST * self.deadline, _MOVING + 2 * (now - began)
                ) < expires:
                    await asyncio.sleep(_MOVING)
                    began = loop.time()
                    reply = await pipe.run(call, expires)
                    left = _MOST_REDIRECTIONS
                case code:
                    if code in _ASK_WHO_HAS_IT:
                        self._table.refresh()
                    break
        return reply
