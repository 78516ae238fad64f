"""Ids that the app makes, or that we issue: learned before the client has them, found and never placed."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import h11
import pytest

from tests.waiting import eventually
from tests.web.clients import Response, ask, connected
from tests.web.replicas import ENDED, Replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer

SESSIONS, COOKIES = "tests.web.apps:sessions", "tests.web.apps:cookies"
JSON = ("Content-Type", "application/json")


@pytest.fixture
def replicas(own_server: LocalServer, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    """Provide replicas with a server of which the keys can be counted."""
    with Replicas(own_server.url, namespace, tmp_path) as own:
        yield own


def links(server: LocalServer) -> list[str]:
    """Return the keys of links."""
    return [key for key in server.ask("KEYS", "*").split("\n") if ":link:" in key]


async def use(port: int, uid: str, way: str, method: str = "GET") -> Response:
    """Use a session in the way in which its id was given."""
    if way == "header":
        return await ask(port, "/use", method, headers=[("X-Session", uid)])
    if way == "location":
        return await ask(port, f"/made/{uid}", method)
    if way == "query":
        return await ask(port, f"/use?id={uid}", method)
    return await ask(port, "/use", "POST", json.dumps({"id": uid}).encode(), [JSON])


async def make(port: int, way: str) -> tuple[str, int]:
    """Make a session; return its id, and the process that made it."""
    answer = await ask(port, f"/new/{'json' if way == 'query' else way}", "POST")
    if way == "header":
        return answer.header("x-session") or "", answer.json()["pid"]
    if way == "location":
        return (answer.header("location") or "").rpartition("/")[2], answer.json()["pid"]
    return answer.json()["id"], answer.json()["pid"]


@pytest.mark.parametrize("way", ["header", "location", "json", "query"])
async def test_learned(replicas: Replicas, own_server: LocalServer, way: str) -> None:
    """An id that the app has made is known everywhere from the moment in which the client has it, until it ends."""
    replicas.start(3, SESSIONS)
    ports = replicas.ports
    made = [await make(ports[number % 3], way) for number in range(9)]
    used = [await use(port, uid, way) for uid, _ in made for port in ports]
    assert [pid for _, pid in made for _ in ports] == [answer.json()["pid"] for answer in used]
    assert {True} == {answer.json()["known"] and answer.json()["owned"] for answer in used}
    assert 9 == len(links(own_server))
    if way == "json":
        return  # it has no DELETE
    for number, (uid, _) in enumerate(made):
        deleted = await use(ports[number % 3], uid, way, "DELETE")
        assert 200 == deleted.status
    await eventually(lambda: not links(own_server))
    after = [await use(port, uid, way) for uid, _ in made for port in ports]

    assert {404} == {answer.status for answer in after}
    assert [] == links(own_server)


async def test_an_answer_that_is_too_long(replicas: Replicas, own_server: LocalServer) -> None:
    """An answer with more JSON than is looked at is passed on whole, and nothing is learned of it."""
    replicas.start(1, SESSIONS)
    answer = await ask(replicas.ports[0], "/new/long", "POST")

    assert (200, True, 200_000) == (answer.status, answer.complete, len(answer.json()["fill"]))
    assert [] == links(own_server)


@pytest.mark.parametrize("way", ["header", "location", "json", "query"])
async def test_garbage(replicas: Replicas, own_server: LocalServer, way: str) -> None:
    """Ids that nobody has made leave nothing in Redis, however many; and are answered as unknown."""
    replicas.start(2, SESSIONS)
    keys = len(own_server.ask("KEYS", "*").split("\n"))
    statuses: set[int] = set()

    async def some(port: int, begin: int) -> None:
        async with connected(port) as http:
            for number in range(begin, begin + 250):
                await http.send(*_request(way, f"garbage-{number}"))
                statuses.add((await http.response()).status)
                http.parser.start_next_cycle()

    await asyncio.gather(*(some(replicas.ports[task % 2], 250 * task) for task in range(10)))

    assert {404} == statuses
    assert [] == links(own_server)
    assert keys == len(own_server.ask("KEYS", "*").split("\n"))


async def test_ten_thousand(replicas: Replicas, own_server: LocalServer) -> None:
    """10,000 garbage ids in one go, each sent without a wait for the answer before, leave no key in Redis."""
    replicas.start(2, SESSIONS)
    uid, _ = await make(replicas.ports[0], "header")
    keys = sorted(own_server.ask("KEYS", "*").split("\n"))

    async def some(port: int, begin: int) -> tuple[int, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"GET /use HTTP/1.1\r\nHost: tests\r\nX-Session: garbage-%d\r\n"
        data = b"\r\n".join([head % number for number in range(begin, begin + 1000)])
        writer.write(data + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(50.0):
            answers = await reader.read(-1)
        writer.close()
        return answers.count(b"HTTP/1.1 404"), answers.count(b"HTTP/1.1 ")

    counts = await asyncio.gather(*(some(replicas.ports[task % 2], 1000 * task) for task in range(10)))
    known = [await use(port, uid, "header") for port in replicas.ports]

    assert [(1000, 1000)] * 10 == counts
    assert keys == sorted(own_server.ask("KEYS", "*").split("\n"))
    assert 1 == len(links(own_server))
    assert [200, 200] == [answer.status for answer in known]


def _request(way: str, uid: str) -> tuple[Any, ...]:
    headers, body, method, target = [("Host", "tests")], b"", "GET", "/use"
    if way == "header":
        headers.append(("X-Session", uid))
    elif way == "location":
        target = f"/made/{uid}"
    elif way == "query":
        target = f"/use?id={uid}"
    else:
        method, body = "POST", json.dumps({"id": uid}).encode()
        headers += [JSON, ("Content-Length", str(len(body)))]
    return h11.Request(method=method, target=target, headers=headers), h11.Data(body), h11.EndOfMessage()


async def test_its_process_is_killed(replicas: Replicas, own_server: LocalServer) -> None:
    """Ids of a process that was killed are unknown then, as all that it knew is gone; and leave nothing in Redis."""
    replicas.start(2, SESSIONS)
    uid, pid = await make(replicas.ports[0], "header")
    other = replicas.other(replicas.by_pid(pid))
    assert 200 == (await use(other.port, uid, "header")).status
    replicas.by_pid(pid).kill()
    answer = await use(other.port, uid, "header")

    assert 404 == answer.status
    await eventually(lambda: not links(own_server))


async def test_its_process_is_killed_and_the_browser_has_a_cookie(replicas: Replicas, own_server: LocalServer) -> None:
    """A cookie of a process that was killed goes to the next one, without its state, and stays there."""
    replicas.start(2, "tests.web.apps:baskets")
    made = await ask(replicas.ports[0], "/new/cookie", "POST")
    cookie = [("Cookie", cookie_of(made))]
    killed = replicas.by_pid(made.json()["pid"])
    killed.kill()
    ports = [replica.port for replica in replicas.all if replica is not killed]
    answers = [await ask(port, "/use", headers=cookie) for port in ports * 2]
    facts = [answer.json() for answer in answers]

    assert {True} == {fact["owned"] for fact in facts}
    assert {False} == {fact["known"] for fact in facts}
    assert 1 == len({fact["pid"] for fact in facts})
    assert 1 == len(links(own_server))


async def test_made_while_it_drains(replicas: Replicas) -> None:
    """A session that a client wants while the process ends is made by another one."""
    replicas.start(2, SESSIONS, stop_after=1.0)
    leaving, staying = replicas.all
    leaving.send(signal.SIGTERM)
    await asyncio.sleep(0.3)
    uid, pid = await make(leaving.port, "header")
    answer = await use(staying.port, uid, "header")

    assert (staying.pid, 200) == (pid, answer.status)
    assert await leaving.ended() in ENDED


async def test_minted(replicas: Replicas, own_server: LocalServer) -> None:
    """An id that the app mints is found by all from the moment in which the client has it."""
    replicas.start(2, SESSIONS)
    made = [(await ask(port, "/mint")).json() for port in replicas.ports]
    for one in made:
        for port in replicas.ports:
            answer = await use(port, one["uid"], "header")
            assert (one["pid"], True) == (answer.json()["pid"], answer.json()["owned"])
            assert one["uid"].startswith("br-")


@pytest.mark.parametrize("way", ["learned", "minted"])
async def test_whose_it_is(replicas: Replicas, way: str) -> None:
    """With a scope, an id that was made for one user is found for that user, and unknown for any other."""
    replicas.start(2, "tests.web.apps:scoped")
    for port in replicas.ports:
        alice, bob = [("X-User", "alice")], [("X-User", "bob")]
        made = await ask(port, "/mint" if way == "minted" else "/make", headers=alice)
        uid: str = made.json()["uid"] if way == "minted" else made.header("x-session") or ""
        hers = [await ask(each, "/use", headers=[*alice, ("X-Session", uid)]) for each in replicas.ports]
        his = [await ask(each, "/use", headers=[*bob, ("X-Session", uid)]) for each in replicas.ports]

        assert [200, 200] == [answer.status for answer in hers]
        assert [made.json()["pid"]] * 2 == [answer.json()["pid"] for answer in hers]
        assert [404, 404] == [answer.status for answer in his]


async def test_the_same_id_of_two_users(replicas: Replicas) -> None:
    """With a scope, the same id of two users is two uids; who is nobody has none."""
    replicas.start(1, "tests.web.apps:scoped")
    uids = {
        (await ask(replicas.ports[0], "/rooms/one", headers=[("X-User", user)])).json()["uid"]
        for user in ("alice", "bob")
    }
    nobody = await ask(replicas.ports[0], "/rooms/one")

    assert 2 == len(uids)
    assert nobody.json()["uid"] is None


# Cookies of our own -------------------------------------------------------------------------------------------------


def cookie_of(answer: Response) -> str:
    return (answer.header("set-cookie") or "").partition(";")[0]


async def test_a_cookie_is_issued_once(replicas: Replicas) -> None:
    """A client that brings no id gets a cookie, once, and is served by the same process from then on."""
    replicas.start(3, COOKIES)
    first = await ask(replicas.ports[0], "/count")
    cookie = cookie_of(first)
    later = [await ask(port, "/count", headers=[("Cookie", cookie)]) for port in replicas.ports * 2]

    assert cookie.startswith("sr=")
    assert [2, 3, 4, 5, 6, 7] == [answer.json()["count"] for answer in later]
    assert [None] * 6 == [answer.header("set-cookie") for answer in later]


@pytest.mark.parametrize("forge", [lambda _: "sr=mine.AAAA", lambda cookie: cookie[:-1] + "x", lambda _: "sr="])
async def test_a_forged_cookie(replicas: Replicas, forge: Callable[[str], str]) -> None:
    """A cookie that we did not sign is none: the client gets a new one, with an id of our own."""
    replicas.start(1, COOKIES)
    cookie = cookie_of(await ask(replicas.ports[0], "/count"))
    answer = await ask(replicas.ports[0], "/count", headers=[("Cookie", forge(cookie))])

    assert 1 == answer.json()["count"]
    assert cookie_of(answer).startswith("sr=")
    assert answer.json()["uid"] not in {"mine", cookie.partition("=")[2].partition(".")[0]}


async def test_a_cookie_survives_a_move(replicas: Replicas) -> None:
    """A cookie names no process: it holds after a restart of the one that issued it."""
    replicas.start(2, COOKIES, environment={"WEB_HAND_OFF": "0"})
    first = await ask(replicas.ports[0], "/count")
    owner = replicas.by_pid(first.json()["pid"])
    owner.send(signal.SIGTERM)
    assert await owner.ended() in ENDED
    after = await ask(replicas.ports[0], "/count", headers=[("Cookie", cookie_of(first))])

    assert (2, None) == (after.json()["count"], after.header("set-cookie"))
    assert owner.pid != after.json()["pid"]


async def test_rotation(replicas: Replicas) -> None:
    """A cookie that is signed with the older secret holds, and is issued again with the newer one."""
    old, new = "the old secret of the tests", "the new secret of the tests"
    before = replicas.wait(replicas.launch(COOKIES, environment={"WEB_COOKIE_SECRETS": json.dumps([old])}))
    first = await ask(before.port, "/count")
    between = replicas.wait(replicas.launch(COOKIES, environment={"WEB_COOKIE_SECRETS": json.dumps([new, old])}))
    second = await ask(between.port, "/count", headers=[("Cookie", cookie_of(first))])
    third = await ask(between.port, "/count", headers=[("Cookie", cookie_of(second))])

    assert [1, 2, 3] == [answer.json()["count"] for answer in (first, second, third)]
    assert cookie_of(first) != cookie_of(second) != ""
    assert third.header("set-cookie") is None


async def test_a_cookie_behind_another_source(replicas: Replicas) -> None:
    """Only who brings no other id gets a cookie."""
    replicas.start(1, "tests.web.apps:cookies_too")
    brings = await ask(replicas.ports[0], "/count", headers=[("X-Session-Id", "mine")])
    brings_none = await ask(replicas.ports[0], "/count")

    assert ("mine", None) == (brings.json()["uid"], brings.header("set-cookie"))
    assert cookie_of(brings_none).startswith("sr=")
