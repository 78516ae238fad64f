"""Sessions under load, behind a round robin that knows nothing but which ports refuse a connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import attrs

from tests.web.clients import NoAnswerError, ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.web.replicas import Replicas


@attrs.define
class Load:
    """What came of the requests of all sessions."""

    served: int = 0
    unanswered: int = 0
    """Connections that were closed without a byte of an answer, and asked anew elsewhere.

    uvicorn closes those so that it has accepted and not yet read when it stops. That nothing was done for them is seen
    by the counts.
    """
    failed: list[str] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    """Answers of which the count is not the next one: what was counted before is not there."""
    slowest: float = 0.0
    counts: dict[str, int] = attrs.field(factory=dict)
    done: bool = False

    def take(self, uid: str, count: int, *, twice: bool) -> None:
        self.served += 1
        expected = self.counts.get(uid, 0) + 1
        if count != expected and not (twice and count > expected):
            self.lost.append(f"{uid}: {count} instead of {expected}")
        self.counts[uid] = count


async def _session(
    replicas: Replicas, load: Load, uid: str, method: str, turn: Callable[[], int], *, twice: bool
) -> None:
    while not load.done:
        ports = [replica.port for replica in replicas.all if replica.running and replica.in_rotation]
        if not ports:
            await asyncio.sleep(0.01)
            continue
        port = ports[turn() % len(ports)]
        began = time.monotonic()
        try:
            answer = await ask(port, f"/rooms/{uid}/count", method)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)  # as a balancer: the next one
            continue
        except (NoAnswerError, ConnectionResetError):
            load.unanswered += 1
            continue
        load.slowest = max(load.slowest, time.monotonic() - began)
        if answer.status == 200 and answer.complete:
            load.take(uid, answer.json()["count"], twice=twice)
        else:
            load.failed.append(f"{uid} at {port}: {answer.status} {answer.body[:80]!r}")
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def under_load(
    replicas: Replicas, sessions: int = 20, method: str = "GET", *, twice: bool = False
) -> AsyncIterator[Load]:
    """Run sessions for the time of a block; ``twice`` is whether a request may have counted twice."""
    load, turns = Load(), itertools.count()
    running = [
        asyncio.ensure_future(_session(replicas, load, f"s{number}", method, turns.__next__, twice=twice))
        for number in range(sessions)
    ]
    try:
        yield load
    finally:
        load.done = True
        await asyncio.gather(*running)
