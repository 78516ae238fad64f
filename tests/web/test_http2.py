"""An HTTP/2 server at the edge and at the owner: trailers, many requests on a connection, streams that are reset."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.conftest import Pair, pair_of
from tests.web.http2 import http2
from tests.web.replicas import ENDED

if TYPE_CHECKING:
    from tests.web.replicas import Replica, Replicas

pytest.importorskip("hypercorn")
pytest.importorskip("h2")


@pytest.fixture
async def pair(replicas: Replicas) -> Pair:
    """Run two replicas that speak HTTP/2 and HTTP/1.1, and have a uid placed."""
    replicas.start(2, server="hypercorn", loop="asyncio", environment={"WEB_HAND_OFF": "0.1"})
    return await pair_of(replicas)


def entries(pair: Pair) -> tuple[Replica, Replica]:
    return pair.owner, pair.edge


async def test_trailers(pair: Pair) -> None:
    """Trailers of an answer reach a client of HTTP/2, served here or there; one of HTTP/1.1 is offered none."""
    for entry in entries(pair):
        async with http2(entry.port) as client:
            answers = [await client.ask(f"{pair.room}/trailers", headers=[("te", "trailers")]) for _ in range(3)]
        plain = await ask(entry.port, f"{pair.room}/trailers")

        assert [(200, b"with trailers", {"x-sum": "7"}, True)] * 3 == [
            (answer.status, answer.body, answer.trailers, answer.complete) for answer in answers
        ]
        assert (200, b"with trailers", None) == (plain.status, plain.body, plain.header("x-sum"))


async def test_what_the_app_sees(pair: Pair) -> None:
    """The app sees version and scheme of the client, and of the server's extensions those that can be carried."""
    seen = []
    for entry in entries(pair):
        async with http2(entry.port) as client:
            seen.append(json.loads((await client.ask(f"{pair.room}/scope?q=1", headers=[("x-a", "b")])).body))
    here, there = seen

    assert [pair.owner.pid] * 2 == [each["pid"] for each in seen]
    assert [("2", "http", "GET", "q=1")] * 2 == [
        (each["http_version"], each["scheme"], each["method"], each["query"]) for each in seen
    ]
    assert here["headers"] == there["headers"]
    assert ["http.response.trailers"] == there["extensions"]
    assert {"http.response.trailers", "http.response.push"} <= set(here["extensions"])  # so that this says something


async def test_bodies(pair: Pair) -> None:
    """Bodies of many requests at a time, with a length and without, go through both hops and are not mixed."""
    for entry in entries(pair):
        async with http2(entry.port) as client:
            bodies = [os.urandom(size) for size in (0, 1, 1000, 65_536, 65_537, 1_000_000) * 2]
            lengths = [[("content-length", str(len(body)))] if number % 2 else [] for number, body in enumerate(bodies)]
            answers = await asyncio.gather(
                *(
                    client.ask(f"{pair.room}/count", "POST", body, headers)
                    for body, headers in zip(bodies, lengths, strict=True)
                )
            )
            long = await client.ask(f"{pair.room}/download?40")

        assert [hashlib.sha256(body).hexdigest() for body in bodies] == [
            json.loads(answer.body)["checksum"] for answer in answers
        ]
        assert (40 * 65_536, True) == (len(long.body), long.complete)


@pytest.mark.parametrize("after", [0.0, 0.3])
async def test_a_stream_that_is_reset(pair: Pair, after: float) -> None:
    """The app hears of a client that wants no answer any more, and the other requests of its connection go on."""
    for entry in entries(pair):
        before = len(pair.replicas.events("disconnected", uid=pair.uid))
        async with http2(entry.port) as client:
            hanging = client.begin(f"{pair.room}/hang", end=True)
            await eventually(lambda before=before: len(pair.replicas.events("hangs")) > before)  # type: ignore[misc]
            slow = asyncio.ensure_future(client.ask(f"{pair.room}/slow?0.8"))
            await asyncio.sleep(after)
            client.reset(hanging)
            assert (await slow).status == 200
            await eventually(
                lambda before=before: len(pair.replicas.events("disconnected", uid=pair.uid)) > before  # type: ignore[misc]
            )


async def test_the_owner_drains(pair: Pair) -> None:
    """At a drain what runs ends, what comes meanwhile is held, and served by the new owner: on one connection."""
    async with http2(pair.edge.port) as client:
        running = asyncio.ensure_future(client.ask(f"{pair.room}/slow?0.6"))
        await pair.replicas.noted("begins", uid=pair.uid)
        pair.owner.send(signal.SIGTERM)
        await asyncio.sleep(0.2)  # it drains now
        held = await asyncio.gather(*(client.ask(f"{pair.room}/count", "POST", b"x" * 1000) for _ in range(5)))
        first = await running
    assert await pair.owner.ended() in ENDED

    assert (200, pair.owner.pid) == (first.status, json.loads(first.body)["pid"])
    assert {(200, pair.edge.pid)} == {(answer.status, json.loads(answer.body)["pid"]) for answer in held}
    assert [3, 4, 5, 6, 7] == sorted(json.loads(answer.body)["count"] for answer in held)


async def test_the_owner_is_killed(pair: Pair) -> None:
    """An answer in the middle of which the owner is killed is never a whole one; what can be is repeated."""
    async with http2(pair.edge.port) as client:
        begun = client.begin(f"{pair.room}/hang?started", end=True)
        repeated = asyncio.ensure_future(client.ask(f"{pair.room}/slow?0.5"))
        await pair.replicas.noted("begins", pid=pair.owner.pid)
        await client.answers[begun].begun.wait()
        pair.owner.kill()
        answer = await repeated
        cut = client.answers[begun]

        assert (200, pair.edge.pid) == (answer.status, json.loads(answer.body)["pid"])
        assert (200, b"begun", False) == (cut.status, cut.body, cut.complete)  # hypercorn does not even reset it
