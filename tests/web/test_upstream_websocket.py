"""WebSockets to an app behind this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route.web.errors import UpstreamLostError, UpstreamProtocolError
from tests.waiting import eventually
from tests.web.upstream import Call, app_that

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.asyncio.server import ServerConnection

    from stateful_route.web.upstream.app import Upstream
    from tests.web.upstream import Line

websockets = pytest.importorskip("websockets")

MUCH = 16 * 1024 * 1024


@attrs.define(eq=False)
class Served:
    """An app with WebSockets, and what it saw."""

    upstream: Upstream
    codes: list[tuple[int | None, str | None]] = attrs.Factory(list)
    requests: list[Any] = attrs.Factory(list)


@contextlib.asynccontextmanager
async def serving(talk: Callable[[ServerConnection], Awaitable[None]], **settings: Any) -> AsyncIterator[Served]:
    """Run an app that talks so."""
    from stateful_route.web.upstream.app import Upstream  # noqa: PLC0415 - after the skip

    async def handler(connection: ServerConnection) -> None:
        served.requests.append(connection.request)
        with contextlib.suppress(websockets.ConnectionClosed):
            await talk(connection)
            await connection.wait_closed()
        await connection.wait_closed()
        served.codes.append((connection.close_code, connection.close_reason))

    async with websockets.serve(handler, "127.0.0.1", 0, max_size=None, compression=None, **settings) as server:
        served = Served(Upstream("127.0.0.1", next(iter(server.sockets)).getsockname()[1]))
        async with asyncio.timeout(20):
            yield served


class Socket(Call):
    """A WebSocket of a client."""

    def __init__(self, path: str = "/ws", headers: Any = (("host", "example.com"),), **scope: Any) -> None:
        more = {"type": "websocket", "scheme": "wss", "subprotocols": [], "extensions": {"websocket.http.response": {}}}
        super().__init__("", path, headers, **(more | scope))
        del self.scope["method"]
        self.fails = False
        self.events.put_nowait({"type": "websocket.connect"})

    async def send(self, message: dict[str, Any]) -> None:
        if self.fails:
            raise OSError("the client of the test is gone")
        await super().send(message)

    def say(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self.events.put_nowait({"type": "websocket.receive", kind: data})

    def close(self, code: int, reason: str = "") -> None:
        self.events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    def begin(self, served: Any) -> asyncio.Task[None]:
        return asyncio.ensure_future(served.upstream(self.scope, self.receive, self.send))

    @property
    def heard(self) -> list[Any]:
        return [message.get("text", message.get("bytes")) for message in self.sent if message["type"][10:] == "send"]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_messages() -> None:
    """Texts and bytes go both ways, in their order, up to 16 MB each; and the app sees the head of the client."""
    headers = [
        ("host", "example.com:8443"),
        ("origin", "https://example.com"),
        ("cookie", "a=b"),
        ("connection", "Upgrade, x-own"),
        ("x-own", "1"),
        ("sec-websocket-key", "x"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("x-forwarded-for", "127.0.0.1"),
    ]
    async with serving(echo) as served:
        client = Socket("/ws/a%20b", headers, query_string=b"q=1%2F")
        running = client.begin(served)
        said: list[str | bytes] = ["", "ä", b"", b"\0\xff", "x" * MUCH, b"y" * MUCH]
        for each in said:
            client.say(each)
        await eventually(lambda: len(client.heard) == len(said))
        client.close(1000, "done")
        await running
        await eventually(lambda: served.codes)
        request = served.requests[0]

        assert said == client.heard
        assert [(1000, "done")] == served.codes
        assert "/ws/a%20b?q=1%2F" == request.path
        assert ["example.com:8443"] == request.headers.get_all("host")
        assert ["https://example.com"] == request.headers.get_all("origin")
        assert ["192.0.2.7"] == request.headers.get_all("x-forwarded-for")
        assert ["https"] == request.headers.get_all("x-forwarded-proto")
        assert {"x-own", "sec-websocket-extensions", "user-agent"}.isdisjoint(
            {name.lower() for name in request.headers}
        )


@pytest.mark.parametrize(("offered", "chosen"), [([], None), (["a", "b"], "b"), (["c"], None)])
async def test_subprotocols(offered: list[str], chosen: str | None) -> None:
    """The app chooses one of the subprotocols of the client, or none."""

    def choose(_: Any, offers: Any) -> Any:
        return "b" if "b" in offers else None

    async with serving(echo, select_subprotocol=choose) as served:
        client = Socket(subprotocols=offered)
        running = client.begin(served)
        await eventually(lambda: client.sent)
        client.close(1000)
        await running

        assert chosen == client.sent[0]["subprotocol"]


@pytest.mark.parametrize(
    ("client", "app"), [(1000, 1000), (1001, 1001), (4321, 4321), (1005, 1000), (1006, 1006), (1015, 1001), (0, 1000)]
)
async def test_the_client_closes(client: int, app: int) -> None:
    """The code of the client reaches the app; a client that was lost is lost for the app."""
    async with serving(echo) as served:
        socket = Socket()
        running = socket.begin(served)
        await eventually(lambda: socket.sent)
        socket.close(client)
        await running
        await eventually(lambda: served.codes)

        assert app == served.codes[0][0]


@pytest.mark.parametrize(("app", "client"), [(1000, 1000), (1011, 1011), (3999, 3999), (None, 1012), (1009, 1009)])
async def test_the_app_closes(app: int | None, client: int) -> None:
    """The code of the app and its reason reach the client; 1012 if the app is gone without one."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send("first")
        if app is None:
            connection.transport.abort()
        elif app == 1009:
            await connection.send(b"x" * (MUCH + 1))
        else:
            await connection.close(app, "because")

    async with serving(talk) as served:
        socket = Socket()
        await socket.begin(served)

        assert ["first"] == socket.heard
        assert client == socket.sent[-1]["code"]
        assert app in {None, 1009} or "because" == socket.sent[-1]["reason"]


