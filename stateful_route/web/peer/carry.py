"""The edge's side of one request: sends it to its owner, and the answer to the client."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError, PeerUnreachableError
from stateful_route.web.peer.frames import (
    Kind,
    Refusal,
    pack_number,
    paired,
    text_of,
    unpack,
    unpack_answer,
    unpack_number,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.peer.dialer import DialedConnection
    from stateful_route.web.peer.stream import Stream

Message: TypeAlias = "dict[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"

SERVICE_RESTART = 1012
"""Of a WebSocket: its pod goes or is gone, and the client may connect again at once."""
NORMAL = 1000
TOO_BIG = 1009
ABNORMAL = 1006
_FAILED = 1011
_MOST_CODE = 0xFFFF
MAX_MESSAGE = 16 * 1024 * 1024
"""The longest WebSocket message, in bytes, that is put together from its parts."""


class Carried(enum.Enum):
    """What came of it."""

    DONE = "done"
    """The client has its answer, or is gone."""
    REFUSED = "refused"
    """The peer did nothing with it, and said why."""
    TOO_LARGE = "too large"
    """Its head does not fit into a frame: nothing was sent."""
    UNREACHED = "unreached"
    """The connection had ended before the head was sent."""
    LOST = "lost"
    """The connection ended before an answer began: what the peer did with it is not known."""


@attrs.frozen
class Outcome:
    """What came of a request that was sent to a peer."""

    carried: Carried
    refusal: Refusal | None = None


_DONE = Outcome(Carried.DONE)
_LOST = Outcome(Carried.LOST)
_UNREACHED = Outcome(Carried.UNREACHED)


class AnswerCutError(PeerLostError):
    """The connection to the owner ended in the middle of an answer: the client is told by the end of its connection."""


class _ClientGoneError(PeerError):
    """The client went away."""


class _Carrier:
    """What both kinds have: a stream, and tasks that send what the client does."""

    def __init__(self, connection: DialedConnection, receive: Receive, send: Send) -> None:
        """Have sent nothing."""
        self._connection = connection
        self._stream: Stream
        self._receive = receive
        self._send = send
        self._tasks: list[asyncio.Task[None]] = []
        self._error: Exception | None = None
        self._ended = False

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.ensure_future(self._guarded(work)))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except PeerError:
            return  # who reads the answer is told
        except Exception as error:  # noqa: BLE001 - of ``receive``, which may be a middleware's: it is raised by ``run``
            self._error = error
            self._client_gone()

    def _client_gone(self) -> None:
        stream = self._stream
        stream.abandon(_ClientGoneError("the client went away"))
        stream.frames.clear()

    async def _close_stream(self) -> None:
        if not self._ended:
            self._stream.send(Kind.GONE)
        self._stream.close()
        if self._tasks:
            await cancel_and_wait(*self._tasks)


class HttpCarrier(_Carrier):
    """Carries one HTTP request over a connection."""

    def __init__(self, connection: DialedConnection, receive: Receive, send: Send) -> None:
        """Have sent nothing."""
        super().__init__(connection, receive, send)
        self._started = False
        self._trailers = False
        self._inline = False

    async def run(self, head: bytes, *, watches: bool) -> Outcome:
        """Send the head, and the body once the owner wants it; return once the answer is at the client.

        With ``watches`` the body is in the head, and the next event is that the client goes away.

        Raises:
            AnswerCutError: if the owner was lost in the middle of the answer, or what it sends cannot be read.
            PeerProtocolError: if what it sends cannot be read, and the answer has not begun.

        """
        connection = self._connection
        try:
            self._stream = connection.open(head)
        except PeerUnreachableError:
            return _UNREACHED
        self._inline = watches
        if watches:
            connection.late.add(self)
        try:
            return await self._answer()
        except _ClientGoneError:
            if self._error is not None:
                raise self._error from None
            return _DONE
        except PeerError as error:
            if self._started:
                raise AnswerCutError(str(error)) from error
            if not isinstance(error, PeerLostError):
                raise
            return _LOST
        finally:
            if watches:
                connection.late.discard(self)
            await self._close_stream()

    async def _answer(self) -> Outcome:
        stream, send = self._stream, self._send
        while True:
            kind, payload = await stream.next()
            if kind is Kind.ANSWER:
                start, body = unpack_answer(payload)
                await self._start_answer(start)
                self._ended = True
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return _DONE
            if self._started:
                if kind is Kind.BODY or kind is Kind.LAST:
                    last = kind is Kind.LAST
                    self._ended = last and not self._trailers
                    await send({"type": "http.response.body", "body": payload, "more_body": not last})
                    if self._ended:
                        return _DONE
                elif await self._end_started(kind, payload):
                    return _DONE
            elif kind is Kind.START:
                await self._start_answer(payload)
            elif (outcome := await self._end_unstarted(kind, payload)) is not None:
                return outcome

    async def _start_answer(self, payload: bytes) -> None:
        if self._started:
            raise PeerProtocolError("a second head of an answer")
        status, parts = unpack_number(payload)
        self._trailers = parts[:1] == [b"t"]
        message: Message = {"type": "http.response.start", "status": status, "headers": paired(parts[1:])}
        if self._trailers:
            message["trailers"] = True
        self._started = True
        await self._send(message)

    async def _end_started(self, kind: Kind, payload: bytes) -> bool:
        """Take in what is no part of the body; return whether the answer is whole."""
        if kind is Kind.WANT:
            self._want()
            return False
        if kind is Kind.TRAILERS and self._trailers:
            trailers = paired(unpack(payload))
            self._ended = True
            await self._send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})
            return True
        if kind is Kind.ENDED:
            self._ended = True
            raise AnswerCutError("the application at the owner of the uid has failed in the middle of its answer")
        raise PeerProtocolError(f"{kind.name} in the middle of an answer")

    async def _end_unstarted(self, kind: Kind, payload: bytes) -> Outcome | None:
        if kind is Kind.WANT:
            self._want()
            return None
        if kind is Kind.REFUSED:
            self._ended = True
            return Outcome(Carried.REFUSED, Refusal.from_payload(payload))
        if kind is not Kind.ENDED:
            raise PeerProtocolError(f"{kind.name} before the head of an answer")
        self._ended = True  # the application has failed: the client is told as a web server does
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self._send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"Internal Server Error"})
        return _DONE

    def watch(self) -> None:
        """Look from now on whether the client goes away: the answer takes its time."""
        self._start(self._watch)

    async def _watch(self) -> None:
        """End the stream when the client goes away."""
        if (await self._receive())["type"] == "http.disconnect":  # after a body nothing else comes
            self._client_gone()

    def _want(self) -> None:
        """Begin to send the body."""
        if self._inline:
            raise PeerProtocolError("WANT of a body that was sent, or asked for before")
        self._inline = True
        self._start(self._pump)

    async def _pump(self) -> None:
        """Send the body as it comes, at the pace of who reads it; then watch."""
        stream = self._stream
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._client_gone()
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if body or not more:
                await stream.send_bytes(Kind.BODY if more else Kind.LAST, bytes(body), Kind.BODY)
            if not more:
                await self._watch()
                return


class WebSocketCarrier(_Carrier):
    """Carries one WebSocket over a connection; ``websocket.connect`` was received before."""

    def __init__(self, connection: DialedConnection, receive: Receive, send: Send) -> None:
        """Have sent nothing."""
        super().__init__(connection, receive, send)
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
            return _UNREACHED
        self._start(self._pump)
        try:
            return await self._answer()
        except _ClientGoneError:
            if self._error is not None:
                raise self._error from None
            return _DONE
        except PeerError as error:
            return await self._fail(error)
        finally:
            await self._close_stream()

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
            return None
        if kind is Kind.START:
            await self._deny(payload)
            return None
        if kind is Kind.ANSWER:
            start, body = unpack_answer(payload)
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
        return None if more else _DONE

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
        return _LOST

    async def _close(self, code: int, reason: str) -> Outcome:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
        return _DONE

    async def _pump(self) -> None:
        stream = self._stream
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                stream.send(Kind.CLOSE, pack_close(message.get("code"), message.get("reason")))
                stream.fail(_ClientGoneError("the client went away"))
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
