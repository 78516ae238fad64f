"""The owner's side of one request: ``receive`` and ``send`` of ASGI over a stream."""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING

from stateful_route.web.errors import DisconnectedError, PeerError, StreamEndedError
from stateful_route.web.peer.carry_websocket import ABNORMAL, MAX_MESSAGE, NORMAL, TOO_BIG, pack_close
from stateful_route.web.peer.frames import Kind, flat, pack, pack_number, text_of, unpack_number
from stateful_route.web.peer.head import unpack_head

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message
    from stateful_route.web.peer.frames import Refusal
    from stateful_route.web.peer.head import CarriedHead
    from stateful_route.web.peer.stream import Stream

# What an app may send next.
_START = frozenset({"http.response.start"})
_BODY = frozenset({"http.response.body"})
_TRAILERS = frozenset({"http.response.trailers"})
_DECISION = frozenset({"websocket.accept", "websocket.close", "websocket.http.response.start"})
_DENIAL = frozenset({"websocket.http.response.body"})
_MESSAGE = frozenset({"websocket.send", "websocket.close"})
_NOTHING: frozenset[str] = frozenset()

_WHOLE = StreamEndedError("the answer is whole")
_LEAST_STATUS, _MOST_STATUS = 100, 999
_LEAST_CODE, _MOST_CODE = 1000, 4999


def take_request(stream: Stream, payload: bytes) -> Exchange:
    """Return the request that opened a stream.

    Raises:
        PeerProtocolError: if it cannot be read.

    """
    head = unpack_head(payload)
    return WebSocketExchange(stream, head) if head.scope["type"] == "websocket" else HttpExchange(stream, head)


class Exchange(abc.ABC):
    """A request that a peer has carried here."""

    def __init__(self, stream: Stream, head: CarriedHead) -> None:
        self.head = head
        self.ended = False
        """Whether the answer is whole."""
        self._stream = stream
        self._read_all = False
        self._expects = _NOTHING

    @property
    def gone(self) -> bool:
        """Whether the client is known to have gone away, or the peer that has carried its request here."""
        return self._stream.failure is not None

    def refuse(self, refusal: Refusal) -> None:
        """Say that nothing was done with it."""
        self._stream.send(Kind.REFUSED, refusal.to_payload())
        self._end()

    def finish(self) -> None:
        """End the stream: the application has ended, or failed."""
        if not self.ended:
            self._stream.send(Kind.ENDED)
        self._stream.close()

    @abc.abstractmethod
    async def receive(self) -> Message:
        """Return the next event of the client, as ASGI says."""

    @abc.abstractmethod
    async def send(self, message: Message) -> None:
        """Send an event to the client, as ASGI says.

        Raises:
            RuntimeError: if the message is not of those that may come now.

        """

    def _unexpected(self, kind: str) -> RuntimeError:
        expected = " or ".join(sorted(self._expects)) or "nothing more"
        return RuntimeError(f"Expected ASGI message {expected}, but got {kind!r}.")

    def _end(self) -> None:
        """Take the answer for whole: who waits in ``receive`` is told."""
        self.ended = True
        self._stream.fail(_WHOLE)


