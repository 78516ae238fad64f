"""One run of the app, and what is added to its answer when its uid goes: nothing that it did not say itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stateful_route.web.serve.app_run import AppRun

Message = dict[str, Any]
EVENTS = [(b"Content-Type", b"text/event-stream; charset=utf-8")]


async def sent_by(*messages: Message, method: str = "GET") -> list[Message]:
    """Return what reaches the client of an app that sends these, while its uid goes."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    async def guard(_: object) -> bool:
        raise AssertionError

    run = AppRun(None, receive, send, is_websocket=False, guard=guard, loop=asyncio.get_running_loop())

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        run.end_stream()
        for message in messages:
            await send(message)

    await run.run(app, {"method": method})
    return sent


def start(headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(*, more: bool) -> Message:
    return {"type": "http.response.body", "body": b"part", "more_body": more}


async def test_an_event_stream_is_ended() -> None:
    """An event stream that was told to end, and whose app returns, ends as one that is whole."""
    sent = await sent_by(start(EVENTS), part(more=True))

    assert {"type": "http.response.body", "body": b"", "more_body": False} == sent[-1]
    assert 3 == len(sent)


async def test_events_in_the_answer_to_a_post() -> None:
    """Events in the answer to a POST have an end of their own: nothing is added."""
    sent = await sent_by(start(EVENTS), part(more=True), method="POST")

    assert [start(EVENTS), part(more=True)] == sent


async def test_an_answer_that_breaks_off() -> None:
    """An answer with an end of its own that the app does not send stays one that is not whole."""
    messages = [start([]), part(more=True)]

    assert messages == await sent_by(*messages)


@pytest.mark.parametrize(
    "body",
    [
        part(more=False),
        {"type": "http.response.pathsend", "path": "/a/file"},
        {"type": "http.response.zerocopysend", "file": 3, "more_body": False},
    ],
)
@pytest.mark.parametrize("headers", [[], EVENTS])
async def test_a_whole_answer(body: Message, headers: list[tuple[bytes, bytes]]) -> None:
    """To an answer that is whole nothing is added, however its body is sent."""
    messages = [start(headers), body]

    assert messages == await sent_by(*messages)
