"""A gateway in front of pods that know nothing of the middleware, and serve HTTP at an address of their own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tests.web.clients import ask, websocket
from tests.web.replicas import Replica, Replicas, free_port
from tests.web.runs import COMMAND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.web.clients import Response

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)

_MOST = 5.0
BIG = 5 * 1024 * 1024


def start_pods(replicas: Replicas, ports: Sequence[int] = ()) -> None:
    """Start two pods, each with an index of its own; those whose ports are given publish no address."""
    for index in range(2):
        port = ports[index] if ports else free_port()
        environment = {"STATEFUL_ROUTE_SERVICE_NAME": "room", "STATEFUL_ROUTE_POD_INDEX": str(index)}
        if not ports:
            environment["STATEFUL_ROUTE_ADDRESS"] = f"http://127.0.0.1:{port}"
        replicas.launch("tests.web.apps:by_hand", port=port, environment=environment)
    for replica in list(replicas.all):
        replicas.wait(replica)


async def gateway_of(replicas: Replicas, *options: str, uid: str = "path:/rooms/{uid}") -> Replica:
    port = free_port()
    fixed = ["--service", "room", "--uid", uid, "--host", "127.0.0.1", "--port", str(port)]
    return await replicas.serves(replicas.run([*COMMAND, "gateway", *fixed, *options], port))


async def count(gateway: Replica, uid: str, method: str = "GET", body: bytes | None = None) -> Response:
    return await ask(gateway.port, f"/rooms/{uid}/count", method, body)


async def test_pods_by_hand(replicas: Replicas) -> None:
    """Each uid is served by one pod, which hears for which pod and at which epoch; long bodies and WebSockets too."""
    start_pods(replicas)
    gateway = await gateway_of(replicas)
    seen = {uid: (await count(gateway, uid)).json() for uid in (f"r{number}" for number in range(12))}
    assert {replica.pid for replica in replicas.all[:2]} == {one["pid"] for one in seen.values()}

    headers = [("X-Link-Epoch", "1"), ("X-Pod-Index", "7"), ("X_Link_Epoch", "1"), ("X-Pod_Index", "7")]
    headers.append(("Connection", "X-Link-Epoch, X-Pod-Index"))
    again = (await ask(gateway.port, "/rooms/r1/count", "POST", b"x" * BIG, headers)).json()
    told = again["told"]
    assert (seen["r1"]["pid"], 2, BIG) == (again["pid"], again["count"], again["size"])
    assert told["x-pod-index"] in {"0", "1"}
    assert int(told["x-link-epoch"]) > 1
    assert [] == [name for name in told if "_" in name]
    async with websocket(gateway.port, "/rooms/r1/ws") as socket:
        await socket.send("hello")
        assert await asyncio.wait_for(socket.recv(), _MOST)


async def test_by_a_template(replicas: Replicas) -> None:
    """A template says where pods are that publish nothing, by their indexes."""
    tens = ports_in_a_row() // 10
    start_pods(replicas, ports=[10 * tens, 10 * tens + 1])
    gateway = await gateway_of(replicas, "--address", f"127.0.0.1:{tens}{{pod_index}}")

    answers = [await count(gateway, f"r{number}") for number in range(12)]

    assert {200} == {answer.status for answer in answers}
    assert {replica.pid for replica in replicas.all[:2]} == {answer.json()["pid"] for answer in answers}


def ports_in_a_row() -> int:
    """Return a port that ends in 0 and is free, as the next one is."""
    while True:
        port = free_port() // 10 * 10
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


async def test_an_id_that_a_pod_makes(replicas: Replicas) -> None:
    """An id in an answer is linked to the pod that made it before the client has it; garbage is not."""
    start_pods(replicas)
    gateway = await gateway_of(replicas, uid="response-header:x-session")
    for _ in range(6):
        made = await ask(gateway.port, "/new", "POST", b"")
        session = made.header("x-session") or ""
        for _ in range(4):
            used = await ask(gateway.port, "/use", headers=[("X-Session", session)])
            assert (200, made.json()["pid"], True) == (used.status, used.json()["pid"], used.json()["known"])

    assert 404 == (await ask(gateway.port, "/use", headers=[("X-Session", "garbage")])).status


async def test_a_pod_that_is_killed(replicas: Replicas) -> None:
    """A request that is safe to repeat is held and served by the other pod; one that is not gets an error."""
    start_pods(replicas)
    gateway = await gateway_of(replicas)
    owner = replicas.by_pid((await count(gateway, "r1")).json()["pid"])
    safe = asyncio.ensure_future(ask(gateway.port, "/rooms/r1/slow"))
    unsafe = asyncio.ensure_future(ask(gateway.port, "/rooms/r1/slow", "POST", b"x"))
    await eventually(lambda: len(replicas.events("begins", uid="r1")) == 2, _MOST)
    owner.kill()

    assert (502, 200) == ((await unsafe).status, (await safe).status)
    assert (await safe).json()["pid"] != owner.pid
    assert 200 == (await count(gateway, "r1", "POST", b"x")).status


async def test_a_pod_that_says_no(replicas: Replicas) -> None:
    """An answer 421 says that the uid is another pod's: the gateway asks Redis, and goes there."""
    start_pods(replicas)
    gateway, other = await gateway_of(replicas), await gateway_of(replicas)
    for one in (gateway, other):
        owner = replicas.by_pid((await count(one, "r1")).json()["pid"])
    owner.kill()
    assert (await count(other, "r1")).status == 200  # it is taken over

    answer = await count(gateway, "r1", "POST", b"x")

    assert (200, False) == (answer.status, answer.json()["pid"] == owner.pid)


async def test_a_pod_that_says_no_is_there(replicas: Replicas) -> None:
    """A long request that a pod says no to is answered 503, and the pod is not taken for one that is not reached."""
    start_pods(replicas)
    gateway = await gateway_of(replicas)
    await count(gateway, "r1")
    refused = await ask(gateway.port, "/rooms/r1/count", "POST", b"x" * BIG, [("X-Refuse", "1")])
    after = [await count(gateway, f"n{number}") for number in range(12)]

    assert (503, {200}) == (refused.status, {answer.status for answer in after})
    assert {replica.pid for replica in replicas.all[:2]} == {answer.json()["pid"] for answer in after}


async def test_no_such_template(replicas: Replicas) -> None:
    """A template with a field that there is not ends the command with one line."""
    port = free_port()
    fixed = ["--service", "room", "--uid", "path:/rooms/{uid}", "--port", str(port), "--address", "{ip}:80"]
    gateway = replicas.run([*COMMAND, "gateway", *fixed], port)

    assert 2 == await gateway.ended()
    assert "{pod_index}" in gateway.text()
    assert "Traceback" not in gateway.text()
