"""A chat room in memory: its members are WebSockets of one process, its history is a list there, and nowhere else.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind a round robin
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost

app = FastAPI()


class Room:
    """What a process has of a room.

    Attributes:
        epoch: of the right to the room under which this process put it into memory.
        right: that right, once a request has shown it.
        history: what was said.
        members: who hears what is said.

    """

    def __init__(self, epoch: int, history: list[dict[str, str]]) -> None:
        """Begin without members."""
        self.epoch = epoch
        self.right: Any = None
        self.history = history
        self.members: set[WebSocket] = set()


rooms: dict[str, Room] = {}


async def save(name: str) -> bytes | None:
    """Return the history of a room; called before the room leaves this process, when its WebSockets are closed."""
    room = rooms.get(name)
    return None if room is None else json.dumps(room.history).encode()


async def load(name: str, data: bytes, epoch: int) -> None:
    """Take in the history of a room that comes from another process, before this one has the room."""
    rooms[name] = Room(epoch, json.loads(data))


if STICKY:
    from stateful_route.web import Path, StickyMiddleware

    app.add_middleware(StickyMiddleware, service="room", uid=Path("/rooms/{uid}"), hand_off=save, adopt=load)


def room_of(name: str, state: Any) -> Room:
    """Return a room from memory, with the history that came along."""
    if not STICKY:
        return rooms.setdefault(name, Room(0, []))
    right = state.sticky.ownership
    room = rooms.get(name)
    # Another process may have had it since it was put into memory: then what is here is old.
    if room is None or not (right.epoch == room.epoch or (room.right is not None and right.resumes(room.right))):
        room = rooms[name] = Room(right.epoch, [])
    room.epoch, room.right = right.epoch, right
    return room


@app.get("/healthz")
async def healthz(request: Request) -> Response:
    """Say whether this process can still own rooms; a restart helps if not. It asks nobody, Redis least of all."""
    return Response(status_code=200 if not STICKY or request.state.sticky.server.healthy else 500)


@app.get("/rooms/{name}")
async def history(name: str, request: Request) -> dict[str, Any]:
    """Return what was said."""
    room = room_of(name, request.state)
    return {"history": room.history, "pid": os.getpid()}


@app.websocket("/rooms/{name}")
async def chat(websocket: WebSocket, name: str) -> None:
    """Tell a member what was said, and all members what the member says."""
    await websocket.accept()
    room = room_of(name, websocket.state)
    room.members.add(websocket)
    try:
        await websocket.send_json({"history": room.history, "pid": os.getpid()})
        async for message in websocket.iter_json():
            # A member who reconnected says again what nobody confirmed: it may have been heard all the same.
            if message not in room.history:
                room.history.append(message)
            for member in list(room.members):
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is about to leave
                    await member.send_json({"said": message})
    finally:
        room.members.discard(websocket)
