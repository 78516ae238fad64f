"""A process that is told to end: no request fails, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import h11
import pytest

from tests.waiting import eventually
from tests.web.clients import ask, connected, websocket
from tests.web.conftest import pair_of
from tests.web.load import under_load
from tests.web.replicas import ENDED, LOOPS
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from tests.web.conftest import Pair
    from tests.web.replicas import Replica, Replicas


async def drained_pair(replicas: Replicas, hand_off: str = "0.2", **more: Any) -> Pair:
    """Start two replicas with a hand-off that takes so many seconds, and place a uid."""
    replicas.start(2, environment={"WEB_HAND_OFF": hand_off} | more.pop("environment", {}), **more)
    return await pair_of(replicas)


@pytest.fixture(params=["at the owner", "at the other one"])
def arrives(request: pytest.FixtureRequest) -> str:
    """Say at which of the two requests arrive."""
    return str(request.param)


def entry_of(pair: Pair, arrives: str) -> Replica:
    return pair.owner if arrives == "at the owner" else pair.edge


async def test_long_requests_end_first(replicas: Replicas, arrives: str) -> None:
    """A request that runs at the drain ends before the hand-off; what comes meanwhile is held, and loses nothing."""
    pair = await drained_pair(replicas)
    entry = entry_of(pair, arrives)
    running = asyncio.ensure_future(ask(entry.port, f"{pair.room}/slow?1.0"))
    await replicas.noted("begins", uid=pair.uid)
    pair.owner.send(signal.SIGTERM)
    await asyncio.sleep(0.3)  # it drains now
    held = await asyncio.gather(*(ask(entry.port, f"{pair.room}/count") for _ in range(5)))
    first = await running

    assert (200, pair.owner.pid, 2) == (first.status, first.json()["pid"], first.json()["count"])
    assert [200] * 5 == [answer.status for answer in held]
    assert {pair.edge.pid} == {answer.json()["pid"] for answer in held}
    assert [3, 4, 5, 6, 7] == sorted(answer.json()["count"] for answer in held)
    order = [event["event"] for event in replicas.events(uid=pair.uid) if event["event"] != "begins"]
    assert ["served", "served", "hand_off", "handed_off", *["served"] * 5] == order
    assert await pair.owner.ended() in ENDED


async def test_a_post_with_a_long_body_is_held_too(replicas: Replicas, arrives: str) -> None:
    """A body that comes during a hand-off waits at the client, and goes whole to the new owner."""
    pair = await drained_pair(replicas, "0.6")
    entry = entry_of(pair, arrives)
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    answers = await asyncio.gather(
        ask(entry.port, f"{pair.room}/count", "POST", b"x" * 3_000_000),
        ask(entry.port, f"{pair.room}/count", "POST", b"y" * 10),
    )

    assert [(200, pair.edge.pid, 3_000_000), (200, pair.edge.pid, 10)] == [
        (answer.status, answer.json()["pid"], answer.json()["size"]) for answer in answers
    ]


async def test_websockets_are_closed(replicas: Replicas, arrives: str) -> None:
    """A WebSocket is closed with 1012 when its uid goes; one that connects meanwhile reaches the new owner."""
    pair = await drained_pair(replicas)
    entry = entry_of(pair, arrives)
    async with websocket(entry.port, f"{pair.room}/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        pair.owner.send(signal.SIGTERM)
        assert 1012 == (await closed(connection))[0]
    async with websocket(pair.edge.port, f"{pair.room}/ws") as again:
        await again.send("back")
        answer = await again.recv()

    assert f"{pair.edge.pid} back" == answer
    assert 1012 == replicas.events("ws_closed", uid=pair.uid)[0]["code"]


async def test_websockets_are_closed_where_they_arrived(replicas: Replicas) -> None:
    """A process that ends closes the WebSockets that it carries for others with 1012."""
    pair = await drained_pair(replicas)
    async with websocket(pair.edge.port, f"{pair.room}/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        pair.edge.send(signal.SIGTERM)
        assert 1012 == (await closed(connection))[0]
    await replicas.noted("ws_closed", uid=pair.uid, pid=pair.owner.pid)

    assert await pair.edge.ended() in ENDED


async def test_they_are_closed_one_after_the_other(replicas: Replicas) -> None:
    """Those that a process carries, or serves without a uid, end by turns while it goes on to serve, all with 1012."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0"}, stop_after=0.5)
    pair = await pair_of(replicas)
    ended: list[float] = []

    async def one(room: str) -> int:
        async with websocket(pair.edge.port, f"{room}/ws", ping_interval=None) as connection:
            await connection.send("there?")
            await connection.recv()
            open_ones.add(connection)
            code = (await closed(connection))[0]
            ended.append(time.monotonic())
            return code

    open_ones: set[Any] = set()
    running = asyncio.gather(*(one(room) for room in (pair.room, "/elsewhere") for _ in range(30)))
    await eventually(lambda: len(open_ones) == 60)
    pair.edge.send(signal.SIGTERM)
    codes = await running
    assert await pair.edge.ended() in ENDED

    assert {1012} == set(codes)
    assert ended[-1] - ended[0] > 0.2  # 60 times 5 ms, but for what the machine makes of it


