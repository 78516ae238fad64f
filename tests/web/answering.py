"""What the apps of the tests share: how they answer, and where they note what they see."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path as Folder
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PIECE = bytes(range(256)) * 256
"""64 KiB: what downloads are made of."""

FOLDER = Folder(os.environ.get("WEB_FOLDER", "."))


def note(event: str, **facts: Any) -> None:
    """Add a line to the events that all replicas write: one write, so that no two are mixed."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **facts})
    file = os.open(FOLDER / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


async def respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length_of(body)]})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await respond(send, status, json.dumps(value).encode(), (b"content-type", b"application/json"), *headers)


def length_of(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


async def body_of(receive: Receive) -> tuple[int, str]:
    """Return length and checksum of a body; it is not kept."""
    size, checksum, more = 0, hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            note("disconnected")
            raise ConnectionResetError
        size += len(message.get("body", b""))
        checksum.update(message.get("body", b""))
        more = message.get("more_body", False)
    return size, checksum.hexdigest()
