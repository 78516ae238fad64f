"""Clients of the chat room."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.kubernetes.node import Container

_ENDED_WITHIN = 60.0
_WITHOUT_A_CODE = 1006


async def served(container: Container, room: str) -> dict[str, Any]:
    """Return the history of a room, and the process that has it."""
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as http:
        answer = await http.get(f"{container.url}/rooms/{room}")
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def room_at(owner: Container, asked: Container) -> str:
    """Return a room that one container owns, made by asking another one."""
    numbers = itertools.count()

    async def is_there() -> bool:
        return bool((await served(asked, f"room-{next(numbers)}"))["pid"] == owner.process.pid)

    await eventually(is_there)  # once the one that is asked knows of the other, half of all rooms go there
    return f"room-{next(numbers) - 1}"


async def said(container: Container, room: str, count: int) -> bool:
    """Return whether so much was said in a room."""
    return len((await served(container, room))["history"]) == count


async def say(container: Container, room: str, text: str) -> int:
    """Say something in a room, and return the code with which the WebSocket is closed when the room leaves."""
    url = f"{container.url.replace('http', 'ws', 1)}/rooms/{room}"
    async with connect(url, proxy=None, open_timeout=20.0) as socket:
        await socket.recv()
        await socket.send(json.dumps({"text": text}))
        assert {"said": {"text": text}} == json.loads(await socket.recv())
        try:
            await asyncio.wait_for(socket.recv(), _ENDED_WITHIN)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else _WITHOUT_A_CODE
    return 0
