"""A request at the edge while it is held: whether its client goes away is seen, and nothing that it sends is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stateful_route.web.request.inbound import AT_HAND, ClientGoneError, Inbound

SOON = 5.0


class Client:
    """What a web server is to us: what the client sends is taken once."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.readers = 0
        self.most = 0
        for event in events:
            self.events.put_nowait(event)

    def sends(self, kind: str, **more: Any) -> None:
        self.events.put_nowait({"type": kind} | more)

    async def receive(self) -> dict[str, Any]:
        self.readers += 1
        self.most = max(self.most, self.readers)
        try:
            return await self.events.get()
        finally:
            self.readers -= 1


async def send(message: dict[str, Any]) -> None:
    raise AssertionError(message)


def request(client: Client, *headers: tuple[bytes, bytes], kind: str = "http", method: str = "GET") -> Inbound:
    return Inbound({"type": kind, "method": method, "http_version": "1.1", "headers": headers}, client.receive, send)


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


END = {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("first", [[], [END]])
async def test_without_a_body(first: list[dict[str, Any]]) -> None:
    """That the client of a request without a body goes away ends what is waited for, be its end told first or not."""
    client = Client(*first)
    inbound = request(client)
    holding = asyncio.ensure_future(inbound.unless_gone(asyncio.sleep(3600)))
    await turns()
    assert not holding.done()
    client.sends("http.disconnect")

    with pytest.raises(ClientGoneError):
        await asyncio.wait_for(holding, SOON)


async def test_what_is_waited_for_is_cancelled() -> None:
    """What a client that is gone was held for does not go on."""
    client, ended = Client(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    client.sends("http.disconnect")
    with pytest.raises(ClientGoneError):
        await request(client).unless_gone(work())

    assert ended.is_set()


async def test_it_is_seen_before_what_was_waited_for() -> None:
    """Of a client that goes away when its turn has come, the turn is lost and not the other one's time."""
    client = Client({"type": "http.disconnect"})
    inbound = request(client)

    async def work() -> int:
        await turns()
        return 1

    with pytest.raises(ClientGoneError):
        await inbound.unless_gone(work())
    with pytest.raises(ClientGoneError):
        inbound.raise_if_gone()


async def test_what_is_waited_for_raises() -> None:
    """An error of what is waited for is its own."""

    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await request(Client()).unless_gone(work())


async def test_a_receive_that_raises() -> None:
    """An error of ``receive`` is not kept for nobody."""

    async def receive() -> dict[str, Any]:
        raise LookupError

    inbound = Inbound({"type": "http", "method": "GET", "headers": []}, receive, send)
    with pytest.raises(LookupError):
        await inbound.unless_gone(asyncio.sleep(3600))


@pytest.mark.parametrize("cut", range(1, 30))
async def test_a_body_that_comes_meanwhile(cut: int) -> None:
    """No part of a body is lost, whenever the wait ends; and one event is read at a time."""
    parts = [b"a", b"bc", b"def", b"ghij"]
    size = sum(map(len, parts))
    client = Client()
    inbound = request(client, length(size), method="POST")

    async def some_turns() -> None:
        for _ in range(cut):
            await asyncio.sleep(0)

    async def sending() -> None:
        left = size
        for part in parts:
            await asyncio.sleep(0)
            left -= len(part)
            client.sends("http.request", body=part, more_body=left > 0)

    sender = asyncio.ensure_future(sending())
    await inbound.unless_gone(some_turns())
    await inbound.unless_gone(some_turns())
    await sender
    body, more = b"", True
    while more:
        message = await asyncio.wait_for(inbound.receive(), SOON)
        body += message["body"]
        more = message["more_body"]

    assert (b"abcdefghij", 1) == (body, client.most)


@pytest.mark.parametrize(
    "headers", [[length(10_000_000)], [(b"transfer-encoding", b"chunked")], [length(5), (b"expect", b"100-continue")]]
)
async def test_a_body_that_is_not_at_hand(headers: list[tuple[bytes, bytes]]) -> None:
    """A body that is long, of unknown length, or not sent yet, is not touched while its request is held."""
    client = Client({"type": "http.request", "body": b"x", "more_body": True})
    inbound = request(client, *headers, method="POST")
    await inbound.unless_gone(turns())

    assert (1, 0) == (client.events.qsize(), client.most)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "POST"])