@pytest.mark.parametrize("loop", LOOPS)
async def test_what_was_accepted_is_served(replicas: Replicas, loop: str) -> None:
    """Once nobody can connect any more, a request still comes in on a connection that was there, and is served."""
    replicas.start(2, loop=loop)
    leaving, other = replicas.all
    async with connected(leaving.port) as http:
        leaving.send(signal.SIGTERM)
        await eventually(lambda: not leaving.listens())
        await http.begin("POST", "/rooms/one/count", [("Content-Length", "0")])
        await http.send(h11.EndOfMessage())
        answer = await http.response()
    assert await leaving.ended() in ENDED

    assert (200, other.pid, "close") == (answer.status, answer.json()["pid"], answer.header("connection"))


async def test_each_uid_is_handed_off_once(replicas: Replicas) -> None:
    """Each uid that was served here is handed off once, and released: another process has it at once."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0.05"})
    answers = await asyncio.gather(*(ask(replicas.ports[0], f"/rooms/u{number}/count") for number in range(40)))
    leaving = replicas.all[0]
    owned = [f"u{number}" for number, answer in enumerate(answers) if answer.json()["pid"] == leaving.pid]
    leaving.send(signal.SIGTERM)
    assert await leaving.ended() in ENDED
    after = await asyncio.gather(*(ask(replicas.ports[0], f"/rooms/u{number}/count") for number in range(40)))

    assert owned
    assert sorted(owned) == sorted(event["uid"] for event in replicas.events("hand_off"))
    assert {2} == {answer.json()["count"] for answer in after}


async def test_each_uid_is_handed_off_once_under_load(replicas: Replicas) -> None:
    """No uid comes back to a process that leaves, be it asked for all the time."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0.01"}, stop_after=0.5)
    await asyncio.sleep(0.5)  # until the pods know of each other
    async with under_load(replicas, 20) as load:
        await eventually(lambda: load.served > 100)
        replicas.all[0].send(signal.SIGTERM)
        assert await replicas.all[0].ended() in ENDED

    handed_off = [event["uid"] for event in replicas.events("hand_off")]
    assert ([], []) == (load.failed, load.lost)
    assert len(handed_off) == len(set(handed_off)) > 0


async def test_a_hand_off_that_raises(replicas: Replicas) -> None:
    """A hand-off that raises is logged, and the uid goes all the same: it is served by the other process."""
    replicas.may_fail = True
    pair = await drained_pair(replicas, "raises")
    pair.owner.send(signal.SIGTERM)
    assert await pair.owner.ended() in ENDED
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])
    assert 1 == len(replicas.events("hand_off", uid=pair.uid))
    assert "hand-off" in pair.owner.text()


