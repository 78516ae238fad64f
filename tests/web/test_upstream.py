"""The client of HTTP/1.1 to an app behind this process, against a server that says exactly what a test tells it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import socket
import warnings
from typing import Any

import pytest

from stateful_route.web.errors import UpstreamLostError, UpstreamProtocolError
from stateful_route.web.upstream.app import Exchange
from stateful_route.web.upstream.connection import HttpConnection
from stateful_route.web.upstream.head import request_head
from stateful_route.web.upstream.pool import Pool
from tests.waiting import eventually
from tests.web.upstream import OK, App, Call, Line, answers, app_that

pytest.importorskip("httptools")

BIG = 5 * 1024 * 1024


# Connections ----------------------------------------------------------------------------------------------------------


async def test_reuse() -> None:
    """Requests one after the other share a connection, and those at the same time do not."""
    async with app_that(answers(OK)) as app:
        for _ in range(5):
            assert (await Call().run(app)).body == b"ok"
        assert 1 == len(app.lines)
        calls = await asyncio.gather(*(Call().run(app) for _ in range(8)))

        assert [b"ok"] * 8 == [call.body for call in calls]
        assert len(app.lines) <= 8


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"],
)
async def test_no_reuse(head: bytes) -> None:
    """A connection that the app says it closes gets no other request."""
    async with app_that(answers(head, keep=False)) as app:
        for _ in range(3):
            assert (await Call("POST", body=b"x").run(app)).body == b"ok"

        # Others only look whether the app is there still, after an answer that ends with its connection.
        assert 3 == len([line for line in app.lines if line.heads])


async def test_closed_while_it_is_free() -> None:
    """A connection that the app has closed meanwhile is not used again, by no kind of request."""
    async with app_that(answers(OK, keep=False)) as app:
        for method in ("GET", "POST") * 3:
            call = await Call(method, body=b"x").run(app)
            assert call.complete
            await asyncio.sleep(0.02)  # the end of the connection comes in

        assert 6 == len(app.lines)


async def test_old_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot go twice goes by a young connection: an old one may be closed while it is sent."""
    monkeypatch.setattr("stateful_route.web.upstream.pool._YOUNG_FOR", 0.0)
    async with app_that(answers(OK)) as app:
        await Call().run(app)
        await Call("PUT", body=b"").run(app)
        assert 1 == len(app.lines)
        await Call("POST", body=b"").run(app)
        assert 2 == len(app.lines)
        monkeypatch.setattr("stateful_route.web.upstream.pool._KEPT_FOR", 0.0)
        await Call().run(app)

        assert 3 == len(app.lines)
        await asyncio.gather(*(line.ended() for line in app.lines[:2]))


async def test_nobody_there() -> None:
    """An app that is not reached has got nothing."""
    async with app_that(answers(OK)) as app:
        app.server.close()
        with pytest.raises(UpstreamLostError) as caught:
            await Call().run(app)

        assert not caught.value.sent


