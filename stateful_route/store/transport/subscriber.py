"""A connection over which channels are subscribed to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route.store.transport import resp
from stateful_route.store.transport.attempt import Attempt
from stateful_route.store.transport.errors import address_of, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

    from stateful_route.store.transport.resp import Command


def _stays() -> bool:
    return False


class Subscriber:
    """Sends commands and reads replies and messages. Lost is lost: it is never made again, so nothing goes unnoticed.

    One task may read; what is sent meanwhile is written by a task of its own, for redis-py has no other way.
    """

    def __init__(self, connection: AbstractConnection, address: str, moved: Callable[[], bool] = _stays) -> None:
        """Own a connection that is open. ``moved`` says whether the server at ``address`` is not the right one now."""
        self._connection = connection
        self._outgoing = bytearray()
        self._writing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self.address = address
        self.moved = moved

    def send(self, command: Command) -> None:
        """Send a command, together with what else is sent in this turn of the event loop."""
        self._outgoing += resp.pack(command)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"stateful_route subscribes at {self.address}")

    async def read(self) -> Any:
        """Return the next message or reply; an error that the server replied is a value.

        Raises:
            StoreError: if the connection is lost.

        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError as error:
            return error
        except Exception as error:  # noqa: BLE001 - redis-py stumbles over a socket that closes, by errors of any type
            cause = self._failure or error
            raise translate(cause, "listen", sent=True, writes=False, at=self.address) from cause

    async def close(self) -> None:
        """Close the connection."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        try:
            await asyncio.sleep(0)  # what else there is in this turn
            # redis-py would silently connect again, and hear nothing there.
            while self._outgoing and self._connection.is_connected:
                data = bytes(self._outgoing)
                self._outgoing.clear()
                await self._connection.send_packed_command(data, check_health=False)
        except Exception as error:  # noqa: BLE001 - as in read(), which raises it
            self._failure = error
            await self._connection.disconnect(nowait=True)
        finally:
            self._writing = None


async def open_subscriber(
    kind: Any, settings: dict[str, Any], deadline: float, moved: Callable[[], bool] | None = None
) -> Subscriber:
    """Open a connection as those of a pool are, but one that waits for ever and takes none from the pool.

    By default the server has moved if Sentinel has named another primary since.
    """
    # The older protocol, in which messages are replies like others; what belongs to the newer one is left out.
    ours = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "retry": Retry(NoBackoff(), 0)}
    kept = {name: value for name, value in settings.items() if "maint_notifications" not in name}
    connection = kind(**kept | ours)
    try:
        async with Attempt("listen", deadline, writes=False, at=address_of(settings)):
            await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    address = address_of(settings)
    return Subscriber(connection, address, moved or (lambda: address_of(settings) != address))
