"""A client that goes away while its request is held: nobody serves it later, and others have its place."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from typing import TYPE_CHECKING

import h11
import pytest

from tests.web.clients import ask, connected, websocket
from tests.web.conftest import pair_of
from tests.web.replicas import ENDED, LEASE
from tests.web.test_drain import drained_pair, entry_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.web.conftest import Pair
    from tests.web.replicas import Replicas

UPGRADE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]
KINDS = "GET", "POST", "WebSocket"
LONG = {"STATEFUL_ROUTE_LEASE": "2"}
"""So that what is held is held for a while, also where the machine is slow."""


@contextlib.asynccontextmanager
async def asked(port: int, room: str, kind: str) -> AsyncIterator[None]:
    """Have asked for a room for the time of a block, and go away then."""
    async with connected(port) as http:
        if kind == "WebSocket":
            await http.begin("GET", f"{room}/ws", UPGRADE)
        elif kind == "POST":
            await http.begin("POST", f"{room}/count", [("Content-Length", "1000")])
            await http.send(h11.Data(b"x" * 1000))
        else:
            await http.begin("GET", f"{room}/count")
        await http.send(h11.EndOfMessage())
        yield


def begun(replicas: Replicas, pair: Pair) -> int:
    return len(replicas.events("served", uid=pair.uid)) + len(replicas.events("accepted", uid=pair.uid))


@pytest.mark.parametrize(
    ("server", "kind"), [*(("uvicorn", kind) for kind in KINDS), ("hypercorn", "GET"), ("hypercorn", "WebSocket")]
)
async def test_while_its_owner_is_dead(replicas: Replicas, kind: str, server: str) -> None:
    """Another request has the place of one whose client is gone, and that one is not served when there is an owner."""
    if server == "hypercorn":
        pytest.importorskip("hypercorn")
    replicas.start(2, server=server, max_held=1, environment=LONG)
    pair = await pair_of(replicas)
    pair.owner.kill()
    before = begun(replicas, pair)
    async with asked(pair.edge.port, pair.room, kind):
        await asyncio.sleep(0.3)  # it is held now
        refused = await ask(pair.edge.port, f"{pair.room}/count")
    await asyncio.sleep(0.3)  # it is dropped now
    began = time.monotonic()
    held = await ask(pair.edge.port, f"{pair.room}/count")

    assert [503, 200] == [refused.status, held.status]
    assert time.monotonic() - began > 0.5  # it was held
    await asyncio.sleep(0.5)  # in which the other one would be served
    assert before + 1 == begun(replicas, pair)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arrives", ["at the owner", "at the other one"])
async def test_while_its_uid_is_handed_off(replicas: Replicas, kind: str, arrives: str) -> None:
    """A request that waits for a hand-off is not served after it if its client is gone."""
    pair = await drained_pair(replicas, "1.0")
    entry = entry_of(pair, arrives)
    before = begun(replicas, pair)
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    async with asked(entry.port, pair.room, kind):
        await asyncio.sleep(0.3)  # it is held now
    await replicas.noted("handed_off", uid=pair.uid)
    answer = await ask(pair.edge.port, f"{pair.room}/count")
    assert await pair.owner.ended() in ENDED
    assert "ERROR" not in pair.owner.text() + pair.edge.text()

    assert (200, 2) == (answer.status, answer.json()["count"])
    assert before + 1 == begun(replicas, pair)


async def test_while_a_hand_off_is_cut_off(replicas: Replicas) -> None:
    """A request that was carried to its owner, and waits there, is not served there if its client is gone."""
    pair = await drained_pair(replicas, "hangs", environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": "1.5"}, stop_after=1.0)
    before = begun(replicas, pair)
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    for kind in KINDS:
        async with asked(pair.edge.port, pair.room, kind):
            await asyncio.sleep(0.2)  # it is held now
    assert await pair.owner.ended() in ENDED

    assert before == begun(replicas, pair)


async def test_those_that_wait_for_a_hand_off_are_counted(replicas: Replicas) -> None:
    """At the owner, too, no more requests wait for a hand-off than may be held; who leaves makes room."""
    pair = await drained_pair(replicas, "1.5", max_held=2)
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    async with asked(pair.owner.port, pair.room, "GET"), asked(pair.owner.port, pair.room, "WebSocket"):
        await asyncio.sleep(0.3)  # both are held now
        refused = await ask(pair.owner.port, f"{pair.room}/count")
    await asyncio.sleep(0.2)  # both are dropped now
    answers = await asyncio.gather(*(ask(pair.owner.port, f"{pair.room}/count") for _ in range(2)))

    assert (503, [200, 200]) == (refused.status, [answer.status for answer in answers])
    assert [2, 3] == sorted(answer.json()["count"] for answer in answers)


@pytest.mark.parametrize(("size", "chunked"), [(10, False), (60_000, False), (60_000, True), (3_000_000, False)])
async def test_a_body_that_comes_while_it_is_held(replicas: Replicas, size: int, chunked: bool) -> None:
    """A body that comes in parts, while its request is held, arrives whole at the next owner."""
    replicas.start(2)
    pair = await pair_of(replicas)
    pair.owner.kill()
    body = os.urandom(size)
    header = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
    async with connected(pair.edge.port) as http:
        await http.begin("POST", f"{pair.room}/count", [header])

        async def sending() -> None:
            for begin in range(0, size, size // 5):
                await http.send(h11.Data(body[begin : begin + size // 5]))
                await asyncio.sleep(LEASE / 4)
            await http.send(h11.EndOfMessage())

        sender = asyncio.ensure_future(sending())
        answer = await http.response()
        await sender

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])
    assert (size, hashlib.sha256(body).hexdigest()) == (answer.json()["size"], answer.json()["checksum"])


async def test_a_websocket_that_was_held(replicas: Replicas) -> None:
    """A WebSocket that was held is accepted by the next owner, and goes on as any other; so does its end."""
    replicas.start(2)
    pair = await pair_of(replicas)
    pair.owner.kill()
    async with websocket(pair.edge.port, f"{pair.room}/ws") as connection:
        for message in ("one", "two", "three"):
            await connection.send(message)
        answers = [await connection.recv() for _ in range(3)]

    assert [f"{pair.edge.pid} {message}" for message in ("one", "two", "three")] == answers
    await replicas.noted("ws_closed", uid=pair.uid, pid=pair.edge.pid)
