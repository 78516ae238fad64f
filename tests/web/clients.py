"""Clients of the tests: HTTP/1.1 by hand, where it counts what goes over the wire and when, and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import attrs
import h11
import websockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from websockets.asyncio.client import ClientConnection

PATIENCE = 20.0
_CHUNK = 64 * 1024


@attrs.define
class Response:
    """An answer; ``complete`` is whether it came to its end."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class NoAnswerError(Exception):
    """The connection ended before an answer began."""


class Http:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = h11.Connection(h11.CLIENT)

    async def send(self, *events: Any) -> None:
        for event in events:
            data = self.parser.send(event)
            if data:
                self.writer.write(data)
        await self.writer.drain()

    async def begin(self, method: str, target: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send the head."""
        lines = [(name.encode(), value.encode("latin-1")) for name, value in (("Host", "tests"), *headers)]
        await self.send(h11.Request(method=method, target=target, headers=lines))

    async def event(self) -> Any:
        """Return the next event of the answer."""
        while True:
            event = self.parser.next_event()
            if event is not h11.NEED_DATA:
                return event
            try:
                async with asyncio.timeout(PATIENCE):
                    data = await self.reader.read(_CHUNK)
            except ConnectionError:
                data = b""
            self.parser.receive_data(data)

    async def head(self) -> h11.Response:
        """Return the head of the answer."""
        try:
            while not isinstance(event := await self.event(), h11.Response):
                if isinstance(event, h11.ConnectionClosed):
                    raise NoAnswerError
        except h11.RemoteProtocolError as error:
            raise NoAnswerError from error
        return event

    async def response(self) -> Response:
        """Return the answer, as far as it came."""
        head = await self.head()
        headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
        answer = Response(head.status_code, headers, b"", complete=False)
        parts = []
        try:
            while not isinstance(event := await self.event(), h11.EndOfMessage):
                if isinstance(event, h11.ConnectionClosed):
                    break
                parts.append(bytes(event.data))
            else:
                answer.complete = True
                answer.headers += [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        except h11.RemoteProtocolError:
            pass
        answer.body = b"".join(parts)
        return answer

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, after the head; raise if it breaks off."""
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            yield bytes(event.data)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Http]:
    """Connect for the time of a block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Http(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(
    port: int,
    target: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    """Ask over a connection of its own; a body goes with its length.

    Raises:
        NoAnswerError: if the connection ended before an answer began.
        ConnectionRefusedError: if nobody listens there.

    """
    async with connected(port) as http:
        more = [] if body is None else [("Content-Length", str(len(body)))]
        await http.begin(method, target, [*headers, *more])
        with contextlib.suppress(ConnectionError):  # it may answer and close before it has read all
            if body:
                await http.send(h11.Data(body))
            await http.send(h11.EndOfMessage())
        return await http.response()


@contextlib.asynccontextmanager
async def websocket(port: int, target: str, **more: Any) -> AsyncIterator[ClientConnection]:
    """Open a WebSocket for the time of a block."""
    settings = {"max_size": None, "compression": None, "open_timeout": PATIENCE} | more
    async with websockets.connect(f"ws://127.0.0.1:{port}{target}", **settings) as connection:
        yield connection