class HttpExchange(Exchange):
    """An HTTP request."""

    def __init__(self, stream: Stream, head: CarriedHead) -> None:
        super().__init__(stream, head)
        self._body = head.body
        self._waits = head.waits
        self._expects = _START
        self._trailers: list[bytes] | None = None

    async def receive(self) -> Message:
        """Return the next event of the client, as ASGI says."""
        if self._body is not None and not self.ended:
            body, self._body = self._body, None
            self._read_all = True
            return {"type": "http.request", "body": body, "more_body": False}
        if self._waits:
            self._waits = False
            self._stream.send(Kind.WANT)
        while not self.ended:
            try:
                kind, payload = await self._stream.next()
            except PeerError:
                break
            if kind in {Kind.BODY, Kind.LAST} and not self._read_all:
                self._read_all = kind is Kind.LAST
                return {"type": "http.request", "body": payload, "more_body": not self._read_all}
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send an event to the client, as ASGI says. Once the client is gone it does nothing.

        Raises:
            RuntimeError: if the message is not of those that may come now.

        """
        if self._stream.failure is not None and not self.ended:
            await asyncio.sleep(0)  # an app that does nothing but send does not keep the others from running
            return
        kind = message["type"]
        if kind not in self._expects:
            raise self._unexpected(kind)
        if kind == "http.response.body":
            last = not message.get("more_body", False)
            body = message.get("body") or b""
            if last:
                self._expects = _NOTHING
            elif not body:
                return
            sign = Kind.LAST if last else Kind.BODY
            try:
                if not self._stream.send_now(sign, body := bytes(body)):
                    await self._stream.send_bytes(sign, body, Kind.BODY)
            except PeerError:
                return
            if last:
                self._end_body()
        elif kind == "http.response.start":
            self._start(message)
        else:
            self._end_by_trailers(message)

    def _start(self, message: Message) -> None:
        if message.get("trailers", False):
            self._stream.send(Kind.START, pack_start(message, b"t"))
            self._trailers = []
        else:
            self._stream.send_start(pack_start(message, b""))
        self._expects = _BODY

    def _end_body(self) -> None:
        if self._trailers is None:
            self._end()
        else:
            self._expects = _TRAILERS

    def _end_by_trailers(self, message: Message) -> None:
        trailers = self._trailers
        assert trailers is not None  # noqa: S101 - else they are not expected
        trailers += flat(message.get("headers") or ())
        if not message.get("more_trailers", False):
            self._stream.send(Kind.TRAILERS, pack(trailers))
            self._expects = _NOTHING
            self._end()


class WebSocketExchange(Exchange):
    """A WebSocket."""

    def __init__(self, stream: Stream, head: CarriedHead) -> None:
        super().__init__(stream, head)
        self._expects = _DECISION
        self._connected = False
        self._parts: list[bytes] = []
        self._size = 0
        self._closed: tuple[int, str] | None = None

    async def receive(self) -> Message:
        """Return the next event of the client, as ASGI says."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while self._closed is None:
            try:
                kind, payload = await self._stream.next()
                received = await self._take(kind, payload)
            except PeerError:
                break
            if received is not None:
                return received
        if self._closed is None:
            self._closed = ABNORMAL, ""
        code, reason = self._closed
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _take(self, kind: Kind, payload: bytes) -> Message | None:
        if kind is Kind.CLOSE:
            code, reason = unpack_number(payload)
            self._closed = self._closed or (code, text_of(b"".join(reason)))
            return None
        if kind not in {Kind.TEXT, Kind.BINARY, Kind.PART}:
            return None
        self._size += len(payload)
        if self._size > MAX_MESSAGE:
            self._close(TOO_BIG, "")
            return None
        self._parts.append(payload)
        if kind is Kind.PART:
            return None
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        if kind is Kind.TEXT:
            return {"type": "websocket.receive", "text": text_of(data)}
        return {"type": "websocket.receive", "bytes": data}

    async def send(self, message: Message) -> None:
        """Send an event to the client, as ASGI says.

        Raises:
            DisconnectedError: if the client is gone; a close does nothing then.
            RuntimeError: if the message is not of those that may come now.

        """
        kind = message["type"]
        if not self.ended and (self._closed is not None or self._stream.failure is not None):
            if kind == "websocket.close":
                return
            raise DisconnectedError("the client is gone")
        if kind not in self._expects:
            raise self._unexpected(kind)
        try:
            await self._send(kind, message)
        except PeerError as error:
            raise DisconnectedError("the client is gone") from error

    async def _send(self, kind: str, message: Message) -> None:
        if kind == "websocket.send":
            text: str | None = message.get("text")
            if text is not None:
                await self._stream.send_bytes(Kind.TEXT, text.encode(), Kind.PART)
            else:
                await self._stream.send_bytes(Kind.BINARY, bytes(message.get("bytes") or b""), Kind.PART)
        elif kind == "websocket.accept":
            protocol = (message.get("subprotocol") or "").encode()
            self._stream.send(Kind.ACCEPT, pack([protocol, *flat(message.get("headers") or ())]))
            self._expects = _MESSAGE
        elif kind == "websocket.close":
            code = message.get("code")
            self._close(NORMAL if code is None else in_range(code, _LEAST_CODE, _MOST_CODE), message.get("reason"))
        elif kind == "websocket.http.response.start":
            self._stream.send_start(pack_start(message, b""))
            self._expects = _DENIAL
        else:
            last, body = not message.get("more_body", False), bytes(message.get("body") or b"")
            if body or last:
                await self._stream.send_bytes(Kind.LAST if last else Kind.BODY, body, Kind.BODY)
            if last:
                self._closed = ABNORMAL, ""
                self._expects = _NOTHING
                self._end()

    def _close(self, code: int, reason: str | None) -> None:
        self._stream.send(Kind.CLOSE, pack_close(code, reason))
        self._closed = code, reason or ""
        self._expects = _NOTHING
        self._end()


def pack_start(message: Message, flag: bytes) -> bytes:
    """Return the payload of the head of an answer.

    Raises:
        RuntimeError: if its status is out of range.

    """
    status = in_range(message["status"], _LEAST_STATUS, _MOST_STATUS)
    return pack_number(status, flag, *flat(message.get("headers") or ()))


def in_range(number: int, least: int, most: int) -> int:
    """Return the number.

    Raises:
        RuntimeError: if it is out of range, as web servers do.

    """
    if not isinstance(number, int) or not least <= number <= most:
        raise RuntimeError(f"Expected a number from {least} to {most}, but got {number!r}.")
    return number
