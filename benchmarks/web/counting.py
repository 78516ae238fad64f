"""An application with its state in memory: it counts the POSTs of each session, and tells the number.

Each answer is written down when it was sent, in a file for each process, so that two who serve one session are seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from benchmarks.web.apps import REDIS, answer, during_lifespan, read_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from io import FileIO

    from benchmarks.web.apps import Receive, Scope, Send

SERVED = "BENCHMARKS_SERVED"
"""The variable that tells the folder of what was served."""
PATH = "/sessions/"
HEADER = "x-session-id"
_WORK = 0.01
_KEPT = 600


class Counting:
    """The application.

    With ``saves`` it takes a session that it does not have from Redis, where ``save`` puts it.
    """

    def __init__(self, *, saves: bool) -> None:
        """Hold no session yet."""
        self._counts: dict[str, int] = {}
        self._saves = saves
        self._redis: Redis | None = None
        self._served: FileIO | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await during_lifespan(self._open(), receive, send)
        elif scope["path"].startswith(PATH):
            await self._count(scope, receive, send)
        else:
            await answer(send, b"")

    async def save(self, uid: str) -> None:
        """Put a session into Redis, and forget it: the hand-off."""
        count = self._counts.pop(uid, None)
        if count is not None and self._redis is not None:
            await self._redis.set(_key(uid), count, ex=_KEPT)

    async def pack(self, uid: str) -> bytes:
        """Return what is remembered of a session: the hand-off of a state that travels."""
        return str(self._counts.get(uid, 0)).encode()

    async def adopt(self, uid: str, data: bytes, _epoch: int) -> None:
        """Take in what another process remembered."""
        self._counts[uid] = int(data)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        uid = scope["path"].removeprefix(PATH)
        await read_body(receive)
        if uid not in self._counts:
            saved = await self._load(uid)
            self._counts.setdefault(uid, saved)
        await asyncio.sleep(_WORK)
        self._counts[uid] = self._counts.get(uid, 0) + (scope["method"] == "POST")
        body = json.dumps({"seen": self._counts[uid], "pid": os.getpid()}).encode()
        await answer(send, body, kind=b"application/json")
        if self._served is not None:
            self._served.write(f"{uid} {begun} {time.monotonic()}\n".encode())

    async def _load(self, uid: str) -> int:
        if not self._saves or self._redis is None:
            return 0
        return int(await self._redis.get(_key(uid)) or 0)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        with Path(os.environ[SERVED], f"{os.getpid()}").open("ab", buffering=0) as self._served:
            async with Redis.from_url(os.environ[REDIS]) as self._redis:
                yield


def _key(uid: str) -> str:
    return f"saved:{uid}"


alone = Counting(saves=False)
