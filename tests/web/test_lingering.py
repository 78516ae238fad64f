"""A process that lingers at SIGTERM, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route.server.signals import ONE_SIGNAL
from tests.waiting import eventually
from tests.web.clients import Response, ask, websocket
from tests.web.conftest import Pair, pair_of
from tests.web.replicas import ENDED, HEARTBEAT, LEASE, Replicas
from tests.web.test_kill import served_by_two
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer


@pytest.fixture
def replicas(own_server: LocalServer, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    """Provide replicas with a server of their own, which may go away."""
    with Replicas(own_server.url, namespace, tmp_path) as own:
        yield own


async def lingering(replicas: Replicas, *, deadline: float = 20.0, idle: float = 30.0, lease: float = LEASE) -> Pair:
    """Start two replicas, place a uid, and tell its owner to end: it lingers when this returns."""
    replicas.start(
        2,
        environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": str(deadline), "STATEFUL_ROUTE_LEASE": str(lease)},
        drain="linger",
        linger_idle=idle,
    )
    pair = await pair_of(replicas)
    await counted(pair)  # both know who has it
    pair.owner.send(signal.SIGTERM)

    async def leaves() -> bool:
        answer = await ask(pair.owner.port, f"{pair.room}/count")
        return answer.header("connection") == "close"

    await eventually(leaves)
    await asyncio.sleep(2 * HEARTBEAT)  # until Redis and the other one know it, too
    await counted(pair)
    return pair


async def counted(pair: Pair) -> list[Response]:
    return [await ask(entry.port, f"{pair.room}/count") for entry in (pair.owner, pair.edge)]


async def test_it_keeps_what_is_used(replicas: Replicas) -> None:
    """What is used stays where its state is, wherever it arrives; once that is idle the process ends."""
    pair = await lingering(replicas, idle=1.0)
    async with websocket(pair.edge.port, f"{pair.room}/ws", ping_interval=None) as connection:
        await asyncio.sleep(2.0)  # it is in use, and nobody asks
        answers = await counted(pair)
        new = [await ask(pair.owner.port, f"/rooms/new-{number}/count") for number in range(5)]
        await connection.send("still")
        said = await connection.recv()
    assert await pair.owner.ended() in ENDED
    after = await ask(pair.edge.port, f"{pair.room}/count")

    assert [(200, pair.owner.pid)] * 2 == [(answer.status, answer.json()["pid"]) for answer in answers]
    assert f"{pair.owner.pid} still" == said
    assert {(200, pair.edge.pid)} == {(answer.status, answer.json()["pid"]) for answer in new}
    assert (200, pair.edge.pid) == (after.status, after.json()["pid"])


async def test_it_is_killed(replicas: Replicas) -> None:
    """A kill while it lingers costs time: what is safe to repeat is served by the next owner, once and by it alone."""
    pair = await lingering(replicas)
    async with websocket(pair.edge.port, f"{pair.room}/ws", ping_interval=None) as connection:
        await connection.send("there?")
        await connection.recv()
        running = [asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?0.5", way)) for way in ("GET", "POST")]
        await eventually(lambda: len(replicas.events("begins")) == 2)
        pair.owner.kill()
        code = (await closed(connection))[0]
    get, post = await asyncio.gather(*running)
    after = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x")

    assert [(200, pair.edge.pid)] * 2 == [(answer.status, answer.json()["pid"]) for answer in (get, after)]
    assert (503, 1012) == (post.status, code)
    assert [] == served_by_two(replicas)


async def test_redis_goes_away(replicas: Replicas, own_server: LocalServer) -> None:
    """While Redis is away it serves for a lease, then refuses, and ends in its time; the other one has the uid then."""
    lease = 3.0  # a busy machine answers twice in it
    pair = await lingering(replicas, deadline=10.0, lease=lease)
    began = time.monotonic()
    own_server.pause()
    within = await counted(pair)
    await asyncio.sleep(lease * 1.5)
    beyond = await counted(pair)
    await pair.owner.ended(25.0)
    took = time.monotonic() - began
    own_server.resume()
    async with asyncio.timeout(10.0):
        while (after := await ask(pair.edge.port, f"{pair.room}/count")).status != 200:
            pass

    assert [(200, pair.owner.pid)] * 2 == [(answer.status, answer.json()["pid"]) for answer in within]
    assert [503, 503] == [answer.status for answer in beyond]
    assert took < 18.0
    assert pair.edge.pid == after.json()["pid"]
    assert [] == served_by_two(replicas)


async def test_redis_comes_back(replicas: Replicas, own_server: LocalServer) -> None:
    """When Redis is back in time it goes on to linger, with all that it has."""
    pair = await lingering(replicas, idle=3.0)
    own_server.pause()
    await asyncio.sleep(LEASE * 1.5)
    own_server.resume()
    async with asyncio.timeout(10.0):
        while (back := await ask(pair.edge.port, f"{pair.room}/count")).status != 200:
            pass
    async with asyncio.timeout(2.5):
        answers = await counted(pair)
    assert await pair.owner.ended(15.0) in ENDED

    assert [(200, pair.owner.pid)] * 3 == [(answer.status, answer.json()["pid"]) for answer in (back, *answers)]
    assert back.json()["count"] < answers[0].json()["count"]


async def test_redis_is_slow_at_the_signal(replicas: Replicas, own_server: LocalServer) -> None:
    """A Redis that does not answer for a moment, just then, ends no session: the process lingers once it is told."""
    replicas.start(2, environment={"STATEFUL_ROUTE_LEASE": "2"}, drain="linger", linger_idle=2.0)
    pair = await pair_of(replicas)
    await counted(pair)
    own_server.pause()
    pair.owner.send(signal.SIGTERM)
    await asyncio.sleep(0.7)  # more than a call may take
    own_server.resume()
    await asyncio.sleep(1.0)  # it would have stopped
    answers = await counted(pair)
    assert await pair.owner.ended(15.0) in ENDED

    assert [(200, 4), (200, 5)] == [(answer.status, answer.json()["count"]) for answer in answers]


async def test_a_second_signal(replicas: Replicas) -> None:
    """A second signal ends the wait: the process stops, its WebSockets are closed, the other one has the uid."""
    pair = await lingering(replicas)
    async with (
        websocket(pair.owner.port, f"{pair.room}/ws", ping_interval=None) as here,
        websocket(pair.edge.port, f"{pair.room}/ws", ping_interval=None) as there,
    ):
        for connection in (here, there):
            await connection.send("there?")
            await connection.recv()
        await asyncio.sleep(ONE_SIGNAL)  # else it is the same one
        began = time.monotonic()
        pair.owner.send(signal.SIGTERM)
        codes = [(await closed(connection))[0] for connection in (here, there)]
        assert await pair.owner.ended() in ENDED
        took = time.monotonic() - began
    after = await ask(pair.edge.port, f"{pair.room}/count")

    assert [1012, 1012] == codes
    assert took < 5.0
    assert (200, pair.edge.pid) == (after.status, after.json()["pid"])
    assert [] == served_by_two(replicas)
