"""Sessions that travel: real web servers, and no place where a state is saved."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import ConfigError
from stateful_route.web import Path, StickyMiddleware
from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.load import under_load
from tests.web.replicas import ENDED, LEASE
from tests.web.test_operators import index_of, operator_of

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from tests.web.replicas import Replica, Replicas

APP = "tests.web.travelling:rooms"


def start(replicas: Replicas, count: int, *, middleware: dict[str, Any] | None = None, **environment: str) -> None:
    replicas.start(count, APP, environment=environment, **(middleware or {}))


async def counts(replica: Replica, uids: list[str]) -> dict[str, int]:
    """Ask once for each uid, and return what its count is."""
    answers = await asyncio.gather(*(ask(replica.port, f"/rooms/{uid}/count") for uid in uids))
    assert {200} == {answer.status for answer in answers}
    return {uid: answer.json()["count"] for uid, answer in zip(uids, answers, strict=True)}


async def owned_by(replicas: Replicas, replica: Replica, count: int) -> list[str]:
    """Return uids that this replica has, each of which was asked for twice."""
    uids: list[str] = []
    number = 0
    while len(uids) < count:
        uid, number = f"u{number}", number + 1
        await ask(replicas.ports[0], f"/rooms/{uid}/count")
        if (await ask(replicas.ports[0], f"/rooms/{uid}/count")).json()["pid"] == replica.pid:
            uids.append(uid)
    return uids


def gaps(replicas: Replicas) -> list[float]:
    """Return for how many seconds each uid that travelled had no owner."""
    found, packed = [], {}
    for event in sorted(replicas.events("packed") + replicas.events("adopted"), key=lambda event: event["clock"]):
        if event["event"] == "packed":
            packed[event["uid"]] = event["clock"]
        else:
            found.append(event["clock"] - packed.pop(event["uid"]))
    return found


async def test_rolling_restart(replicas: Replicas) -> None:
    """Three processes are restarted one after the other, under load: no state is lost, and no request fails."""
    start(replicas, 3)
    uids = [f"idle{number}" for number in range(200)]
    for begin in range(0, 200, 50):
        await counts(replicas.all[begin % 3], uids[begin : begin + 50])
    async with under_load(replicas, sessions=40) as load:
        for replica in list(replicas.all[:3]):
            replica.send(signal.SIGTERM)
            assert await replica.ended() in ENDED
            replica.in_rotation = False
            await replicas.serves(replicas._run(replica.arguments, replica.environment, replica.port))
    after = await counts(replicas.all[-1], uids)

    assert [] == load.failed
    assert [] == load.lost
    assert {2} == set(after.values())
    assert 200 < len(gaps(replicas))
    assert statistics.quantiles(gaps(replicas), n=100)[98] < 0.5  # on a machine that does other things as well


@pytest.mark.parametrize("size", [0, 100_000, 5_000_000])
async def test_size(replicas: Replicas, size: int) -> None:
    """A state of any size travels, in parts if it is long."""
    start(replicas, 2, WEB_STATE=str(size))
    first, second = replicas.all
    uids = await owned_by(replicas, first, 3)
    first.send(signal.SIGTERM)
    assert await first.ended() in ENDED

    assert {3} == set((await counts(second, uids)).values())
    assert {max(size, 12)} == {event["size"] for event in replicas.events("adopting")}


async def test_too_large(replicas: Replicas) -> None:
    """A state that is too large is lost, with a warning; no request fails."""
    start(replicas, 2, middleware={"max_state": 1000})
    first, second = replicas.all
    uids = await owned_by(replicas, first, 3)
    first.send(signal.SIGTERM)
    assert await first.ended() in ENDED

    assert {1} == set((await counts(second, uids)).values())
    assert "10000 bytes are more than max_state, 1000" in first.text()


async def test_an_operator_loses_nothing(replicas: Replicas) -> None:
    """A drain that an operator asks for keeps what no process takes: it is served on, goes on, and comes back whole."""
    start(replicas, 2, middleware={"max_state": 1000})
    first, second = replicas.all
    uids = await owned_by(replicas, first, 3)
    async with operator_of(replicas) as operator:
        index = await index_of(operator, uids[0])
        seen = await operator.drain("room", index)
        during = [await counts(replica, uids) for replica in (second, first)]
        left = await operator.drain("room", index)
        await operator.undrain("room", index)
        after = await counts(second, uids)

    assert (0, 0, 3) == (seen.moved, seen.lost, seen.left)
    assert (0, 0, 3) == (left.moved, left.lost, left.left)
    assert [{3}, {4}, {5}] == [set(one.values()) for one in (*during, after)]
    assert "goes on with them" in first.text()


async def test_requests_are_held(replicas: Replicas) -> None:
    """A request that comes while a state travels is held, at whatever process it arrives, and finds the state."""
    start(replicas, 2, WEB_SAVE="0.2", WEB_ADOPT="0.4")
    first, second = replicas.all
    (uid,) = await owned_by(replicas, first, 1)
    first.send(signal.SIGTERM)
    await replicas.noted("packing", uid=uid)
    held = [asyncio.ensure_future(ask(each.port, f"/rooms/{uid}/count")) for each in replicas.all]
    await replicas.noted("adopting", uid=uid)
    held += [asyncio.ensure_future(ask(each.port, f"/rooms/{uid}/count")) for each in replicas.all]
    answers = await asyncio.gather(*held)

    assert [(200, second.pid)] * 4 == [(answer.status, answer.json()["pid"]) for answer in answers]
    assert [3, 4, 5, 6] == sorted(answer.json()["count"] for answer in answers)


async def test_sessions_that_the_app_makes(replicas: Replicas) -> None:
    """A session whose id the app has made, and which is only ever found, travels as any other."""
    start(replicas, 2)
    first, second = replicas.all
    made = [(await ask(first.port, "/new", "POST")).json()["uid"] for _ in range(10)]
    used = await asyncio.gather(*(ask(second.port, "/use", headers=[("X-Session", uid)]) for uid in made))
    first.send(signal.SIGTERM)
    assert await first.ended() in ENDED
    after = await asyncio.gather(*(ask(second.port, "/use", headers=[("X-Session", uid)]) for uid in made))

    assert [(first.pid, 2)] * 10 == [(answer.json()["pid"], answer.json()["count"]) for answer in used]
    assert [(second.pid, 3)] * 10 == [(answer.json()["pid"], answer.json()["count"]) for answer in after]


async def test_adopt_needs_a_hand_off() -> None:
    """Without a hand-off there is nothing to adopt: the start fails, and says so."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    middleware = StickyMiddleware(
        app, service="room", uid=Path("/rooms/{uid}"), redis="redis://localhost:1", adopt=lambda uid, data, epoch: None
    )
    with pytest.raises(ConfigError, match="hand_off"):
        await middleware.start()


