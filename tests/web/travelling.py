"""An app whose sessions live in memory alone, and travel: there is no place where they are saved.

Settings come from the environment: ``WEB_STATE``, the bytes of a state; ``WEB_SAVE`` and ``WEB_ADOPT``, the seconds
that each takes; ``WEB_MIDDLEWARE``, keyword arguments of the middleware as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

from stateful_route.web import Path, ResponseHeader, Sticky, StickyMiddleware
from tests.web.answering import Receive, Scope, Send, body_of, note, respond_json

SIZE = int(os.environ.get("WEB_STATE", "10000"))
SAVE, ADOPT = (float(os.environ.get(name, "0")) for name in ("WEB_SAVE", "WEB_ADOPT"))

states: dict[str, tuple[int, int]] = {}
"""By uid the epoch at which it began to be remembered, and how often it was asked for."""


async def save(uid: str) -> bytes | None:
    """Return the state of a uid."""
    if uid not in states:
        return None
    note("packing", uid=uid)
    await asyncio.sleep(SAVE)
    note("packed", uid=uid, count=states[uid][1], clock=time.monotonic())
    head = json.dumps({"count": states[uid][1]}).encode()
    return head + b" " * (SIZE - len(head))


async def load(uid: str, data: bytes, epoch: int) -> None:
    """Take a state in."""
    note("adopting", uid=uid, size=len(data))
    await asyncio.sleep(ADOPT)
    states[uid] = epoch, json.loads(data)["count"]
    note("adopted", uid=uid, count=states[uid][1], epoch=epoch, clock=time.monotonic())


async def room(scope: Scope, receive: Receive, send: Send) -> None:
    """Count a request; what is remembered of another epoch is not good any more."""
    if scope["type"] == "lifespan":
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})
        return
    await body_of(receive)
    sticky = Sticky.of(scope)
    if scope["path"] == "/new":  # a session that the app makes itself
        ownership = await sticky.server.mint("made")
        states[ownership.uid] = ownership.epoch or 0, 1
        await respond_json(send, {"uid": ownership.uid, "pid": os.getpid()}, (b"x-session", ownership.uid.encode()))
        return
    uid, epoch = sticky.uid or "", sticky.epoch or 0
    known, count = states.get(uid, (0, 0))
    states[uid] = epoch, (count if known == epoch else 0) + 1
    facts = {"pid": os.getpid(), "uid": uid, "epoch": epoch, "count": states[uid][1], "owned": sticky.is_owned()}
    await respond_json(send, facts)


def rooms() -> StickyMiddleware:
    """Return the app."""
    keywords = json.loads(os.environ.get("WEB_MIDDLEWARE", "{}"))
    settings = {"service": "room", "stop_after": 0.3, "hand_off": save, "adopt": load} | keywords
    return StickyMiddleware(room, uid=[Path("/rooms/{uid}/count"), ResponseHeader("x-session")], **settings)
