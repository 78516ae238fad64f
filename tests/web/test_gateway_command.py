"""``stateful-route gateway``: a balancer of its own, with several workers on one port."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import h11
import psutil
import pytest

from tests.waiting import eventually
from tests.web.clients import ask, connected, websocket
from tests.web.replicas import LEASE, free_port
from tests.web.runs import COMMAND, child_of, kill

if TYPE_CHECKING:
    from tests.web.replicas import Replica, Replicas
    from tests.web.runs import Runs

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)

UIDS = [f"g{number}" for number in range(20)]
BIG = 5 * 1024 * 1024


async def begun(replicas: Replicas, *options: str, service: str = "room", uid: str = "path:/rooms/{uid}") -> Replica:
    """Start a gateway, and return it once it serves."""
    return await replicas.serves(launch(replicas, *options, service=service, uid=uid))


def launch(replicas: Replicas, *options: str, service: str = "room", uid: str = "path:/rooms/{uid}") -> Replica:
    port = free_port()
    fixed = ["--service", service, "--uid", uid, "--host", "127.0.0.1", "--port", str(port)]
    return replicas.run([*COMMAND, "gateway", *fixed, *options], port)


async def test_metrics(replicas: Replicas) -> None:
    """At the path that --metrics names it says what it has done."""
    replicas.start(1)
    gateway = await begun(replicas, "--metrics", "/metrics")
    assert 200 == (await ask(gateway.port, "/rooms/one/count")).status
    page = await ask(gateway.port, "/metrics")
    gateway.send(signal.SIGTERM)

    assert 200 == page.status
    assert b'stateful_route_web_forwarded_total{source="web"} 1.0' in page.body
    assert 0 == await gateway.ended()


async def test_two_workers(replicas: Replicas) -> None:
    """Whichever worker a request comes to, the pod of its uid serves it; bodies, events and WebSockets too."""
    replicas.start(2)
    pids = {pod.pid for pod in replicas.all}
    gateway = await begun(replicas, "--workers", "2")
    await eventually(lambda: len(psutil.Process(gateway.pid).children()) >= 2)
    owners: dict[str, set[int]] = {uid: set() for uid in UIDS}
    for _ in range(4):
        answers = await asyncio.gather(*(ask(gateway.port, f"/rooms/{uid}/count") for uid in UIDS))
        for uid, answer in zip(UIDS, answers, strict=True):
            assert 200 == answer.status
            owners[uid].add(answer.json()["pid"])
    assert all(len(seen) == 1 for seen in owners.values())
    assert pids == {pid for seen in owners.values() for pid in seen}

    (owner,) = owners[UIDS[0]]
    posted = await ask(gateway.port, f"/rooms/{UIDS[0]}/count", "POST", b"x" * BIG)
    assert (200, BIG) == (posted.status, posted.json()["size"])
    async with websocket(gateway.port, f"/rooms/{UIDS[0]}/ws") as socket:
        await socket.send("hello")
        assert f"{owner} hello" == await socket.recv()
    async with connected(gateway.port) as http:
        await http.begin("GET", f"/rooms/{UIDS[0]}/events")
        await http.send(h11.EndOfMessage())
        assert 200 == (await http.head()).status_code
        assert await anext(http.parts())

    gateway.send(signal.SIGTERM)
    assert 0 == await gateway.ended()


async def test_a_pod_is_killed(replicas: Replicas) -> None:
    """A kill of a pod costs time, and no request that is safe to repeat."""
    replicas.start(2)
    gateway = await begun(replicas)
    answers = [await ask(gateway.port, f"/rooms/{uid}/count") for uid in UIDS]
    victim = replicas.by_pid(answers[0].json()["pid"])
    other = replicas.all[1 - replicas.all.index(victim)]
    victim.kill()
    again = await asyncio.gather(*(ask(gateway.port, f"/rooms/{uid}/count") for uid in UIDS))

    assert {(200, other.pid)} == {(answer.status, answer.json()["pid"]) for answer in again}


async def test_in_front_of_runs(runs: Runs) -> None:
    """Apps under ``run`` are its pods too; a kill of one costs some 10 ms, for requests with a uid and without."""
    two = await runs.start(2, STATEFUL_ROUTE_LEASE="20", STATEFUL_ROUTE_HEARTBEAT="1")
    gateway = launch(runs.replicas, service="demo", uid="query:uid")
    await runs.replicas.serves(gateway)
    answers = [await ask(gateway.port, f"/count?uid={uid}") for uid in UIDS]
    victim = runs.by_child(answers[0].json()["pid"])
    assert victim in two
    old = child_of(victim)
    kill(old)
    began = time.monotonic()
    asking = [ask(gateway.port, f"/count?uid={uid}") for uid in UIDS] + [ask(gateway.port, "/count") for _ in UIDS]
    again = await asyncio.gather(*asking)

    assert {200} == {answer.status for answer in again}
    assert old not in {answer.json()["pid"] for answer in again}
    assert time.monotonic() - began < 5


async def test_no_pods(replicas: Replicas) -> None:
    """Without a pod a request gets a 503 when its patience has ended; the next pod is found."""
    gateway = await begun(replicas, "--patience", "0.3")
    answers = await asyncio.gather(ask(gateway.port, "/rooms/a/count"), ask(gateway.port, "/other"))
    assert {503} == {answer.status for answer in answers}
    replicas.start(1)

    async def served() -> bool:
        return (await ask(gateway.port, "/rooms/a/count")).status == 200

    await eventually(served, 5 * LEASE)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_its_end(replicas: Replicas, workers: str, number: signal.Signals) -> None:
    """A signal ends it cleanly, with the status 0, once the requests under way have ended."""
    replicas.start(1)
    gateway = await begun(replicas, "--workers", workers)
    await eventually(lambda: workers == "1" or len(psutil.Process(gateway.pid).children()) >= 2)
    asking = asyncio.ensure_future(ask(gateway.port, "/rooms/a/slow?0.8"))
    await asyncio.sleep(0.4)  # it is under way
    family = psutil.Process(gateway.pid).children(recursive=True)
    gateway.send(number)
    answer = await asking

    assert 200 == answer.status
    assert 0 == await gateway.ended()
    await eventually(lambda: not any(process.is_running() for process in family))
    assert "Traceback" not in gateway.text()


WRONG = {
    "a bad uid": (["--uid", "kookie:sid"], "kookie:sid"),
    "a bad service": (["--service", ""], "service"),
    "a bad patience": (["--patience", "-1"], "patience"),
    "a secret file": (["--secret-file", "/no/such/file"], "/no/such/file"),
    "no redis": (["--redis", "http://x"], "url"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong(replicas: Replicas, name: str) -> None:
    """What is wrong is said in one line, with the status 2."""
    options, words = WRONG[name]
    gateway = launch(replicas, *options)
    code = await gateway.ended()
    lines = gateway.text().splitlines()

    assert 2 == code
    assert 1 == len(lines), lines
    assert words in lines[0]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_redis_away_at_the_start(replicas: Replicas, workers: str) -> None:
    """If Redis is not reached for ten seconds it ends, with the status 3."""
    replicas.url = f"redis://127.0.0.1:{free_port()}"
    gateway = launch(replicas, "--workers", workers)

    assert 3 == await gateway.ended(60)
    assert "Traceback" not in gateway.text()