async def test_a_hand_off_that_hangs(replicas: Replicas) -> None:
    """A hand-off that hangs is cut off at the deadline of the drain; the uid is served all the time, here or there."""
    pair = await drained_pair(replicas, "hangs", environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": "1"})
    began = time.monotonic()
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    during = await ask(pair.edge.port, f"{pair.room}/count")
    assert await pair.owner.ended() in ENDED
    took = time.monotonic() - began
    after = await ask(pair.edge.port, f"{pair.room}/count")

    assert [200, 200] == [during.status, after.status]
    assert pair.edge.pid == after.json()["pid"]
    assert 1.0 < took < 5.0
    assert 1 == len(replicas.events("hand_off", uid=pair.uid))


async def test_a_request_that_is_longer_than_the_deadline(replicas: Replicas, arrives: str) -> None:
    """A request that runs longer than the drain may ends all the same, where it runs."""
    pair = await drained_pair(replicas, environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": "0.5"})
    running = asyncio.ensure_future(ask(entry_of(pair, arrives).port, f"{pair.room}/slow?2.0"))
    await replicas.noted("begins", uid=pair.uid)
    pair.owner.send(signal.SIGTERM)
    answer = await running

    assert (200, pair.owner.pid) == (answer.status, answer.json()["pid"])
    assert await pair.owner.ended() in ENDED


async def test_a_second_signal(replicas: Replicas) -> None:
    """A second signal ends the wait for the drain: the web server stops at once, and what is left is handed over."""
    pair = await drained_pair(replicas, "2.5", environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": "20"})
    pair.owner.send(signal.SIGTERM)
    await replicas.noted("hand_off", uid=pair.uid)
    await asyncio.sleep(1.1)  # before that it is the first one again
    pair.owner.send(signal.SIGTERM)
    await eventually(lambda: not pair.owner.listens(), 2.0)
    assert await pair.owner.ended() in ENDED
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert (2, 1) == (answer.json()["count"], len(replicas.events("hand_off", uid=pair.uid)))


async def test_release(replicas: Replicas) -> None:
    """Without a hand-off, uids are released at once: they are served by the other process, and no request fails."""
    replicas.start(2, drain="release")
    pair = await pair_of(replicas)
    async with under_load(replicas, 10, twice=True) as load:
        await asyncio.sleep(0.5)
        before = load.served
        pair.owner.send(signal.SIGTERM)
        assert await pair.owner.ended() in ENDED
        await asyncio.sleep(0.5)

    assert [] == load.failed
    assert load.served > before > 0
    assert pair.edge.pid == (await ask(pair.edge.port, f"{pair.room}/count")).json()["pid"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_rolling_restart(replicas: Replicas, method: str) -> None:
    """Three replicas restart one by one under load: no request fails, and no session is lost."""
    replicas.start(3, environment={"WEB_HAND_OFF": "0.05"})
    async with under_load(replicas, 20, method) as load:
        for replica in replicas.all[:3]:
            await asyncio.sleep(0.5)
            replica.send(signal.SIGTERM)
            assert await replica.ended() in ENDED
            await asyncio.to_thread(replicas.again, replica)
        await asyncio.sleep(0.5)

    assert ([], []) == (load.failed, load.lost)
    assert 20 == len(load.counts)
    assert load.unanswered < load.served / 50
    assert load.slowest < 3.0


async def test_the_last_one(replicas: Replicas) -> None:
    """The last process hands its uids off and ends; the next one goes on with what was saved."""
    replicas.start(1, environment={"WEB_HAND_OFF": "0"})
    only = replicas.all[0]
    await ask(only.port, "/rooms/alone/count")
    only.send(signal.SIGTERM)
    assert await only.ended() in ENDED
    again = await asyncio.to_thread(replicas.again, only)
    answer = await ask(again.port, "/rooms/alone/count")

    assert (200, 2) == (answer.status, answer.json()["count"])
