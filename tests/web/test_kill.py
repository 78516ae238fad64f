"""A process that is killed, or stands still: it costs time, and no request that is safe to repeat."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tests.web.clients import ask, websocket
from tests.web.conftest import pair_of
from tests.web.load import under_load
from tests.web.replicas import LEASE
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from tests.web.replicas import Replicas


def served_by_two(replicas: Replicas) -> list[str]:
    """Return what was served with an older epoch after a newer one: by a process that was not the owner any more."""
    newest: dict[str, int] = {}
    wrong = []
    for event in sorted(replicas.events("served"), key=lambda event: event["at"]):
        uid, epoch = event["uid"], event["epoch"]
        if epoch < newest.get(uid, 0):
            wrong.append(f"{uid} at epoch {epoch} after {newest[uid]} by {event['pid']}")
        newest[uid] = max(epoch, newest.get(uid, 0))
    return wrong


async def test_under_load(replicas: Replicas) -> None:
    """A kill under load fails no request that is safe to repeat, and nothing is served by two owners."""
    replicas.start(3)
    async with under_load(replicas, 20, twice=True) as load:
        await asyncio.sleep(0.5)
        replicas.all[1].kill()
        before = load.served
        await eventually(lambda: all(event["pid"] != replicas.all[1].pid for event in last_served(replicas)), 10.0)
        await asyncio.sleep(0.3)  # some more of it

    assert [] == load.failed
    assert load.served > before > 0
    assert load.slowest < 2 * LEASE + 2.0
    assert [] == served_by_two(replicas)


def last_served(replicas: Replicas) -> list[dict[str, Any]]:
    return list({event["uid"]: event for event in replicas.events("served")}.values())


@pytest.mark.parametrize(
    ("method", "headers"), [("GET", []), ("PUT", []), ("DELETE", []), ("POST", [("Idempotency-Key", "1")])]
)
async def test_in_flight_and_safe_to_repeat(replicas: Replicas, method: str, headers: list[tuple[str, str]]) -> None:
    """A request that is safe to repeat, and under way at the owner when that is killed, is served by the next one."""
    replicas.start(2)
    pair = await pair_of(replicas)
    running = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?0.5", method, headers=headers))
    await replicas.noted("begins", pid=pair.owner.pid)
    pair.owner.kill()
    answer = await running

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])


@pytest.mark.parametrize("body", [b"", b"x" * 1000, b"x" * 1_000_000])
async def test_in_flight_and_not_safe_to_repeat(replicas: Replicas, body: bytes) -> None:
    """A POST under way at the owner when that is killed is a 503 that says why and when to come again."""
    replicas.start(2)
    pair = await pair_of(replicas)
    running = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?5", "POST", body))
    await replicas.noted("begins", pid=pair.owner.pid)
    pair.owner.kill()
    answer = await running

    assert (503, "1") == (answer.status, answer.header("retry-after"))
    assert b"gone" in answer.body
    assert 1 == len(replicas.events("begins"))


async def test_not_yet_sent(replicas: Replicas) -> None:
    """A POST that comes when the owner is dead already is held, and served by the next one."""
    replicas.start(2)
    pair = await pair_of(replicas)
    pair.owner.kill()
    answer = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x" * 1_000_000)

    assert (200, pair.edge.pid, 1_000_000) == (answer.status, answer.json()["pid"], answer.json()["size"])


async def test_an_answer_that_has_begun(replicas: Replicas) -> None:
    """An answer in the middle of which the owner is killed is not taken for a whole one."""
    replicas.start(2)
    pair = await pair_of(replicas)
    running = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/hang?started"))
    await replicas.noted("hangs", pid=pair.owner.pid)
    await asyncio.sleep(0.1)  # the beginning is at the client
    pair.owner.kill()
    answer = await running

    assert (200, b"begun", False) == (answer.status, answer.body, answer.complete)


async def test_no_more_are_held_than_may_be(replicas: Replicas) -> None:
    """Of the requests whose owner is dead so many are held as ``max_held`` says; the others are told at once."""
    replicas.start(2, max_held=3)
    pair = await pair_of(replicas)
    pair.owner.kill()
    began = time.monotonic()

    async def one() -> tuple[int, float]:
        answer = await ask(pair.edge.port, f"{pair.room}/count")
        return answer.status, time.monotonic() - began

    answers = await asyncio.gather(*(one() for _ in range(20)))

    assert [200] * 3 + [503] * 17 == sorted(status for status, _ in answers)
    assert all(took < 0.5 * LEASE for status, took in answers if status == 503)


async def test_none_is_held_longer_than_patience(replicas: Replicas) -> None:
    """A request is held for as long as ``patience`` says, and is told then to come again."""
    replicas.start(2, patience=0.4)
    pair = await pair_of(replicas)
    pair.owner.kill()
    began = time.monotonic()
    answer = await ask(pair.edge.port, f"{pair.room}/count")
    took = time.monotonic() - began

    assert (503, "1") == (answer.status, answer.header("retry-after"))
    assert 0.3 < took < 0.4 + LEASE / 2


async def test_the_only_one_left(replicas: Replicas) -> None:
    """The edge takes a uid over itself if nobody else is there."""
    replicas.start(2)
    uids = [f"u{number}" for number in range(20)]
    for uid in uids:
        await ask(replicas.ports[0], f"/rooms/{uid}/count")
    replicas.all[1].kill()
    answers = await asyncio.gather(*(ask(replicas.ports[0], f"/rooms/{uid}/count") for uid in uids))

    assert {(200, replicas.all[0].pid)} == {(answer.status, answer.json()["pid"]) for answer in answers}


async def test_an_owner_that_stands_still(replicas: Replicas) -> None:
    """A request whose owner stands still is served by the next one, once the lease has ended."""
    replicas.start(2)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")  # so that there is a connection between the two
    pair.owner.send(signal.SIGSTOP)
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])


async def test_one_that_stood_still_serves_nothing_of_others(replicas: Replicas) -> None:
    """A process that stood still beyond its lease, under load, serves nothing that another one has meanwhile."""
    replicas.start(3)
    async with under_load(replicas, 15, twice=True) as load:
        await asyncio.sleep(0.5)
        stopped = replicas.all[0]
        stopped.send(signal.SIGSTOP)
        stopped.in_rotation = False  # what it has taken waits there
        other = replicas.other(stopped)
        taken = await asyncio.gather(*(ask(other.port, f"/rooms/{uid}/count") for uid in list(load.counts)))
        assert stopped.pid not in {answer.json()["pid"] for answer in taken}
        served = load.served
        stopped.send(signal.SIGCONT)
        stopped.in_rotation = True
        await eventually(lambda: load.served > served + 200, 15.0)

    assert [] == served_by_two(replicas)
    assert [] == load.failed


async def test_its_websockets_are_closed(replicas: Replicas) -> None:
    """The WebSockets of a process that stood still beyond its lease are closed for the uids that it has lost."""
    replicas.start(2)
    pair = await pair_of(replicas)
    async with websocket(pair.owner.port, f"{pair.room}/ws", ping_interval=None) as here:
        async with websocket(pair.edge.port, f"{pair.room}/ws", ping_interval=None) as there:
            for connection in (here, there):
                await connection.send("there?")
                await connection.recv()
            pair.owner.send(signal.SIGSTOP)
            taken = await ask(pair.edge.port, f"{pair.room}/count")
            assert (200, pair.edge.pid) == (taken.status, taken.json()["pid"])
            await here.send("to one that stands still")
            pair.owner.send(signal.SIGCONT)
            assert 1012 == (await closed(here))[0]
            assert 1012 == (await closed(there))[0]

    assert [] == served_by_two(replicas)
    await replicas.noted("ws_closed", pid=pair.owner.pid)


async def test_a_short_stop(replicas: Replicas) -> None:
    """A process that stands still for less than its lease keeps its uids, and its WebSockets go on."""
    replicas.start(2)
    pair = await pair_of(replicas)
    async with websocket(pair.owner.port, f"{pair.room}/ws", ping_interval=None) as connection:
        pair.owner.send(signal.SIGSTOP)
        await asyncio.sleep(LEASE / 3)
        pair.owner.send(signal.SIGCONT)
        await connection.send("still")
        answer = await connection.recv()
    after = await ask(pair.edge.port, f"{pair.room}/count")

    assert (f"{pair.owner.pid} still", pair.owner.pid) == (answer, after.json()["pid"])
