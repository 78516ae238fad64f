"""Someone who chats: asks, reads the stream of events, and reconnects with Last-Event-ID where it was cut."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING

import anyio
import httpx

from examples.harness import Example, ask
from examples.harness.http import TIMEOUT, client

if TYPE_CHECKING:
    from examples.harness import Session

_PAUSE = 0.05  # seconds, before the next question, and before a reconnect
_MOST = 30  # questions; then another conversation
_NOT_FOUND = 404


class Chat:
    """One conversation."""

    def __init__(self, http: httpx.AsyncClient, session: Session) -> None:
        """Begin one, with an id of the client's own."""
        self._http = http
        self._session = session
        self._turns = 0  # that the server confirmed

    async def turn(self, text: str) -> None:
        """Ask something, and read the answer to its end."""
        asked = await ask(self._http, self._session, "POST", "/chat", json={"text": text})
        if asked is None:
            return
        answer = asked.json()
        self._look(answer["turns"], answer["pid"], self._turns + 1)
        tokens: list[str] = []
        deadline = time.monotonic() + TIMEOUT
        while not await self._read(tokens):
            if time.monotonic() > deadline:
                self._session.failed("the stream did not come to its end")
                return
            await anyio.sleep(_PAUSE)
        if tokens != [f"{text}/{number}" for number in range(len(tokens))]:
            self._session.looked(kept=False)

    def _look(self, turns: int, pid: int, expected: int) -> None:
        """Compare how many turns the server knows with how many there were at least."""
        self._session.looked(kept=turns >= expected, holder=pid)
        self._turns = turns

    async def _read(self, tokens: list[str]) -> bool:
        """Read on after the tokens that are here; return whether the answer is at its end."""
        headers = {"Last-Event-ID": str(len(tokens) - 1)}
        try:
            async with self._http.stream("GET", "/stream", headers=headers) as stream:
                if stream.status_code == _NOT_FOUND:
                    self._session.answered()
                    self._look(0, self._session.holder or 0, self._turns)
                    return True
                if stream.is_error:
                    self._session.failed(f"status {stream.status_code}")
                    return False
                return await self._events(stream, tokens)
        except httpx.TimeoutException as error:
            self._session.failed(type(error).__name__)
        except httpx.TransportError:
            pass  # cut: as a browser's EventSource, read on where it was
        return False

    async def _events(self, stream: httpx.Response, tokens: list[str]) -> bool:
        done = False
        async for line in stream.aiter_lines():
            done = done or line == "event: done"
            if not line.startswith("data: "):
                continue
            data = json.loads(line.removeprefix("data: "))
            if done:
                self._session.answered()
                self._look(data["turns"], data["pid"], self._turns)
            else:
                tokens.append(data["token"])
        return done


async def chat(url: str, session: Session) -> None:
    """Chat until cancelled."""
    while True:
        async with client(url, headers={"x-conversation-id": f"conversation-{uuid.uuid4()}"}) as http:
            conversation = Chat(http, session)
            for number in range(_MOST):
                await conversation.turn(f"question-{number}")
                await anyio.sleep(_PAUSE)


EXAMPLES = (
    Example(
        name="streaming chat",
        folder="streaming_chat",
        title="server-sent events with a cache for each conversation, three replicas behind nginx",
        user=chat,
        needs=("fastapi",),
    ),
)
