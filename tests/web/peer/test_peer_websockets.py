"""WebSockets between peers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.web.errors import DisconnectedError, PeerLostError
from stateful_route.web.peer.carry import AnswerCutError, Carried
from stateful_route.web.peer.carry_websocket import MAX_MESSAGE
from tests.waiting import eventually
from tests.web.peer.peers import Client, peers

if TYPE_CHECKING:
    from stateful_route.web.peer.exchange import Exchange

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
LEFT = {"type": "websocket.disconnect", "code": 1001, "reason": "away"}


def text(said: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": said}


async def accept(exchange: Exchange) -> None:
    assert await exchange.receive() == {"type": "websocket.connect"}
    await exchange.send(ACCEPT)


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, MAX_MESSAGE])
async def test_messages_of_any_length(size: int) -> None:
    """Messages of up to 16 MB arrive whole in both directions."""

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        message = await exchange.receive()
        await exchange.send({"type": "websocket.send", "bytes": memoryview(message["bytes"])})
        await exchange.send(CLOSE)

    async with peers(app) as both:
        data = bytes(size)
        client = Client({"type": "websocket.receive", "bytes": data})
        await both.websocket(client)

    expected = {"type": "websocket.send", "bytes": data}
    assert client.sent[1] == expected
    assert client.sent[2] == {"type": "websocket.close", "code": 1000, "reason": ""}


async def test_a_message_of_the_client_that_is_too_long() -> None:
    """A longer message closes the WebSocket with 1009, and the app hears of it."""
    events: list[dict[str, Any]] = []

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        events.append(await exchange.receive())

    async with peers(app) as both:
        client = Client({"type": "websocket.receive", "bytes": bytes(MAX_MESSAGE + 1)})
        await asyncio.wait_for(both.websocket(client), 20)

    assert 1009 == client.sent[-1]["code"] == events[0]["code"]


async def test_a_message_of_the_app_that_is_too_long() -> None:
    """A longer message of the app closes the WebSocket with 1009, and the app hears of it."""

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        await exchange.send({"type": "websocket.send", "bytes": bytes(2 * MAX_MESSAGE)})

    async with peers(app) as both:
        client = Client()
        await asyncio.wait_for(both.websocket(client), 20)

    assert (1009, 1) == (client.sent[-1]["code"], len(both.errors))
    assert isinstance(both.errors[0], DisconnectedError)


async def test_receive_may_time_out() -> None:
    """An app that gives up waiting for a message that comes in parts gets it whole the next time."""
    got: list[int] = []

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        while not got:
            waiting = asyncio.ensure_future(exchange.receive())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                got.append(len(waiting.result()["bytes"]))
        await exchange.send(CLOSE)

    async with peers(app) as both:
        client = Client({"type": "websocket.receive", "bytes": bytes(2_000_000)})
        await asyncio.wait_for(both.websocket(client), 20)

    assert [2_000_000] == got


async def test_the_client_leaves() -> None:
    """A client that leaves is a disconnect with its code and reason, after what it said, each time the app asks."""
    events: list[dict[str, Any]] = []

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        events.extend([await exchange.receive() for _ in range(3)])
        await exchange.send(CLOSE)  # as frameworks do in the end

    async with peers(app) as both:
        client = Client()
        carrying = asyncio.ensure_future(both.websocket(client))
        await eventually(lambda: client.sent)
        client.events.put_nowait(text("bye"))
        client.events.put_nowait(LEFT)
        outcome = await carrying
        await both.ended()

    assert [text("bye"), LEFT, LEFT] == events
    assert (Carried.DONE, []) == (outcome.carried, both.errors)


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_an_app_that_only_sends_hears_that_the_client_left(size: int) -> None:
    """An app that never receives is told by ``send`` that the client is gone, also while it waits for room."""

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        while True:
            await exchange.send({"type": "websocket.send", "bytes": bytes(size)})
            await asyncio.sleep(0)

    async with peers(app) as both:
        client = Client()
        carrying = asyncio.ensure_future(both.websocket(client))
        await eventually(lambda: len(client.sent) > 1)
        client.reads.clear()
        client.events.put_nowait(LEFT)
        await asyncio.sleep(0.05)  # the window is full
        client.reads.set()
        await asyncio.wait_for(carrying, 5)
        await both.ended()

    assert [DisconnectedError] == [type(error) for error in both.errors]


async def test_a_reader_hears_of_the_own_close() -> None:
    """A task of the app that waits for a message is let go when another one closes."""
    events: list[dict[str, Any]] = []

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        waiting = asyncio.ensure_future(exchange.receive())
        await asyncio.sleep(0)
        await exchange.send({**CLOSE, "code": 4000, "reason": "enough"})
        events.append(await asyncio.wait_for(waiting, 5))

    async with peers(app) as both:
        client = Client()
        await both.websocket(client)
        await both.ended()

    assert [{"type": "websocket.disconnect", "code": 4000, "reason": "enough"}] == events
    assert client.sent[-1] == {"type": "websocket.close", "code": 4000, "reason": "enough"}


async def test_messages_while_it_closes() -> None:
    """What the client says while the app closes is dropped, and nobody waits for it to be read."""

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        await exchange.send(CLOSE)

    async with peers(app) as both:
        client = Client(*[text("x" * 100_000)] * 100)
        outcome = await asyncio.wait_for(both.websocket(client), 5)

    assert (Carried.DONE, "websocket.close") == (outcome.carried, client.sent[-1]["type"])


async def test_subprotocol_and_headers() -> None:
    """What the client offers reaches the app, and what that chooses the client."""

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        chosen = exchange.head.scope["subprotocols"][1]
        await exchange.send({**ACCEPT, "subprotocol": chosen, "headers": ((b"a", b"1") for _ in range(1))})
        await exchange.send(CLOSE)

    async with peers(app) as both:
        client = Client()
        await both.websocket(client, subprotocols=["one", "two, three"])

    assert client.sent[0] == {"type": "websocket.accept", "subprotocol": "two, three", "headers": [(b"a", b"1")]}


@pytest.mark.parametrize("parts", [[b"no"], [b"n", b"o"], [b"n", b"", b"o"]])
async def test_denial(parts: list[bytes]) -> None:
    """An app may answer instead of accepting."""

    async def app(exchange: Exchange) -> None:
        await exchange.send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"a", b"1")]})
        for number, body in enumerate(parts, 1):
            more = number < len(parts)
            await exchange.send({"type": "websocket.http.response.body", "body": body, "more_body": more})

    async with peers(app) as both:
        client = Client()
        await both.websocket(client)

    assert (403, [(b"a", b"1")]) == (client.sent[0]["status"], client.sent[0]["headers"])
    assert (b"no", False) == (client.body, client.sent[-1]["more_body"])


@pytest.mark.parametrize("lost", [False, True])
async def test_a_denial_that_is_cut(*, lost: bool) -> None:
    """A denial whose app fails in the middle, or is lost, is cut off: a close would be a second answer."""

    async def app(exchange: Exchange) -> None:
        await exchange.send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await eventually(lambda: client.sent)
        if lost:
            both.accepted[0].abort(PeerLostError("the test ends it"))

    async with peers(app) as both:
        client = Client()
        with pytest.raises(AnswerCutError):
            await both.websocket(client)

    assert ["websocket.http.response.start"] == [each["type"] for each in client.sent]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param([], ["websocket.close"], id="nothing"),
        pytest.param([CLOSE], ["websocket.close"], id="a close before it accepts"),
        pytest.param([{"type": "websocket.send", "text": "x"}], ["websocket.close"], id="a message before it accepts"),
        pytest.param([ACCEPT], ["websocket.accept", "websocket.close"], id="no close"),
        pytest.param([ACCEPT, ACCEPT], ["websocket.accept", "websocket.close"], id="two accepts"),
        pytest.param([ACCEPT, CLOSE, CLOSE], ["websocket.accept", "websocket.close"], id="two closes"),
        pytest.param(
            [ACCEPT, CLOSE, {"type": "websocket.send", "text": "x"}],
            ["websocket.accept", "websocket.close"],
            id="a message after the close",
        ),
        pytest.param([ACCEPT, {**CLOSE, "code": 70_000}], ["websocket.accept", "websocket.close"], id="a wrong code"),
        pytest.param(
            [ACCEPT, {"type": "websocket.send", "text": "\ud800"}],
            ["websocket.accept", "websocket.close"],
            id="text that is none",
        ),
        pytest.param([{"type": "http.response.start", "status": 200}], ["websocket.close"], id="an answer"),
    ],
)
async def test_apps_that_do_wrong(sent: list[dict[str, Any]], expected: list[str]) -> None:
    """An app that sends what it may not gets an error, and its client a close, once."""

    async def app(exchange: Exchange) -> None:
        for message in sent:
            await exchange.send(message)

    async with peers(app) as both:
        client = Client()
        await both.websocket(client)

    assert expected == [each["type"] for each in client.sent]
    wrong = 0 if sent in ([], [CLOSE], [ACCEPT]) else 1
    assert wrong == len(both.errors)


async def test_the_owner_is_lost() -> None:
    """The client of a WebSocket whose owner is lost is told that it may come again at once."""

    async def app(exchange: Exchange) -> None:
        await accept(exchange)
        assert (await exchange.receive())["code"] == 1006

    async with peers(app) as both:
        client = Client()
        carrying = asyncio.ensure_future(both.websocket(client))
        await eventually(lambda: client.sent)
        both.accepted[0].abort(PeerLostError("the test ends it"))
        await carrying
        await both.ended()

    assert (1012, []) == (client.sent[-1]["code"], both.errors)
