"""``stateful-route run``: an app that knows nothing of us, right at three copies."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING

import h11
import pytest

from tests.waiting import eventually
from tests.web.clients import NoAnswerError, ask, connected
from tests.web.replicas import LEASE
from tests.web.runs import child_of, gone, kill

if TYPE_CHECKING:
    from tests.web.clients import Response
    from tests.web.replicas import Replica
    from tests.web.runs import Runs

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)

UIDS = [f"u{number}" for number in range(30)]
LONG = "20"
"""A lease that no test waits for."""


async def use(run: Replica, uid: str, old: int, since: list[float]) -> float:
    """Send requests for a uid all the time, until another app serves it; return after how many seconds that was."""
    while True:
        answer = await ask(run.port, f"/count?uid={uid}")
        assert answer.status == 200, answer
        if answer.json()["pid"] != old:
            return time.monotonic() - since[0]
        await asyncio.sleep(0.005)  # others run too


async def test_sticky(runs: Runs) -> None:
    """A uid is served by one app, wherever it arrives; all apps get some."""
    three = await runs.start(3)
    turns = itertools.cycle(three)
    seen: dict[str, set[int]] = {uid: set() for uid in UIDS}
    last: dict[str, int] = {}
    for _ in range(6):
        for uid in UIDS:
            answer = await ask(next(turns).port, f"/count?uid={uid}", "POST", b"x" * 100_000)
            seen[uid].add(answer.json()["pid"])
            last[uid] = answer.json()["count"]
            assert answer.json()["length"] == 100_000

    assert all(len(pids) == 1 for pids in seen.values())
    assert {6} == set(last.values())
    assert {child_of(run) for run in three} == {pid for pids in seen.values() for pid in pids}


async def test_what_the_app_is_told(runs: Runs) -> None:
    """The app gets the host and the headers of the client, from where it arrived as from its own front."""
    two = await runs.start(2)
    for run in two:
        answer = await ask(run.port, "/count?uid=a", headers=[("x-forwarded-for", "203.0.113.5"), ("x-own", "1")])
        headers = {name.lower(): value for name, value in answer.json()["headers"].items()}

        assert ("tests", "1") == (headers["host"], headers["x-own"])
        assert ("203.0.113.5", "http") == (headers["x-forwarded-for"], headers["x-forwarded-proto"])


async def test_the_app_is_killed(runs: Runs) -> None:
    """After a kill -9 of an app all its uids are served elsewhere at once, and no GET fails."""
    three = await runs.start(3, STATEFUL_ROUTE_LEASE=LONG, STATEFUL_ROUTE_HEARTBEAT="1")
    owned = await runs.owners(UIDS, three[0])
    victim = runs.by_child(owned[UIDS[0]])
    old = child_of(victim)
    mine = [uid for uid in UIDS if owned[uid] == old]
    since = [time.monotonic()]
    using = [asyncio.ensure_future(use(three[number % 3], uid, old, since)) for number, uid in enumerate(mine)]
    await asyncio.sleep(0.3)  # all of them are at it
    since[0] = time.monotonic()
    kill(old)
    async with asyncio.timeout(15):
        took = await asyncio.gather(*using)

    assert max(took) < float(LONG) / 10, sorted(took)  # some 20 ms on an idle machine
    assert "its uids go to other pods" in victim.text()
    await eventually(lambda: "the app is there again" in victim.text())
    assert (await ask(victim.port, "/count")).json()["pid"] == child_of(victim)


async def test_posts_when_the_app_is_killed(runs: Runs) -> None:
    """A POST that an app had when it was killed is 502 or served, and never twice."""
    two = await runs.start(2)
    owned = await runs.owners(UIDS[:8], two[0])
    old = owned[UIDS[0]]
    mine = [uid for uid in UIDS[:8] if owned[uid] == old]

    async def post(number: int, uid: str) -> Response | None:
        try:
            return await ask(two[number % 2].port, f"/slow?uid={uid}&id={uid}&seconds=0.6", "POST", b"x")
        except NoAnswerError:
            return None

    posting = [asyncio.ensure_future(post(number, uid)) for number, uid in enumerate(mine)]
    posting.append(asyncio.ensure_future(ask(runs.by_child(old).port, "/slow?id=none&seconds=0.6", "POST", b"x")))
    await eventually(lambda: len(runs.replicas.events("posted", pid=old)) == len(posting))
    kill(old)
    answers = await asyncio.gather(*posting)
    posted = [event["id"] for event in runs.replicas.events("posted")]

    assert {502} == {answer.status for answer in answers if answer is not None}
    assert len(posted) == len(set(posted)) == len(posting)


async def test_gets_when_the_app_is_killed(runs: Runs) -> None:
    """A GET that an app had when it was killed goes to the next owner."""
    two = await runs.start(2)
    owned = await runs.owners(UIDS[:8], two[0])
    old = owned[UIDS[0]]
    mine = [uid for uid in UIDS[:8] if owned[uid] == old]
    asking = [
        asyncio.ensure_future(ask(two[number % 2].port, f"/slow?uid={uid}&seconds=0.5"))
        for number, uid in enumerate(mine)
    ]
    asking.append(asyncio.ensure_future(ask(runs.by_child(old).port, "/slow?seconds=0.5")))
    await asyncio.sleep(0.2)  # the app has them
    kill(old)
    answers = await asyncio.gather(*asking)

    assert {200} == {answer.status for answer in answers}
    assert old not in {answer.json()["pid"] for answer in answers}


@pytest.mark.parametrize("target", ["/die?status=9", "/die?status=9&uid=a"])
async def test_a_request_that_kills(runs: Runs, target: str) -> None:
    """A GET by which apps end is given to two of them at most."""
    three = await runs.start(3)
    answer = await ask(three[0].port, target)

    assert 502 == answer.status
    assert 2 >= sum(run.text().count("has ended with status 9") for run in three)


@pytest.mark.parametrize("target", ["/count", "/count?uid=new"])
async def test_one_copy(runs: Runs, target: str) -> None:
    """With one copy only, a kill of the app costs time, and no request, with a uid or without."""
    (run,) = await runs.start(1)
    for _ in range(3):
        kill(child_of(run))
        answers = await asyncio.gather(*(ask(run.port, target) for _ in range(5)))
        assert {200} == {answer.status for answer in answers}, answers

    posted = await ask(run.port, "/count?id=1", "POST", b"x" * 200_000)
    assert (200, 200_000) == (posted.status, posted.json()["length"])


async def test_the_supervisor_is_killed(runs: Runs) -> None:
    """After a kill -9 of the supervisor its uids are taken over when its lease has ended, and no GET fails."""
    three = await runs.start(3)
    owned = await runs.owners(UIDS, three[0])
    victim = runs.by_child(owned[UIDS[0]])
    old = child_of(victim)
    mine = [uid for uid in UIDS if owned[uid] == old]
    others = [run for run in three if run is not victim]
    since = [time.monotonic()]
    using = [asyncio.ensure_future(use(others[number % 2], uid, old, since)) for number, uid in enumerate(mine)]
    await asyncio.sleep(0.2)  # all of them are at it
    since[0] = time.monotonic()
    kill(victim.pid)
    async with asyncio.timeout(20):
        took = await asyncio.gather(*using)

    assert gone(old)
    assert min(took) > LEASE / 3
    assert max(took) < 5 * LEASE


async def test_it_lingers(runs: Runs) -> None:
    """At SIGTERM old uids are served until they are idle, new ones elsewhere; then the app is told to end."""
    two = await runs.start(2, "--linger-idle", "1", child=["term=0"])
    owned = await runs.owners(UIDS[:10], two[0])
    leaving = runs.by_child(owned["u0"])
    other = runs.replicas.other(leaving)
    old = child_of(leaving)
    leaving.send(signal.SIGTERM)
    await asyncio.sleep(0.3)  # the other one knows it
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        assert old == (await ask(other.port, "/count?uid=u0")).json()["pid"]
        assert old != (await ask(other.port, f"/count?uid=new-{time.monotonic()}")).json()["pid"]
        assert leaving.running
        await asyncio.sleep(0.1)  # a user that comes all the time
    assert [] == runs.replicas.events("term")
    code, lines = await runs.ended(leaving)
    answer = await ask(other.port, "/count?uid=u0")

    assert 0 == code, lines
    assert (200, child_of(other)) == (answer.status, answer.json()["pid"])
    assert 1 == len(runs.replicas.events("term", pid=old))


async def test_the_last_one_lingers(runs: Runs) -> None:
    """While the only one lingers it serves its uids, and requests without a uid."""
    (run,) = await runs.start(1, "--linger-idle", "1.5")
    await ask(run.port, "/count?uid=a")
    run.send(signal.SIGTERM)
    await asyncio.sleep(0.2)  # it drains

    assert 200 == (await ask(run.port, "/count?uid=a")).status
    assert 200 == (await ask(run.port, "/count")).status
    assert 0 == await run.ended()


async def test_the_app_dies_while_it_lingers(runs: Runs) -> None:
    """If the app dies while it drains, its uids go elsewhere at once, and the status is that of the app."""
    two = await runs.start(2, "--linger-idle", "20", STATEFUL_ROUTE_DRAIN_DEADLINE="40")
    owned = await runs.owners(UIDS[:10], two[0])
    leaving = runs.by_child(owned["u0"])
    other = runs.replicas.other(leaving)
    old = child_of(leaving)
    leaving.send(signal.SIGTERM)
    await asyncio.sleep(0.3)  # it drains
    kill(old)
    began = time.monotonic()
    answer = await ask(other.port, "/count?uid=u0")
    took = time.monotonic() - began

    assert (200, child_of(other)) == (answer.status, answer.json()["pid"])
    assert took < LEASE
    assert 137 == await leaving.ended(10)


async def test_an_event_stream(runs: Runs) -> None:
    """Events come at once from any of them, and the app sees that the client is gone."""

    def left(count: int) -> bool:
        return len(runs.replicas.events("stream_left")) == count

    two = await runs.start(2)
    (old,) = (await runs.owners(["a"], two[0])).values()
    for seen, run in enumerate(two):
        async with connected(run.port) as http:
            await http.begin("GET", "/events?uid=a")
            await http.send(h11.EndOfMessage())
            assert 200 == (await http.head()).status_code
            parts = http.parts()
            async with asyncio.timeout(3):
                assert b"data: %d\n\n" % old in [await anext(parts) for _ in range(3)]
        await eventually(functools.partial(left, 1 + seen))


async def test_an_event_stream_of_an_app_that_is_killed(runs: Runs) -> None:
    """It is cut off: what the client has got does not seem whole, whoever hears first that the app has ended."""
    two = await runs.start(2)
    for number in range(3):
        (old,) = (await runs.owners([f"u{number}"], two[0])).values()
        async with connected(two[number % 2].port) as http:
            await http.begin("GET", f"/events?uid=u{number}")
            await http.send(h11.EndOfMessage())
            await http.head()
            parts = http.parts()
            await anext(parts)
            kill(old)

            with pytest.raises(h11.RemoteProtocolError):
                _ = [part async for part in parts]


async def test_a_stopped_app(runs: Runs) -> None:
    """An app that stands still holds its own uids up, and nobody else's; it goes on where it was."""
    two = await runs.start(2)
    owned = await runs.owners(UIDS[:10], two[0])
    old, other = owned["u0"], next(pid for pid in owned.values() if pid != owned["u0"])
    theirs = next(uid for uid in owned if owned[uid] == other)
    os.kill(old, signal.SIGSTOP)
    waiting = asyncio.ensure_future(ask(two[0].port, "/count?uid=u0"))
    for run in two:
        assert other == (await ask(run.port, f"/count?uid={theirs}")).json()["pid"]
    await asyncio.sleep(1.5 * LEASE)  # it is not taken for dead: its supervisor lives
    assert not waiting.done()
    os.kill(old, signal.SIGCONT)

    assert (200, old) == ((await waiting).status, (await waiting).json()["pid"])
