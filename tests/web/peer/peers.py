"""Two peers in one process for the tests of what is between them: a listener, a dialer, and apps that are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.web.peer.carry import Endless, HttpCarrier, Outcome
from stateful_route.web.peer.carry_websocket import WebSocketCarrier
from stateful_route.web.peer.dialer import MAGIC, DialedConnection, Dialer
from stateful_route.web.peer.exchange import Exchange, take_request
from stateful_route.web.peer.frames import FRAME, HEAD_SIZE, Kind
from stateful_route.web.peer.head import pack_head
from stateful_route.web.peer.keys import PeerKey, PeerKeys
from stateful_route.web.peer.listener import PeerListener
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from stateful_route.web.addresses import PeerAddress
    from stateful_route.web.peer.stream import Stream

    Message = dict[str, Any]
    App = Callable[[Exchange], Awaitable[None]]

SCOPE = "tests/room"
WITHIN = 10.0


def http_scope(**changes: Any) -> Message:
    scope: Message = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/rooms/a",
        "raw_path": b"/rooms/a",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"here")],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }
    return scope | changes


def websocket_scope(**changes: Any) -> Message:
    scope = http_scope(type="websocket", scheme="ws", subprotocols=[], extensions={"websocket.http.response": {}})
    del scope["method"]
    return scope | changes


class Client:
    """What a web server is to the edge: ``receive`` and ``send`` of ASGI."""

    def __init__(self, *events: Message) -> None:
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        for event in events:
            self.events.put_nowait(event)
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.received = 0

    async def receive(self) -> Message:
        return await self.events.get()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.received += len(message.get("body", b""))
        self.sent.append(message)

    def leave(self) -> None:
        self.events.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int | None:
        return next((each["status"] for each in self.sent if each["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.sent)


@attrs.define
class Peers:
    """An edge and an owner; ``app`` serves what the edge carries."""

    listener: PeerListener
    address: PeerAddress
    dialer: Dialer
    app: App
    errors: list[BaseException] = attrs.Factory(list)
    running: set[asyncio.Task[None]] = attrs.Factory(set)

    async def connection(self) -> DialedConnection:
        return self.dialer.connected(self.address) or await self.dialer.connect(self.address)

    async def http(self, client: Client, *, body: bytes | None = b"", **changes: Any) -> Outcome:
        head = pack_head(http_scope(**changes), "a", 0, body, waits=body is None)
        carrier = HttpCarrier(await self.connection(), client.receive, client.send, Endless())
        return await carrier.run(head, watches=body is not None)

    async def websocket(self, client: Client, **changes: Any) -> Outcome:
        head = pack_head(websocket_scope(**changes), "a", 0, b"", waits=False)
        return await WebSocketCarrier(await self.connection(), client.receive, client.send, Endless()).run(head)

    def take(self, stream: Stream, payload: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(take_request(stream, payload)))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self.app(exchange)
        except Exception as error:  # noqa: BLE001 - a test looks at it
            self.errors.append(error)
        finally:
            exchange.finish()

    async def ended(self) -> None:
        """Return once no app runs."""
        async with asyncio.timeout(WITHIN):
            while self.running:
                await asyncio.wait(set(self.running))

    @property
    def accepted(self) -> list[Any]:
        return list(self.listener.connections)


@contextlib.asynccontextmanager
async def peers(app: App, *, folder: Path | None = None, silence: float = 4.0) -> AsyncIterator[Peers]:
    """Run both; at the end no app may be left."""
    keys = PeerKeys("a secret of the tests")
    listener = PeerListener(keys, SCOPE, lambda stream, payload: both.take(stream, payload), silence=silence)  # noqa: PLW0108 - both is made below
    address = await (listener.listen_tcp("127.0.0.1", 0) if folder is None else listener.listen_unix(str(folder)))
    both = Peers(listener, address, Dialer(keys, SCOPE, connect_timeout=2.0, silence=silence), app)
    try:
        yield both
        await both.ended()
    finally:
        await both.dialer.close()
        listener.close()
        listener.close_connections()
        for task in both.running:
            task.cancel()
        await eventually(lambda: not listener.connections)
        if both.running:
            await asyncio.wait(set(both.running), timeout=WITHIN)


class Raw:
    """A peer by hand: what it sends is what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, kind: int, sid: int = 0, payload: bytes = b"") -> None:
        self.writer.write(FRAME.pack(len(payload), kind, sid) + payload)

    def say(self, kind: Kind, **said: Any) -> None:
        self.send(kind, 0, json.dumps(said).encode())

    async def frame(self) -> tuple[Kind, int, bytes]:
        async with asyncio.timeout(WITHIN):
            length, kind, sid = FRAME.unpack(await self.reader.readexactly(HEAD_SIZE))
            return Kind(kind), sid, await self.reader.readexactly(length)

    async def closed(self) -> bytes:
        """Return what comes until the other side has closed."""
        data = bytearray()
        async with asyncio.timeout(WITHIN):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    data += part
        return bytes(data)

    async def prove(self, key: PeerKey, scope: str = SCOPE) -> None:
        """Be an edge that is trusted."""
        nonce = "0" * 32
        self.say(Kind.HELLO, magic=MAGIC, scope=scope, key=key.name, nonce=nonce)
        _, _, payload = await self.frame()
        self.say(Kind.PROOF, proof=key.proof("edge", scope, nonce, json.loads(payload)["nonce"]))

    async def take(self, key: PeerKey, scope: str = SCOPE) -> None:
        """Be an owner that is trusted."""
        hello = json.loads((await self.frame())[2])
        nonce = "1" * 32
        self.say(Kind.CHALLENGE, nonce=nonce, proof=key.proof("owner", scope, hello["nonce"], nonce))
        assert (await self.frame())[0] is Kind.PROOF


@contextlib.asynccontextmanager
async def raw_edge(address: PeerAddress, key: PeerKey | None = None) -> AsyncIterator[Raw]:
    """Connect by hand, and prove that one knows a secret if one is given."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    raw = Raw(reader, writer)
    try:
        if key is not None:
            await raw.prove(key)
        yield raw
    finally:
        writer.close()


KEY = PeerKey.of("a secret of the tests")


async def answer(exchange: Exchange, body: bytes = b"ok", status: int = 200) -> None:
    """Be an app that answers at once."""
    await exchange.send({"type": "http.response.start", "status": status, "headers": []})
    await exchange.send({"type": "http.response.body", "body": body})


async def holds(exchange: Exchange) -> None:
    """Read nothing until the client is gone."""
    await eventually(lambda: exchange._stream.failure is not None)
