"""Answers of apps on their way back to the edge, and what apps and clients do in the middle of them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.web.peer.carry import AnswerCutError, Carried
from stateful_route.web.peer.frames import Kind, Refusal
from stateful_route.web.peer.stream import Stream
from tests.waiting import eventually
from tests.web.peer.peers import Client, answer, peers

if TYPE_CHECKING:
    from stateful_route.web.peer.exchange import Exchange

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body"}


def part(body: object, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "apart"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([START, part(b"one", more=False)], id="whole"),
        pytest.param([START, part(b"o"), part(b"ne", more=False)], id="two parts"),
        pytest.param([START, part(b"one"), END], id="an empty end"),
        pytest.param([START, part(bytearray(b"one")), part(memoryview(b""), more=False)], id="bytearray, memoryview"),
        pytest.param([{**START, "headers": ()}, part(memoryview(b"one"), more=False)], id="memoryview"),
        pytest.param(
            [{"type": "http.response.start", "status": HTTPStatus.OK}, part(b"one", more=False)], id="no headers"
        ),
    ],
)
async def test_bodies(sent: list[dict[str, Any]], *, pause: bool) -> None:
    """However an app sends its body, and whether all comes in one turn of the loop, the client gets it in its order."""

    async def app(exchange: Exchange) -> None:
        for message in sent:
            await exchange.send(dict(message))
            if pause:
                await asyncio.sleep(0.001)  # the head is sent before the body comes

    async with peers(app) as both:
        client = Client()
        outcome = await both.http(client)

    assert (Carried.DONE, 200, b"one", []) == (outcome.carried, client.status, client.body, both.errors)
    assert not client.sent[-1].get("more_body", False)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"1"), (b"A", b"2")],
        ((b"a", b"1"), (b"A", b"2")),
        [[b"a", b"1"], [b"A", b"2"]],
        ((name, value) for name, value in [(b"a", b"1"), (b"A", b"2")]),
    ],
    ids=["list", "tuple", "lists", "generator"],
)
async def test_headers(headers: Any) -> None:
    """Headers may be any iterable; names, values and their order stay as they are."""
    made = headers if isinstance(headers, (list, tuple)) else None

    async def app(exchange: Exchange) -> None:
        each = iter([(b"a", b"1"), (b"A", b"2")]) if made is None else made
        await exchange.send({**START, "headers": each})
        await exchange.send(END)

    async with peers(app) as both:
        client = Client()
        await both.http(client)

    assert [(b"a", b"1"), (b"A", b"2")] == client.sent[0]["headers"]


async def test_short_answers_go_in_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body of a short answer that are there at once are one frame; longer ones are not copied for that."""
    kinds: list[Kind] = []
    feed = Stream.feed

    def noted(self: Stream, kind: Kind, payload: bytes) -> None:
        kinds.append(kind)
        feed(self, kind, payload)

    monkeypatch.setattr(Stream, "feed", noted)

    async def app(exchange: Exchange) -> None:
        await answer(exchange, bytes(int(exchange.head.scope["path"])))

    async with peers(app) as both:
        for size in (0, 100, 100_000):
            client = Client()
            await both.http(client, path=str(size))
            assert len(client.body) == size

    assert [Kind.ANSWER, Kind.ANSWER, Kind.START, Kind.LAST] == kinds


