"""The shortcut of ``StickyProtocol``: what it answers is what the app would have answered through ASGI."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.waiting import eventually
from tests.web.clients import ask, connected
from tests.web.conftest import Pair, pair_of
from tests.web.replicas import LEASE, SHORTCUT, Replicas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.clients import Response

_MOST = 5.0


@pytest.fixture(scope="module")
def watched(shared_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Run two replicas that note each request that does not take the shortcut."""
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("watched")) as own:
        own.start(2, app="tests.web.apps:watched", loop=SHORTCUT)
        yield own


@pytest.fixture
async def pair(watched: Replicas) -> Pair:
    """Provide two replicas and a uid of one of them, which the other one has in its cache."""
    pair = await pair_of(watched)
    async with asyncio.timeout(_MOST):
        while True:
            before = outer(pair, "count")
            assert (await ask(pair.edge.port, f"{pair.room}/count")).json()["pid"] == pair.owner.pid
            if outer(pair, "count") == before:
                return pair


def outer(pair: Pair, what: str) -> int:
    """Return how many requests for that path have not taken the shortcut."""
    return len(pair.replicas.events("outer", path=f"{pair.room}/{what}"))


async def test_it_is_taken(pair: Pair) -> None:
    """A request of another process's uid goes there without the app, with its body and all that its head says."""
    answer = await ask(pair.edge.port, f"{pair.room}/scope?a=%20b", "POST", b"x" * 1000, [("X-Me", "1")])

    seen = answer.json()
    assert (pair.owner.pid, 0) == (seen["pid"], outer(pair, "scope"))
    assert ("POST", f"{pair.room}/scope", "a=%20b") == (seen["method"], seen["path"], seen["query"])
    assert ["x-me", "1"] in seen["headers"]
    assert ["a=1; Path=/", "b=2"] == answer.all("set-cookie")
    assert "uvicorn" == answer.header("server")


async def test_of_its_own_uids(pair: Pair) -> None:
    """A request of the process's own uid goes through the app."""
    await ask(pair.owner.port, f"{pair.room}/scope")

    assert outer(pair, "scope") == 1


async def test_many_on_one_connection(pair: Pair) -> None:
    """Requests that come in one packet are answered in their order, whichever way each of them takes."""
    own = await pair_of_owner(pair.replicas, pair)
    paths = [f"{pair.room}/count", f"{own}/count", f"{pair.room}/slow?0.1", f"{own}/slow?0.1", f"{pair.room}/count"] * 4
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.edge.port)
    writer.write(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))

    uids = [(await read_json(reader))["uid"] for _ in paths]

    writer.close()
    assert [path.split("/")[2] for path in paths] == uids


async def pair_of_owner(replicas: Replicas, pair: Pair) -> str:
    """Return the path of a uid that the edge of a pair owns."""
    while True:
        other = await pair_of(replicas)
        if other.owner is pair.edge:
            return other.room


async def read_json(reader: asyncio.StreamReader) -> Any:
    """Return the body of the next answer."""
    async with asyncio.timeout(_MOST):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return json.loads(await reader.readexactly(length))


async def test_in_pieces(pair: Pair) -> None:
    """A request takes it, too, if its head and its body come in pieces."""
    data = f"POST {pair.room}/scope HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.edge.port)
    for begin in range(0, len(data), 7):
        writer.write(data[begin : begin + 7])
        await asyncio.sleep(0.005)

    assert (await read_json(reader))["pid"] == pair.owner.pid
    writer.close()
    assert outer(pair, "scope") == 0


async def test_a_proxy_is_heard(pair: Pair) -> None:
    """What a trusted proxy says of the client is told to the owner, as it is through ASGI."""
    headers = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https")]

    seen = (await ask(pair.edge.port, f"{pair.room}/scope", headers=headers)).json()

    assert ("203.0.113.7", "https") == (seen["client"][0], seen["scheme"])
    assert outer(pair, "scope") == 0


@pytest.mark.parametrize("what", ["events", "download?30", "hang?started"])
async def test_an_answer_in_pieces(pair: Pair, what: str) -> None:
    """An answer that does not come in one piece is streamed, and its owner hears that the client is gone."""
    async with connected(pair.edge.port) as http:
        await http.begin("GET", f"{pair.room}/{what}")
        assert (await http.head()).status_code == 200
        assert (await anext(http.parts()))[:4]
    if what != "download?30":
        await eventually(
            lambda: pair.replicas.events("disconnected", uid=pair.uid) or pair.replicas.events("stream_ended"), _MOST
        )


async def test_a_client_that_goes_away(pair: Pair) -> None:
    """The owner hears that the client is gone before there is an answer."""
    async with connected(pair.edge.port) as http:
        await http.begin("GET", f"{pair.room}/hang")
        await eventually(lambda: pair.replicas.events("hangs", uid=pair.uid), _MOST)

    await eventually(lambda: pair.replicas.events("disconnected", uid=pair.uid), _MOST)


async def test_an_app_that_fails(pair: Pair, watched: Replicas) -> None:
    """An app that fails at the owner is an answer 500 at the edge."""
    watched.may_fail = True
    answer = await ask(pair.edge.port, f"{pair.room}/fail")

    assert (500, b"Internal Server Error") == (answer.status, answer.body)


# What an answer may be ----------------------------------------------------------------------------------------------

