"""The WebSockets of the rooms: what they do, the query says."""

from __future__ import annotations

import asyncio
import os

from stateful_route.web import Sticky
from tests.web.answering import Receive, Scope, Send, note


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the query asks for; by default echo, with the process in front of a text."""
    assert (await receive())["type"] == "websocket.connect"
    way, _, rest = scope["query_string"].decode().partition("=")
    if way == "refuse":
        await send({"type": "websocket.close", "code": 1008, "reason": "no"})
    elif way == "deny":
        await _deny(send)
    elif way == "fail":
        raise RuntimeError("the app of the test fails before it accepts")
    else:
        wanted = scope["subprotocols"]
        chosen = wanted[-1] if wanted else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-pid", b"%d" % os.getpid())]})
        note("accepted", uid=Sticky.of(scope).uid)
        await _accepted(way, rest, scope, receive, send)


async def _deny(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"x-why", b"test")]
    await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"tea"})


async def _accepted(way: str, rest: str, scope: Scope, receive: Receive, send: Send) -> None:
    if way == "close":
        code, _, reason = rest.partition(",")
        await send({"type": "websocket.close", "code": int(code), "reason": reason})
    elif way == "fails":
        raise RuntimeError("the app of the test fails after it has accepted")
    elif way == "tick":
        await _tick(send)
    elif way == "mirror":
        await mirror(receive, send)
    elif way == "shout":
        await _shout(int(rest), receive, send)
    else:
        await _echo(scope, receive, send)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            note("ws_closed", uid=Sticky.of(scope).uid, code=message.get("code"), reason=message.get("reason"))
            return
        if message.get("text") is not None:
            sticky = Sticky.of(scope)
            note("served", uid=sticky.uid, pod=sticky.pod_index, epoch=sticky.epoch)
            await send({"type": "websocket.send", "text": f"{os.getpid()} {message['text']}"})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})


async def mirror(receive: Receive, send: Send) -> None:
    """Send each message back as it came."""
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def _tick(send: Send) -> None:
    """Send and never read: only ``send`` can tell that the client is gone."""
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.02)
    except OSError:
        note("ticker_told")


async def _shout(size: int, receive: Receive, send: Send) -> None:
    """Send messages from several tasks at a time, each of one letter."""

    async def one(letter: str) -> None:
        for _ in range(5):
            await send({"type": "websocket.send", "text": letter * size})

    await asyncio.gather(*(one(letter) for letter in "abcdefgh"))
    await send({"type": "websocket.close", "code": 1000})