@pytest.mark.parametrize("status", [204, 304, 200])
async def test_answers_without_a_body(status: int) -> None:
    """The answer to HEAD, 204 and 304 keep their headers, and have an empty body."""
    headers = [(b"content-length", b"1000")]

    async def app(exchange: Exchange) -> None:
        await exchange.send({**START, "status": status, "headers": headers})
        await exchange.send(END)

    async with peers(app) as both:
        client = Client()
        await both.http(client, method="HEAD")

    expected = [{**START, "status": status, "headers": headers}, {**END, "body": b"", "more_body": False}]
    assert expected == client.sent


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param([], 500, id="nothing"),
        pytest.param([END], 500, id="a body before its head"),
        pytest.param([{**START, "status": 99}], 500, id="a status that is too low"),
        pytest.param([{**START, "status": -1}], 500, id="a negative status"),
        pytest.param([{**START, "status": 70_000}], 500, id="a status that is too high"),
        pytest.param([{**START, "status": "200"}], 500, id="a status that is text"),
        pytest.param([{**START, "headers": [("a", "b")]}], 500, id="headers of text"),
        pytest.param([{**START, "headers": [(b"a", bytes(2_000_000))]}], 500, id="a head of 2 MB"),
        pytest.param([{"type": "http.response.nonsense"}], 500, id="an unknown message"),
        pytest.param([{"type": "websocket.accept"}], 500, id="a message of WebSockets"),
        pytest.param([START, START], None, id="a second start"),
        pytest.param([START, part("text")], None, id="a body of text"),
        pytest.param([START, part(b"x")], None, id="a body without its end"),
        pytest.param([START, {"type": "http.response.trailers"}], None, id="trailers that were not told of"),
        pytest.param([{**START, "trailers": True}, END], None, id="trailers that do not come"),
        pytest.param([START, END, END], 200, id="a body after its end"),
        pytest.param([START, END, START], 200, id="a start after the end"),
    ],
)
async def test_apps_that_do_wrong(sent: list[dict[str, Any]], status: int | None) -> None:
    """An app that sends what it may not gets an error; its client a 500, or an answer that is cut off."""

    async def app(exchange: Exchange) -> None:
        for message in sent:
            await exchange.send(message)

    async with peers(app) as both:
        client = Client()
        if status is None:
            with pytest.raises(AnswerCutError):
                await both.http(client)
        else:
            await both.http(client)
            assert status == client.status
        second = Client()
        both.app = answer
        await both.http(second)

    wrong = 0 if sent in ([], [START, part(b"x")], [{**START, "trailers": True}, END]) else 1
    assert (wrong, 200) == (len(both.errors), second.status)  # and the connection serves others


async def test_trailers() -> None:
    """Trailers arrive after the body, all of them, in one event."""

    async def app(exchange: Exchange) -> None:
        await exchange.send({**START, "trailers": True})
        await exchange.send(part(b"x", more=False))
        await exchange.send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
        await exchange.send({"type": "http.response.trailers", "headers": [(b"b", b"2")]})

    async with peers(app) as both:
        client = Client()
        await both.http(client, extensions={"http.response.trailers": {}})

    assert client.sent[0]["trailers"] is True
    assert client.sent[-1]["headers"] == [(b"a", b"1"), (b"b", b"2")]


async def test_an_early_answer_ends_the_upload() -> None:
    """An app that answers before the body is there is heard at once, and the edge reads no more of it."""

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        await answer(exchange, b"too large", 413)

    async with peers(app) as both:
        client = Client()
        for _ in range(1000):
            client.events.put_nowait({"type": "http.request", "body": bytes(65536), "more_body": True})
        async with asyncio.timeout(5):
            await both.http(client, body=None, method="POST")

        assert (413, b"too large") == (client.status, client.body)
        assert client.events.qsize() > 900


async def test_a_body_that_nobody_reads_is_not_asked_for() -> None:
    """A body that is not at hand stays with the client until the app reads it."""
    async with peers(answer) as both:
        client = Client({"type": "http.request", "body": b"x", "more_body": False})
        await both.http(client, body=None, method="POST")

        assert (200, 1) == (client.status, client.events.qsize())


@pytest.mark.parametrize("body", [b"", None], ids=["after the body", "in the body"])
async def test_the_app_hears_that_the_client_went_away(body: bytes | None) -> None:
    """A client that goes away is a disconnect in the app, each time that it asks, and what it sends does nothing."""
    events: list[str] = []

    async def app(exchange: Exchange) -> None:
        while events[-2:] != ["http.disconnect"] * 2:
            events.append((await exchange.receive())["type"])
        await answer(exchange)

    async with peers(app) as both:
        client = Client()
        if body is None:
            client.events.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
        carrying = asyncio.ensure_future(both.http(client, body=body, method="POST"))
        await eventually(lambda: events)
        client.leave()
        outcome = await asyncio.wait_for(carrying, 5)
        await both.ended()

        assert (Carried.DONE, []) == (outcome.carried, client.sent)
        assert ["http.request", "http.disconnect", "http.disconnect"] == events
        assert not both.errors


