"""Load on a web server, from a process of its own: ``python -m benchmarks.web.generator JSON``.

So many connections, each of which sends its next request, or message, after the answer to the one before. It prints one
line of JSON: the fields of ``Seen``. With ``wrk`` on the PATH, HTTP is measured by that (``wrk.py``); WebSockets are
measured by this.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, cast

import attrs

from benchmarks import loops
from benchmarks.statistics import quantile
from benchmarks.web.raw import END_OF_HEAD, RawError, read_head, request_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CONNECT = 20.0
_OVER = 20.0
_AT_ONCE = 100
_MOST_IN_FRAME = 125
_LAST_CHUNK = b"0\r\n\r\n"


@attrs.frozen(kw_only=True)
class Work:
    """What is to be sent.

    Attributes:
        host, port: where to.
        paths: a connection asks for them in turn, each beginning with another one.
        method: of each request.
        upload: bytes in the body of each request.
        connections: how many at once.
        seconds: for how long, once all are connected.
        websocket: whether the paths are WebSockets, which echo; the messages have ``upload`` bytes.

    """

    host: str
    port: int
    paths: list[str]
    method: str = "GET"
    upload: int = 0
    connections: int
    seconds: float
    websocket: bool = False


@attrs.frozen(kw_only=True)
class Seen:
    """What came back.

    Attributes:
        rate: of answers with 2xx, or messages, a second.
        p50: milliseconds that half of them took at most.
        p99: the same of all but one in a hundred.
        answers: how many there were, with 2xx.
        failed: answers of another status, and connections that broke.

    """

    rate: float
    p50: float
    p99: float
    answers: int
    failed: int


class _Tally:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.until = float("inf")
        self.running = 0
        self.over = asyncio.Event()

    def ended(self) -> None:
        self.running -= 1
        if self.running <= 0:
            self.over.set()


class _Looping(asyncio.Protocol):
    """A connection that sends something, waits for all of the answer, and goes on until the time is over."""

    def __init__(self, tally: _Tally, turns: list[bytes]) -> None:
        self._tally = tally
        self._turns = turns
        self._turn = 0
        self._begun = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._is_running = False
        self._is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is no subclass of it

    def begin(self) -> None:
        """Send the next one."""
        assert self._transport is not None
        self._is_running = True
        if self._transport.is_closing():  # and it was counted
            self._pause()
            return
        self._turn = (self._turn + 1) % len(self._turns)
        self._begun = time.perf_counter()
        self._transport.write(self._turns[self._turn])

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_closing:
            return
        self._tally.failed += 1
        if self._is_running:
            self._pause()

    def _answered(self, *, well: bool) -> None:
        tally, now = self._tally, time.perf_counter()
        if well:
            tally.latencies.append(now - self._begun)
        else:
            tally.failed += 1
        if now < tally.until:
            self.begin()
        else:
            self._pause()

    def _pause(self) -> None:
        self._is_running = False
        self._tally.ended()

    def close(self) -> None:
        """Close it; that is no failure."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()


class HttpLoop(_Looping):
    """Requests: the answers have a length, or come in chunks."""

    _missing = 0
    _in_chunks = False
    _is_well = False

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._take_body(len(data))
        elif self._in_chunks:
            self._take_chunks(self._buffer + data)
        else:
            self._take_head(self._buffer + data)

    def _take_head(self, data: bytes) -> None:
        head, end, body = data.partition(END_OF_HEAD)
        if not end:
            self._buffer = data
            return
        status, headers = read_head(head)
        self._is_well = 200 <= status < 300
        self._buffer = b""
        if headers.get("transfer-encoding") == "chunked":
            self._in_chunks = True
            self._take_chunks(body)
        else:
            self._missing = int(headers["content-length"])
            self._take_body(len(body))

    def _take_body(self, size: int) -> None:
        self._missing -= size
        if self._missing < 0:
            raise RawError("more than an answer")
        if self._missing == 0:
            self._answered(well=self._is_well)

    def _take_chunks(self, data: bytes) -> None:
        # No answer here has "0" on a line of its own in its body.
        if data.endswith(_LAST_CHUNK):
            self._in_chunks, self._buffer = False, b""
            self._answered(well=self._is_well)
        else:
            self._buffer = data[-len(_LAST_CHUNK) :]


