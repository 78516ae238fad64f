"""Writes that are answered once a replica has them: what is sent behind a script for it, and what comes of it.

``WAIT`` alone is not enough. It speaks of what its own connection wrote last, and a script that found all as it should
be wrote nothing: a claim that is tried again, be it over another connection, would be called safe while what the first
one wrote is on no replica. So a small write goes before the ``WAIT``, which has to follow all that was written before.

For that reason "unchanged" is waited for too, and so is "absent" of a release, and "renewed" of a placement: each may
repeat a call that fell short. Not so what cannot be a repetition: a placement makes no persistent link, and one that
finds one has read it, as ``get`` does; and a "no" promises nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from stateful_route.errors import NotReplicatedError, StoreError
from stateful_route.store.redis.scripts import ScriptCall
from stateful_route.store.transport.errors import translate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stateful_route.store.transport.resp import Command

_REPLICAS = 1

# Of the deadline of a call: one that waits for the turn of another has time for both, and for the way.
_SHARE = 0.4

# Of the deadline of a call: so much before its end a call is told that it fell short, before others say it is late.
MARGIN = 0.1

# Milliseconds for which the small write stays.
_KEPT = 1000

# Outcomes with which a script has written nothing, and says that it does not do what was asked.
_NO = frozenset({b"refused", b"superseded", b"unreadable"})


def patience(deadline: float, left: float) -> float:
    """Return for how many seconds a replica is waited for, of a call with that deadline and so much time left.

    The server may answer a tenth of a second later: it looks ten times in a second at who has waited long enough.
    """
    return round(min(_SHARE * deadline, max(left - 3 * MARGIN * deadline, MARGIN * deadline)), 3)


@attrs.define(eq=False)
class DurableCall(ScriptCall):
    """A call of a script whose answer counts only once a replica has what it wrote."""

    expires: float | None = attrs.field(kw_only=True, default=None)
    """When the time of the call is up, by the clock of the event loop; by default in a deadline."""


def marker(key: str, wait: float) -> tuple[Command, Command]:
    """Return what goes behind scripts on the same connection: a write in the slot of ``key``, and the ``WAIT``.

    The reply to the latter is for ``shortfall``.
    """
    tag = key[key.index("{") : key.index("}") + 1]
    prefix = key[: key.index(":") + 1]
    touch: Command = ("SET", f"{prefix}durable:{tag}", "", "PX", _KEPT)
    return touch, ("WAIT", _REPLICAS, max(1, round(wait * 1000)))


def shortfall(replies: Sequence[Any], operation: str, wait: float, at: str) -> StoreError | None:
    """Return the error of a call if the replies to its ``marker`` do not say that a replica has it."""
    for reply in replies:
        if isinstance(
            reply, Exception
        ):  # the connection was lost, the server became a replica itself, no right to WAIT
            lower = (
                reply if isinstance(reply, StoreError) else translate(reply, operation, sent=True, writes=True, at=at)
            )
            return of_operation(lower, operation, maybe_applied=True)
    if replies[-1] >= _REPLICAS:
        return None
    message = f"no replica of {at} had it within {wait:g} s; a failover now would lose it"
    return NotReplicatedError(message, operation=operation, replicas=replies[-1])


def counts_only_replicated(reply: Any, operation: str) -> bool:
    """Whether the answer to a call may be given only once a replica has what it, or the same call before, wrote."""
    if isinstance(reply, list):
        return any(counts_only_replicated(one, operation) for one in reply)
    if isinstance(reply, Exception):
        return False
    outcome = reply.partition(b" ")[0] if isinstance(reply, bytes) else b""
    return not (outcome in _NO or (outcome == b"unchanged" and operation == "place"))


def replicated(reply: Any, operation: str, fault: StoreError | None) -> Any:
    """Return the reply to a call, with the ``fault`` in the place of each of many that counts only without it.

    Raises:
        StoreError: the fault, if the reply is that of one link.

    """
    if fault is None or not counts_only_replicated(reply, operation):
        return reply
    if isinstance(reply, list):
        return [fault if counts_only_replicated(one, operation) else one for one in reply]
    raise fault


def of_operation(error: StoreError, operation: str, *, maybe_applied: bool) -> StoreError:
    """Return an error of many calls as that of one of them."""
    message = str(error).removeprefix(f"{error.operation}: ").rpartition(" (")[0]
    mine = type(error)(message, operation=operation, maybe_applied=maybe_applied)
    mine.__cause__ = error.__cause__
    return mine


class Runner(Protocol):
    """Runs scripts; each ``Connections`` is one."""

    @property
    def is_one_server(self) -> bool:
        """Whether all keys are on one server, as far as it is known."""
        ...

    def run(self, call: ScriptCall) -> Awaitable[Any]:
        """Return the reply of a script."""
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply of each script, or its ``StoreError``, in their order."""
        ...


class DurableConnections(Protocol):
    """Connections that can wait for a replica."""

    is_one_server: bool

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica has what it wrote."""
        ...


class Durably:
    """Runs scripts that write, over such connections, and returns once a replica has what they wrote.

    Raises:
        NotReplicatedError: if no replica had it in time: it may be there, and may be lost yet.

    """

    def __init__(self, connections: DurableConnections, deadline: float, expires: float | None = None) -> None:
        """Run calls with a ``deadline`` in seconds; see ``DurableCall.expires``."""
        self._connections = connections
        self._deadline = deadline
        self._expires = expires

    def until(self, expires: float) -> Durably:
        """Return the same for calls whose time is up then, by the clock of the event loop."""
        return Durably(self._connections, self._deadline, expires)

    @property
    def is_one_server(self) -> bool:
        """See ``Connections``."""
        return self._connections.is_one_server

    async def run(self, call: ScriptCall) -> Any:
        """Return the reply of a script."""
        durable = DurableCall(call.script, call.keys, call.args, expires=self._expires)
        return await self._connections.run_durably(durable)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply of each script, or its ``StoreError``."""
        # Side by side: they share a WAIT where connections are shared.
        replies = await asyncio.gather(*map(self.run, calls), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, StoreError):
                raise reply
        return replies
