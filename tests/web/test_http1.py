"""What our web server does with heads that do not end, junk behind a request, and ``Upgrade``; in this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.web.uvicorn.cut import cut_off

pytest.importorskip("websockets")
uvicorn = pytest.importorskip("uvicorn")
StickyProtocol = pytest.importorskip("stateful_route.web.uvicorn.protocol").StickyProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
WITHIN = 10.0


class Impatient(StickyProtocol):  # type: ignore[misc, valid-type]
    """One that waits for a head no longer than a test does."""

    head_within = 0.2


class Served:
    """An app that answers once it may, and what it has got."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.began = asyncio.Event()
        self.may = asyncio.Event()
        self.port = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
            return
        self.paths.append(scope["path"])
        self.began.set()
        if scope["path"] == "/slow":
            await self.may.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/cut":
            cut_off()
            return
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def asked(self, *parts: bytes) -> bytes:
        """Send the parts, the second once the app runs; return what comes until the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        async with asyncio.timeout(WITHIN):
            writer.write(parts[0])
            answered = asyncio.ensure_future(reader.read())
            for part in parts[1:]:
                await self.began.wait()
                writer.write(part)
                await asyncio.wait([answered], timeout=0.1)  # what comes too early would come now
                assert not answered.done()
                self.may.set()
            got = await answered
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return got


@contextlib.asynccontextmanager
async def served(keep_alive: float = 5.0) -> AsyncIterator[Served]:
    """Serve an app."""
    app = Served()
    config = uvicorn.Config(app, timeout_keep_alive=keep_alive, log_config=None, lifespan="off")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Impatient(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    app.port = server.sockets[0].getsockname()[1]
    try:
        yield app
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)  # they close


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET", b"GET / HTTP/1.1\r\nX: " + b"a" * 1000])
async def test_a_head_that_does_not_end(head: bytes) -> None:
    """It is answered 408, and the connection is closed."""
    async with served() as app:
        answered = await app.asked(head)

    assert answered.startswith(b"HTTP/1.1 408 ")
    assert [] == app.paths


@pytest.mark.parametrize("data", [b"", b"\r\n"])
async def test_no_head(data: bytes) -> None:
    """A connection on which no head begins is closed without a word."""
    async with served() as app:
        assert b"" == await app.asked(data)


@pytest.mark.parametrize("head", [b"X: %b\r\n" % (b"a" * 70_000), b"a:\r\n" * 1100])
async def test_a_head_that_is_too_large(head: bytes) -> None:
    """It is refused before it ends."""
    async with served() as app:
        answered = await app.asked(b"GET / HTTP/1.1\r\nHost: a\r\n" + head)

    assert answered.startswith(b"HTTP/1.1 431 ")


async def test_an_empty_line_keeps_no_connection() -> None:
    """What is no request behind an answer does not keep the connection open."""
    async with served(keep_alive=0.1) as app:
        answered = await app.asked(GET % b"one" + b"\r\n")

    assert answered.startswith(b"HTTP/1.1 200 ")
    assert ["/one"] == app.paths


@pytest.mark.parametrize(
    "junk", [b"\0JUNK\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_junk_behind_a_request(junk: bytes) -> None:
    """What was asked before is answered first, and the junk after it."""
    async with served() as app:
        answered = await app.asked(GET % b"slow", junk)

    assert answered.startswith(b"HTTP/1.1 200 ")
    assert answered.count(b"HTTP/1.1 4") == 1
    assert ["/slow"] == app.paths


async def test_a_websocket_behind_a_request() -> None:
    """A handshake while an answer is under way is served as the GET that it is: the two would mix."""
    handshake = (
        GET[:-2] % b"next" + b"Connection: upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with served() as app:
        answered = await app.asked(GET % b"slow", handshake)

    assert ["/slow", "/next"] == app.paths
    assert 2 == answered.count(b"HTTP/1.1 200 ")


async def test_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    """A handshake that comes first on a connection is one, and nothing fails by it."""
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    async with served() as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(GET[:-2] % b"next" + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + key)
        async with asyncio.timeout(WITHIN):
            answered = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    assert answered.startswith(b"HTTP/1.1 101 ")
    assert "Traceback" not in caplog.text


async def test_an_answer_that_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """It ends without its end, and uvicorn logs no error of the app: who cuts it off has said why."""
    async with served() as app:
        answered = await app.asked(GET % b"cut")

    assert answered.startswith(b"HTTP/1.1 200 ")
    assert not answered.endswith(b"0\r\n\r\n")
    assert "without completing" not in caplog.text
