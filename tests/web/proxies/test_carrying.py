"""What proxies carry to the owners of uids, by configurations that we print."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.web.clients import ask, connected, websocket
from tests.web.proxies.fronts import listening_trap

if TYPE_CHECKING:
    from tests.web.proxies.fronts import Front

MIB = 1024 * 1024


def new_uid() -> str:
    return f"room-{uuid.uuid4().hex[:8]}"


async def test_each_is_served_by_its_owner(shared_front: Front) -> None:
    """Requests of many uids are served by their owners, and both pods have some."""
    uids = [new_uid() for _ in range(20)]
    owners = [(await shared_front.owner(uid)).pid for uid in uids]
    again = [await ask(shared_front.port, f"/rooms/{uid}/count") for uid in uids for _ in range(3)]

    assert [pid for pid in owners for _ in range(3)] == [answer.json()["pid"] for answer in again]
    assert all(answer.json()["owned"] for answer in again)
    assert [2, 3, 4] * len(uids) == [answer.json()["count"] for answer in again]
    assert {pod.pid for pod in shared_front.pods} == set(owners)


@pytest.mark.parametrize("size", [0, 1000, 5 * MIB])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_a_body_arrives_whole(shared_front: Front, method: str, size: int) -> None:
    """A body arrives at the owner whole, once, and with its method, also if it is 5 MB."""
    uid, body = new_uid(), os.urandom(size)
    owner = await shared_front.owner(uid)
    answers = [await ask(shared_front.port, f"/rooms/{uid}/count", method, body) for _ in range(2)]
    seen = await ask(shared_front.port, f"/rooms/{uid}/scope", method, body)

    facts = [answer.json() for answer in answers]
    checksum = hashlib.sha256(body).hexdigest()
    assert [(owner.pid, size, checksum)] * 2 == [(each["pid"], each["size"], each["checksum"]) for each in facts]
    assert [2, 3] == [each["count"] for each in facts]
    assert (owner.pid, method) == (seen.json()["pid"], seen.json()["method"])


async def test_a_long_answer_arrives_whole(shared_front: Front) -> None:
    """An answer of 5 MB arrives whole."""
    answer = await ask(shared_front.port, f"/rooms/{new_uid()}/download?80")

    assert (200, True, 80 * 65_536) == (answer.status, answer.complete, len(answer.body))


async def test_events_are_not_held(shared_front: Front) -> None:
    """An event stream comes from the owner, and each event at once."""
    uid = new_uid()
    owner = await shared_front.owner(uid)
    async with asyncio.timeout(10.0), connected(shared_front.port) as http:
        await http.begin("GET", f"/rooms/{uid}/events")
        head = await http.head()
        came = b""
        async for part in http.parts():
            came += part
            if came.count(b"\n\n") >= 3:
                break

    assert 200 == head.status_code
    assert f"id: 1\ndata: {owner.pid}\n\n".encode() in came


async def test_a_websocket(shared_front: Front) -> None:
    """A WebSocket is opened at the owner, whichever pod is asked first, and carries messages in both directions."""
    uid = new_uid()
    owner = await shared_front.owner(uid)
    said = []
    for _ in range(4):
        async with websocket(shared_front.port, f"/rooms/{uid}/ws") as socket:
            await socket.send("hello")
            said.append(await socket.recv())
            await socket.send(b"abc" * 100_000)
            assert b"cba" * 100_000 == await socket.recv()

    assert [f"{owner.pid} hello"] * 4 == said


async def test_query_and_encoding_arrive_as_they_were(shared_front: Front) -> None:
    """Path and query arrive as the client sent them, and the uid is that of the decoded path."""
    uid = new_uid()
    owner = await shared_front.owner(f"{uid}%20%C3%BC")
    seen = (await ask(shared_front.port, f"/rooms/{uid}%20%C3%BC/scope?a=%2F&b=c+d")).json()

    assert owner.pid == seen["pid"]
    assert (f"/rooms/{uid}%20%C3%BC/scope", "a=%2F&b=c+d") == (seen["raw_path"], seen["query"])


async def test_the_second_source(shared_front: Front) -> None:
    """A uid in a header is found as well."""
    uid = new_uid()
    owner = await shared_front.owner(uid)
    answer = await ask(shared_front.port, "/elsewhere/count", headers=[("X-Session-Id", uid)])

    assert (owner.pid, uid) == (answer.json()["pid"], answer.json()["uid"])


async def test_without_a_uid(shared_front: Front) -> None:
    """A request without a uid is served by any pod."""
    answers = [await ask(shared_front.port, "/elsewhere/unread") for _ in range(5)]

    assert [413] * 5 == [answer.status for answer in answers]  # which is what the app says


@pytest.mark.parametrize("status", [404, 418, 500, 502, 503])
async def test_an_answer_of_the_app_is_not_taken_for_one_of_the_proxy(shared_front: Front, status: int) -> None:
    """What the app answers reaches the client, be it an error."""
    uid = new_uid()
    await shared_front.owner(uid)
    answer = await ask(shared_front.port, f"/rooms/{uid}/status?{status}")

    assert status == answer.status


async def test_a_client_cannot_say_where_it_goes(shared_front: Front) -> None:
    """Our headers in a client's request lead nowhere, and do not reach the app."""
    uid = new_uid()
    owner = await shared_front.owner(uid)
    with listening_trap() as (port, came):
        spoofed = [
            ("X-Pod-Address", f"127.0.0.1:{port}"),
            ("X-Pod-Index", "77"),
            ("X-Link-Epoch", "77"),
            ("X-Pod-Cookie", "sr=77"),
            ("X-Sticky-Replayed", "77"),
            ("X-Original-URI", "/rooms/another/scope"),
            ("X-Original-Method", "DELETE"),
            ("X-Forwarded-Uri", "/rooms/another/scope"),
            ("X-Forwarded-Method", "DELETE"),
            ("X-Accel-Redirect", "@owner"),
        ]
        answers = [await ask(shared_front.port, f"/rooms/{uid}/scope", headers=spoofed) for _ in range(4)]

    assert [] == came
    assert [owner.pid] * 4 == [answer.json()["pid"] for answer in answers]
    values = {value for answer in answers for _, value in answer.json()["headers"]}
    assert not {"77", "sr=77", f"127.0.0.1:{port}"} & values


async def test_the_epoch_is_that_of_the_uid_that_the_app_sees(shared_front: Front) -> None:
    """Whatever epoch a pod is told with a request, the app gets the one at which the uid is owned; 0 without a uid."""
    uid = new_uid()
    pod = await shared_front.owner(uid)  # another pod replays
    told = ("X-Link-Epoch", "77")
    seen = [(await ask(pod.port, path, headers=[told])).json() for path in (f"/rooms/{uid}/scope", "/scope")]

    owned = (await ask(pod.port, f"/rooms/{uid}/count")).json()
    epochs = [[value for name, value in each["headers"] if name == "x-link-epoch"] for each in seen]
    assert [[str(owned["epoch"])], ["0"]] == epochs


async def test_many_at_once(shared_front: Front) -> None:
    """Bodies of many requests at once are not mixed."""
    uids = [new_uid() for _ in range(8)]

    async def one(number: int) -> bool:
        body = os.urandom(10_000 + number)
        answer = await ask(shared_front.port, f"/rooms/{uids[number % 8]}/count", "POST", body)
        return bool(answer.json()["checksum"] == hashlib.sha256(body).hexdigest() and answer.json()["owned"])

    assert all(await asyncio.gather(*map(one, range(64))))