async def test_who_receives_hears_of_the_end_of_the_answer() -> None:
    """A task of the app that waits for a disconnect is let go once the answer is whole, as web servers do."""
    events: list[str] = []

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        waiting = asyncio.ensure_future(exchange.receive())
        await asyncio.sleep(0)
        await answer(exchange)
        events.append((await asyncio.wait_for(waiting, 5))["type"])

    async with peers(app) as both:
        await both.http(Client())
        await both.ended()

    assert (["http.disconnect"], []) == (events, both.errors)


async def test_an_error_of_receive_is_raised() -> None:
    """What a middleware around this one raises in ``receive``, as for a body that is too long, leaves through it."""

    class TooLongError(Exception):
        pass

    async def receive() -> dict[str, Any]:
        raise TooLongError

    async def app(exchange: Exchange) -> None:
        assert (await exchange.receive())["type"] == "http.disconnect"

    async with peers(app) as both:
        client = Client()
        client.receive = receive  # type: ignore[method-assign]
        with pytest.raises(TooLongError):
            await asyncio.wait_for(both.http(client, body=None, method="POST"), 5)
        await both.ended()

    assert not both.errors


async def test_an_error_of_send_ends_the_app() -> None:
    """If the answer cannot be sent to the client, the app hears of a disconnect."""
    events: list[str] = []

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send(START)
        events.append((await exchange.receive())["type"])

    async def send(_: Any) -> None:
        raise OSError

    async with peers(app) as both:
        client = Client()
        client.send = send  # type: ignore[assignment,method-assign]
        with pytest.raises(OSError):  # noqa: PT011 - the one above
            await both.http(client)
        await both.ended()

    assert ["http.disconnect"] == events


async def test_a_cancelled_app_cuts_its_answer() -> None:
    """An app that is cancelled while it waits to send its last part does not leave the edge waiting."""

    async def app(exchange: Exchange) -> None:
        await exchange.send(START)
        await exchange.send(part(bytes(10_000_000), more=False))

    async with peers(app) as both:
        client = Client()
        client.reads.clear()
        carrying = asyncio.ensure_future(both.http(client))
        await eventually(lambda: both.accepted and any(each._credit <= 0 for each in both.accepted[0].streams.values()))
        for task in both.running:
            task.cancel()
        client.reads.set()
        with pytest.raises(AnswerCutError):
            await asyncio.wait_for(carrying, 5)


async def test_several_tasks_send() -> None:
    """Parts that tasks of the app send at the same time all arrive whole."""

    async def app(exchange: Exchange) -> None:
        await exchange.send(START)
        await asyncio.gather(*(exchange.send(part(bytes([number]) * 200_000)) for number in range(5)))
        await exchange.send(END)

    async with peers(app) as both:
        client = Client()
        await both.http(client)

    assert b"".join(bytes([number]) * 200_000 for number in range(5)) == client.body


async def test_an_app_that_only_sends_lets_others_run() -> None:
    """An app that sends without end to a client that is gone, and never waits, does not stop the event loop."""
    loop, stop = asyncio.get_running_loop(), False
    until = loop.time() + 5
    streams: list[Stream] = []

    async def app(exchange: Exchange) -> None:
        streams.append(exchange._stream)
        await exchange.send(START)
        while not stop and loop.time() < until:
            await exchange.send(part(b"x"))

    async with peers(app) as both:
        client = Client()
        carrying = asyncio.ensure_future(both.http(client))
        await eventually(lambda: client.sent)
        client.leave()
        await asyncio.wait_for(carrying, 5)
        await eventually(lambda: streams[0].failure is not None)
        await asyncio.sleep(0.05)  # the app goes on to send
        assert loop.time() < until
        stop = True
        await both.ended()


async def test_refusals() -> None:
    """A refusal says why, and who the owner is."""

    async def app(exchange: Exchange) -> None:
        exchange.refuse(Refusal("moved"))

    async with peers(app) as both:
        outcome = await both.http(Client())

    assert (Carried.REFUSED, Refusal("moved")) == (outcome.carried, outcome.refusal)
