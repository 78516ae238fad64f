"""Counters of a room, by python-socketio: each room is in the memory of one process.

stateful-route run --service counters --uid query:room --port 8000 -- uvicorn app:app --port {port}
"""

from __future__ import annotations

import os
from urllib.parse import parse_qs

import socketio

sio = socketio.AsyncServer(async_mode="asgi", ping_interval=5)
said: dict[str, list[str]] = {}  # the state, by room


@sio.event
async def connect(sid: str, environ: dict[str, str], auth: object) -> None:  # noqa: ARG001 - as Socket.IO calls it
    """Remember which room a connection is for."""
    await sio.save_session(sid, {"room": parse_qs(environ["QUERY_STRING"])["room"][0]})


@sio.event
async def say(sid: str, text: str) -> dict[str, object]:
    """Add a text to those of the room, and return all."""
    texts = said.setdefault((await sio.get_session(sid))["room"], [])
    texts.append(text)
    return {"said": texts, "pid": os.getpid()}


app = socketio.ASGIApp(sio)
