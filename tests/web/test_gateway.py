"""The gateway: it has no uids of its own, and has each request served by the pod that has its uid."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import h11
import pytest

from tests.waiting import eventually
from tests.web.answering import PIECE
from tests.web.clients import ask, connected, websocket
from tests.web.replicas import ENDED, LEASE, Replicas
from tests.web.test_event_streams import heard, stream
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer
    from tests.web.replicas import Replica

GATEWAY, TO_SESSIONS = "tests.web.gateway_app:gateway", "tests.web.gateway_app:to_sessions"
SESSIONS = "tests.web.apps:sessions"


@pytest.fixture
def replicas(own_server: LocalServer, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    """Provide replicas with a server of their own, which may go away, and of which the keys can be counted."""
    with Replicas(own_server.url, namespace, tmp_path) as own:
        yield own


def with_gateway(
    replicas: Replicas, pods: int = 2, app: str = "tests.web.apps:rooms", gateway: str = GATEWAY, **more: str
) -> tuple[Replica, list[Replica]]:
    """Start a gateway and so many pods; return both."""
    own = replicas.launch(gateway, loop="uvloop", environment=more)
    begun = [replicas.launch(app, environment=more) for _ in range(pods)]
    for each in (own, *begun):
        replicas.wait(each)
    return own, begun


async def test_it_serves_what_the_pods_do(replicas: Replicas) -> None:
    """A new uid is placed on a pod, and served by that one from then on; those of many go to all pods."""
    gateway, pods = with_gateway(replicas)
    await asyncio.sleep(0.5)  # a gateway that started at the same time has seen both by now
    first = [await ask(gateway.port, f"/rooms/u{number}/count") for number in range(20)]
    again = [await ask(gateway.port, f"/rooms/u{number}/count") for number in range(20)]
    direct = [await ask(pods[number % 2].port, f"/rooms/u{number}/count") for number in range(20)]
    known = await ask(gateway.port, "/elsewhere/count", headers=[("X-Session-Id", "u3")])
    without = await ask(gateway.port, "/elsewhere/count")

    assert {200} == {answer.status for answer in first + again + direct}
    assert [answer.json()["pid"] for answer in first] == [answer.json()["pid"] for answer in again]
    assert [1, 2, 3] == sorted({answer.json()["count"] for answer in first + again + direct})
    assert {pod.pid for pod in pods} == {answer.json()["pid"] for answer in first}
    assert (4, "u3") == (known.json()["count"], known.json()["uid"])
    assert (200, None) == (without.status, without.json()["uid"])


async def test_bodies(replicas: Replicas) -> None:
    """Bodies go through in both directions, of any length, with a length and without, and wait for who reads them."""
    gateway, pods = with_gateway(replicas, 1)
    for size in (0, 1000, 5_000_000):
        body = os.urandom(size)
        answer = await ask(gateway.port, "/rooms/one/count", "POST", body)
        assert hashlib.sha256(body).hexdigest() == answer.json()["checksum"]
    async with connected(gateway.port) as http:
        await http.begin("PUT", "/rooms/one/count", [("Transfer-Encoding", "chunked")])
        for _ in range(10):
            await http.send(h11.Data(PIECE))
        await http.send(h11.EndOfMessage())
        answer = await http.response()
    download = await ask(gateway.port, "/rooms/one/download?80")
    assert hashlib.sha256(PIECE * 10).hexdigest() == answer.json()["checksum"]
    assert (True, PIECE * 80) == (download.complete, download.body)
    before = gateway.memory(), pods[0].memory()
    async with connected(gateway.port) as http:
        await http.begin("GET", "/rooms/one/download?800")
        await http.send(h11.EndOfMessage())
        await asyncio.sleep(1.0)  # time for the app to send all, if nobody held it back
        grown = gateway.memory() - before[0], pods[0].memory() - before[1]
        slow = await http.response()

    assert len(PIECE) * 800 == len(slow.body)
    assert max(grown) < 8 * 1024 * 1024


async def test_websockets_and_event_streams(replicas: Replicas) -> None:
    """A WebSocket and an event stream go through, and end when the gateway is told to; their pod hears of it."""
    gateway, pods = with_gateway(replicas, 1)
    async with websocket(gateway.port, "/rooms/one/ws", subprotocols=["a", "b"]) as connection:
        await connection.send("x" * 200_000)
        answer = await connection.recv()
        async with stream(gateway.port, "/rooms/one") as http:
            events = await heard(http, 3)
            gateway.send(signal.SIGTERM)
            code = (await closed(connection))[0]
            events += await heard(http)  # to a clean end
    assert await gateway.ended() in ENDED
    await replicas.noted("ws_closed", pid=pods[0].pid)
    await replicas.noted("stream_ended", pid=pods[0].pid)

    assert (f"{pods[0].pid} {'x' * 200_000}", "b", 1012) == (answer, connection.subprotocol, code)
    assert list(range(1, len(events) + 1)) == [number for number, _ in events]


async def test_it_says_that_it_leaves(replicas: Replicas) -> None:
    """After SIGTERM it goes on to serve for a while, and lets connections go."""
    own = replicas.launch(GATEWAY, stop_after=1.0)
    pod = replicas.launch()
    gateway = replicas.wait(own)
    replicas.wait(pod)
    before = await ask(gateway.port, "/rooms/one/count")
    gateway.send(signal.SIGTERM)
    await asyncio.sleep(0.3)
    during = await ask(gateway.port, "/rooms/one/count")
    assert await gateway.ended() in ENDED

    assert [200, 200] == [before.status, during.status]
    assert (None, "close") == (before.header("connection"), during.header("connection"))


async def test_a_pod_is_killed(replicas: Replicas) -> None:
    """What is safe to repeat is served by the next owner, what is not says why; a WebSocket is told to come again."""
    gateway, _ = with_gateway(replicas)
    owner = replicas.by_pid((await ask(gateway.port, "/rooms/one/count")).json()["pid"])
    async with websocket(gateway.port, "/rooms/one/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        running = [
            asyncio.ensure_future(ask(gateway.port, "/rooms/one/slow?0.5", method)) for method in ("GET", "PUT", "POST")
        ]
        await eventually(lambda: len(replicas.events("begins")) == 3)
        owner.kill()
        code = (await closed(connection))[0]
    get, put, post = await asyncio.gather(*running)
    after = await ask(gateway.port, "/rooms/one/count", "POST", b"x" * 1_000_000)

    other = replicas.all[1] if owner is replicas.all[2] else replicas.all[2]
    assert [(200, other.pid)] * 3 == [(each.status, each.json()["pid"]) for each in (get, put, after)]
    assert (503, "1", 1012) == (post.status, post.header("retry-after"), code)
    assert b"gone" in post.body


async def test_a_pod_drains(replicas: Replicas) -> None:
    """A pod that is told to end hands its uids over, and no request through the gateway fails, nor is one lost."""
    gateway, pods = with_gateway(replicas, WEB_HAND_OFF="0.1")
    counts: dict[str, int] = {}
    done = False

    async def one(uid: str) -> None:
        while not done:
            answer = await ask(gateway.port, f"/rooms/{uid}/count", "POST", b"x")
            assert answer.status == 200, answer
            assert counts.get(uid, 0) + 1 == answer.json()["count"]
            counts[uid] = answer.json()["count"]

    running = [asyncio.ensure_future(one(f"u{number}")) for number in range(10)]
    await eventually(lambda: len(counts) == 10)
    pods[0].send(signal.SIGTERM)
    ended = await pods[0].ended()
    await asyncio.sleep(0.3)  # some more of it
    done = True
    await asyncio.gather(*running)

    assert ended in ENDED


async def test_redis_is_away(replicas: Replicas, own_server: LocalServer) -> None:
    """While Redis is away known uids are served for a lease, new ones get a 503 at once; then all are again."""
    gateway, pods = with_gateway(replicas, 1)
    assert 200 == (await ask(gateway.port, "/rooms/one/count")).status
    own_server.pause()
    known = await ask(gateway.port, "/rooms/one/count")
    began = time.monotonic()
    unknown = await ask(gateway.port, "/rooms/new/count")
    took = time.monotonic() - began
    await asyncio.sleep(LEASE)
    later = await ask(gateway.port, "/rooms/one/count")
    own_server.resume()

    assert (200, 503, "1") == (known.status, unknown.status, unknown.header("retry-after"))
    assert b"Redis does not answer" == unknown.body
    assert took < 5.0
    assert later.status == 503
    async with asyncio.timeout(10.0):
        while (again := await ask(gateway.port, "/rooms/one/count")).status != 200:
            pass
    assert pods[0].pid == again.json()["pid"]


async def test_no_pods(replicas: Replicas) -> None:
    """Without a pod it starts, and answers 503 after its patience; the first that comes is found."""
    gateway = replicas.wait(replicas.launch(GATEWAY, patience=1.0))
    began = time.monotonic()
    answers = await asyncio.gather(ask(gateway.port, "/rooms/one/count"), ask(gateway.port, "/elsewhere"))
    took = time.monotonic() - began
    asking = asyncio.ensure_future(_until_served(gateway.port))
    replicas.wait(replicas.launch())

    assert [(503, "1")] * 2 == [(answer.status, answer.header("retry-after")) for answer in answers]
    assert 0.9 < took < 5.0
    assert await asking == 1


async def _until_served(port: int) -> int:
    async with asyncio.timeout(20.0):
        while True:
            answer = await ask(port, "/rooms/one/count")
            if answer.status == 200:
                count: int = answer.json()["count"]
                return count


async def test_garbage_ids(replicas: Replicas, own_server: LocalServer) -> None:
    """Ids that nobody has made are 404 and leave nothing in Redis; those that the app has made reach it."""
    gateway, pods = with_gateway(replicas, 2, SESSIONS, TO_SESSIONS)
    made = await ask(gateway.port, "/new/header", "POST")
    uid = made.header("x-session") or ""
    keys = own_server.ask("KEYS", "*").split("\n")
    garbage = [await ask(gateway.port, "/use", headers=[("X-Session", f"garbage-{number}")]) for number in range(200)]
    known = [await ask(each.port, "/use", headers=[("X-Session", uid)]) for each in (gateway, *pods)]

    assert {404} == {answer.status for answer in garbage}
    assert sorted(keys) == sorted(own_server.ask("KEYS", "*").split("\n"))
    assert [made.json()["pid"]] * 3 == [answer.json()["pid"] for answer in known]


async def test_another_secret(replicas: Replicas) -> None:
    """A gateway without the secret of the pods does not start, and says what to do; nor does one with another."""
    replicas.wait(replicas.launch(environment={"STATEFUL_ROUTE_SECRET": "a secret of the pods"}))
    replicas.may_fail = True
    for secret in ("", "another secret of them"):
        wrong = replicas.launch(GATEWAY, environment={"STATEFUL_ROUTE_SECRET": secret})
        assert await wrong.ended() == 3  # of uvicorn: the lifespan has failed
        assert "secret" in wrong.text()
        assert "a secret of the pods" not in wrong.text()
    right = replicas.wait(replicas.launch(GATEWAY, environment={"STATEFUL_ROUTE_SECRET": "a secret of the pods"}))

    assert 200 == (await ask(right.port, "/rooms/one/count")).status


async def test_another_service(replicas: Replicas) -> None:
    """A gateway of another service has none of the pods: it holds its requests, and answers 503."""
    gateway = replicas.launch(GATEWAY, service="another", patience=0.3)
    replicas.wait(replicas.launch())
    answer = await ask(replicas.wait(gateway).port, "/rooms/one/count")

    assert 503 == answer.status


@pytest.mark.parametrize("wrong", [{"stop_after": -1}, {"patience": "long"}, {"max_held": -1}, {"service": ""}])
async def test_wrong_settings(replicas: Replicas, wrong: dict[str, Any]) -> None:
    """What is wrong with its settings is said at the start, which fails."""
    replicas.may_fail = True
    gateway = replicas.launch(GATEWAY, **wrong)

    assert await gateway.ended() == 3
    assert next(iter(wrong)) in gateway.text()
