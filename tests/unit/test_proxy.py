"""The proxy that makes faults, in front of a server of a few lines that counts what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from stateful_route.errors import LifecycleError
from stateful_route.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BOUND = 5.0
# How long a test listens to make sure that nothing comes; that nothing comes is no fact that could be waited for.
SILENCE = 0.05


class Upstream:
    """Answers each line with itself; ``b"bye"`` ends the connection after that, ``b"flood 9"`` after 9 more bytes."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[bytes] = []
        self.open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.asked.append(line.strip())
                writer.write(line)
                if line.startswith(b"flood "):
                    writer.write(b"x" * int(line.split()[1]))
                if line.startswith((b"bye", b"flood ")):
                    break
        self.open.discard(writer)
        writer.close()

    def reset(self) -> None:
        """End every connection by a reset."""
        for writer in self.open:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def run_upstream(path: Path | None = None) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    if path is not None:
        server = await asyncio.start_unix_server(upstream.serve, path)
        upstream.url = f"unix://user:secret@{path}?db=3"
    else:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        upstream.url = f"redis://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/3"
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.open:
            writer.close()
        await until(lambda: not upstream.open)


class Client:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *lines: bytes) -> None:
        self.writer.write(b"".join(line + b"\n" for line in lines))

    async def hear(self, bound: float = BOUND) -> bytes:
        """Return a line; empty if the connection was closed."""
        async with asyncio.timeout(bound):
            try:
                return (await self.reader.readline()).strip()
            except ConnectionError:
                return b""

    async def ask(self, line: bytes) -> bytes:
        self.send(line)
        return await self.hear()

    async def is_silent(self) -> bool:
        try:
            await self.hear(SILENCE)
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Client]:
    where = urlsplit(proxy.url)
    if where.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not fact():  # noqa: ASYNC110 - the facts are many, and none has an event
            await asyncio.sleep(0.001)


async def test_passes_everything_through() -> None:
    """Without a fault, requests and replies pass, of many connections at a time."""
    async with (
        run_upstream() as upstream,
        FaultProxy(upstream.url) as proxy,
        connected(proxy) as one,
        connected(proxy) as two,
    ):
        answers = [await one.ask(b"a"), await two.ask(b"b"), await one.ask(b"c")]

    assert ([b"a", b"b", b"c"], [b"a", b"b", b"c"]) == (answers, upstream.asked)


async def test_passes_more_than_a_buffer() -> None:
    """Replies of any size pass whole and in order."""
    lines = [b"%d" % number * 1000 for number in range(1000)]
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        client.send(*lines)
        answers = [await client.hear() for _ in lines]

    assert lines == answers


async def test_listens_like_its_target(tmp_path: Path) -> None:
    """The URL is that of the target, credentials and database included, with the address of the proxy."""
    async with run_upstream(tmp_path / "u.sock") as upstream, FaultProxy(upstream.url) as proxy:
        unix = proxy.url
        async with connected(proxy) as client:
            answer = await client.ask(b"a")
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy:
        tcp = proxy.url

    assert b"a" == answer
    assert re.fullmatch(r"unix://user:secret@/.*/proxy\.sock\?db=3", unix)
    assert re.fullmatch(r"redis://user:secret@127\.0\.0\.1:\d+/3", tcp)
    assert upstream.url != tcp


async def test_delays_each_reply() -> None:
    """Replies come late by the delay, in order, and do not hold up each other."""
    now = asyncio.get_running_loop().time
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        await client.ask(b"before")
        proxy.delay = 0.3
        begin = now()
        lines = [b"%d" % number for number in range(5)]
        for number, line in enumerate(lines):
            client.send(line)
            await until(lambda count=number + 2: len(upstream.asked) == count)  # type: ignore[misc] # a default
        answers = [await client.hear() for _ in lines]
        took = now() - begin

    assert lines == answers
    assert 0.3 <= took < 1.2  # one after the other it would be 1.5


async def test_answers_in_order_when_the_delay_ends() -> None:
    """A reply that is not delayed does not overtake one that was."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        proxy.delay = 0.05
        client.send(b"late")
        await until(lambda: upstream.asked == [b"late"])
        proxy.pass_through()
        client.send(b"soon")
        answers = [await client.hear(), await client.hear()]

    assert [b"late", b"soon"] == answers


async def test_a_black_hole_swallows() -> None:
    """Into a black hole one can connect and send; nothing arrives, nothing comes back, nothing is closed."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as old:
        await old.ask(b"before")
        proxy.black_hole()
        async with connected(proxy) as new:
            old.send(b"lost")
            new.send(b"lost")

            assert (True, True) == (await old.is_silent(), await new.is_silent())
            assert [b"before"] == upstream.asked


async def test_a_black_hole_swallows_the_reply_in_flight() -> None:
    """A reply that was in flight when the black hole opened does not come, nor does the end of the connection."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        proxy.delay = 0.02
        client.send(b"bye")
        await until(lambda: upstream.asked == [b"bye"])
        proxy.black_hole()

        assert await client.is_silent()


async def test_a_black_hole_hides_the_end_of_the_server() -> None:
    """A connection that lost something in a black hole does not end with the server either."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        await client.ask(b"a")
        proxy.black_hole()
        client.send(b"lost")
        await client.is_silent()
        upstream.reset()

        assert await client.is_silent()


async def test_what_lost_data_stays_silent() -> None:
    """After a black hole new and idle connections work; one that lost something never does again."""
    async with (
        run_upstream() as upstream,
        FaultProxy(upstream.url) as proxy,
        connected(proxy) as unlucky,
        connected(proxy) as idle,
    ):
        await idle.ask(b"a")
        proxy.black_hole()
        unlucky.send(b"lost")
        await unlucky.is_silent()
        proxy.pass_through()
        unlucky.send(b"lost too")
        async with connected(proxy) as new:
            answers = await idle.ask(b"b"), await new.ask(b"c")

        assert ((b"b", b"c"), True) == (answers, await unlucky.is_silent())
        assert [b"a", b"b", b"c"] == upstream.asked