async def test_itself() -> None:
    """A connection that the system has made to its own end, as nobody listens there, is none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool = Pool("127.0.0.1", port, connect_timeout=1.0)
    create = asyncio.get_running_loop().create_connection

    async def from_there(factory: Any, host: str, number: int) -> Any:
        return await create(factory, host, number, local_addr=(host, number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "create_connection", from_there)
        with pytest.raises(UpstreamLostError, match="nobody listens") as caught:
            await pool.connect()

    assert not caught.value.sent


async def test_moved() -> None:
    """Once the app is on another port, no connection to the old one is used or kept."""
    async with app_that(answers(OK)) as old, app_that(answers(OK)) as new:
        await Call().run(old)
        old.upstream.move(new.port)
        await Call().run(old)
        assert 1 == len(new.lines)

        assert b"" == await old.lines[0].ended()


# Framing --------------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[bytes, int, bytes]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "chunks": (
        b"HTTP/1.1 201 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n",
        201,
        b"hello",
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nset-cookie: a=b\r\n\r\n",
        200,
        b"hello",
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\netag: x\r\n\r\n", 304, b""),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3 + OK, 200, b"ok"),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
}


@pytest.mark.parametrize("piece", [1, 7, 100_000])
@pytest.mark.parametrize("name", ANSWERS)
async def test_framing(name: str, piece: int) -> None:
    """An answer is read the same in whatever pieces it comes, and the connection is used again after it."""
    data, status, body = ANSWERS[name]

    async def talk(line: Line) -> None:
        while True:
            await line.head()
            for at in range(0, len(data), piece):
                await line.say(data[at : at + piece])
                await asyncio.sleep(0)

    async with app_that(talk) as app:
        for _ in range(2):
            call = await Call().run(app)
            assert (status, body, True) == (call.status, call.body, call.complete)
            names = {name for name, _ in call.headers}
            assert names.isdisjoint({b"transfer-encoding", b"connection", b"link", b"set-cookie"})
            assert name != "304" or (b"etag", b"x") in call.headers
            assert name != "304" or b"content-length" not in names

        assert 1 == len(app.lines)


async def test_head() -> None:
    """The answer to a HEAD has no body, whatever its head says."""
    async with app_that(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")) as app:
        for _ in range(2):
            call = await Call("HEAD", body=b"").run(app)

            assert (200, b"", True) == (call.status, call.body, call.complete)
            assert (b"content-length", b"500") in call.headers


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_until_the_end(how: str) -> None:
    """A body without a length goes until the app closes; one that is reset before is cut off."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await asyncio.sleep(0.05)  # the client has it by then
        if how == "reset":
            line.reset()

    async with app_that(talk) as app:
        call = await Call().run(app)

        assert (b"some", how == "closed") == (call.body, call.complete)


async def test_until_the_end_of_the_app() -> None:
    """A body without a length is cut off if nobody listens any more when it ends: the app was killed in its midst."""
    app: App

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
        app.server.close()

    async with app_that(talk) as app:
        call = await Call().run(app)

        assert (200, False) == (call.status, call.complete)