async def test_the_client_is_gone_while_the_app_sends() -> None:
    """A client that only ``send`` sees to be gone ends the WebSocket, for the app too, and nothing is logged for it."""

    async def talk(connection: ServerConnection) -> None:
        while True:
            await connection.send("tick")
            await asyncio.sleep(0)  # ``send`` lets nobody else run

    async with serving(talk) as served:
        socket = Socket()
        running = socket.begin(served)
        await eventually(lambda: socket.heard)
        socket.fails = True
        await running
        await eventually(lambda: served.codes)

        assert 0 == served.upstream.open


async def test_gone_before_it_was_accepted() -> None:
    """A client that is gone when the app accepts leaves no connection behind."""
    async with serving(echo) as served:
        socket = Socket()
        socket.fails = True
        with pytest.raises(OSError, match="gone"):
            await socket.begin(served)
        await eventually(lambda: served.codes)

        assert 0 == served.upstream.open


async def test_an_app_that_does_not_answer_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket whose app does not answer its close is ended after a while, without a word in the log."""
    monkeypatch.setattr("stateful_route.web.upstream.websocket._CLOSE_WITHIN", 0.05)

    async def talk(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await asyncio.sleep(0.5)  # longer than it is waited for
        connection.transport.abort()

    async with serving(talk) as served:
        socket = Socket()
        running = socket.begin(served)
        await eventually(lambda: socket.sent)
        socket.close(1000)
        await running

        assert running.exception() is None


async def test_a_slow_client() -> None:
    """Messages that a client does not take stay with the app, but for a few."""
    sent = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(200):
            await connection.send(b"x" * 1024 * 1024)
            sent += 1
        await connection.close()

    async with serving(talk) as served:
        socket = Socket()
        running = socket.begin(served)
        await eventually(lambda: socket.sent)
        socket.room.clear()
        before = -1
        while sent != before:  # it comes to a stand
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 40
        socket.room.set()
        await running

        assert 200 == len(socket.heard)


@pytest.mark.parametrize("status", [302, 401, 418, 200])
@pytest.mark.parametrize("can_deny", [True, False])
async def test_denied(status: int, can_deny: bool) -> None:
    """A refusal of the app is that of the client: with its status, and no redirect is followed."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(
            b"HTTP/1.1 %d X\r\nlocation: /other\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 2\r\n\r\nno"
            % status
        )

    async with app_that(talk) as app:
        socket = Socket(extensions={"websocket.http.response": {}} if can_deny else {})
        await socket.begin(app)
        assert 1 == len(app.lines)
        if not can_deny:
            assert [{"type": "websocket.close", "code": 1000}] == socket.sent
            return
        start, body = socket.sent

        assert (status, b"no") == (start["status"], body["body"])
        assert [(b"location", b"/other"), (b"set-cookie", b"a"), (b"set-cookie", b"b")] == start["headers"]


@pytest.mark.parametrize(
    ("data", "is_answer"),
    [
        (b"", False),
        (b"HTTP/1.1 101 X\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True),
        (b"nonsense\r\n\r\n", True),
    ],
)
async def test_no_websocket(data: bytes, is_answer: bool) -> None:
    """An app that ends, or does not speak WebSocket, has had the request: it may have ended by that."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(data)

    async with app_that(talk) as app:
        socket = Socket()
        with pytest.raises(UpstreamLostError) as caught:
            await socket.begin(app)

        assert caught.value.sent
        assert is_answer == isinstance(caught.value, UpstreamProtocolError)
        assert [] == socket.sent


async def test_not_reached() -> None:
    """An app that takes no connection has had nothing of a WebSocket."""
    async with app_that(lambda _: asyncio.sleep(0)) as app:
        app.server.close()
        with pytest.raises(UpstreamLostError) as caught:
            await Socket().begin(app)

        assert not caught.value.sent


async def test_what_it_is_not_told() -> None:
    """What is of the client's connection, or only looks like what we say, does not go on to the app."""
    names = "te", "expect", "keep-alive", "x_forwarded_for", "x-forwarded_proto", "content_length"
    async with serving(echo) as served:
        socket = Socket(headers=[("host", "a"), ("x-kept_so", "1"), *((name, "100-continue") for name in names)])
        running = socket.begin(served)
        await eventually(lambda: socket.sent)
        socket.close(1000)
        await running
        told = {name.lower() for name, _ in served.requests[0].headers.raw_items()}

        assert set() == told & set(names)
        assert "x-kept_so" in told


@pytest.mark.parametrize(
    "host",
    ["user:secret@example.com", "a b", "ex/ample", "[::1]:80", "a:b", "", "a:70000", "[1]", "[::1::1]:80"],
)
async def test_hosts(host: str) -> None:
    """A host that is none makes no other request: nothing of it is a user, a path or a header."""
    async with serving(echo) as served:
        socket = Socket(headers=[("host", host)])
        running = socket.begin(served)
        await eventually(lambda: socket.sent)
        socket.close(1000)
        await running
        request = served.requests[0]

        assert "/ws" == request.path
        assert "authorization" not in request.headers
        assert request.headers["host"] in {"localhost", "[::1]"}
