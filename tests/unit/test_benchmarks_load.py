"""The load of the benchmarks of the web part: what is sent, and counted. No time is judged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.web import hop, processes, wrk
from benchmarks.web.generator import Work, frame, generate, held_open, opening
from benchmarks.web.raw import END_OF_HEAD, Connection, RawError, read_head, request_bytes
from tests.raw_server import HOST, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.raw_server import Handler

pytestmark = pytest.mark.slow

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LATER = b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n"


def answering(*answers: bytes) -> Handler:
    """Answer the requests of a connection, which have no body, with those in turn, and close it after the last."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(END_OF_HEAD)
            for byte in range(0, len(answer), 7):  # in pieces: a reader may get any
                writer.write(answer[byte : byte + 7])
                await writer.drain()
                await asyncio.sleep(0)

    return handle


async def test_answers_on_a_connection() -> None:
    """Answers with a length and in chunks are read in full, one after the other on one connection."""
    async with serving(answering(OK, IN_CHUNKS, LATER)) as port, await Connection.open(HOST, port) as connection:
        request = request_bytes("GET", "/", HOST)
        answers = [await connection.send(request) for _ in range(3)]

        assert [(200, b"ok"), (200, b"okay!"), (503, b"later")] == [(one.status, one.body) for one in answers]
        assert [True, True, False] == [one.is_success for one in answers]
        with pytest.raises((RawError, ConnectionError)):
            await connection.send(request)


@pytest.mark.parametrize("cut", [b"HTTP/1.1 200 OK\r\nContent-Len", OK[:-1], IN_CHUNKS[:-8], b"SSH-2.0\r\n\r\n"])
async def test_half_an_answer(cut: bytes) -> None:
    """An answer that is cut off, or is none, is an error."""
    async with serving(answering(cut)) as port, await Connection.open(HOST, port) as connection:
        with pytest.raises(RawError):
            await connection.send(request_bytes("GET", "/", HOST))


def test_head() -> None:
    """The names of headers are in small letters, and their values are bare."""
    assert (404, {"a-b": "c: d"}) == read_head(b"HTTP/1.1 404 Not Found\r\nA-B:  c: d ")


def work(port: int, **values: Any) -> Work:
    """Describe what three connections send for a tenth of a second, unless it is said otherwise."""
    usual: dict[str, Any] = {"host": HOST, "port": port, "paths": ["/a", "/b"], "connections": 3, "seconds": 0.1}
    return Work(**usual | values)


async def test_generator_counts_answers() -> None:
    """Each connection sends requests until the time is over; answers of another status than 2xx are failures."""
    asked: Counter[bytes] = Counter()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(END_OF_HEAD)
            path = head.split()[1]
            asked[path] += 1
            writer.write(LATER if path == b"/b" else IN_CHUNKS)

    async with serving(handle) as port:
        seen = await generate(work(port))

    assert (asked[b"/a"], asked[b"/b"]) == (seen.answers, seen.failed)
    assert seen.answers > 3
    assert 0 < seen.p50 <= seen.p99
    assert seen.rate > 0


async def test_generator_sends_bodies() -> None:
    """The body of a request has the size that was asked for."""
    sizes: set[int] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(END_OF_HEAD)
            size = int(head.partition(b"Content-Length: ")[2].split()[0])
            sizes.add(len(await reader.readexactly(size)))
            writer.write(OK)

    async with serving(handle) as port:
        seen = await generate(work(port, method="POST", upload=70_000))

    assert ({70_000}, 0) == (sizes, seen.failed)


async def test_generator_counts_broken_connections() -> None:
    """A connection that the other side closes is a failure, and the others go on."""
    async with serving(answering(OK, OK)) as port:
        seen = await generate(work(port, seconds=5.0))

    assert (6, 3) == (seen.answers, seen.failed)


async def test_generator_without_a_server() -> None:
    """Nobody who listens is an error."""
    with pytest.raises(OSError, match=r"refused|failed"):
        await generate(work(processes.free_port()))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a WebSocket that echoes messages without a mask that changes anything."""
    await reader.readuntil(END_OF_HEAD)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    while True:
        first, size, *mask = await reader.readexactly(6)
        assert [0] * 4 == mask
        message = await reader.readexactly(size & 0x7F)
        writer.write(bytes([first, len(message)]) + message)


async def test_generator_counts_messages() -> None:
    """Messages over WebSockets are counted like answers."""
    async with serving(echo) as port:
        seen = await generate(work(port, websocket=True, upload=100))

    assert seen.answers > 3
    assert seen.failed == 0


async def test_websockets_are_held_open() -> None:
    """Those that are held are open, and one that is refused or closed is an error."""
    there = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        there += 1
        try:
            await echo(reader, writer)
        finally:
            there -= 1

    async with serving(counted) as port, held_open(work(port, websocket=True, upload=10, connections=20)):
        assert there == 20
    async with serving(answering(LATER)) as port:
        with pytest.raises(RawError, match="503"):
            async with held_open(work(port, websocket=True)):
                pass


def test_frame() -> None:
    """A message of a client says that it is masked, and its length."""
    assert b"\x82\x83\0\0\0\0abc" == frame(b"abc")
    assert b"upgrade: websocket" in opening("/", HOST).lower()


def test_wrk() -> None:
    """The script has all paths, and what it prints is read."""
    load = work(1, method="POST", upload=5)
    said = {"requests": 1000, "us": 2000000, "p50": 1500.0, "p99": 9000.0, "status": 100, "failed": 101}
    seen = wrk.read(f"Running 1s test\n\nSEEN {json.dumps(said)}\n")

    assert all(part in wrk.script(load) for part in ('{"/a", "/b"}', '"POST"', '("x", 5)'))
    assert (450.0, 1.5, 9.0, 900, 101) == (seen.rate, seen.p50, seen.p99, seen.answers, seen.failed)


@pytest.mark.skipif(not wrk.is_there(), reason="wrk is not on the PATH")
async def test_wrk_runs(tmp_path: Path) -> None:
    """Requests by wrk go to all paths, and its errors are counted."""
    asked: set[bytes] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await reader.readuntil(END_OF_HEAD)).split()[1]
            asked.add(path)
            writer.write(LATER if path == b"/b" else OK)

    async with serving(handle) as port:
        seen = await hop.load(work(port), tmp_path)

    assert {b"/a", b"/b"} == asked
    assert seen.answers > 0
    assert seen.failed > 0


def test_what_a_process_used() -> None:
    """Processor time is user and system, whatever the name of the process is; memory is that of no file."""
    stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 1 0 100 0 0"

    assert 200 / processes._TICKS == processes.cpu_seconds(stat)
    assert processes.anonymous_kb("Name:\tx\nRssAnon:\t    12 kB\nRssFile:\t 99 kB\n") == 12