REFUSED = {
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 0\r\n\r\n",
    "a signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "folded": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "a CR in a value": b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nxxx",
    "two codings": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "status 600": b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "an upgrade to nothing": b"HTTP/1.1 101 Switching\r\n\r\n",
    "a long head": b"HTTP/1.1 200 OK\r\n" + b"x: %b\r\n" % (b"a" * 1000) * 1000,
    "a long line": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1_000_000,
    "interim answers for ever": b"HTTP/1.1 103 E\r\nx: y\r\n\r\n" * 50_000,
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    """An answer that may be read in two ways, or that nobody can read, is none; the connection ends."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(REFUSED[name])
        await line.ended()

    async with app_that(talk) as app:
        call = Call()
        with pytest.raises(UpstreamProtocolError):
            await call.run(app)

        assert [] == call.sent


async def test_endless_trailers() -> None:
    """What follows a body is bounded too, and no part of the head."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        for number in itertools.count():
            await line.say(b"x-%d: %b\r\n" % (number, b"a" * 1000))

    async with app_that(talk) as app:
        call = await Call().run(app)

        assert (b"ok", False) == (call.body, call.complete)


@pytest.mark.parametrize("when", ["at once", "later", "while free"])
async def test_unasked(when: str) -> None:
    """A second answer to one request is nobody's, and ends the connection."""

    async def talk(line: Line) -> None:
        await line.head()
        if line.number:
            await line.say(OK)
            return
        evil = OK.replace(b"ok", b"no")
        await line.say(OK + evil if when == "at once" else OK)
        if when == "later":
            await line.head()
            await line.say(evil + evil)
        if when == "while free":
            await asyncio.sleep(0.05)  # it is free by then
            await line.say(evil)
        await line.ended()

    async with app_that(talk) as app:
        assert b"ok" == (await Call().run(app)).body
        if when == "later":
            await Call().run(app)
        await asyncio.sleep(0.1)  # what nobody asked for has come

        assert b"ok" == (await Call().run(app)).body
        assert 2 == len(app.lines)


# Bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_request_bodies(chunked: bool) -> None:
    """A body goes on as it comes, with its length or in chunks; an empty part ends nothing."""

    async def talk(line: Line) -> None:
        head = (await line.head()).lower()
        assert (b"transfer-encoding: chunked\r\n" in head) == chunked
        assert (b"content-length" in head) != chunked
        end = b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n" if chunked else b"hello"
        assert end == await line.reader.readexactly(len(end))
        await line.say(OK)

    async with app_that(talk) as app:
        length = ("transfer-encoding", "chunked") if chunked else ("content-length", "5")
        call = Call("POST", headers=[("host", "a"), length])
        call.give(b"hel")
        call.give(b"")
        call.give(b"lo")
        call.give(b"", more=False)
        await call.run(app)

        assert b"ok" == call.body


async def test_both_lengths_of_a_request() -> None:
    """A request that says both is sent in chunks, without its length."""

    async def talk(line: Line) -> None:
        head = (await line.head()).lower()
        assert b"content-length" not in head
        assert 1 == head.count(b"transfer-encoding: chunked")
        assert b"4\r\nbody\r\n0\r\n\r\n" == await line.reader.readexactly(14)
        await line.say(OK)

    async with app_that(talk) as app:
        call = Call("POST", headers=[("content-length", "9"), ("transfer-encoding", "chunked")])
        call.give(b"body", more=False)

        assert b"ok" == (await call.run(app)).body


async def test_a_slow_client() -> None:
    """What a client does not take stays with the app, but for what the buffers of the system hold."""
    said, much = 0, 20 * BIG

    async def talk(line: Line) -> None:
        nonlocal said
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % much)
        for _ in range(much // 65536):
            await line.say(b"x" * 65536)
            said += 65536

    async with app_that(talk) as app:
        call = Call()
        call.room.clear()
        running = asyncio.ensure_future(call.run(app))
        await eventually(lambda: call.sent)
        before = -1
        while said != before:  # it comes to a stand
            before = said
            await asyncio.sleep(0.1)
        assert said < 4 * BIG
        call.room.set()
        await running

        assert much == len(call.body)
        assert call.complete


async def test_a_slow_app() -> None:
    """What an app does not read is not taken from the client, but for some 100 kB."""
    go = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.head()
        await go.wait()
        await line.reader.readexactly(BIG)
        await line.say(OK)

    async with app_that(talk, limit=1024) as app:
        call = Call("POST", headers=[("content-length", str(BIG))])
        parts = BIG // 65536
        for number in range(parts):
            call.give(b"x" * 65536, more=number + 1 < parts)
        running = asyncio.ensure_future(call.run(app))
        asked = -1
        while call.asked != asked:
            asked = call.asked
            await asyncio.sleep(0.1)
        assert call.asked < parts
        go.set()
        await running

        assert b"ok" == call.body


async def test_the_memory_of_many() -> None:
    """Ten answers of 5 MB each, one after the other, leave nothing behind."""
    data = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG + b"x" * BIG
    async with app_that(answers(data)) as app:
        for number in range(12):
            call = await Call().run(app)
            assert BIG == len(call.body)
            if number == 1:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            del call

        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * BIG // 1024


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the answer", "in the answer", "in the body"])
async def test_the_client_goes_away(when: str) -> None:
    """An app sees that its client is gone, by the end of the connection, and nothing fails."""
    seen = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.head()
        if when == "in the answer":
            await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsome")
        await line.ended()
        seen.set()

    async with app_that(talk) as app:
        call = Call("POST", headers=[("content-length", "10")]) if when == "in the body" else Call()
        if when == "in the body":
            call.give(b"some")
        running = asyncio.ensure_future(call.run(app))
        await eventually(lambda: app.lines and (when != "in the answer" or len(call.sent) > 1))
        call.leave()
        await running
        await asyncio.wait_for(seen.wait(), 5)

        assert not call.complete
        assert 0 == app.upstream.open


async def test_cancelled() -> None:
    """A request that is cancelled ends its connection, and leaves no task."""
    before = asyncio.all_tasks()

    async def talk(line: Line) -> None:
        await line.head()
        assert b"" == await line.ended()

    async with app_that(talk) as app:
        running = asyncio.ensure_future(Call("POST", headers=[("content-length", "10")]).run(app))
        await eventually(lambda: app.lines)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: asyncio.all_tasks() <= before)

        assert 0 == app.upstream.open


