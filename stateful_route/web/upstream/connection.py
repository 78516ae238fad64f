"""A connection to a server of HTTP/1.1: one request after the other, streamed both ways."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, cast

import httptools

from stateful_route.web.asgi import NO_BODY
from stateful_route.web.errors import UpstreamLostError, UpstreamProtocolError
from stateful_route.web.uvicorn.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_HEAD = 128 * 1024
"""The most bytes of the head of an answer."""

# Bytes of a body that wait for a slow client until the server is read no further.
_MOST_WAITING = 256 * 1024
_CONTINUE, _SWITCHING, _FIRST, _LAST = 100, 101, 200, 599


class HttpConnection(asyncio.Protocol):
    """Sends a request and reads its answer; both sides wait for each other when the other one is slow.

    Framing is read by llhttp, in its strict mode. What a server says that was not asked for ends the connection.
    """

    def __init__(self) -> None:
        self.port = 0
        """Of the server."""
        self.is_to_itself = False
        """Whether nobody listens there, and the system has connected it to its own end: so TCP has it."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost = False
        self._used = False
        self._asked = False
        self._error: UpstreamLostError | None = None
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._status: int | None = None
        self._parts: collections.deque[bytes] = collections.deque()
        self._waiting = 0
        self._head_size = 0
        self._trailing = 0
        self._interim = False
        self._complete = False
        self._keeps = False
        self._until_end = False
        self._is_head = False

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._outlet = Outlet(self._transport)
        peer = transport.get_extra_info("peername")
        self.port = peer[1] if peer else 0
        self.is_to_itself = peer is not None and peer == transport.get_extra_info("sockname")

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer in."""
        if not self._asked:
            self.abort()  # nobody asked for it
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(UpstreamProtocolError("an answer that changes the protocol, which was not asked for"))
        except httptools.HttpParserError as error:
            self._fail(UpstreamProtocolError(f"an answer that cannot be read: {error}"))
        if self._status is None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._fail(UpstreamProtocolError(f"the head of an answer is longer than {MAX_HEAD} bytes"))
        self._wake()

    def eof_received(self) -> bool:
        """End the connection, and an answer that ends with it."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way."""
        self._lost = True
        if self._until_end and exc is None and self._error is None:
            self._complete = True
        elif self._asked and not self._complete:
            why = exc or "it closed"
            self._error = self._error or UpstreamLostError(f"the connection to the app has ended: {why}", sent=True)
        self._wake()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def pause_writing(self) -> None:
        """Let nobody write for now."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let them write again."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # What the parser says -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer: the one that was asked for, or one that tells of it."""
        if self._complete:
            raise UpstreamProtocolError("an answer that nobody asked for")
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header in; what follows a body is no part of the head, and nobody asks for it."""
        if self._status is None:
            self._headers.append((name.lower(), value))
        else:
            self._trailing += len(name) + len(value)
            if self._trailing > MAX_HEAD:
                raise UpstreamProtocolError(f"what follows the body of an answer is longer than {MAX_HEAD} bytes")

    def on_headers_complete(self) -> None:
        """Take the head in."""
        status = self._parser.get_status_code()
        self._interim = _CONTINUE <= status < _FIRST and status != _SWITCHING
        if self._interim:
            return
        if not _FIRST <= status <= _LAST:
            raise UpstreamProtocolError(f"an answer with the status {status}")
        self._keeps = self._parser.should_keep_alive()
        codings = [value for name, value in self._headers if name == b"transfer-encoding"]
        if any(coding.strip().lower() != b"chunked" for coding in codings):
            raise UpstreamProtocolError("an answer with a transfer coding that was not asked for")
        framed = bool(codings) or any(name == b"content-length" for name, _ in self._headers)
        self._until_end = not (framed or self._is_head or status in NO_BODY)
        self._status = status
        if self._is_head:  # the parser would wait for a body
            self._complete, self._keeps = True, False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body in."""
        if self._is_head:
            return
        self._parts.append(body)
        self._waiting += len(body)
        if self._waiting > _MOST_WAITING and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """End the answer."""
        if self._interim:
            self._interim = False
        else:
            self._complete = True

    # One exchange -------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it."""
        transport = self._transport
        return not (self._lost or self._asked or transport is None or transport.is_closing())

    @property
    def is_used(self) -> bool:
        """Whether it has had an answer: the server may close it at any time, also just now."""
        return self._used

    def begin(self, head: bytes, *, is_head: bool) -> None:
        """Send the head of a request; ``is_head`` says that its answer has no body, whatever its head says."""
        assert self._outlet is not None  # noqa: S101 - it is open
        self._reset()
        self._is_head = is_head
        self._asked = True
        self._outlet.write(head)

    async def write(self, data: bytes) -> None:
        """Send a part of the body, at the pace of the server.

        Raises:
            UpstreamLostError: if the connection has ended.

        """
        if self._lost or self._outlet is None:
            raise self._error or UpstreamLostError("the connection to the app has ended", sent=True)
        self._outlet.write(data)
        if self._room is not None:
            await self._room

    async def head(self) -> tuple[int, Sequence[tuple[bytes, bytes]]]:
        """Return status and headers of the answer, names in small letters.

        Raises:
            UpstreamLostError: if the connection ends before.
            UpstreamProtocolError: if it cannot be read.

        """
        while self._status is None:
            await self._wait()
        return self._status, self._headers

    async def part(self) -> bytes | None:
        """Return the next part of the body; ``None`` at its end.

        Raises:
            UpstreamLostError: if the connection ends before.
            UpstreamProtocolError: if it cannot be read.

        """
        while not self._parts:
            if self._complete:
                return None
            await self._wait()
        part = self._parts.popleft() if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._waiting > _MOST_WAITING and self._transport is not None and not self._lost:
            self._transport.resume_reading()
        self._waiting = 0
        return part

    @property
    def ends_by_closing(self) -> bool:
        """Whether nothing but the end of the connection tells where the answer ends."""
        return self._until_end

    @property
    def has_all(self) -> bool:
        """Whether all of the answer has come."""
        return self._complete

    def finish(self, *, sent_all: bool) -> bool:
        """End the exchange; return whether the connection can take another one. Else it is closed."""
        self._asked = False
        self._used = True
        if sent_all and self._complete and self._keeps and not self._parts and not self._lost and self._error is None:
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close it at once. One that is lost is left alone: asyncio may raise then, until Python 3.12."""
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: UpstreamLostError) -> None:
        self._error = self._error or error
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self._lost:
            raise UpstreamLostError("the connection to the app has ended", sent=True)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
