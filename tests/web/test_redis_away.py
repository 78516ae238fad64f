"""Redis does not answer: what is owned goes on as it was asked for, and the rest is told so soon."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tests.web.clients import ask, websocket
from tests.web.conftest import Pair, pair_of
from tests.web.load import under_load
from tests.web.replicas import LEASE, Replicas
from tests.web.test_kill import served_by_two
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer

CALL_DEADLINE = LEASE / 4


@pytest.fixture
def replicas(own_server: LocalServer, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    """Provide replicas with a server that a test may stop."""
    with Replicas(own_server.url, namespace, tmp_path) as own:
        yield own


@pytest.fixture(params=["stands still", "is gone"])
def go_away(request: pytest.FixtureRequest, own_server: LocalServer) -> str:
    """Say how Redis is away."""
    return str(request.param)


def away(server: LocalServer, how: str) -> None:
    if how == "is gone":
        server.kill()
    else:
        server.pause()


def back(server: LocalServer, how: str) -> None:
    if how == "is gone":
        server.restart()
    else:
        server.resume()


async def lease_over(pair: Pair) -> None:
    """Return once the owner does not own any more, as its lease has ended."""
    await asyncio.sleep(LEASE * 1.3)  # it is what is waited for


async def test_within_the_lease(replicas: Replicas, own_server: LocalServer, go_away: str) -> None:
    """Within the lease all that is owned is served, wherever it arrives."""
    replicas.start(2)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")
    away(own_server, go_away)
    answers = [await ask(entry.port, f"{pair.room}/count") for entry in (pair.owner, pair.edge)]
    back(own_server, go_away)

    assert [(200, pair.owner.pid)] * 2 == [(answer.status, answer.json()["pid"]) for answer in answers]


@pytest.mark.parametrize("while_away", ["serve", "refuse"])
async def test_beyond_the_lease(replicas: Replicas, own_server: LocalServer, go_away: str, while_away: str) -> None:
    """Beyond the lease what is owned is served or refused, as ``while_away`` says; and served again after it."""
    replicas.start(2, while_away=while_away)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")
    away(own_server, go_away)
    await lease_over(pair)
    began = time.monotonic()
    answers = await asyncio.gather(
        *(ask(entry.port, f"{pair.room}/count") for entry in (pair.owner, pair.edge) for _ in range(5))
    )
    took = time.monotonic() - began
    back(own_server, go_away)

    assert {200 if while_away == "serve" else 503} == {answer.status for answer in answers}
    if while_away == "refuse":
        assert {"1"} == {answer.header("retry-after") for answer in answers}
    assert took < 4 * CALL_DEADLINE
    async with asyncio.timeout(10.0):
        while (again := await ask(pair.edge.port, f"{pair.room}/count")).status != 200:
            pass
    assert pair.owner.pid == again.json()["pid"]


async def test_what_nobody_has(replicas: Replicas, own_server: LocalServer, go_away: str) -> None:
    """A uid that nobody has is a 503 with a reason, within the deadline of a call."""
    replicas.start(2)
    await pair_of(replicas)
    away(own_server, go_away)
    began = time.monotonic()
    answer = await ask(replicas.ports[0], "/rooms/unknown/count")
    took = time.monotonic() - began
    back(own_server, go_away)

    assert (503, "1") == (answer.status, answer.header("retry-after"))
    assert b"Redis does not answer" in answer.body
    assert took < 3 * CALL_DEADLINE


async def test_refused(replicas: Replicas, own_server: LocalServer) -> None:
    """Where Redis refuses what a new uid needs the 503 says so, and the log why, once for many requests."""
    replicas.start(1)
    assert 200 == (await ask(replicas.ports[0], "/rooms/known/count")).status
    own_server.ask("ACL", "SETUSER", "default", "-set")
    answers = [await ask(replicas.ports[0], f"/rooms/unknown-{number}/count") for number in range(3)]
    text = replicas.all[0].text()

    assert {503} == {answer.status for answer in answers}
    assert all(b"Redis answers, and refuses" in answer.body for answer in answers)
    assert 1 == text.count("requests are answered 503, as Redis refuses")
    assert "ACL SETUSER default +set" in text


@pytest.mark.parametrize("while_away", ["serve", "refuse"])
async def test_websockets(replicas: Replicas, own_server: LocalServer, while_away: str) -> None:
    """An open WebSocket goes on within the lease; beyond it as ``while_away`` says."""
    replicas.start(2, while_away=while_away)
    pair = await pair_of(replicas)
    async with websocket(pair.edge.port, f"{pair.room}/ws") as connection:
        own_server.pause()
        await connection.send("within")
        assert f"{pair.owner.pid} within" == await connection.recv()
        await lease_over(pair)
        await connection.send("beyond")
        if while_away == "serve":
            assert f"{pair.owner.pid} beyond" == await connection.recv()
        else:
            assert 1012 == (await closed(connection))[0]
        own_server.resume()


async def test_back_again(replicas: Replicas, own_server: LocalServer, go_away: str) -> None:
    """When Redis is back, all is served again soon, by one owner each; a process asks for few things then."""
    replicas.start(3)
    async with under_load(replicas, 20, twice=True) as load:
        await asyncio.sleep(0.5)
        away(own_server, go_away)
        await asyncio.sleep(LEASE * 2)
        back(own_server, go_away)
        failed = len(load.failed)
        served = load.served
        await eventually(lambda: load.served > served + 400, 15.0)
        failed_late = len(load.failed)
        await asyncio.sleep(0.5)

    assert failed > 0
    assert failed_late == len(load.failed)
    assert [] == served_by_two(replicas)
    assert {"503"} == {line.split(": ")[1].split(" ")[0] for line in load.failed}


async def test_a_crowd(replicas: Replicas, own_server: LocalServer) -> None:
    """Of many requests at once for a uid that nobody has one asks Redis for all of them."""
    replicas.start(2)
    await asyncio.sleep(LEASE)
    before = _commands(own_server)
    answers = await asyncio.gather(*(ask(port, "/rooms/new/count") for port in replicas.ports for _ in range(100)))
    asked = _commands(own_server) - before

    assert 1 == len({answer.json()["pid"] for answer in answers})
    assert asked < 50  # heartbeats and readings of the pods are among them


async def test_no_stampede(replicas: Replicas, own_server: LocalServer) -> None:
    """When Redis is back, the requests that wait ask it for each uid, and not each of them."""
    replicas.start(2)
    uids = [f"u{number}" for number in range(10)]
    await asyncio.gather(*(ask(replicas.ports[0], f"/rooms/{uid}/count") for uid in uids))
    before = _commands(own_server)
    own_server.pause()
    await asyncio.sleep(LEASE * 1.5)
    ports = [port for port in replicas.ports for _ in range(20)]
    waiting = [asyncio.ensure_future(ask(port, f"/rooms/{uid}/count")) for uid in uids for port in ports]
    await asyncio.sleep(CALL_DEADLINE / 2)  # all of them wait now
    own_server.resume()
    await asyncio.gather(*waiting)
    asked = _commands(own_server) - before

    assert asked < 8 * len(uids) < len(waiting) / 4


def _commands(server: LocalServer) -> int:
    """Return how many scripts were called."""
    stats = server.ask("INFO", "commandstats")
    return sum(int(calls) for calls in re.findall(r"^cmdstat_(?:evalsha|fcall)\w*:calls=(\d+)", stats, re.MULTILINE))


async def test_it_ends_while_redis_is_away(replicas: Replicas, own_server: LocalServer, go_away: str) -> None:
    """A process that is told to end while Redis is away saves what it has within its lease, and ends."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0", "STATEFUL_ROUTE_LEASE": "4"})
    pair = await pair_of(replicas)
    async with websocket(pair.owner.port, f"{pair.room}/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        away(own_server, go_away)
        began = time.monotonic()
        pair.owner.send(signal.SIGTERM)
        await closed(connection, 15.0)
    await pair.owner.ended(20.0)
    took = time.monotonic() - began
    back(own_server, go_away)

    assert took < 15.0
    assert 1 == len(replicas.events("handed_off", uid=pair.uid))