@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_before_the_body(closes: bool) -> None:
    """An answer that comes before the body was sent is passed on, and its connection is not used again."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig")
        if not closes:
            await line.ended()

    async with app_that(talk) as app:
        call = Call("POST", headers=[("content-length", "1000")])
        call.give(b"x")
        await call.run(app)
        assert (413, b"big", True) == (call.status, call.body, call.complete)
        await Call().run(app)

        assert 2 == len(app.lines)


@pytest.mark.parametrize("how", ["closed", "reset", "in the head", "in an interim answer"])
async def test_dies_before_the_answer(how: str) -> None:
    """An app that ends before its answer has begun is lost, and it is known that it had the request."""

    async def talk(line: Line) -> None:
        await line.head()
        if how == "in the head":
            await line.say(b"HTTP/1.1 200 OK\r\ncontent-le")
        if how == "in an interim answer":
            await line.say(b"HTTP/1.1 103 X\r\nx: y\r\n\r\n")
        if how == "reset":
            line.reset()

    async with app_that(talk) as app:
        call = Call("POST", body=b"x")
        with pytest.raises(UpstreamLostError) as caught:
            await call.run(app)

        assert (True, True) == (caught.value.sent, caught.value.fresh)
        assert [] == call.sent


@pytest.mark.parametrize("head", [b"content-length: 10", b"transfer-encoding: chunked"])
async def test_dies_in_the_answer(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that breaks off has no end, and the log says so."""
    async with app_that(answers(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n3\r\nabc" % head, keep=False)) as app:
        call = await Call().run(app)

        assert (200, False) == (call.status, call.complete)
        assert "cut off" in caplog.text


async def test_lost_by_a_used_connection() -> None:
    """An app that ends at the second request of a connection may have closed that for having been idle."""

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(OK)
        await line.head()

    async with app_that(talk) as app:
        await Call().run(app)
        with pytest.raises(UpstreamLostError) as caught:
            await Call().run(app)

        assert not caught.value.fresh


async def test_anything_else() -> None:
    """A lifespan is not what an app behind this process has."""
    async with app_that(answers(OK)) as app:
        call = Call(type="lifespan")
        with pytest.raises(NotImplementedError):
            await call.run(app)


async def test_a_connection_that_is_lost() -> None:
    """A connection that is lost is not closed again: asyncio raises if something was still to be sent."""

    class Lost(asyncio.Transport):
        def abort(self) -> None:
            raise AssertionError

    connection = HttpConnection()
    connection.connection_made(Lost())
    connection.connection_lost(None)
    connection.abort()

    assert not connection.is_open


async def test_an_answer_that_comes_just_as_it_is_late() -> None:
    """Who is told to watch the client, and has its answer in the same moment, leaves no coroutine that never ran."""
    async with app_that(answers(OK)) as app:
        call = Call()
        connection = await Pool("127.0.0.1", app.port, connect_timeout=10.0).connect()
        head = request_head(call.scope, "127.0.0.1")
        assert head is not None

        async def is_there() -> bool:
            return False

        exchange = Exchange(connection, head, call.receive, call.send, is_there)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exchange.watch()
            await exchange.close()
            del exchange
            gc.collect()
        connection.abort()

    assert [] == [str(each.message) for each in caught]
