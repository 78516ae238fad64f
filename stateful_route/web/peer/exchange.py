"""The owner's side of one request: ``receive`` and ``send`` of ASGI over a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateful_route.web.errors import DisconnectedError, PeerError, PeerProtocolError
from stateful_route.web.peer.carry import MAX_MESSAGE, pack_close
from stateful_route.web.peer.frames import Kind, Refusal, flat, pack, pack_number, text_of, unpack_number
from stateful_route.web.peer.head import unpack_head

if TYPE_CHECKING:
    from stateful_route.web.peer.carry import Message
    from stateful_route.web.peer.stream import Stream

_BODIES = frozenset({"http.response.body", "websocket.http.response.body"})
_ABNORMAL = 1006
_TOO_BIG = 1009


class Exchange:
    """A request that a peer has carried here."""

    def __init__(self, stream: Stream, payload: bytes) -> None:
        """Read the head.

        Raises:
            PeerProtocolError: if it cannot be read.

        """
        self._stream = stream
        self.head = unpack_head(payload)
        self.is_websocket = self.head.scope["type"] == "websocket"
        self.started = False
        """Whether an answer has begun."""
        self.ended = False
        """Whether the answer is whole."""
        self._body = self.head.body
        self._waits = self.head.waits
        self._read_all = False
        self._trailers = False
        self._closed = False

    def refuse(self, refusal: Refusal) -> None:
        """Say that nothing was done with it."""
        self.ended = True
        self._stream.send(Kind.REFUSED, refusal.to_payload())

    def finish(self) -> None:
        """End the stream: the application has ended, or failed."""
        if not self.ended:
            self._stream.send(Kind.ENDED)
        self._stream.close()

    async def receive(self) -> Message:
        """Return the next event of the client, as ASGI says."""
        if self.is_websocket:
            return await self._receive_websocket()
        return await self._receive_http()

    async def send(self, message: Message) -> None:
        """Send an event to the client, as ASGI says. Once the client is gone it does nothing.

        Raises:
            DisconnectedError: if the client of a WebSocket is gone: an app that only sends hears of it here.

        """
        if self.ended or self._stream.gone or self._stream.failure is not None:
            self._tell()
            return
        kind = message["type"]
        try:
            if kind in _BODIES:
                await self._send_body(message)
            elif kind == "websocket.send":
                await self._send_message(message)
            else:
                self._send_sign(kind, message)
        except PeerError:
            self._tell()

    def _tell(self) -> None:
        if self.is_websocket and (self._closed or not self.ended):
            raise DisconnectedError("the client of this WebSocket is gone")

    # HTTP ---------------------------------------------------------------------------------------------------------

    async def _receive_http(self) -> Message:
        if self._body is not None:
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
            if kind is Kind.GONE:
                break
        return {"type": "http.disconnect"}

    async def _send_body(self, message: Message) -> None:
        last = not message.get("more_body", False)
        self.ended = last and not self._trailers
        body = message.get("body", b"")
        if last or body:
            await self._stream.send_bytes(Kind.LAST if last else Kind.BODY, bytes(body), Kind.BODY)

    def _send_sign(self, kind: str, message: Message) -> None:
        if kind in {"http.response.start", "websocket.http.response.start"}:
            self.started = True
            self._trailers = bool(message.get("trailers", False))
            parts = [b"t" if self._trailers else b"", *flat(message.get("headers") or ())]
            self._stream.send(Kind.START, pack_number(message["status"], *parts))
        elif kind == "http.response.trailers":
            self.ended = True
            self._stream.send(Kind.TRAILERS, pack(flat(message.get("headers") or ())))
        elif kind == "websocket.accept":
            self.started = True
            protocol = (message.get("subprotocol") or "").encode()
            self._stream.send(Kind.ACCEPT, pack([protocol, *flat(message.get("headers") or ())]))
        elif kind == "websocket.close":
            self.started = self.ended = True
            self._stream.send(Kind.CLOSE, pack_close(message))
        else:
            raise RuntimeError(f"the ASGI message {kind!r} is not known here")

    # WebSocket ----------------------------------------------------------------------------------------------------

    async def _receive_websocket(self) -> Message:
        if not self._read_all:
            self._read_all = True
            return {"type": "websocket.connect"}
        parts: list[bytes] = []
        size = 0
        while not self._closed:
            try:
                kind, payload = await self._stream.next()
            except PeerError:
                break
            if kind in {Kind.TEXT, Kind.BINARY, Kind.PART}:
                parts.append(payload)
                size += len(payload)
                if size > MAX_MESSAGE:
                    await self.send({"type": "websocket.close", "code": _TOO_BIG})
                    return self._disconnected(_TOO_BIG, "")
                if kind is not Kind.PART:
                    return _received(kind, parts)
            elif kind is Kind.CLOSE:
                code, reason = unpack_number(payload)
                return self._disconnected(code, text_of(b"".join(reason)))
            elif kind is Kind.GONE:
                break
        return self._disconnected(_ABNORMAL, "")

    def _disconnected(self, code: int, reason: str) -> Message:
        self._closed = self.ended = True
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _send_message(self, message: Message) -> None:
        text: str | None = message.get("text")
        if text is not None:
            await self._stream.send_bytes(Kind.TEXT, text.encode(), Kind.PART)
        else:
            await self._stream.send_bytes(Kind.BINARY, bytes(message.get("bytes") or b""), Kind.PART)


def _received(kind: Kind, parts: list[bytes]) -> dict[str, Any]:
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if kind is Kind.TEXT:
        try:
            return {"type": "websocket.receive", "text": data.decode()}
        except UnicodeDecodeError as error:
            raise PeerProtocolError("a message of text that is not UTF-8") from error
    return {"type": "websocket.receive", "bytes": data}
