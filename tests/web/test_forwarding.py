"""What a request and its answer look like, be they served where they arrive or by a peer."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

import h11
import pytest

from tests.waiting import eventually
from tests.web.answering import PIECE
from tests.web.clients import ask, connected

if TYPE_CHECKING:
    from tests.web.conftest import Pair
    from tests.web.replicas import Replica

MIB = 1024 * 1024


@pytest.fixture(params=["here", "there"])
def entry(request: pytest.FixtureRequest, pair: Pair) -> Replica:
    """Provide the replica at which requests arrive: the owner of the uid, or the other one."""
    return pair.owner if request.param == "here" else pair.edge


async def test_it_is_served_by_its_owner(pair: Pair, entry: Replica) -> None:
    """A request is served by the process that owns its uid, wherever it arrives, and that one knows so."""
    answer = await ask(entry.port, f"{pair.room}/count")

    facts = answer.json()
    assert (200, pair.owner.pid, True) == (answer.status, facts["pid"], facts["owned"])
    assert 2 == facts["count"]


async def test_the_second_source_counts_without_the_first(pair: Pair, entry: Replica) -> None:
    """The sources are asked in their order, and the first that finds something wins."""
    by_header = await ask(entry.port, "/elsewhere/count", headers=[("X-Session-Id", pair.uid)])
    by_path = await ask(entry.port, f"{pair.room}/count", headers=[("X-Session-Id", "another")])

    assert [pair.uid, pair.uid] == [by_header.json()["uid"], by_path.json()["uid"]]


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 5 * MIB])
async def test_a_body_arrives_whole(pair: Pair, entry: Replica, size: int) -> None:
    """A body with a length arrives whole, however long it is."""
    body = os.urandom(size)

    answer = await ask(entry.port, f"{pair.room}/count", "POST", body)

    facts = answer.json()
    assert (pair.owner.pid, size, hashlib.sha256(body).hexdigest()) == (facts["pid"], facts["size"], facts["checksum"])


@pytest.mark.parametrize("size", [0, 10, 100_000, 5 * MIB])
async def test_a_chunked_body_arrives_whole(pair: Pair, entry: Replica, size: int) -> None:
    """A body of which the length is not told arrives whole."""
    body = os.urandom(size)
    async with connected(entry.port) as http:
        await http.begin("PUT", f"{pair.room}/count", [("Transfer-Encoding", "chunked")])
        for begin in range(0, size, 50_000):
            await http.send(h11.Data(body[begin : begin + 50_000]))
        await http.send(h11.EndOfMessage())
        facts = (await http.response()).json()

    assert (pair.owner.pid, size, hashlib.sha256(body).hexdigest()) == (facts["pid"], facts["size"], facts["checksum"])


async def test_a_long_answer_arrives_whole(pair: Pair, entry: Replica) -> None:
    """An answer of 5 MB arrives whole, and its end is told."""
    answer = await ask(entry.port, f"{pair.room}/download?80")

    assert (True, hashlib.sha256(PIECE * 80).digest()) == (answer.complete, hashlib.sha256(answer.body).digest())


async def test_many_at_once(pair: Pair, entry: Replica) -> None:
    """Bodies of many requests at once over one connection between peers are not mixed."""
    bodies = [os.urandom(200_000) for _ in range(20)]

    answers = await asyncio.gather(*(ask(entry.port, f"{pair.room}/count", "POST", body) for body in bodies))

    expected = [hashlib.sha256(body).hexdigest() for body in bodies]
    assert expected == [answer.json()["checksum"] for answer in answers]


async def test_head(pair: Pair, entry: Replica) -> None:
    """HEAD is answered with the head of the answer, and nothing else."""
    answer = await ask(entry.port, f"{pair.room}/count", "HEAD")

    assert (200, b"", True) == (answer.status, answer.body, answer.complete)
    assert int(answer.header("content-length") or 0) > 50


@pytest.mark.parametrize("status", [204, 304, 404, 599])
async def test_an_answer_without_a_body(pair: Pair, entry: Replica, status: int) -> None:
    """An answer without a body keeps its status, and ends."""
    answer = await ask(entry.port, f"{pair.room}/status?{status}")

    assert (status, b"", True) == (answer.status, answer.body, answer.complete)


async def test_what_the_app_sees_of_a_request(pair: Pair, entry: Replica) -> None:
    """Address, scheme, path, query and headers are those of the client, whoever serves it."""
    headers = [
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Forwarded", "for=192.0.2.60;proto=https"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("X-Latin", "caf\xe9"),
    ]
    async with connected(entry.port) as http:
        await http.begin("GET", f"{pair.room}/a%2Fb%C3%A9%20c/scope?q=1%262&e=%ff", headers)
        await http.send(h11.EndOfMessage())
        seen = (await http.response()).json()
        address = list(http.writer.get_extra_info("sockname"))

    sent = [["host", "tests"], *([name.lower(), value] for name, value in headers)]
    assert pair.owner.pid == seen["pid"]
    assert sent == seen["headers"]
    assert (address, ["127.0.0.1", entry.port]) == (seen["client"], seen["server"])
    assert ("GET", "http", "1.1", "") == (seen["method"], seen["scheme"], seen["http_version"], seen["root_path"])
    assert f"{pair.room}/a/bé c/scope" == seen["path"]
    assert (f"{pair.room}/a%2Fb%C3%A9%20c/scope", "q=1%262&e=%ff") == (seen["raw_path"], seen["query"])


async def test_headers_of_the_answer(pair: Pair, entry: Replica) -> None:
    """A header that is repeated in an answer stays so, in its order."""
    answer = await ask(entry.port, f"{pair.room}/scope")

    assert ["a=1; Path=/", "b=2"] == answer.all("set-cookie")


async def test_a_head_that_is_too_large(pair: Pair) -> None:
    """A large head is refused by the server or carried; it cuts no other request."""
    headers = [(f"X-{number}", "x" * 1000) for number in range(50)]

    answer = await ask(pair.edge.port, f"{pair.room}/scope", headers=headers)

    assert (200, pair.owner.pid) == (answer.status, answer.json()["pid"])


async def test_expect_continue(pair: Pair, entry: Replica) -> None:
    """A client that waits for the word to send its body gets it when the app reads, and not before."""
    async with connected(entry.port) as http:
        http.writer.write(
            f"POST {pair.room}/late HTTP/1.1\r\nHost: tests\r\nExpect: 100-continue\r\n"
            "Content-Length: 5\r\n\r\n".encode()
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):  # the app waits for 0.4 s
                await http.reader.read(1)
        assert (await http.reader.readline()).startswith(b"HTTP/1.1 100")
        http.writer.write(b"hello")
        checksum = hashlib.sha256(b"hello").hexdigest()
        async with asyncio.timeout(5.0):
            await http.reader.readuntil(checksum.encode())


async def test_expect_continue_and_nobody_reads(pair: Pair, entry: Replica) -> None:
    """An app that answers without reading sends no word: the client keeps its body."""
    async with connected(entry.port) as http:
        http.writer.write(
            f"POST {pair.room}/unread HTTP/1.1\r\nHost: tests\r\nExpect: 100-continue\r\n"
            "Content-Length: 5000000\r\n\r\n".encode()
        )
        line = await http.reader.readline()

    assert line.startswith(b"HTTP/1.1 413")


async def test_an_answer_before_the_body_was_read(pair: Pair, entry: Replica) -> None:
    """An app may answer without reading a long body; the next request is served all the same."""
    answer = await ask(entry.port, f"{pair.room}/unread", "POST", os.urandom(5 * MIB))
    after = await ask(entry.port, f"{pair.room}/count")

    assert (413, 200) == (answer.status, after.status)


@pytest.mark.parametrize("what", ["fail", "silent"])
async def test_an_app_that_fails(pair: Pair, entry: Replica, what: str) -> None:
    """An app that fails before it answers, or returns without an answer, is a 500."""
    answer = await ask(entry.port, f"{pair.room}/{what}")

    assert (500, True) == (answer.status, answer.complete)


@pytest.mark.parametrize("way", ["chunked", "length"])
async def test_an_app_that_fails_in_the_middle(pair: Pair, entry: Replica, way: str) -> None:
    """An answer in the middle of which the app failed is never taken for a whole one."""
    answer = await ask(entry.port, f"{pair.room}/fail?{way}")

    assert (200, b"begun", False) == (answer.status, answer.body, answer.complete)


@pytest.mark.parametrize("after", [0.0, 0.3])
@pytest.mark.parametrize("way", ["", "?started"])
async def test_a_client_that_goes_away(pair: Pair, entry: Replica, way: str, after: float) -> None:
    """The app hears that a client went away, before and in the middle of its answer, at once and after a while."""
    async with connected(entry.port) as http:
        await http.begin("GET", f"{pair.room}/hang{way}")
        await http.send(h11.EndOfMessage())
        await pair.replicas.noted("hangs", uid=pair.uid)
        await asyncio.sleep(after)

    await pair.replicas.noted("disconnected", uid=pair.uid, pid=pair.owner.pid)


async def test_a_client_that_goes_away_in_the_middle_of_its_body(pair: Pair, entry: Replica) -> None:
    """The app hears of a client that went away before it had sent its body."""
    before = len(pair.replicas.events("disconnected", pid=pair.owner.pid))
    async with connected(entry.port) as http:
        await http.begin("POST", f"{pair.room}/count", [("Content-Length", "1000000")])
        await http.send(h11.Data(b"x" * 300_000))

    await eventually(lambda: len(pair.replicas.events("disconnected", pid=pair.owner.pid)) > before)


async def test_an_event_stream_of_a_client_that_goes_away(pair: Pair, entry: Replica) -> None:
    """An event stream ends at its owner when the client goes away."""
    before = len(pair.replicas.events("stream_ended", pid=pair.owner.pid))
    async with connected(entry.port) as http:
        await http.begin("GET", f"{pair.room}/events")
        await http.send(h11.EndOfMessage())
        await http.head()

    await eventually(lambda: len(pair.replicas.events("stream_ended", pid=pair.owner.pid)) > before)


async def test_a_slow_reader(pair: Pair, entry: Replica) -> None:
    """An answer of 50 MB to a client that does not read waits in the app, and not in memory."""
    await ask(entry.port, f"{pair.room}/download?80")
    before = pair.owner.memory(), pair.edge.memory()
    async with connected(entry.port) as http:
        await http.begin("GET", f"{pair.room}/download?800")
        await http.send(h11.EndOfMessage())
        await asyncio.sleep(1.5)  # time for the app to send all, if nobody held it back
        grown = pair.owner.memory() - before[0], pair.edge.memory() - before[1]
        answer = await http.response()

    assert len(PIECE) * 800 == len(answer.body)
    assert max(grown) < 8 * MIB


async def test_a_slow_app(pair: Pair, entry: Replica) -> None:
    """A body of 50 MB for an app that does not read waits at the client, and not in memory."""
    before = pair.owner.memory(), pair.edge.memory()
    async with connected(entry.port) as http:
        await http.begin("POST", f"{pair.room}/late", [("Content-Length", str(50 * MIB))])
        sending = asyncio.ensure_future(http.send(h11.Data(b"x" * 50 * MIB), h11.EndOfMessage()))
        await asyncio.sleep(0.3)  # the app waits for 0.4 s
        grown = pair.owner.memory() - before[0], pair.edge.memory() - before[1]
        answer = await http.response()
        await sending

    assert 50 * MIB == answer.json()["size"]
    assert max(grown) < 8 * MIB


async def test_trailers_are_offered_as_the_server_does(pair: Pair) -> None:
    """The owner's app is offered the extensions that the server of the edge has."""
    here = await ask(pair.owner.port, f"{pair.room}/scope")
    there = await ask(pair.edge.port, f"{pair.room}/scope")

    known = {"http.response.trailers"}
    assert known & set(here.json()["extensions"]) == set(there.json()["extensions"])


async def test_keep_alive(pair: Pair, entry: Replica) -> None:
    """A connection of a client serves one request after the other."""
    async with connected(entry.port) as http:
        counts = []
        for _ in range(5):
            await http.begin("GET", f"{pair.room}/count")
            await http.send(h11.EndOfMessage())
            counts.append((await http.response()).json()["count"])
            http.parser.start_next_cycle()

    assert [2, 3, 4, 5, 6] == counts