async def test_http_2_without_a_length(method: str) -> None:
    """From HTTP/2 on the end of a body is told apart: what hardly has one is at hand, and may be sent again."""
    client = Client(END)
    scope = {"type": "http", "method": method, "http_version": "2", "headers": []}
    inbound = Inbound(scope, client.receive, send)
    body = await inbound.read_ahead(AT_HAND)
    repeatable = inbound.repeatable
    message = await inbound.receive()

    assert (END, client.events.qsize()) == (message, 0)
    assert ((None, False) if method in {"PUT", "POST"} else (b"", True)) == (body, repeatable)


async def test_http_2_and_a_long_body_of_a_get() -> None:
    """A body that there should not be is not lost, however long it is."""
    parts = [{"type": "http.request", "body": bytes(40_000), "more_body": number < 4} for number in range(5)]
    client = Client(*parts)
    scope = {"type": "http", "method": "GET", "http_version": "2", "headers": []}
    inbound = Inbound(scope, client.receive, send)
    body = await inbound.read_ahead(AT_HAND)
    size, more = 0, True
    while more:
        message = await inbound.receive()
        size, more = size + len(message["body"]), message["more_body"]

    assert (None, 200_000) == (body, size)


async def test_who_reads_next_is_told() -> None:
    """A client that goes away when nobody is held any more is told to who reads: once, as of the web server."""
    client = Client()
    inbound = request(client)
    await inbound.unless_gone(turns())
    client.sends("http.disconnect")
    first = await inbound.receive()
    second = await asyncio.wait_for(inbound.receive(), SOON)

    assert ["http.request", "http.disconnect"] == [first["type"], second["type"]]
    assert client.most == 1


async def test_a_websocket_that_is_closed() -> None:
    """A WebSocket whose client goes away before it is accepted is seen, too."""
    client = Client({"type": "websocket.connect"})
    inbound = request(client, kind="websocket")
    await inbound.connect()
    client.sends("websocket.disconnect", code=1001)

    with pytest.raises(ClientGoneError):
        await asyncio.wait_for(inbound.unless_gone(asyncio.sleep(3600)), SOON)


async def test_an_early_message() -> None:
    """A message on a WebSocket that was held is kept for the app, behind the connect."""
    client = Client({"type": "websocket.connect"})
    inbound = request(client, kind="websocket")
    await inbound.connect()
    client.sends("websocket.receive", text="early")
    client.sends("websocket.receive", text="late")
    await inbound.unless_gone(turns())
    receive = inbound.for_app()

    assert ["websocket.connect", "early", "late"] == [
        message.get("text", message["type"]) for message in [await receive() for _ in range(3)]
    ]


async def test_two_readers_at_a_time() -> None:
    """Two tasks that read at a time get an event each, and one that is cancelled takes none away."""
    client = Client({"type": "websocket.connect"})
    inbound = request(client, kind="websocket")
    await inbound.connect()
    await inbound.unless_gone(turns())
    readers = [asyncio.ensure_future(inbound.receive()) for _ in range(3)]
    await turns()
    readers[0].cancel()
    await turns()
    client.sends("websocket.receive", text="a")
    client.sends("websocket.receive", text="b")
    got = [await asyncio.wait_for(reader, SOON) for reader in readers[1:]]

    assert ["a", "b"] == sorted(message["text"] for message in got)


async def test_nothing_is_left() -> None:
    """Nobody waits for the client of a request that has ended."""
    client = Client()
    inbound = request(client)
    await inbound.unless_gone(turns())
    assert client.readers == 1
    inbound.release()
    await turns()

    assert client.readers == 0
