"""Users of a room, by the ``websockets`` library: each visits one, talks, looks whether all is there, and leaves."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TYPE_CHECKING

import anyio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from examples.harness import Example, ask
from examples.harness.http import TIMEOUT, client

if TYPE_CHECKING:
    import httpx

    from examples.harness import Session

_PAUSE = 0.1  # seconds between two messages
_MESSAGES = 8  # of a visit
_LOOK_EACH = 2  # messages


async def visit(url: str, session: Session) -> None:
    """Visit one room after the other, until cancelled."""
    async with client(url) as http:
        for number in itertools.count():
            await _talk(url, f"/rooms/{session.number}-{number}", http, session)


async def _talk(url: str, room: str, http: httpx.AsyncClient, session: Session) -> None:
    """Say something, again by another connection if one ends, and compare what the room knows with that."""
    confirmed: list[str] = []
    while len(confirmed) < _MESSAGES:
        try:
            async with connect(url.replace("http", "ws", 1) + room, open_timeout=TIMEOUT, proxy=None) as socket:
                session.answered()
                await socket.recv()
                while len(confirmed) < _MESSAGES:
                    text = f"message {len(confirmed)} {random.random()}"
                    await socket.send(json.dumps({"text": text}))
                    while json.loads(await asyncio.wait_for(socket.recv(), TIMEOUT))["said"]["text"] != text:
                        pass
                    session.answered()
                    confirmed.append(text)
                    if len(confirmed) % _LOOK_EACH == 0:
                        answer = await ask(http, session, "GET", room)
                        if answer is not None:
                            there = [said["text"] for said in answer.json()["history"]]
                            session.looked(kept=set(confirmed) <= set(there), holder=answer.json()["pid"])
                            if not set(confirmed) <= set(there):
                                return  # it is another room by now
                    await anyio.sleep(_PAUSE)
        except ConnectionClosed:  # come again; a kill ends it without a word
            await anyio.sleep(random.uniform(0, 0.1))  # not all at the same moment
        except (InvalidHandshake, InvalidMessage, OSError, TimeoutError) as error:
            session.failed(f"WebSocket: {type(error).__name__}: {error}")
            await anyio.sleep(_PAUSE)


EXAMPLES = (
    Example(
        name="Node under `run`",
        folder="node_room",
        title="a WebSocket server in plain Node, unmodified, three copies behind nginx",
        command=("node", "server.js"),
        uid="path:/rooms/{uid}",
        user=visit,
        needs=("websockets", "uvicorn", "httptools"),
        programs=("node",),
    ),
)
