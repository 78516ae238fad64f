"""The edge's side of one request: sends it to its owner, and the answer to the client."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

import attrs

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.asgi import is_events
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError, PeerUnreachableError
from stateful_route.web.peer.frames import (
    Kind,
    Refusal,
    paired,
    unpack,
    unpack_number,
    unpack_with_body,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.peer.dialer import DialedConnection
    from stateful_route.web.peer.stream import Stream


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


DONE = Outcome(Carried.DONE)
LOST = Outcome(Carried.LOST)
UNREACHED = Outcome(Carried.UNREACHED)


class AnswerCutError(PeerLostError):
    """The connection to the owner ended in the middle of an answer: the client is told by the end of its connection."""


class ClientGoneError(PeerError):
    """The client went away."""


class LeavingError(PeerError):
    """This process ends."""


class Endless:
    """The WebSockets and event streams that arrived here and are served by peers: they end with this process."""

    def __init__(self) -> None:
        """Have none."""
        self._carriers: dict[Carrier, None] = {}
        self._ending = False

    def add(self, carrier: Carrier) -> None:
        """Note one that has begun."""
        self._carriers[carrier] = None
        if self._ending:
            carrier.end_stream()

    def discard(self, carrier: Carrier) -> None:
        """Note that one has ended."""
        self._carriers.pop(carrier, None)

    def left(self) -> list[Carrier]:
        """Return those that were not told to end, the oldest one first."""
        return [carrier for carrier in self._carriers if not carrier.ending]

    def end(self) -> None:
        """End all of them, and those that are yet to begin."""
        self._ending = True
        for carrier in self.left():
            carrier.end_stream()


class Carrier:
    """What both kinds have: a stream, and tasks that send what the client does."""

    def __init__(self, connection: DialedConnection, receive: Receive, send: Send, endless: Endless) -> None:
        """Have sent nothing; ``endless`` is told once it is known that this has no end of its own."""
        self._endless = endless
        self._connection = connection
        self._stream: Stream
        self._receive = receive
        self._send = send
        self._tasks: list[asyncio.Task[None]] = []
        self._error: Exception | None = None
        self._ended = False
        self.ending = False
        """Whether it was told to end."""

    def end_stream(self) -> None:
        """End a WebSocket, or an answer of server-sent events: this process ends."""
        self.ending = True
        self._stream.abandon(LeavingError("this process ends"))

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
        stream.abandon(ClientGoneError("the client went away"))
        stream.frames.clear()

    def _close_stream(self) -> None:
        self._endless.discard(self)
        if not self._ended:
            self._stream.send(Kind.GONE)
        self._stream.close()


class HttpCarrier(Carrier):
    """Carries one HTTP request over a connection."""

    def __init__(
        self, connection: DialedConnection, receive: Receive, send: Send, endless: Endless, *, reconnects: bool = True
    ) -> None:
        """Have sent nothing; see ``Carrier``. ``reconnects`` is whether a client asks again for events that end."""
        super().__init__(connection, receive, send, endless)
        self._reconnects = reconnects
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
        try:
            stream = self._connection.open(head)
        except PeerUnreachableError:
            return UNREACHED
        return await self.follow(stream, watches=watches)

    async def follow(self, stream: Stream, *, watches: bool) -> Outcome:
        """Do the same with a request whose head was sent already.

        Raises:
            AnswerCutError: if the owner was lost in the middle of the answer, or what it sends cannot be read.
            PeerProtocolError: if what it sends cannot be read, and the answer has not begun.

        """
        connection = self._connection
        self._stream = stream
        self._inline = watches
        if watches:
            connection.late.add(self)
        try:
            return await self._answer()
        except ClientGoneError:
            if self._error is not None:
                raise self._error from None
            return DONE
        except LeavingError:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return DONE
        except PeerError as error:
            if self._started:
                raise AnswerCutError(str(error)) from error
            if not isinstance(error, PeerLostError):
                raise
            return LOST
        finally:
            connection.late.discard(self)
            self._close_stream()
            if self._tasks:
                await cancel_and_wait(*self._tasks)

    async def _answer(self) -> Outcome:
        stream, send = self._stream, self._send
        while True:
            kind, payload = await stream.next()
            if kind is Kind.ANSWER:
                await self._take_answer(payload)
                return DONE
            if self._started:
                if kind is Kind.BODY or kind is Kind.LAST:
                    last = kind is Kind.LAST
                    self._ended = last and not self._trailers
                    await send({"type": "http.response.body", "body": payload, "more_body": not last})
                    if self._ended:
                        return DONE
                elif await self._end_started(kind, payload):
                    return DONE
            elif kind is Kind.START:
                await self._start_answer(payload)
            elif (outcome := await self._end_unstarted(kind, payload)) is not None:
                return outcome

    async def _take_answer(self, payload: bytes) -> None:
        """Send a whole answer, which is what most are."""
        if self._started:
            raise PeerProtocolError("a second head of an answer")
        head, body = unpack_with_body(payload)
        status, (_, *headers) = unpack_number(head)
        start: Message = {"type": "http.response.start", "status": status, "headers": paired(headers)}
        self._started = self._ended = True
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

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
        if self._reconnects and is_events(message):
            self._endless.add(self)

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
        return DONE

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
