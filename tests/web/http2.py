"""A client of HTTP/2 for the tests: one connection, without TLS, as a client that knows that the server speaks it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

PATIENCE = 20.0


@attrs.define
class Answer:
    """What came on one stream; ``complete`` is whether it came to its end."""

    headers: dict[str, str] = attrs.Factory(dict)
    body: bytes = b""
    trailers: dict[str, str] = attrs.Factory(dict)
    complete: bool = False
    reset: bool = False
    begun: asyncio.Event = attrs.Factory(asyncio.Event)
    ended: asyncio.Event = attrs.Factory(asyncio.Event)

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class Http2:
    """One connection, many requests at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from h2.config import H2Configuration  # noqa: PLC0415 - it may not be there
        from h2.connection import H2Connection  # noqa: PLC0415

        self.reader = reader
        self.writer = writer
        self.parser = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.answers: dict[int, Answer] = {}
        self.room = asyncio.Event()

    def flush(self) -> None:
        self.writer.write(self.parser.data_to_send())

    async def run(self) -> None:
        """Take in what comes, until the connection ends."""
        while data := await self.reader.read(65536):
            for event in self.parser.receive_data(data):
                self._take(event)
            self.room.set()
            self.flush()

    def _take(self, event: Any) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        kind = type(event).__name__
        if kind == "ResponseReceived":
            answer.headers = dict(event.headers)
            answer.begun.set()
        elif kind == "DataReceived":
            answer.body += event.data
            self.parser.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif kind == "TrailersReceived":
            answer.trailers = dict(event.headers)
        elif kind in {"StreamEnded", "StreamReset"}:
            answer.complete, answer.reset = kind == "StreamEnded", kind == "StreamReset"
            answer.begun.set()
            answer.ended.set()

    def begin(self, target: str, method: str = "GET", headers: Iterable[tuple[str, str]] = (), *, end: bool) -> int:
        """Send a head; return the number of the stream."""
        number = self.parser.get_next_available_stream_id()
        head = [(":method", method), (":path", target), (":scheme", "http"), (":authority", "tests"), *headers]
        self.answers[number] = Answer()
        self.parser.send_headers(number, head, end_stream=end)
        self.flush()
        return int(number)

    async def send(self, number: int, body: bytes, *, end: bool) -> None:
        """Send a part of a body, at the pace of the other side."""
        while body:
            size = min(self.parser.local_flow_control_window(number), self.parser.max_outbound_frame_size, len(body))
            if not size:
                self.room.clear()
                async with asyncio.timeout(PATIENCE):
                    await self.room.wait()
                continue
            self.parser.send_data(number, body[:size], end_stream=False)
            body = body[size:]
            self.flush()
        if end:
            self.parser.end_stream(number)
            self.flush()

    async def ask(
        self, target: str, method: str = "GET", body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        """Ask, and return the answer once it has ended."""
        number = self.begin(target, method, headers, end=body is None)
        if body is not None:
            await self.send(number, body, end=True)
        answer = self.answers[number]
        async with asyncio.timeout(PATIENCE):
            await answer.ended.wait()
        return answer

    def reset(self, number: int) -> None:
        """Want no answer any more."""
        self.parser.reset_stream(number)
        self.flush()


@contextlib.asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2]:
    """Connect for the time of a block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Http2(reader, writer)
    client.parser.initiate_connection()
    client.flush()
    running = asyncio.ensure_future(client.run())
    try:
        yield client
    finally:
        running.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
