"""The edge's side of one request: sends it to its owner, and the answer to the client."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError
from stateful_route.web.peer.frames import Kind, Refusal, pack_number, paired, text_of, unpack, unpack_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.peer.stream import Stream

Message: TypeAlias = "dict[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"

# Seconds of an answer's time from which on it is watched whether the client goes away: most answers are quicker, and a
# task for each of them costs more than to carry it.
_WATCH_AFTER = 0.05

_EVENTS = b"text/event-stream"
_NAME_LENGTH = len(b"content-type")

SERVICE_RESTART = 1012
"""Of a WebSocket: its pod goes or is gone, and the client may connect again at once."""
OWN_RESTART = 4012
"""The same, of a web server that does not send that code."""
_TOO_BIG = 1009
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
    LOST = "lost"
    """The connection ended before an answer began: what the peer did with it is not known."""


@attrs.frozen
class Outcome:
    """What came of a request that was sent to a peer."""

    carried: Carried
    refusal: Refusal | None = None


_DONE = Outcome(Carried.DONE)
_LOST = Outcome(Carried.LOST)


class AnswerCutError(PeerLostError):
    """The connection to the owner ended in the middle of an answer: the client is told by the end of its connection."""


class _ClientGoneError(PeerError):
    """The client went away."""


class _LeavingError(PeerError):
    """This process ends."""


class HttpCarrier:
    """Carries one HTTP request over a stream."""

    def __init__(self, stream: Stream, receive: Receive, send: Send) -> None:
        """Have sent nothing."""
        self._stream = stream
        self._receive = receive
        self._send = send
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self._trailers = False
        self._ended = False
        self._is_events = False
        self._ending = False

    def end_stream(self) -> None:
        """End an answer of server-sent events, also one that is yet to begin: this process ends."""
        self._ending = True
        if self._is_events:
            self._stream.fail(_LeavingError("this process ends"))

    async def run(self, head: bytes, *, watches: bool) -> Outcome:
        """Send the head, and the body once the owner wants it; return once the answer is at the client.

        With ``watches`` the body is in the head, and the next event is that the client goes away.

        Raises:
            AnswerCutError: if the owner was lost in the middle of the answer.

        """
        stream = self._stream
        stream.send(Kind.OPEN, head)
        watch: asyncio.TimerHandle | None = None
        if watches:
            watch = asyncio.get_running_loop().call_later(_WATCH_AFTER, self._start, self._watch)
        try:
            return await self._answer()
        except _ClientGoneError:
            return _DONE
        except _LeavingError:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return _DONE
        except PeerLostError as error:
            if self._started:
                raise AnswerCutError(str(error)) from error
            return _LOST
        finally:
            if watch is not None:
                watch.cancel()
            if not self._ended:
                stream.send(Kind.GONE)
            if self._tasks:
                await cancel_and_wait(*self._tasks)

    async def _answer(self) -> Outcome:
        stream, send = self._stream, self._send
        while True:
            kind, payload = await stream.next()
            if kind is Kind.BODY or kind is Kind.LAST:
                if not self._started:
                    raise PeerProtocolError("a body before its head")
                last = kind is Kind.LAST
                self._ended = last and not self._trailers
                await send({"type": "http.response.body", "body": payload, "more_body": not last})
                if self._ended:
                    return _DONE
            elif kind is Kind.START:
                await self._start_answer(payload)
            elif kind is Kind.REFUSED:
                self._ended = True
                return Outcome(Carried.REFUSED, Refusal.from_payload(payload))
            elif kind is Kind.WANT:
                self._start(self._pump)
            elif kind is Kind.TRAILERS:
                self._ended = True
                trailers = paired(unpack(payload))
                await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})
                return _DONE
            elif kind is Kind.ENDED:
                self._ended = True
                return await self._end_badly()

    async def _start_answer(self, payload: bytes) -> None:
        status, parts = unpack_number(payload)
        self._started = True
        self._trailers = parts[:1] == [b"t"]
        message: Message = {"type": "http.response.start", "status": status, "headers": paired(parts[1:])}
        if self._trailers:
            message["trailers"] = True
        await self._send(message)
        self._is_events = is_events(message)
        if self._ending:
            self.end_stream()

    async def _end_badly(self) -> Outcome:
        """Tell the client that the application has failed, as a web server does."""
        if self._started:
            raise AnswerCutError("the application at the owner of the uid has failed in the middle of its answer")
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await self._send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"Internal Server Error"})
        return _DONE

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.ensure_future(self._guarded(work)))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(PeerError):  # who reads the answer is told
            await work()

    async def _watch(self) -> None:
        """End the stream when the client goes away."""
        if (await self._receive())["type"] == "http.disconnect":  # after a body nothing else comes
            self._stream.fail(_ClientGoneError("the client went away"))

    async def _pump(self) -> None:
        """Send the body as it comes, at the pace of who reads it; then watch."""
        stream = self._stream
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                stream.fail(_ClientGoneError("the client went away"))
                return
            last = not message.get("more_body", False)
            await stream.send_bytes(Kind.LAST if last else Kind.BODY, message.get("body", b""), Kind.BODY)
            if last:
                await self._watch()
                return


class WebSocketCarrier:
    """Carries one WebSocket over a stream; ``websocket.connect`` was received before."""

    def __init__(self, stream: Stream, receive: Receive, send: Send) -> None:
        """Have sent nothing."""
        self._stream = stream
        self._receive = receive
        self._send = send
        self._pumping: asyncio.Task[None] | None = None
        self._accepted = False
        self._denied = False
        self._ended = False
        self._ending = False

    def end_stream(self) -> None:
        """Close the WebSocket, also one that is yet to be accepted: this process ends."""
        self._ending = True
        if self._accepted:
            self._stream.fail(_LeavingError("this process ends"))

    async def run(self, head: bytes) -> Outcome:
        """Send the head, and messages in both directions until one side closes; return once that is so.

        If the owner is lost after it has accepted, the client is told 1012: it may connect again at once.
        """
        stream = self._stream
        stream.send(Kind.OPEN, head)
        self._pumping = asyncio.ensure_future(self._pump())
        try:
            return await self._answer()
        except _ClientGoneError:
            return _DONE
        except _LeavingError:
            await self._close(SERVICE_RESTART, "this process ends")
            return _DONE
        except PeerLostError:
            if not self._accepted and not self._denied:
                return _LOST
            await self._close(SERVICE_RESTART, "the pod of this connection is gone")
            return _DONE
        finally:
            if not self._ended:
                stream.send(Kind.GONE)
            await cancel_and_wait(self._pumping)

    async def _answer(self) -> Outcome:
        parts: list[bytes] = []
        size = 0
        while True:
            kind, payload = await self._stream.next()
            if kind in {Kind.TEXT, Kind.BINARY, Kind.PART}:
                parts.append(payload)
                size += len(payload)
                if size > MAX_MESSAGE:
                    await self._close(_TOO_BIG, "a message is too long")
                    return _DONE
                if kind is not Kind.PART:
                    await self._send(message_of(kind, parts))
                    parts, size = [], 0
            elif (outcome := await self._control(kind, payload)) is not None:
                return outcome

    async def _control(self, kind: Kind, payload: bytes) -> Outcome | None:
        if kind is Kind.ACCEPT:
            self._accepted = True
            protocol, *headers = unpack(payload)
            accept: Message = {"type": "websocket.accept", "headers": paired(headers)}
            accept["subprotocol"] = text_of(protocol) or None
            await self._send(accept)
            if self._ending:
                self.end_stream()
        elif kind is Kind.CLOSE:
            code, parts = unpack_number(payload)
            self._ended = True
            await self._close(code, text_of(b"".join(parts)))
            return _DONE
        elif kind is Kind.START:
            status, parts = unpack_number(payload)
            self._denied = True
            headers_ = paired(parts[1:])
            await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers_})
        elif kind in {Kind.BODY, Kind.LAST}:
            more = kind is Kind.BODY
            await self._send({"type": "websocket.http.response.body", "body": payload, "more_body": more})
            if not more:
                self._ended = True
                return _DONE
        elif kind is Kind.REFUSED:
            self._ended = True
            return Outcome(Carried.REFUSED, Refusal.from_payload(payload))
        elif kind is Kind.ENDED:
            self._ended = True
            await self._close(1011, "")
            return _DONE
        return None

    async def _close(self, code: int, reason: str) -> None:
        if self._pumping is not None:  # granian does not both receive and close
            await cancel_and_wait(self._pumping)
        self._accepted = True
        await close_websocket(self._send, code, reason)

    async def _pump(self) -> None:
        stream = self._stream
        with contextlib.suppress(PeerError):
            while True:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    stream.send(Kind.CLOSE, pack_close(message))
                    self._ended = True
                    stream.fail(_ClientGoneError("the client went away"))
                    return
                text = message.get("text")
                if text is not None:
                    await stream.send_bytes(Kind.TEXT, text.encode(), Kind.PART)
                else:
                    await stream.send_bytes(Kind.BINARY, message.get("bytes") or b"", Kind.PART)


def is_events(start: Message) -> bool:
    """Whether an answer is one of server-sent events, which has no end of its own."""
    for name, value in start.get("headers") or ():
        if len(name) == _NAME_LENGTH and name.lower() == b"content-type":  # Django writes it in capitals
            return bool(value.startswith(_EVENTS))
    return False


async def close_websocket(send: Send, code: int, reason: str) -> None:
    """Close a WebSocket; with a code of one's own if the web server refuses ``SERVICE_RESTART``, as daphne does."""
    try:
        await send({"type": "websocket.close", "code": code, "reason": reason})
    except Exception:
        if code != SERVICE_RESTART:
            raise
        await send({"type": "websocket.close", "code": OWN_RESTART, "reason": reason})


def message_of(kind: Kind, parts: list[bytes]) -> Message:
    """Return the ASGI message ``websocket.send`` of a message in parts."""
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if kind is Kind.TEXT:
        return {"type": "websocket.send", "text": text_of(data)}
    return {"type": "websocket.send", "bytes": data}


def pack_close(message: Message) -> bytes:
    """Return the payload of the end of a WebSocket."""
    return pack_number(message.get("code") or 1000, (message.get("reason") or "").encode())
