"""What the store needs of its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stateful_route.store.transport.durable import DurableCall
    from stateful_route.store.transport.script import ScriptCall
    from stateful_route.store.transport.subscriber import Subscriber


class Connections(Protocol):
    """Runs scripts on the server that has their keys."""

    is_one_server: bool
    """Whether one script may take the keys of many uids: all are on one server, as far as it is known."""

    deadline: float
    """Seconds within which each call ends."""

    database: int
    """The number of the database; 0 on a cluster."""

    def in_flight(self) -> int:
        """Return how many calls wait for an answer now."""
        ...

    def run(self, call: ScriptCall) -> Awaitable[Any]:
        """Return the reply of a script, with bytes for strings.

        Raises:
            StoreError: within the deadline, saying whether the script may have been applied.

        """
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply of each script, or its ``StoreError``, in their order."""
        ...

    async def run_durably(self, call: DurableCall) -> Any:
        """Return the reply of a script once a replica has what it wrote.

        Raises:
            StoreError: as ``run``; a ``NotReplicatedError`` if no replica is known to have it in time. For a script
                for many links it stands in place of each change.

        """
        ...

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command that has no key and changes nothing."""
        ...

    async def prove(self, key: str) -> float:
        """Prove that the server that has a key is its primary still, where another one could have taken its place.

        Return for how many seconds this process knows it as that, 0 if it is another one now; infinite where nothing
        can take its place. What was asked is true at a moment after the call began. ``primacy`` has the argument.

        Raises:
            StoreUnavailableError: if it is not the primary, or nobody can tell.
            StoreError: if a server that was asked did not answer.

        """
        ...

    async def primaries(self) -> list[str]:
        """Return the addresses of the primaries, sorted; that of the one server, if it is one.

        Raises:
            StoreError: if none can be reached.

        """
        ...

    async def command_at(self, address: str, *command: str | int) -> Any:
        """Return the reply of a command that changes nothing from the primary with that address.

        Raises:
            StoreError: also if there is no such primary now.

        """
        ...

    async def open_subscriber(self) -> Subscriber:
        """Open a connection for subscriptions, of their own.

        Raises:
            StoreError: within the deadline.

        """
        ...

    async def aclose(self) -> None:
        """Wait for what is in flight, for a deadline at most, and close all that was opened. Safe to call twice."""
        ...
