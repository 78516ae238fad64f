"""A connection over which channels are subscribed to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import redis.exceptions

from stateful_route.store.transport import resp
from stateful_route.store.transport.errors import address_of, translate
from stateful_route.store.transport.pipe import connecting, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.store.transport.resp import Command

# Messages that are handed on before the event loop gets its turn.
_SLICE = 128


class Subscriber(asyncio.Protocol):
    """Sends commands, and hands on replies and messages in the turn of the event loop in which they come.

    A lost connection stays lost, so that nothing goes unnoticed.
    """

    def __init__(
        self, stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], address: str, moved: Callable[[], bool]
    ) -> None:
        """Take over an open stream. ``moved`` says whether the server at ``address`` is not the right one any more."""
        self._stream = stream  # the writer closes the transport when it is collected
        self._transport: Any = stream[1].transport
        self._parser = resp.new_parser()
        self._loop = asyncio.get_running_loop()
        self._hear: Callable[[Any], None] = lambda _: None
        self._outgoing = bytearray()
        self._paused = False
        self._error: Exception = redis.exceptions.ConnectionError("the server closed the connection")
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.address = address
        self.moved = moved
        self._transport.set_protocol(self)

    def send(self, command: Command) -> None:
        """Send a command, together with what else is sent in this turn of the event loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += resp.pack(command)

    async def run(self, hear: Callable[[Any], None]) -> NoReturn:
        """Call ``hear`` with each reply and message until the connection is lost; an error of the server is a value.

        Raises:
            StoreError: when the connection is lost.
            Exception: what ``hear`` raised.

        """
        self._hear = hear
        await asyncio.wait([self._closed])
        if isinstance(self._error, redis.exceptions.RedisError):
            raise translate(self._error, "listen", sent=True, writes=False, at=self.address)
        raise self._error

    def abort(self, error: Exception) -> None:
        """End the connection because of ``error``, unless it has ended."""
        if not self._transport.is_closing():
            self._error = error
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection."""
        self._transport.abort()
        await asyncio.wait([self._closed])

    def data_received(self, data: bytes) -> None:
        """Hand on what has come, behind what waits for its turn."""
        self._parser.feed(data)
        if not self._paused:
            self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing comes any more."""
        if exc is not None:
            self._error = redis.exceptions.ConnectionError(f"{type(exc).__name__}: {exc}")
        self._closed.set_result(None)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(bytes(self._outgoing))
        self._outgoing.clear()

    def _hand_on(self) -> None:
        """Hand on a slice of what has come; nothing more is read until the rest is handed on too."""
        try:
            for _ in range(_SLICE):
                if self._transport.is_closing():
                    return
                if (reply := self._parse()) is resp.INCOMPLETE:
                    if self._paused:
                        self._paused = False
                        self._transport.resume_reading()
                    return
                self._hear(reply)
        except Exception as error:  # noqa: BLE001 - run() raises it
            self.abort(error)
            return
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._loop.call_soon(self._hand_on)

    def _parse(self) -> Any:
        try:
            return self._parser.gets()
        except Exception as error:
            raise redis.exceptions.InvalidResponse(f"unreadable reply: {error}") from error


async def open_subscriber(
    kind: Any, settings: dict[str, Any], deadline: float, moved: Callable[[], bool] | None = None
) -> Subscriber:
    """Open a connection for subscriptions, with the settings of those for calls.

    By default the server has moved if Sentinel has named another primary since.

    Raises:
        StoreError: if that fails, or takes longer than ``deadline`` seconds.

    """
    async with connecting("listen", deadline, address_of(settings)):
        # The older protocol, in which messages are replies like others.
        reader, writer, _ = await open_stream(kind, settings | {"protocol": 2})
    address = address_of(settings)
    return Subscriber((reader, writer), address, moved or (lambda: address_of(settings) != address))