async def test_refuses() -> None:
    """Refusing closes the connections that are open and those that come, until it passes through again."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as old:
        await old.ask(b"a")
        proxy.refuse()
        async with connected(proxy) as new:
            refused = [await old.hear(), await new.hear()]
        proxy.pass_through()
        async with connected(proxy) as later:
            answer = await later.ask(b"b")

    assert ([b"", b""], b"b", [b"a", b"b"]) == (refused, answer, upstream.asked)


async def test_loses_replies() -> None:
    """Cut before the reply: the server did it, the client sees a closed connection; as often as asked for."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy:
        answers = []
        async with connected(proxy) as open_before:
            await open_before.ask(b"0")
            proxy.cut_before_reply(2)
            answers.append(await open_before.ask(b"1"))
        for line in (b"2", b"3"):
            async with connected(proxy) as client:
                answers.append(await client.ask(line))

    assert ([b"", b"", b"3"], [b"0", b"1", b"2", b"3"]) == (answers, upstream.asked)


async def test_loses_requests() -> None:
    """Cut before the request: the server never saw it, the client sees a closed connection; as often as asked for."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy:
        answers = []
        async with connected(proxy) as open_before:
            await open_before.ask(b"0")
            proxy.cut_before_request(2)
            answers.append(await open_before.ask(b"1"))
        for line in (b"2", b"3"):
            async with connected(proxy) as client:
                answers.append(await client.ask(line))

    assert ([b"", b"", b"3"], [b"0", b"3"]) == (answers, upstream.asked)


async def test_a_cut_that_did_not_come_is_forgotten() -> None:
    """Passing through ends every fault, those that are still to come included."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        proxy.delay = 60.0
        proxy.cut_before_reply()
        proxy.cut_before_request()
        proxy.pass_through()

        assert b"a" == await client.ask(b"a")


async def test_ends_with_the_server() -> None:
    """What a server said before it closed the connection arrives, late as it is, and then the end."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy, connected(proxy) as client:
        proxy.delay = 0.02

        assert (b"bye", b"") == (await client.ask(b"bye"), await client.hear())


async def test_a_slow_client_loses_nothing(tmp_path: Path) -> None:
    """What a server said before it closed the connection arrives whole, however late it is read."""
    # In these steps some size leaves less than a chunk in the proxy, whatever the buffers of the system hold.
    sizes = range(100_000, 700_000, 30_000)
    arrived = []
    async with run_upstream(tmp_path / "u.sock") as upstream, FaultProxy(upstream.url) as proxy:
        for size in sizes:
            async with connected(proxy) as client:
                await client.ask(b"flood %d" % size)
                for _ in range(100):
                    await asyncio.sleep(0)  # a round of the loop, in which all but the client go on
                arrived.append(len(await client.reader.read()))

    assert list(sizes) == arrived


async def test_ends_with_the_client() -> None:
    """A client that goes takes its connection to the server with it."""
    async with run_upstream() as upstream, FaultProxy(upstream.url) as proxy:
        async with connected(proxy) as client:
            await client.ask(b"a")
            served = len(upstream.open)
        await until(lambda: not upstream.open)

        assert 1 == served


async def test_a_dead_target_is_a_closed_connection() -> None:
    """With nobody behind it the proxy closes what it accepts."""
    async with run_upstream() as upstream:
        url = upstream.url
    async with FaultProxy(url) as proxy, connected(proxy) as client:
        assert b"" == await client.hear()


@pytest.mark.parametrize("fault", ["pass_through", "black_hole", "refuse"])
async def test_leaves_nothing_behind(fault: str) -> None:
    """At the end of the block every connection is closed and every task of the proxy has ended."""
    async with run_upstream() as upstream, contextlib.AsyncExitStack() as stack:
        async with FaultProxy(upstream.url) as proxy:
            clients = [await stack.enter_async_context(connected(proxy)) for _ in range(3)]
            await clients[0].ask(b"a")
            getattr(proxy, fault)()
            proxy.delay = 60.0
            for client in clients:
                client.send(b"b")
        left = [task for task in asyncio.all_tasks() if "FaultProxy" in repr(task.get_coro())]
        heard = [await client.hear() for client in clients]
        await until(lambda: not upstream.open)

    assert ([], [b"", b"", b""]) == (left, heard)


async def test_has_an_address_only_in_its_block(tmp_path: Path) -> None:
    """Outside of its block the proxy has no URL and no socket; it can be entered again, but not twice."""
    async with run_upstream(tmp_path / "u.sock") as upstream:
        proxy = FaultProxy(upstream.url)
        for _ in range(2):
            async with proxy:
                path = urlsplit(proxy.url).path
                with pytest.raises(LifecycleError, match="started already"):
                    await proxy.__aenter__()
            with pytest.raises(LifecycleError, match="only inside"):
                _ = proxy.url
            with pytest.raises(OSError, match="No such file"):
                await asyncio.open_unix_connection(path)


async def test_shows_its_state() -> None:
    """Its repr says where it listens and what it does to whom."""
    async with run_upstream() as upstream:
        async with FaultProxy(upstream.url) as proxy:
            proxy.black_hole()
            proxy.delay = 0.5
            proxy.cut_before_reply(2)
            inside = repr(proxy).removeprefix(f"<FaultProxy {proxy.url} ")

        assert "black hole delay=0.5 cut_replies=2 cut_requests=0 connections=0>" == inside
        assert repr(proxy).startswith("<FaultProxy closed ")
