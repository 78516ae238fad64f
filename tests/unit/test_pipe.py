"""Automatic pipelining over one connection, against a server that answers as the test says."""

from __future__ import annotations

import asyncio
import itertools
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import redis.exceptions
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError
from stateful_route.store.transport import resp
from stateful_route.store.transport.pipe import Pipe, open_stream
from stateful_route.store.transport.resp import ReplyError
from stateful_route.store.transport.script import Script, ScriptCall
from stateful_route.store.transport.server import PipelinedServer
from tests.leaks import nothing_left
from tests.scripted_server import ScriptedServer, bulk, echo, silence
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable

    from tests.scripted_server import Words

DEADLINE = 0.2
LONG = 30.0  # a deadline that no call of these tests reaches


@attrs.frozen
class Doing:
    name: str
    writes: bool


WRITING, READING = Doing("write", writes=True), Doing("read", writes=False)


class Attempts(UnixDomainSocketConnection):
    """A connection of redis-py that notes when it was tried."""

    at: list[float]

    async def connect(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py's


def settings_of(path: str) -> dict[str, Any]:
    return {"path": path, "protocol": 2, "socket_timeout": None, "retry": Retry(NoBackoff(), 0)}


class Rig:
    """A scripted server and the pipes to it."""

    def __init__(self, server: ScriptedServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.attempts: list[float] = []
        self.kind = type("Counted", (Attempts,), {"at": self.attempts})
        self._stack = stack

    def pipe(self, deadline: float = LONG, most: int = 1000, **settings: Any) -> Pipe:
        """Return a pipe to the server; it is closed at the end."""
        pipe = Pipe(self.kind, settings_of(self.server.path) | settings, deadline, most)
        self._stack.push_async_callback(pipe.aclose)
        return pipe

    def scripts(self, deadline: float = LONG, most: int = 1000) -> PipelinedServer:
        """Return the same with scripts."""
        server = PipelinedServer(self.kind, settings_of(self.server.path), deadline, most)
        self._stack.push_async_callback(server.aclose)
        return server

    async def heard(self, count: int) -> None:
        """Wait until the server has heard so many commands."""
        await eventually(lambda: len(self.server.heard) >= count)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Provide a server that echoes. Afterwards no task and no socket is left."""
    async with nothing_left(), ScriptedServer(echo).run() as server:
        async with nothing_left(), AsyncExitStack() as stack:
            yield Rig(server, stack)
        await eventually(lambda: all(peer.ended for peer in server.peers))


def send(pipe: Pipe, *words: str, doing: Doing = WRITING, within: float | None = None) -> asyncio.Future[Any]:
    """Submit one command."""
    patience = pipe._deadline if within is None else within
    return pipe.submit(resp.pack(words), doing, asyncio.get_running_loop().time() + patience)


def wire_of(pipe: Pipe) -> Any:
    """Return the connection of a pipe that has one."""
    return pipe._wire


async def outcomes(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


class TestReplies:
    async def test_order(self, rig: Rig) -> None:
        """Each of 1,000 callers at once has its own reply, over one connection."""
        pipe = rig.pipe()
        texts = [f"text-{i}" for i in range(1000)]
        replies = await asyncio.gather(*(send(pipe, "ECHO", text) for text in texts))

        assert texts == [reply.decode() for reply in replies]
        assert 1 == pipe.connects

    @pytest.mark.parametrize("parser", ["hiredis", "python"])
    async def test_split(self, rig: Rig, parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replies may come in pieces, cut at any byte."""
        if parser == "python":
            monkeypatch.setattr(resp, "hiredis", None)
        rig.server.answer = silence
        stream = b"$5\r\na\r\nbc\r\n*3\r\n:7\r\n$-1\r\n*1\r\n+x\r\n-WRONGTYPE no\r\n>2\r\n+push\r\n:1\r\n_\r\n"
        pipe = rig.pipe()
        for cut in range(1, len(stream)):
            calls = [send(pipe, "GET", str(i)) for i in range(4)]
            await rig.heard(4 * cut)
            for piece in (stream[:cut], stream[cut:]):
                wire_of(pipe).data_received(piece)
            first, second, error, last = await asyncio.gather(*calls)

            assert (b"a\r\nbc", [7, None, [b"x"]], None) == (first, second, last)
            assert "WRONGTYPE" == error.code

    async def test_errors(self, rig: Rig) -> None:
        """An error that is replied is the reply of one caller; the others do not notice."""
        rig.server.answer = lambda words: b"-WRONGTYPE no\r\n" if words[-1] == "bad" else echo(words)
        pipe = rig.pipe()
        replies = await asyncio.gather(*(send(pipe, "GET", "bad" if i % 2 else str(i)) for i in range(100)))

        assert all(isinstance(reply, ReplyError) for reply in replies[1::2])
        assert [str(i) for i in range(0, 100, 2)] == [reply.decode() for reply in replies[::2]]

    async def test_error_cut_in_a_character(self, rig: Rig) -> None:
        """An error whose text is cut within a character is an error like others."""
        rig.server.answer = lambda _: b"-ERR unknown command '\xc3\r\n"

        assert "ERR" == (await send(rig.pipe(), "X")).code

    async def test_pushes(self, rig: Rig) -> None:
        """A message that answers nothing is nobody's reply."""
        rig.server.answer = lambda words: b">2\r\n+invalidate\r\n*1\r\n+k\r\n" + echo(words)
        pipe = rig.pipe()

        assert [b"0", b"1", b"2"] == await asyncio.gather(*(send(pipe, "ECHO", str(i)) for i in range(3)))

    async def test_unsolicited(self, rig: Rig) -> None:
        """A reply that nobody asked for ends the connection, for those that follow would be another's."""
        pipe = rig.pipe()
        await send(pipe, "ECHO", "before")
        rig.server.peers[0].write(b"+nobody's\r\n")
        await eventually(lambda: not pipe.connected)

        assert b"after" == await send(pipe, "ECHO", "after")
        assert 2 == pipe.connects

    async def test_garbage(self, rig: Rig) -> None:
        """Bytes that are not of the protocol fail what is in flight; the next call goes over another connection."""
        rig.server.answer = lambda _: b"HTTP/1.1 400 Bad Request\r\n"
        pipe = rig.pipe()
        write, read = await outcomes([send(pipe, "SET"), send(pipe, "GET", doing=READING)])
        rig.server.answer = echo

        assert [StoreProtocolError, StoreProtocolError] == [type(write), type(read)]
        assert (True, False) == (write.maybe_applied, read.maybe_applied)
        assert b"after" == await send(pipe, "ECHO", "after")

    async def test_batch(self, rig: Rig) -> None:
        """Of commands that are sent together, those that were answered have their replies, the others the error."""
        rig.server.answer = lambda words: echo(words) if words[-1] == "0" else b""
        pipe = rig.pipe()
        data = b"".join(resp.pack(("ECHO", str(i))) for i in range(3))
        batch = pipe.submit(data, WRITING, asyncio.get_running_loop().time() + LONG, 3)
        await rig.heard(3)
        rig.server.peers[0].close()
        first, *rest = await batch

        assert b"0" == first
        assert [(StoreUnavailableError, True)] * 2 == [(type(error), error.maybe_applied) for error in rest]


class TestLost:
    async def test_in_flight(self, rig: Rig) -> None:
        """What is in flight when the connection ends has failed; only what writes may have been applied."""
        rig.server.answer = silence
        pipe = rig.pipe()
        calls = [send(pipe, "SET"), send(pipe, "GET", doing=READING)]
        await rig.heard(2)
        rig.server.peers[0].close()
        write, read = await outcomes(calls)

        assert [StoreUnavailableError, StoreUnavailableError] == [type(write), type(read)]
        assert (True, False) == (write.maybe_applied, read.maybe_applied)

    async def test_idle(self, rig: Rig) -> None:
        """A connection that ends while nobody uses it costs the next caller nothing but the time of another."""
        pipe = rig.pipe()
        await send(pipe, "ECHO", "before")
        rig.server.peers[0].close()
        await eventually(lambda: not pipe.connected)

        assert b"after" == await send(pipe, "ECHO", "after")
        assert 2 == pipe.connects

    async def test_waiting(self, rig: Rig) -> None:
        """What waited behind others when the connection ended goes over the next one."""
        rig.server.answer = lambda words: b"" if words[-1] == "0" else echo(words)
        pipe = rig.pipe(most=1)
        calls = [send(pipe, "ECHO", str(i)) for i in range(4)]
        await rig.heard(1)
        rig.server.peers[0].close()
        first, *rest = await outcomes(calls)

        assert isinstance(first, StoreUnavailableError)
        assert [b"1", b"2", b"3"] == rest
        assert ["0", "1", "2", "3"] == [words[-1] for words in rig.server.heard]

    @pytest.mark.parametrize("end", ["the server's", "ours"])
    async def test_submitted_as_it_ends(self, rig: Rig, end: str) -> None:
        """A call that is made while the connection is ending is not lost in it: it goes over the next one."""
        pipe = rig.pipe()
        await send(pipe, "ECHO", "before")
        call = send(pipe, "ECHO", "after")
        wire = wire_of(pipe)
        if end == "ours":
            wire.abort(ConnectionError("of no use"))
        elif not wire.eof_received():  # as the transport does it
            wire._transport.close()

        assert b"after" == await call
        assert ["before", "after"] == [words[-1] for words in rig.server.heard]

    @pytest.mark.parametrize("end", ["half", "whole"])
    async def test_closed_at_once(self, rig: Rig, end: str) -> None:
        """A connection that is lost in the moment of the handshake's end is no connection."""

        class Closed(UnixDomainSocketConnection):
            async def connect(self) -> None:
                await super().connect()  # type: ignore[no-untyped-call]  # redis-py's
                stream: Any = self
                if end == "half":
                    rig.server.peers[-1].close()
                    await eventually(stream._reader.at_eof)
                else:
                    stream._writer.transport.abort()
                    await asyncio.sleep(0)  # the transport tells whom it has to

        with pytest.raises(redis.exceptions.ConnectionError):
            await open_stream(Closed, settings_of(rig.server.path))


class TestCancellation:
    async def test_before_it_is_sent(self, rig: Rig) -> None:
        """A call that is cancelled before it was sent is never sent."""
        pipe = rig.pipe()
        calls = [send(pipe, "ECHO", str(i)) for i in range(4)]
        calls[1].cancel()
        await outcomes(calls)

        assert ["0", "2", "3"] == [words[-1] for words in rig.server.heard]

    async def test_after_it_was_sent(self, rig: Rig) -> None:
        """A call that is cancelled in flight costs nobody anything: its reply is dropped, the connection goes on."""
        rig.server.answer = silence
        pipe = rig.pipe()
        calls = [send(pipe, "ECHO", str(i)) for i in range(4)]
        await rig.heard(4)
        for call in calls[::2]:
            call.cancel()
        rig.server.peers[0].write(b"".join(bulk(str(i)) for i in range(4)))

        assert [b"1", b"3"] == await asyncio.gather(*calls[1::2])
        assert 1 == pipe.connects

    async def test_nobody_waits_for_a_connection(self, rig: Rig) -> None:
        """A connection is made for the next caller even if the one who began it is gone."""
        pipe = rig.pipe()
        send(pipe, "ECHO", "gone").cancel()

        assert b"here" == await send(pipe, "ECHO", "here")
        assert 1 == len(rig.attempts)


class TestDeadline:
    async def test_of_one_call(self, rig: Rig) -> None:
        """A call that is late fails alone: what is behind it is answered, over the same connection."""
        rig.server.answer = silence
        pipe = rig.pipe()
        late, behind = send(pipe, "SET", "a", within=0.02), send(pipe, "SET", "b")
        with pytest.raises(StoreTimeoutError) as raised:
            await late
        rig.server.peers[0].write(bulk("a") + bulk("b"))

        assert raised.value.maybe_applied
        assert b"b" == await behind
        assert 1 == pipe.connects

    async def test_shorter_than_of_those_before(self, rig: Rig) -> None:
        """A call ends by its own deadline, be those before it as patient as they may."""
        rig.server.answer = silence
        pipe = rig.pipe()
        before, late = send(pipe, "SET", "a"), send(pipe, "SET", "b", within=0.02)
        await asyncio.wait([late], timeout=10.0)
        waits_on = not before.done()
        before.cancel()

        assert waits_on
        assert late.done()
        assert isinstance(late.exception(), StoreTimeoutError)

    async def test_slow_server(self, rig: Rig) -> None:
        """A server that answers is not half-open, late as it may be for those who had to wait for their turn."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE, 1)

        async def answer_slowly() -> None:
            for i in itertools.count():
                await rig.heard(i + 1)
                await asyncio.sleep(DEADLINE / 4)  # its slowness
                rig.server.peers[0].write(echo(rig.server.heard[i]))

        answering = asyncio.create_task(answer_slowly())
        replies = await outcomes([send(pipe, "ECHO", str(i)) for i in range(10)])
        last = await send(pipe, "ECHO", "last", within=LONG)
        answering.cancel()

        assert isinstance(replies[-1], StoreTimeoutError)
        assert b"last" == last
        assert 1 == pipe.connects

    async def test_half_open(self, rig: Rig) -> None:
        """A connection that says nothing is replaced at the first deadline and closed after the second."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE)
        with pytest.raises(StoreTimeoutError) as raised:
            await send(pipe, "SET", "a")
        rig.server.answer = echo

        assert raised.value.maybe_applied
        assert b"b" == await send(pipe, "SET", "b")
        await eventually(lambda: rig.server.peers[0].ended)
        assert b"c" == await send(pipe, "SET", "c")
        assert 2 == pipe.connects

    async def test_behind_on_a_half_open_connection(self, rig: Rig) -> None:
        """What was sent before the connection was replaced is still answered over it."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE)
        first, behind = send(pipe, "SET", "a"), send(pipe, "SET", "b", within=LONG)
        await asyncio.wait([first])
        await eventually(lambda: not pipe.connected)
        rig.server.peers[0].write(bulk("a") + bulk("b"))

        assert b"b" == await behind
        await eventually(lambda: rig.server.peers[0].ended)

    async def test_nobody_hangs(self, rig: Rig) -> None:
        """On a half-open connection all who are in flight, behind it and cancelled come to their end."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE, 10)
        calls = [send(pipe, "SET", str(i)) for i in range(30)]
        await rig.heard(10)
        calls[0].cancel()
        answers = (await outcomes(calls))[1:]

        assert {StoreTimeoutError} == {type(answer) for answer in answers}
        await eventually(lambda: rig.server.peers[0].ended)
        assert 0 == len(pipe._waiting)

    async def test_connecting(self, rig: Rig) -> None:
        """A handshake that is not answered is a time-out, and nothing was changed."""
        rig.server.greet = silence
        with pytest.raises(StoreTimeoutError) as raised:
            await send(rig.pipe(DEADLINE), "SET", "a")

        assert not raised.value.maybe_applied
        assert f"unix://{rig.server.path}" in str(raised.value)


class TestBackPressure:
    async def test_order(self, rig: Rig) -> None:
        """Those who wait because enough are in flight are sent in their order."""
        pipe = rig.pipe(most=3)
        texts = [str(i) for i in range(100)]
        await asyncio.gather(*(send(pipe, "ECHO", text) for text in texts))

        assert texts == [words[-1] for words in rig.server.heard]

    async def test_cap(self, rig: Rig) -> None:
        """No more than so many are in flight; those who waited for their turn until their deadline were not sent."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE, 2)
        answers = await outcomes([send(pipe, "SET", str(i)) for i in range(6)])

        assert {StoreTimeoutError} == {type(answer) for answer in answers}
        assert [True, True, False, False, False, False] == [answer.maybe_applied for answer in answers]
        assert ["0", "1"] == [words[-1] for words in rig.server.heard]

    async def test_server_does_not_read(self, rig: Rig) -> None:
        """While the server reads nothing, what the transport does not take waits, and is then sent in its order."""
        pipe = rig.pipe()
        await send(pipe, "ECHO", "before")
        rig.server.peers[0].reads.clear()
        big = "x" * 100_000
        calls = [send(pipe, "ECHO", big, str(i)) for i in range(50)]
        await eventually(lambda: not wire_of(pipe).writable)
        calls += [send(pipe, "ECHO", "small", "last")]
        held_back = len(pipe._waiting)
        rig.server.peers[0].reads.set()
        replies = await asyncio.gather(*calls)

        assert 0 < held_back
        assert [*map(str, range(50)), "last"] == [reply.decode() for reply in replies]
        assert 1 == pipe.connects


class TestBackOff:
    async def test_pauses(self, rig: Rig) -> None:
        """While the server is away, attempts come with pauses that double, however many call."""
        path, rig.server.path = rig.server.path, "/nowhere"
        pipe = rig.pipe()
        rig.server.path = path
        while len(rig.attempts) < 6:
            answers = await outcomes([send(pipe, "SET") for _ in range(10)])

            assert {(StoreUnavailableError, False)} == {(type(answer), answer.maybe_applied) for answer in answers}
        pauses = [after - before for before, after in zip(rig.attempts, rig.attempts[1:], strict=False)]

        assert all(pause >= 0.01 * 2**i / 2 - 0.001 for i, pause in enumerate(pauses))

    async def test_jitter(self, rig: Rig) -> None:
        """Pauses are bounded, and up to half of each is random, so that many clients do not come at once."""
        pipe = rig.pipe()
        pauses = []
        for _ in range(200):
            pipe._back_off()
            pauses.append(pipe._retry_at - asyncio.get_running_loop().time())

        assert 100 < len(set(pauses[10:]))
        assert all(0.24 < pause <= 0.5 for pause in pauses[10:])

    async def test_closed_after_each_handshake(self, rig: Rig) -> None:
        """A server that ends each connection at its first command is tried with pauses too."""

        def end(words: Words) -> bytes:
            rig.server.peers[-1].close()
            return b""

        rig.server.answer = end
        pipe = rig.pipe()
        while len(rig.attempts) < 6:
            await outcomes([send(pipe, "SET")])
        pauses = [after - before for before, after in zip(rig.attempts, rig.attempts[1:], strict=False)]

        assert all(pause >= 0.01 * 2**i / 2 - 0.001 for i, pause in enumerate(pauses))

    async def test_long_outage(self, rig: Rig) -> None:
        """Once the server has been away for longer than a deadline, calls between the attempts fail at once."""
        path, rig.server.path = rig.server.path, "/nowhere"
        pipe = rig.pipe(0.05)
        rig.server.path = path

        async def fails_at_once() -> bool:
            try:
                await outcomes([send(pipe, "SET")])
            except StoreUnavailableError as error:  # raised instead of being given to the future
                return not error.maybe_applied
            return False

        await eventually(fails_at_once)
        pipe.settings["path"] = path
        await eventually(lambda: asyncio.get_running_loop().time() > pipe._retry_at)

        assert b"back" == await send(pipe, "ECHO", "back", within=LONG)

    async def test_long_silence(self, rig: Rig) -> None:
        """Of a server that is silent for long, the error says for how long, where, and when it is tried again."""
        rig.server.greet = silence
        pipe = rig.pipe(0.05)
        texts: list[str] = []

        async def fails_at_once() -> bool:
            try:
                await outcomes([send(pipe, "SET", within=LONG)])
            except StoreUnavailableError as error:  # raised instead of being given to the future
                texts.append(str(error))
            return bool(texts)

        await eventually(fails_at_once)

        assert re.fullmatch(
            rf"write: no connection to unix://{rig.server.path}: it has not answered for \d\.\d s, "
            r"next attempt in 0\.\d s \(nothing was changed\)",
            texts[0],
        )

    async def test_one_connection_for_all(self, rig: Rig) -> None:
        """Who calls while a connection is being made waits for it, and makes none of its own."""
        pipe = rig.pipe()
        await asyncio.gather(*(send(pipe, "ECHO", str(i)) for i in range(100)))

        assert 1 == len(rig.attempts)

    async def test_refused_handshake(self, rig: Rig) -> None:
        """A password that is refused is an unavailable store that says why, and nothing was changed."""
        rig.server.greet = lambda words: b"-WRONGPASS no such user\r\n" if words[0] == "AUTH" else b"+OK\r\n"
        with pytest.raises(StoreUnavailableError, match="no such user") as raised:
            await send(rig.pipe(username="somebody"), "SET")

        assert not raised.value.maybe_applied


class TestClose:
    async def test_idle(self, rig: Rig) -> None:
        """A pipe that is idle, or never connected, is closed, twice is no error, and refuses calls from then on."""
        used, unused = rig.pipe(), rig.pipe()
        await send(used, "ECHO", "a")
        for pipe in (used, unused, used):
            await pipe.aclose()
            with pytest.raises(StoreUnavailableError, match="closed") as raised:
                send(pipe, "SET")

            assert not raised.value.maybe_applied
        await eventually(lambda: rig.server.peers[0].ended)

    async def test_under_load(self, rig: Rig) -> None:
        """What is in flight or waits when the pipe is closed is answered, and new calls are refused at once."""
        rig.server.answer = silence
        pipe = rig.pipe(most=2)
        calls = [send(pipe, "ECHO", str(i)) for i in range(6)]
        await rig.heard(2)
        closing = asyncio.create_task(pipe.aclose())
        await asyncio.sleep(0)  # it begins
        with pytest.raises(StoreUnavailableError, match="closed"):
            send(pipe, "SET")
        rig.server.answer = echo
        rig.server.peers[0].write(bulk("0") + bulk("1"))
        await closing

        assert [b"0", b"1", b"2", b"3", b"4", b"5"] == await asyncio.gather(*calls)

    async def test_half_open(self, rig: Rig) -> None:
        """Closing does not wait for a connection that says nothing, retired or not."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE)
        await asyncio.wait([send(pipe, "SET", "a")])
        calls = [send(pipe, "SET", str(i), within=LONG) for i in range(3)]
        await rig.heard(4)
        await asyncio.gather(pipe.aclose(), pipe.aclose())

        assert {StoreUnavailableError} == {type(answer) for answer in await outcomes(calls)}

    async def test_answers_on_a_retired_connection(self, rig: Rig) -> None:
        """Closing waits for what is in flight on a connection that was replaced."""
        rig.server.answer = silence
        pipe = rig.pipe(DEADLINE)
        first, behind = send(pipe, "SET", "a"), send(pipe, "SET", "b", within=LONG)
        await asyncio.wait([first])
        await eventually(lambda: not pipe.connected)
        closing = asyncio.create_task(pipe.aclose())
        rig.server.peers[0].write(bulk("a") + bulk("b"))
        await closing

        assert b"b" == await behind

    async def test_connecting(self, rig: Rig) -> None:
        """Closing ends an attempt to connect, and those who wait for it fail."""
        rig.server.greet = silence
        pipe = rig.pipe(DEADLINE)
        call = send(pipe, "SET", within=LONG)
        await eventually(lambda: bool(rig.server.peers))
        await pipe.aclose()
        (answer,) = await outcomes([call])

        assert isinstance(answer, StoreError)
        assert not answer.maybe_applied


ONE = Script("one", ("key",), (), None, writes=True, source="return KEYS[1]", sha="5ha1")


class Scripts:
    """What a server with scripts answers: the key of the call."""

    def __init__(self) -> None:
        self.known = False
        self.refusal = b""

    def __call__(self, words: Words) -> bytes:
        if words[0] == "EVAL":
            self.known = True
        return (self.refusal or echo(words)) if self.known else b"-NOSCRIPT No matching script\r\n"


def calls_of(count: int) -> list[ScriptCall]:
    return [ONE.command((f"key-{i}",), ()) for i in range(count)]


class TestScripts:
    @pytest.mark.parametrize("most", [10, 2000])
    async def test_forgotten(self, rig: Rig, most: int) -> None:
        """A script that the server forgot is sent once, however many miss it."""
        rig.server.answer = Scripts()
        server = rig.scripts(most=most)
        replies = await asyncio.gather(*map(server.run, calls_of(1000)))

        assert [f"key-{i}" for i in range(1000)] == [reply.decode() for reply in replies]
        assert 1 == sum(words[0] == "EVAL" for words in rig.server.heard)

    async def test_forgotten_in_a_batch(self, rig: Rig) -> None:
        """In a batch it is sent once too."""
        rig.server.answer = Scripts()
        replies = await rig.scripts().run_many(calls_of(300))

        assert [f"key-{i}" for i in range(300)] == [reply.decode() for reply in replies]
        assert 1 == sum(words[0] == "EVAL" for words in rig.server.heard)

    async def test_giver_is_cancelled(self, rig: Rig) -> None:
        """Whoever sends the script may be cancelled: the others have their replies."""
        rig.server.answer = Scripts()
        server = rig.scripts()
        tasks = [asyncio.ensure_future(server.run(call)) for call in calls_of(50)]
        await rig.heard(50)
        await asyncio.sleep(0)  # the replies are read, and the script is given
        tasks[0].cancel()
        replies = await outcomes(tasks)

        assert [f"key-{i}" for i in range(1, 50)] == [reply.decode() for reply in replies[1:]]

    async def test_cannot_be_given(self, rig: Rig) -> None:
        """Whatever goes wrong as a script is given, its callers hear of it and do not hang."""
        rig.server.answer = Scripts()
        script = attrs.evolve(ONE, source="no UTF-8: \ud800")
        server = rig.scripts()
        server._pipe._given.add(script.sha)  # and the server has forgotten it since
        call = server.run(script.command(("key",), ()))
        done, _ = await asyncio.wait([asyncio.ensure_future(call)], timeout=10.0)

        assert [UnicodeEncodeError] == [type(each.exception()) for each in done]

    async def test_late_second(self, rig: Rig) -> None:
        """A script that is given has the deadline of the call that missed it."""
        rig.server.answer = lambda words: b"-NOSCRIPT no\r\n" if words[0] == "EVALSHA" else b""
        (answer,) = await outcomes([rig.scripts(DEADLINE).run(calls_of(1)[0])])

        assert isinstance(answer, StoreTimeoutError)
        assert answer.maybe_applied

    async def test_closed_as_it_is_given(self, rig: Rig) -> None:
        """Closing waits for what a script that is given replies."""
        rig.server.answer = silence
        server = rig.scripts()
        call = asyncio.ensure_future(server.run(calls_of(1)[0]))
        await rig.heard(1)
        rig.server.peers[0].write(b"-NOSCRIPT no\r\n")
        await rig.heard(2)
        closing = asyncio.create_task(server.aclose())
        await asyncio.sleep(0)  # it begins
        rig.server.peers[0].write(bulk("given"))
        await closing

        assert b"given" == await call

    async def test_not_allowed(self, rig: Rig) -> None:
        """Where the text of a script is refused, each caller has the refusal, and asks no more than three times."""
        rig.server.answer = lambda words: b"-NOPERM no\r\n" if words[0] == "EVAL" else b"-NOSCRIPT no\r\n"
        answers = await outcomes(map(rig.scripts().run, calls_of(100)))

        assert {(StoreUnavailableError, False)} == {(type(answer), answer.maybe_applied) for answer in answers}
        assert 300 >= len(rig.server.heard)

    async def test_not_the_primary(self, rig: Rig) -> None:
        """A server that has become a replica is connected to anew, once for all who notice; reads are answered."""
        rig.server.answer = scripted = Scripts()
        server = rig.scripts()
        await server.run(calls_of(1)[0])
        scripted.refusal = b"-READONLY You can't write against a read only replica.\r\n"
        answers = await outcomes(map(server.run, calls_of(100)))
        scripted.refusal = b""

        assert {(StoreUnavailableError, False)} == {(type(answer), answer.maybe_applied) for answer in answers}
        assert b"key-0" == await server.run(calls_of(1)[0])
        assert 2 == server._pipe.connects
        assert 0.01 <= server._pipe._backoff.next() <= 0.02, "there was one failure"

    async def test_never_the_primary(self, rig: Rig) -> None:
        """As long as the server that is connected to is no primary, the pauses between connections double."""
        rig.server.answer = scripted = Scripts()
        scripted.refusal = b"-READONLY You can't write against a read only replica.\r\n"
        server = rig.scripts()
        while len(rig.attempts) < 6:
            await outcomes(map(server.run, calls_of(3)))
        pauses = [after - before for before, after in zip(rig.attempts, rig.attempts[1:], strict=False)]

        assert all(pause >= 0.01 * 2**i / 2 - 0.001 for i, pause in enumerate(pauses))
