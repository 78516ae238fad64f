"""An application whose sessions live in its memory alone, and travel: a number and 10 kB each.

When each of them was packed and adopted is written down at the end, in a file for each process.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path as File
from typing import TYPE_CHECKING

from benchmarks.web.apps import answer, during_lifespan, read_body
from benchmarks.web.counting import HEADER, PATH, SERVED
from stateful_route.web import Header, Path, Sticky, StickyMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.web.apps import Receive, Scope, Send


SIZE = 10_000
_HEAD = 32


class Travelling:
    """The application. What it remembers of a session is as good as the epoch at which it began to."""

    def __init__(self) -> None:
        """Hold no session yet."""
        self._sessions: dict[str, tuple[int, int, bytes]] = {}
        self._noted: list[str] = []

    async def save(self, uid: str) -> bytes | None:
        """Return the state of a session."""
        if uid not in self._sessions:
            return None
        _, count, rest = self._sessions[uid]
        self._noted.append(f"packed {uid} {time.monotonic()}")
        return b"%*d" % (_HEAD, count) + rest

    def load(self, uid: str, data: bytes, epoch: int) -> None:
        """Take a state in."""
        self._sessions[uid] = epoch, int(data[:_HEAD]), data[_HEAD:]
        self._noted.append(f"adopted {uid} {time.monotonic()}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await during_lifespan(self._written(), receive, send)
            return
        if not scope["path"].startswith(PATH):
            await answer(send, b"")
            return
        await read_body(receive)
        sticky = Sticky.of(scope)
        uid, epoch = sticky.uid or "", sticky.epoch or 0
        session = self._sessions.get(uid)
        if session is None or session[0] != epoch:
            session = epoch, 0, os.urandom(SIZE - _HEAD)
        count = session[1] + (scope["method"] == "POST")
        self._sessions[uid] = epoch, count, session[2]
        body = json.dumps({"seen": count, "pid": os.getpid()}).encode()
        await answer(send, body, kind=b"application/json")

    @contextlib.asynccontextmanager
    async def _written(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            File(os.environ[SERVED], f"{os.getpid()}").write_text("\n".join(self._noted), encoding="utf-8")


_app = Travelling()
sticky = StickyMiddleware(
    _app, service="travel", uid=[Path(PATH + "{uid}"), Header(HEADER)], hand_off=_app.save, adopt=_app.load
)


def read_gaps(folder: File) -> list[float]:
    """Return for how many seconds each session that travelled had no owner."""
    events = []
    for file in folder.iterdir():
        for line in file.read_text(encoding="utf-8").splitlines():
            what, uid, moment = line.split()
            events.append((float(moment), what, uid))
    gaps: list[float] = []
    packed: dict[str, float] = {}
    for at, what, uid in sorted(events):
        if what == "packed":
            packed[uid] = at
        elif uid in packed:
            gaps.append(at - packed.pop(uid))
    return gaps
