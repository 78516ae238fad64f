"""Durable writes: a call is answered once a replica has its change.

``WAIT`` covers only what its own connection wrote last, and a script that changes nothing writes nothing. A claim that
is retried would then count as durable while no replica has what the first attempt wrote. So a small write, the marker,
goes before the ``WAIT``: a replica that has it has all that was written before.

A retry may find its work done. So "unchanged", "absent" of a release and "renewed" of a placement are waited for too. A
placement that finds a persistent link repeats nothing, and a refusal promises nothing: they are not waited for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from stateful_route.errors import NotReplicatedError, StoreError
from stateful_route.store.transport.errors import translate
from stateful_route.store.transport.script import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.resp import Command

_REPLICAS = 1

# Longest wait for a replica, as a share of the deadline of a call: two waits and the network fit into one deadline.
_SHARE = 0.4

# A durable call fails this share of its deadline early, before any other timer reports it as late.
MARGIN = 0.1

# Milliseconds until the marker expires.
_KEPT = 1000

# Outcomes of a script that refused what was asked, and wrote nothing.
_NO = frozenset({b"refused", b"superseded", b"unreadable"})


def patience(deadline: float, left: float) -> float:
    """Return how many seconds to wait for a replica, for a call with this deadline and ``left`` seconds of it left.

    The server checks ten times a second which waits are over, so its answer may come a tenth of a second late.
    """
    return round(min(_SHARE * deadline, max(left - 3 * MARGIN * deadline, MARGIN * deadline)), 3)


@attrs.define(eq=False)
class DurableCall(ScriptCall):
    """A call of a script that is answered once a replica has what it wrote."""

    expires: float | None = attrs.field(kw_only=True, default=None)
    """When the call is too late, by the clock of the event loop; by default in a deadline."""


def marker(key: str, wait: float) -> tuple[Command, Command]:
    """Return the commands that follow scripts on their connection: the marker in the slot of ``key``, and the ``WAIT``.

    ``shortfall`` reads their replies.
    """
    tag = key[key.index("{") : key.index("}") + 1]
    prefix = key[: key.index(":") + 1]
    touch: Command = ("SET", f"{prefix}durable:{tag}", "", "PX", _KEPT)
    return touch, ("WAIT", _REPLICAS, max(1, round(wait * 1000)))


def shortfall(replies: Sequence[Any], operation: str, wait: float, at: str) -> StoreError | None:
    """Return the error of a call, unless the replies to its ``marker`` say that a replica has it."""
    for reply in replies:  # lost, or refused: the server became a replica itself, or the user has no right to WAIT
        if isinstance(reply, StoreError):
            return of_operation(reply, operation, maybe_applied=True)
        if isinstance(reply, Exception):
            fault = translate(reply, operation, sent=True, writes=True, at=at)
            return of_operation(fault, operation, maybe_applied=True)
    if replies[-1] >= _REPLICAS:
        return None
    message = f"no replica of {at} had it within {wait:g} s; a failover now would lose it"
    return NotReplicatedError(message, operation=operation, replicas=replies[-1])


def counts_only_replicated(reply: Any, operation: str) -> bool:
    """Whether a reply may stand for a change, of this call or of one that it retries."""
    if isinstance(reply, list):
        return any(counts_only_replicated(one, operation) for one in reply)
    if isinstance(reply, Exception):
        return False
    outcome = reply.partition(b" ")[0] if isinstance(reply, bytes) else b""
    return not (outcome in _NO or (outcome == b"unchanged" and operation == "place"))


def replicated(reply: Any, operation: str, fault: StoreError | None) -> Any:
    """Return the reply to a call; with a ``fault``, that stands in place of each change in the reply to a batch.

    Raises:
        StoreError: the fault, if the reply is to a change of one link.

    """
    if fault is None or not counts_only_replicated(reply, operation):
        return reply
    if isinstance(reply, list):
        return [fault if counts_only_replicated(one, operation) else one for one in reply]
    raise fault


def of_operation(error: StoreError, operation: str, *, maybe_applied: bool) -> StoreError:
    """Return an error that many calls share as that of one of them."""
    message = str(error).removeprefix(f"{error.operation}: ").rpartition(" (")[0]
    mine = type(error)(message, operation=operation, maybe_applied=maybe_applied)
    mine.__cause__ = error.__cause__
    mine.refused = error.refused
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


class Durably:
    """Runs scripts that write, and returns once a replica has what they wrote.

    Raises:
        NotReplicatedError: if no replica had it in time: the change may be there, and a failover may lose it.

    """

    def __init__(self, connections: Connections, deadline: float, expires: float | None = None) -> None:
        """Run calls with a ``deadline`` in seconds; see ``DurableCall.expires``."""
        self._connections = connections
        self._deadline = deadline
        self._expires = expires

    def until(self, expires: float) -> Durably:
        """Return the same for calls that end at ``expires``."""
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
