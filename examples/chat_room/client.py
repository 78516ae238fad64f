"""A member of a chat room, by the ``websockets`` library: talks, listens, and reconnects when the connection ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from examples.harness import Example, ask
from examples.harness.http import TIMEOUT, client

if TYPE_CHECKING:
    import httpx

    from examples.harness import Session

_PAUSE = 0.15  # seconds between two messages
_MEMBERS = 3  # of a room
_LOOK_EACH = 3  # messages


class Member:
    """A member of a room."""

    def __init__(self, url: str, session: Session) -> None:
        """Enter the room of a few neighbours."""
        self._room = f"/rooms/room-{session.number // _MEMBERS}"
        self._url = url
        self._session = session
        self._numbers = itertools.count()
        self._confirmed: list[str] = []  # what this member said, and the room confirmed
        self._next: dict[str, str] | None = None

    async def live(self) -> None:
        """Talk until cancelled."""
        async with client(self._url) as http:
            while True:
                try:
                    async with connect(
                        self._url.replace("http", "ws", 1) + self._room, open_timeout=TIMEOUT, proxy=None
                    ) as room:
                        self._session.answered()
                        await self._talk(http, room)
                except ConnectionClosed:  # 1012 is "service restart": come again; a kill ends it without a word
                    await anyio.sleep(random.uniform(0, 0.1))  # not all at the same moment
                except (InvalidHandshake, InvalidMessage, OSError, TimeoutError) as error:
                    self._session.failed(f"WebSocket: {type(error).__name__}: {error}")
                    await anyio.sleep(_PAUSE)

    async def _talk(self, http: httpx.AsyncClient, room: ClientConnection) -> None:
        self._look(json.loads(await room.recv()))
        while True:
            self._next = self._next or {"from": str(self._session.number), "text": f"message {next(self._numbers)}"}
            await room.send(json.dumps(self._next))
            while json.loads(await asyncio.wait_for(room.recv(), TIMEOUT)) != {"said": self._next}:
                pass  # others talk
            self._session.answered()
            self._confirmed.append(self._next["text"])
            self._next = None
            if len(self._confirmed) % _LOOK_EACH == 0:
                answer = await ask(http, self._session, "GET", self._room)
                if answer is not None:
                    self._look(answer.json())
            await anyio.sleep(_PAUSE)

    def _look(self, there: dict[str, Any]) -> None:
        """Compare the history with what was confirmed."""
        said = {message["text"] for message in there["history"] if message["from"] == str(self._session.number)}
        self._session.looked(kept=said.issuperset(self._confirmed), holder=there["pid"])
        self._confirmed = [text for text in self._confirmed if text in said]


async def talk(url: str, session: Session) -> None:
    """Be a member of a room until cancelled."""
    await Member(url, session).live()


EXAMPLES = (
    Example(
        name="chat room",
        folder="chat_room",
        title="FastAPI WebSockets, three replicas behind nginx",
        user=talk,
        needs=("fastapi", "websockets"),
    ),
    Example(
        name="chat room, nginx asks",
        folder="chat_room",
        title="the same, with nginx that asks `stateful-route decide` where each request goes",
        user=talk,
        needs=("fastapi", "httptools", "websockets"),
        decide="path:/rooms/{uid}",
    ),
)