CASES: dict[str, tuple[int, list[tuple[str, str]], str]] = {
    "plain": (200, [("Content-Type", "text/plain")], "hello"),
    "without a length": (200, [], "hello"),
    "empty": (200, [("content-length", "0")], ""),
    "cookies": (200, [("set-cookie", "a=1"), ("set-cookie", "b=2")], "x"),
    "no content": (204, [], ""),
    "not modified": (304, [("etag", '"1"')], ""),
    "an error": (404, [("content-length", "2")], "no"),
    "an odd status": (299, [("content-length", "2")], "ok"),
    "that closes": (200, [("connection", "close"), ("content-length", "2")], "ok"),
    "a letter of latin-1": (200, [("x-a", "\xe4")], "x"),
    "chunked by itself": (200, [("transfer-encoding", "chunked")], "hello"),
}
REFUSED: dict[str, tuple[int, list[tuple[str, str]], str]] = {
    "a line break in a value": (200, [("x-a", "1\r\nx-b: 2")], "x"),
    "a line feed in a value": (200, [("x-a", "1\nx-b: 2")], "x"),
    "a line break in a name": (200, [("x-a: 1\r\nx-b", "2")], "x"),
    "NUL in a value": (200, [("x-a", "1\0")], "x"),
    "too long a length": (200, [("content-length", "9")], "hello"),
    "too short a length": (200, [("content-length", "2")], "hello"),
}


@pytest.fixture(scope="module")
def answering(shared_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Replicas, Replicas]]:
    """Run two replicas with the shortcut, and two without it."""
    with (
        Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("short")) as short,
        Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("usual")) as usual,
    ):
        for replicas, loop in ((short, SHORTCUT), (usual, "uvloop")):
            replicas.may_fail = True
            replicas.start(2, app="tests.web.apps:answers", loop=loop)
        yield short, usual


async def forwarded(replicas: Replicas, method: str, case: tuple[int, list[tuple[str, str]], str]) -> list[Response]:
    """Return what both replicas answer: one of them forwards."""
    uid = f"room-{uuid.uuid4().hex[:8]}"
    target = f"/rooms/{uid}?{quote(json.dumps(case))}"
    for port in replicas.ports:
        await ask(port, f"/rooms/{uid}?{quote(json.dumps((200, [], '')))}")
    return [await ask(port, target, method) for port in replicas.ports]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("case", CASES)
async def test_answers(answering: tuple[Replicas, Replicas], case: str, method: str) -> None:
    """Each answer is the same, but for the way in which its length is told, as without the shortcut."""
    told = {"content-length", "transfer-encoding", "date"}
    seen = [
        (answer.status, answer.body, answer.complete, [pair for pair in answer.headers if pair[0] not in told])
        for replicas in answering
        for answer in await forwarded(replicas, method, CASES[case])
    ]

    assert all(one == seen[-1] for one in seen), seen
    assert seen[0][0] == CASES[case][0]


@pytest.mark.parametrize("case", REFUSED)
async def test_answers_that_are_wrong(answering: tuple[Replicas, Replicas], case: str) -> None:
    """An answer that would be read as something else than what the app meant is not sent as it is."""
    uid = f"room-{uuid.uuid4().hex[:8]}"
    short, _ = answering
    for port in short.ports:
        await ask(port, f"/rooms/{uid}?{quote(json.dumps((200, [], '')))}")
    for port in short.ports:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        target = f"/rooms/{uid}?{quote(json.dumps(REFUSED[case]))}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), _MOST)
        writer.close()
        assert b"\nx-b: 2" not in answer
        assert b"\0" not in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"content-length: 9" in head or b"content-length: 2" in head:
            assert len(body) < 9, answer


# The days that are bad ----------------------------------------------------------------------------------------------


async def test_its_owner_is_killed(replicas: Replicas) -> None:
    """A request that is safe to repeat is served by the next owner; one that is not gets a 503 that says why."""
    replicas.start(2, loop=SHORTCUT)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")
    safe = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?1"))
    unsafe = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?1", "POST", b"x"))
    await eventually(lambda: len(replicas.events("begins", uid=pair.uid)) == 2, _MOST)

    pair.owner.kill()

    assert (503, 200) == ((await unsafe).status, (await safe).status)
    assert (await safe).json()["pid"] == pair.edge.pid


async def test_its_owner_is_stopped(replicas: Replicas) -> None:
    """A request whose owner does not answer any more is held until there is another one."""
    replicas.start(2, loop=SHORTCUT)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")
    pair.owner.send(signal.SIGSTOP)

    answer = await asyncio.wait_for(ask(pair.edge.port, f"{pair.room}/count"), LEASE + _MOST)

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])


async def test_its_uid_has_moved(replicas: Replicas) -> None:
    """A request that arrives at its former owner is served by the present one."""
    replicas.start(2, loop=SHORTCUT)
    pair = await pair_of(replicas)
    for _ in range(3):
        await ask(pair.edge.port, f"{pair.room}/count")
    asking = asyncio.ensure_future(_keep_asking(pair))
    pair.owner.send(signal.SIGTERM)
    await pair.owner.ended()

    answers = await asking
    assert {200} == {answer.status for answer in answers}
    assert answers[-1].json()["pid"] == pair.edge.pid


async def _keep_asking(pair: Pair) -> list[Response]:
    answers = []
    for _ in range(200):
        answers.append(await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x"))
        await asyncio.sleep(0.005)
    return answers


async def test_the_edge_ends(replicas: Replicas) -> None:
    """A process that ends answers what it has sent to a peer."""
    replicas.start(2, loop=SHORTCUT)
    pair = await pair_of(replicas)
    await ask(pair.edge.port, f"{pair.room}/count")
    slow = asyncio.ensure_future(ask(pair.edge.port, f"{pair.room}/slow?1", "POST", b"x"))
    await eventually(lambda: replicas.events("begins", uid=pair.uid), _MOST)
    pair.edge.send(signal.SIGTERM)

    assert (200, pair.owner.pid) == ((await slow).status, (await slow).json()["pid"])
    await pair.edge.ended()
