"""The edge's side of one WebSocket: messages in both directions, until one side closes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.asgi import SERVICE_RESTART, close_websocket
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError, PeerUnreachableError
from stateful_route.web.peer.carry import (
    DONE,
    LOST,
    UNREACHED,
    AnswerCutError,
    Carried,
    Carrier,
    ClientGoneError,
    LeavingError,
    Outcome,
)
from stateful_route.web.peer.frames import (
    Kind,
    Refusal,
    pack_number,
    paired,
    text_of,
    unpack,
    unpack_number,
    unpack_with_body,
)

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.peer.carry import Endless
    from stateful_route.web.peer.dialer import DialedConnection

NORMAL, ABNORMAL, TOO_BIG = 1000, 1006, 1009
"""Codes of the end of a WebSocket (RFC 6455, 7.4.1)."""
_FAILED = 1011
_MOST_CODE = 0xFFFF
MAX_MESSAGE = 16 * 1024 * 1024
"""The longest WebSocket message, in bytes, that is put together from its parts."""


class WebSocketCarrier(Carrier):
    """Carries one WebSocket over a connection; ``websocket.connect`` was received before."""

    def __init__(self, connection: DialedConnection, receive: Receive, send: Send, endless: Endless) -> None:
        """Have sent nothing; see ``Carrier``."""
        super().__init__(connection, receive, send, endless)
        self._accepted = False
        self._denied = False
        self._parts: list[bytes] = []
        self._size = 0

    async def run(self, head: bytes) -> Outcome:
        """Send the head, and messages in both directions until one side closes; return once that is so.

        If the owner is lost after it has accepted, the client is told 1012: it may connect again at once.

        Raises:
            AnswerCutError: if the owner was lost in the middle of an answer that denies the WebSocket.
            PeerProtocolError: if what it sends cannot be read, and nothing was accepted.

        """
        try:
            self._stream = self._connection.open(head)
        except PeerUnreachableError:
            return UNREACHED
        self._start(self._pump)
        try:
            return await self._answer()
        except ClientGoneError:
            if self._error is not None:
                raise self._error from None
            if not (self._accepted or self._denied):
                with contextlib.suppress(Exception):  # there is nobody to send it to, but a web server wants it
                    await self._send({"type": "websocket.close", "code": NORMAL, "reason": ""})
            return DONE
        except LeavingError:
            return await self._close(SERVICE_RESTART, "this process ends")
        except PeerError as error:
            return await self._fail(error)
        finally:
            self._close_stream()
            await cancel_and_wait(*self._tasks)

    async def _answer(self) -> Outcome:
        while True:
            kind, payload = await self._stream.next()
            if self._accepted:
                outcome = await self._take(kind, payload)
            elif self._denied:
                outcome = await self._take_denial(kind, payload)
            else:
                outcome = await self._decide(kind, payload)
            if outcome is not None:
                return outcome

    async def _take(self, kind: Kind, payload: bytes) -> Outcome | None:
        """Take in what comes on a WebSocket that is open."""
        if kind in {Kind.TEXT, Kind.BINARY, Kind.PART}:
            self._size += len(payload)
            if self._size > MAX_MESSAGE:
                return await self._close(TOO_BIG, "a message is too long")
            self._parts.append(payload)
            if kind is not Kind.PART:
                parts, self._parts, self._size = self._parts, [], 0
                await self._send(message_of(kind, parts))
            return None
        return await self._end(kind, payload)

    async def _decide(self, kind: Kind, payload: bytes) -> Outcome | None:
        """Take in whether a WebSocket is accepted."""
        if kind is Kind.ACCEPT:
            protocol, *headers = unpack(payload)
            accept: Message = {"type": "websocket.accept", "headers": paired(headers)}
            accept["subprotocol"] = text_of(protocol) or None
            self._accepted = True
            await self._send(accept)
            self._endless.add(self)
            return None
        if kind is Kind.START:
            await self._deny(payload)
            return None
        if kind is Kind.ANSWER:
            start, body = unpack_with_body(payload)
            await self._deny(start)
            return await self._take_denial(Kind.LAST, body)
        if kind is Kind.REFUSED:
            self._ended = True
            return Outcome(Carried.REFUSED, Refusal.from_payload(payload))
        return await self._end(kind, payload)

    async def _deny(self, payload: bytes) -> None:
        status, parts = unpack_number(payload)
        headers = paired(parts[1:])
        self._denied = True
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})

    async def _take_denial(self, kind: Kind, payload: bytes) -> Outcome | None:
        if kind is not Kind.BODY and kind is not Kind.LAST:
            raise AnswerCutError("the application at the owner of the uid has failed in the middle of its answer")
        more = kind is Kind.BODY
        self._ended = not more
        await self._send({"type": "websocket.http.response.body", "body": payload, "more_body": more})
        return None if more else DONE

    async def _end(self, kind: Kind, payload: bytes) -> Outcome:
        if kind is Kind.CLOSE:
            code, parts = unpack_number(payload)
            reason = text_of(b"".join(parts))
        elif kind is Kind.ENDED:
            code, reason = _FAILED, ""
        else:
            raise PeerProtocolError(f"{kind.name} on a WebSocket where it should not be")
        self._ended = True
        return await self._close(code, reason)

    async def _fail(self, error: PeerError) -> Outcome:
        """Tell the client that the owner is lost, or cannot be understood."""
        lost = isinstance(error, PeerLostError)
        if self._denied:
            raise AnswerCutError(str(error)) from error
        if self._accepted:
            if lost:
                return await self._close(SERVICE_RESTART, "the pod of this connection is gone")
            return await self._close(_FAILED, "")
        if not lost:
            raise error
        return LOST

    async def _close(self, code: int, reason: str) -> Outcome:
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)  # granian does not both receive and close
        await close_websocket(self._send, code, reason)
        return DONE

    async def _pump(self) -> None:
        stream = self._stream
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                stream.send(Kind.CLOSE, pack_close(message.get("code"), message.get("reason")))
                stream.fail(ClientGoneError("the client went away"))
                stream.frames.clear()
                return
            text = message.get("text")
            if text is not None:
                await stream.send_bytes(Kind.TEXT, text.encode(), Kind.PART)
            else:
                await stream.send_bytes(Kind.BINARY, bytes(message.get("bytes") or b""), Kind.PART)


def message_of(kind: Kind, parts: list[bytes]) -> Message:
    """Return the ASGI message ``websocket.send`` of a message in parts."""
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if kind is Kind.TEXT:
        return {"type": "websocket.send", "text": text_of(data)}
    return {"type": "websocket.send", "bytes": data}


def pack_close(code: int | None, reason: str | None) -> bytes:
    """Return the payload of the end of a WebSocket; of a code that there cannot be, an abnormal one."""
    if code is None:
        code = NORMAL
    return pack_number(code if 0 < code <= _MOST_CODE else ABNORMAL, (reason or "").encode("utf-8", "replace"))
