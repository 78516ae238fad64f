"""Uids that move, pods that die, and a decider that does: behind proxies with configurations that we print."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.web.clients import ask, websocket
from tests.web.proxies.test_carrying import new_uid
from tests.web.replicas import ENDED, LEASE
from tests.web.test_kill import served_by_two

if TYPE_CHECKING:
    from tests.web.proxies.conftest import MakeFront

IN_TIME = 2 * LEASE + 3.0
HAND_OFF = {"environment": {"WEB_HAND_OFF": "0"}}


async def test_a_uid_that_moves(own_front: MakeFront) -> None:
    """When a pod hands its uids over and ends, no request under way or after it fails, and no state is lost."""
    front = own_front(**HAND_OFF)
    uids = [new_uid() for _ in range(10)]
    for uid in uids:
        await front.owner(uid)
    leaving = front.pods[0]
    asked = dict.fromkeys(uids, 1)
    wrong: list[object] = []
    done = asyncio.Event()

    async def keep_asking(uid: str) -> None:
        while not done.is_set():
            answer = await ask(front.port, f"/rooms/{uid}/count")
            asked[uid] += 1
            if answer.status != 200 or answer.json()["count"] != asked[uid]:
                wrong.append((uid, asked[uid], answer))
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(keep_asking(uid)) for uid in uids]
    await asyncio.sleep(0.3)
    leaving.send(signal.SIGTERM)
    assert await leaving.ended() in ENDED
    await asyncio.sleep(0.3)
    done.set()
    await asyncio.gather(*tasks)

    assert [] == wrong
    assert [] == served_by_two(front.replicas)
    last = [(await ask(front.port, f"/rooms/{uid}/count")).json()["pid"] for uid in uids]
    assert [front.other(leaving).pid] * len(uids) == last


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b""), ("POST", b"x" * 100_000)])
async def test_a_pod_that_is_killed(own_front: MakeFront, method: str, body: bytes | None) -> None:
    """A request whose owner was killed is held, and served once, by the next owner."""
    front = own_front(**HAND_OFF)
    uid = new_uid()
    owner = await front.owner(uid)
    await front.kill(owner)
    answer = await ask(front.port, f"/rooms/{uid}/count", method, body)

    assert (200, front.other(owner).pid) == (answer.status, answer.json()["pid"])
    assert len(body or b"") == answer.json()["size"]
    assert 1 == len(front.replicas.events("served", pid=answer.json()["pid"]))
    assert [] == served_by_two(front.replicas)


async def test_a_kill_under_load(own_front: MakeFront) -> None:
    """A kill under load fails no GET where the proxy asks again, and nothing is served by two owners."""
    front = own_front(**HAND_OFF)
    uids = [new_uid() for _ in range(20)]
    owners = [await front.owner(uid) for uid in uids]
    refused: list[object] = []
    served = 0
    done = asyncio.Event()

    async def keep_asking(uid: str) -> None:
        nonlocal served
        while not done.is_set():
            answer = await ask(front.port, f"/rooms/{uid}/count")
            if answer.status == 200:
                served += 1
            else:
                refused.append(answer)
            await asyncio.sleep(0.01)

    tasks = [asyncio.ensure_future(keep_asking(uid)) for uid in uids]
    await asyncio.sleep(0.3)
    owners[0].kill()
    await asyncio.sleep(2 * LEASE)
    done.set()
    await asyncio.gather(*tasks)

    assert [] == refused or not front.repeats
    assert served > 100
    assert [] == served_by_two(front.replicas)
    last = {(await ask(front.port, f"/rooms/{uid}/count")).json()["pid"] for uid in uids}
    assert {front.other(owners[0]).pid} == last


async def test_a_post_that_was_under_way(own_front: MakeFront) -> None:
    """A POST that was under way at a pod when that was killed fails, and is not done again by another."""
    front = own_front()
    uid = new_uid()
    owner = await front.owner(uid)
    running = asyncio.ensure_future(ask(front.port, f"/rooms/{uid}/slow?5", "POST", b"x"))
    await front.replicas.noted("begins", pid=owner.pid)
    owner.kill()
    answer = await running

    assert answer.status in {502, 503}
    assert 1 == len(front.replicas.events("begins"))


async def test_a_get_that_was_under_way(own_front: MakeFront) -> None:
    """A GET that was under way at a pod when that was killed is done again by the next owner."""
    front = own_front()
    uid = new_uid()
    owner = await front.owner(uid)
    running = asyncio.ensure_future(ask(front.port, f"/rooms/{uid}/slow?1"))
    await front.replicas.noted("begins", pid=owner.pid)
    owner.kill()
    answer = await running

    if front.repeats:
        assert 200 == answer.status, (answer, front.proxy.text())
        assert (200, front.other(owner).pid) == (answer.status, answer.json()["pid"])
    else:  # HAProxy and Envoy know nobody else to go to
        assert answer.status in {502, 503}


async def test_a_websocket_after_a_kill(own_front: MakeFront) -> None:
    """A WebSocket that is opened after its owner was killed is opened at the next one."""
    front = own_front()
    uid = new_uid()
    owner = await front.owner(uid)
    await front.kill(owner)
    async with websocket(front.port, f"/rooms/{uid}/ws") as socket:
        await socket.send("hello")
        said = await socket.recv()

    assert f"{front.other(owner).pid} hello" == said


async def test_a_restart_on_the_same_port(own_front: MakeFront) -> None:
    """A uid whose pod is restarted goes to the life that is there now, and large bodies arrive there whole."""
    front = own_front(**HAND_OFF)
    uid = new_uid()
    owner = await front.owner(uid)
    await front.kill(owner)
    again = await asyncio.to_thread(front.replicas.again, owner)
    answer = await ask(front.port, f"/rooms/{uid}/count")
    body = os.urandom(100_000)
    post = await ask(front.port, f"/rooms/{uid}/count", "POST", body)

    assert answer.json()["pid"] in {again.pid, front.other(owner).pid}
    assert (answer.json()["pid"], len(body)) == (post.json()["pid"], post.json()["size"])
    assert [] == served_by_two(front.replicas)


async def test_nobody_decides(own_front: MakeFront) -> None:
    """While nobody decides, any pod is asked, and sends requests on to their owners."""
    front = own_front()
    if front.decide is None or not front.falls_back:
        pytest.skip("nobody decides here, or there is no other way")
    uid = new_uid()
    owner = await front.owner(uid)
    front.decide.kill()
    answers = [await ask(front.port, f"/rooms/{uid}/count", "POST", b"x" * 10_000) for _ in range(4)]

    assert [200] * 4 == [answer.status for answer in answers], (answers, front.proxy.text())
    assert [owner.pid] * 4 == [answer.json()["pid"] for answer in answers]