async def test_the_receiver_is_killed(replicas: Replicas) -> None:
    """A process that is killed while it adopts takes those states along; the others are not lost, nor older."""
    start(replicas, 3, WEB_ADOPT="0.3")
    first, second, third = replicas.all
    uids = await owned_by(replicas, first, 12)
    first.send(signal.SIGTERM)
    begun = await replicas.noted("adopting", pid=second.pid)
    second.kill()
    assert await first.ended() in ENDED
    async with operator_of(replicas) as operator:
        killed = await index_of(operator, begun["uid"])
        lost = {uid for uid in uids if await index_of(operator, uid) == killed}  # it need not have begun with each
    after = await counts(third, uids)

    assert begun["uid"] in lost
    assert lost < set(uids)
    assert {1} == {after[uid] for uid in lost}
    assert {3} == {after[uid] for uid in uids if uid not in lost} | {3}


def adopted_at(replicas: Replicas, replica: Replica) -> set[str]:
    return {event["uid"] for event in replicas.events("adopted", pid=replica.pid)}


async def test_the_sender_is_killed(replicas: Replicas) -> None:
    """If the sender is killed, what has moved has its state, and the rest begins anew; nothing older is adopted."""
    start(replicas, 2, WEB_SAVE="0.05", WEB_ADOPT="0.1")
    first, second = replicas.all
    uids = await owned_by(replicas, first, 200)
    first.send(signal.SIGTERM)
    await replicas.noted("adopting")
    first.kill()
    await asyncio.sleep(LEASE)  # its lease ends
    after = await counts(second, uids)

    adopted = adopted_at(replicas, second) & set(uids)
    assert adopted
    assert {3} == {after[uid] for uid in adopted}
    assert {1} == {after[uid] for uid in uids if uid not in adopted} | {1}


async def test_redis_stands_still(own_server: LocalServer, replicas: Replicas) -> None:
    """If Redis does not answer for a while in the middle of a drain, no state is lost."""
    replicas.url = own_server.url
    start(replicas, 2, WEB_SAVE="0.01")
    first, second = replicas.all
    uids = await owned_by(replicas, first, 150)
    first.send(signal.SIGTERM)
    await replicas.noted("packed")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    await asyncio.sleep(0.5)
    os.kill(own_server.pid, signal.SIGCONT)
    assert await first.ended() in ENDED

    await eventually(lambda: len(adopted_at(replicas, second) & set(uids)) == len(uids))
    assert {3} == set((await counts(second, uids)).values())