class WebSocketLoop(_Looping):
    """Messages, each of which comes back; the first thing sent is the request to open it.

    Attributes:
        opened: done when it is open; it raises what went wrong.

    """

    def __init__(self, tally: _Tally, opening: bytes, message: bytes) -> None:
        super().__init__(tally, [frame(message)])
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening = opening
        self._size = len(message) + 2

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.write(self._opening)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.opened.done():
            self.opened.set_exception(error or RawError("a WebSocket was closed before it was open"))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        if not self.opened.done():
            head, end, rest = data.partition(END_OF_HEAD)
            self._buffer = rest if end else data
            if end:
                self._take_opening(head)
            return
        self._buffer = data
        if len(data) >= self._size:
            self._buffer = b""
            self._answered(well=len(data) == self._size == data[1] + 2)

    def _take_opening(self, head: bytes) -> None:
        status, _ = read_head(head)
        if status == 101:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(RawError(f"a WebSocket was answered with {status}"))


def frame(message: bytes) -> bytes:
    """Return a binary message of up to 125 bytes as a client sends it: masked, with a mask that changes nothing."""
    assert len(message) <= _MOST_IN_FRAME
    return bytes([0x82, 0x80 | len(message), 0, 0, 0, 0]) + message


def opening(path: str, host: str) -> bytes:
    """Return the request that opens a WebSocket."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    return request_bytes("GET", path, host, headers)


async def generate(work: Work) -> Seen:
    """Connect, send, and return what was seen.

    Raises:
        OSError: if nobody listens.
        RawError: if a WebSocket is refused.
        TimeoutError: if connecting takes too long, or an answer does not come when the time is over.

    """
    tally = _Tally()
    async with _connected(work, tally) as there:
        return await _exchange(work, tally, there)


@contextlib.asynccontextmanager
async def held_open(work: Work) -> AsyncIterator[None]:
    """Keep the WebSockets of that work open, after each has had a message there and back.

    Raises:
        OSError: if nobody listens.
        RawError: if one is refused, or closed by the other side.
        TimeoutError: if it takes too long.

    """
    tally = _Tally()
    async with _connected(work, tally) as there:
        seen = await _exchange(attrs.evolve(work, seconds=0.0), tally, there)
        if seen.failed:
            raise RawError(f"{seen.failed} of {work.connections} WebSockets failed")
        yield
        if tally.failed:
            raise RawError(f"{tally.failed} of {work.connections} WebSockets were closed")


async def _exchange(work: Work, tally: _Tally, there: list[_Looping]) -> Seen:
    tally.running = len(there)
    begun = time.perf_counter()
    tally.until = begun + work.seconds
    for one in there:
        one.begin()
    async with asyncio.timeout(work.seconds + _OVER):
        await tally.over.wait()
    took = time.perf_counter() - begun
    latencies = tally.latencies or [0.0]
    return Seen(
        rate=len(tally.latencies) / took,
        p50=quantile(latencies, 0.5) * 1000,
        p99=quantile(latencies, 0.99) * 1000,
        answers=len(tally.latencies),
        failed=tally.failed,
    )


@contextlib.asynccontextmanager
async def _connected(work: Work, tally: _Tally) -> AsyncIterator[list[_Looping]]:
    """Open all connections, some at once, and close them; a WebSocket is opened, too."""
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)
    host, body = f"{work.host}:{work.port}", b"x" * work.upload
    there: list[_Looping] = []

    async def connect(number: int) -> None:
        async with slots:
            if work.websocket:
                first = opening(work.paths[number % len(work.paths)], host)
                _, socket = await loop.create_connection(
                    lambda: WebSocketLoop(tally, first, body), work.host, work.port
                )
                there.append(socket)
                await socket.opened
            else:
                turns = [request_bytes(work.method, path, host, body=body) for path in _turned(work.paths, number)]
                _, http = await loop.create_connection(lambda: HttpLoop(tally, turns), work.host, work.port)
                there.append(http)

    try:
        async with asyncio.timeout(_CONNECT):
            await asyncio.gather(*map(connect, range(work.connections)))
        yield there
    finally:
        for one in there:
            one.close()
        await asyncio.sleep(0)


def _turned(paths: list[str], number: int) -> list[str]:
    first = number % len(paths)
    return paths[first:] + paths[:first]


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    fastest = "uvloop" if loops.missing("uvloop") is None else "asyncio"
    with asyncio.Runner(loop_factory=loops.factory(fastest)) as runner:
        print(json.dumps(attrs.asdict(runner.run(generate(work)))))


if __name__ == "__main__":
    main()
