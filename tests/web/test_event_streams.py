"""Server-sent events: at once, to their end, and again at the new owner."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

import h11
import pytest

from tests.web.clients import connected
from tests.web.conftest import pair_of
from tests.web.replicas import ENDED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.web.clients import Http
    from tests.web.conftest import Pair
    from tests.web.replicas import Replica, Replicas


@pytest.fixture(params=["here", "there"])
def entry(request: pytest.FixtureRequest, pair: Pair) -> Replica:
    """Provide the replica at which requests arrive: the owner of the uid, or the other one."""
    return pair.owner if request.param == "here" else pair.edge


@contextlib.asynccontextmanager
async def stream(port: int, room: str, last: int = 0) -> AsyncIterator[Http]:
    """Open an event stream."""
    async with connected(port) as http:
        await http.begin("GET", f"{room}/events", [("Last-Event-ID", str(last))] if last else [])
        await http.send(h11.EndOfMessage())
        assert 200 == (await http.head()).status_code
        yield http


async def heard(http: Http, most: int = 10_000) -> list[tuple[int, int]]:
    """Return the numbers of the events and the processes that sent them, until the stream ends cleanly."""
    text = ""
    async for part in http.parts():
        text += part.decode()
        if text.count("\n\n") >= most:
            break
    events = [dict(line.split(": ") for line in event.splitlines()) for event in text.split("\n\n") if event]
    return [(int(event["id"]), int(event["data"])) for event in events]


async def test_at_once(pair: Pair, entry: Replica) -> None:
    """Events arrive one by one, when they are sent."""
    async with stream(entry.port, pair.room) as http:
        began = time.monotonic()
        first = await heard(http, 1)
        at_first = time.monotonic() - began
        others = await heard(http, 5)

    assert [(1, pair.owner.pid)] == first
    assert [2, 3, 4, 5, 6] == [number for number, _ in others]
    assert at_first < 0.5


@pytest.mark.parametrize("arrives", ["here", "there"])
async def test_it_ends_cleanly_when_its_owner_drains(replicas: Replicas, arrives: str) -> None:
    """At a drain an event stream ends as one that is whole, and a reconnect goes on after the last event."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0.1"})
    pair = await pair_of(replicas)
    arrives_at = pair.owner if arrives == "here" else pair.edge
    async with stream(arrives_at.port, pair.room) as http:
        before = await heard(http, 2)
        pair.owner.send(signal.SIGTERM)
        async with asyncio.timeout(5.0):
            before += await heard(http)
    async with stream(pair.edge.port, pair.room, before[-1][0]) as again:
        after = await heard(again, 2)

    assert list(range(1, len(before) + 1)) == [number for number, _ in before]
    assert [(before[-1][0] + 1, pair.edge.pid), (before[-1][0] + 2, pair.edge.pid)] == after
    assert replicas.events("stream_ended", pid=pair.owner.pid)
    assert await pair.owner.ended() in ENDED


@pytest.mark.parametrize("arrives", ["here", "there"])
async def test_events_that_have_an_end(replicas: Replicas, arrives: str) -> None:
    """Events in the answer to a POST come to their end, though their uid goes, and no matter where it arrived."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0.1"})
    pair = await pair_of(replicas)
    entry = pair.owner if arrives == "here" else pair.edge
    async with connected(entry.port) as http:
        await http.begin("POST", f"{pair.room}/events?20", [("Content-Length", "0")])
        await http.send(h11.EndOfMessage())
        assert 200 == (await http.head()).status_code
        pair.owner.send(signal.SIGTERM)
        events = await heard(http)

    assert list(range(1, 21)) == [number for number, _ in events]
    assert await pair.owner.ended() in ENDED


async def test_it_ends_when_the_process_at_which_it_arrived_ends(replicas: Replicas) -> None:
    """A process that is told to end does not wait for the streams that it carries for others."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0"})
    pair = await pair_of(replicas)
    async with stream(pair.edge.port, pair.room) as http:
        before = await heard(http, 2)
        pair.edge.send(signal.SIGTERM)
        async with asyncio.timeout(8.0):
            before += await heard(http)
    async with stream(pair.owner.port, pair.room, before[-1][0]) as again:
        after = await heard(again, 1)

    assert [(before[-1][0] + 1, pair.owner.pid)] == after
    assert await pair.edge.ended() in ENDED


async def test_the_owner_is_killed(replicas: Replicas) -> None:
    """When its owner is killed an event stream breaks off, and does not seem to be whole."""
    replicas.start(2)
    pair = await pair_of(replicas)
    async with stream(pair.edge.port, pair.room) as http:
        await heard(http, 2)
        pair.owner.kill()
        with pytest.raises(h11.RemoteProtocolError):
            await heard(http)
    async with stream(pair.edge.port, pair.room, 2) as again:
        after = await heard(again, 1)

    assert [(3, pair.edge.pid)] == after
