"""A server of HTTP/1.1 that says exactly what a test tells it, and requests to it through ``Upstream``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.web.upstream.app import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    Talk = Callable[["Line"], Awaitable[None]]

WITHIN = 10.0


@attrs.define(eq=False)
class Line:
    """One connection, at the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """How many connections there were before."""
    heads: int = 0
    """How many requests have come over it."""

    async def head(self) -> bytes:
        """Return the next head."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.heads += 1
        return head

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> bytes:
        """Return what comes until the other side has closed."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Let the other side see an error, and not an end."""
        own: socket.socket = self.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@attrs.define(eq=False)
class App:
    """A server of a test, and what sends requests to it."""

    upstream: Upstream
    server: asyncio.Server
    lines: list[Line] = attrs.Factory(list)
    failures: list[BaseException] = attrs.Factory(list)

    @property
    def port(self) -> int:
        return int(self.server.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def app_that(talk: Talk, **settings: Any) -> AsyncIterator[App]:
    """Run a server that talks so on each connection."""
    app: App

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer, len(app.lines))
        app.lines.append(line)
        try:
            await talk(line)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side has closed
        except Exception as error:  # noqa: BLE001 - the test says so at its end
            app.failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, **settings)
    port = server.sockets[0].getsockname()[1]
    app = App(Upstream("127.0.0.1", port), server)
    try:
        async with asyncio.timeout(3 * WITHIN):
            yield app
    finally:
        app.upstream.close()
        server.close()
        for line in app.lines:
            _abort(line.writer.transport)
        await asyncio.sleep(0.01)  # both sides of each connection close
    assert not app.failures


def _encoded(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


class Call:
    """One request to an app: what a web server would call it with, and what it has sent back."""

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Iterable[tuple[str | bytes, str | bytes]] = (("host", "example.com"),),
        body: bytes | None = None,
        **scope: Any,
    ) -> None:
        listed = [(_encoded(name), _encoded(value)) for name, value in headers]
        if body is not None:
            listed.append((b"content-length", b"%d" % len(body)))
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": listed,
            "scheme": "https",
            "client": ("192.0.2.7", 1234),
        } | scope
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.room = asyncio.Event()
        """Whether the client takes what is sent."""
        self.room.set()
        self.asked = 0
        if body is not None or method == "GET":
            self.give(body or b"", more=False)

    def give(self, body: bytes, *, more: bool = True) -> None:
        self.events.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        """Go away."""
        self.events.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self.events.get()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        await self.room.wait()

    async def run(self, app: App) -> Call:
        """Have it served."""
        async with asyncio.timeout(WITHIN):
            await app.upstream(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", True)


def answers(*parts: bytes, keep: bool = True) -> Talk:
    """Return what answers each request with these bytes."""

    async def talk(line: Line) -> None:
        while True:
            await line.head()
            await line.say(b"".join(parts))
            if not keep:
                return

    return talk


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def _abort(transport: asyncio.WriteTransport) -> None:
    """Close at once; asyncio of Python 3.11 raises if the other side has closed while something was to be sent."""
    with contextlib.suppress(AttributeError):
        transport.abort()
