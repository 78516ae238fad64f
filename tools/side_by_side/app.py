"""An app whose sessions live in memory alone, and travel; and a gateway to it. Both releases run it.

It uses nothing but names that all releases have.
"""

from __future__ import annotations

import json
import os
from typing import Any

from stateful_route.web import Path, Sticky, StickyGateway, StickyMiddleware

_UID = Path("/rooms/{uid}")
states: dict[str, tuple[int, int]] = {}
"""By uid the epoch of what is remembered, and how many requests there were."""


async def save(uid: str) -> bytes | None:
    """Give a session along."""
    known = states.pop(uid, None)
    return json.dumps(known[1]).encode() if known else None


async def load(uid: str, data: bytes, epoch: int) -> None:
    """Take a session in."""
    states[uid] = epoch, json.loads(data)


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Count the requests of a uid; the answer is as long as what was sent. A WebSocket gets back what it sends."""
    if scope["type"] == "websocket":
        await _echo(receive, send)
        return
    if scope["type"] == "lifespan":
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})
        return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    sticky = Sticky.of(scope)
    uid, epoch = sticky.uid or "", sticky.epoch or 0
    known, counted = states.get(uid, (0, 0))
    states[uid] = epoch, (counted if known == epoch else 0) + 1
    facts = {"pid": os.getpid(), "epoch": epoch, "count": states[uid][1], "length": length}
    head = json.dumps(facts).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": head, "more_body": True})
    await send({"type": "http.response.body", "body": b" " * length})


async def _echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{os.getpid()} {message['text']}"})


def rooms() -> StickyMiddleware:
    """Return the app."""
    return StickyMiddleware(count, service="room", uid=_UID, hand_off=save, adopt=load, stop_after=0.3)


def gateway() -> StickyGateway:
    """Return the gateway."""
    return StickyGateway(service="room", uid=_UID)
