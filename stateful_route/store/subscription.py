"""A connection that hears a channel."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route.store import resp
from stateful_route.store.exchange import Attempt, exchange
from stateful_route.store.faults import REDIS_ERRORS, address_of, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio.connection import AbstractConnection


class Subscription:
    """A connection that hears a channel. Lost is lost: it is not made again, so that nobody misses it unknowingly."""

    def __init__(self, connection: AbstractConnection, address: str) -> None:
        """Own a connection that has subscribed, at that address."""
        self._connection = connection
        self.address = address

    async def next(self, patience: float) -> list[Any] | None:
        """Return the next message, or ``None`` if there is none within ``patience`` seconds.

        Raises:
            StoreError: if the connection is lost.

        """
        with _translated("listen", self.address):
            message: list[Any] | None = await self._connection.read_response(disable_decoding=True, timeout=patience)
            return message

    async def ping(self) -> None:
        """Ask for a sign of life, which comes as a message.

        Raises:
            StoreError: if the connection is lost.

        """
        with _translated("listen", self.address):
            await self._connection.send_packed_command(resp.pack(("PING",)), check_health=False)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)


async def subscribe(kind: Any, settings: dict[str, Any], channel: str, deadline: float) -> Subscription:
    """Open a connection as those of a pool are, but one that waits for ever and is never made again by itself."""
    # The older protocol, in which messages are replies like others; what belongs to the newer one is left out.
    ours = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "retry": Retry(NoBackoff(), 0)}
    kept = {name: value for name, value in settings.items() if "maint_notifications" not in name}
    connection = kind(**kept | ours)
    try:
        async with Attempt("listen", deadline, writes=False, at=address_of(settings)):
            await connection.connect()
            await exchange(connection, ("SUBSCRIBE", channel))
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return Subscription(connection, address_of(settings))


@contextlib.contextmanager
def _translated(operation: str, address: str) -> Iterator[None]:
    try:
        yield
    except REDIS_ERRORS as error:
        raise translate(error, operation, sent=True, writes=False, at=address) from error
