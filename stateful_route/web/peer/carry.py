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
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.peer.dialer import DialedConnection
    from stateful_route.web.peer.stream import Stream


class Carried(enum.Enum):
    """What came of it."""

    DONE = "done"
    """The client has its answer, or is gone."""
    REFUSED = "refused"
    """The peer did nothing with it, and said why."""
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
        self._outcome: Outcome | None = None

    async def run(self, head: bytes | Stream, *, watches: bool) -> Outcome:
        """Send the head, and the body once the owner wants it; return once the answer is at the client.

        With ``watches`` the body is in the head, and the next event is that the client goes away. A stream in place of
        the head is one whose head was sent already.

        Raises:
            AnswerCutError: if the owner was lost in the middle of the answer, or what it sends cannot be read.
            PeerProtocolError: if what it sends cannot be read, and the answer has not begun.

        """
        connection, send = self._connection, self._send
        try:
            stream = self._stream = connection.open(head) if isinstance(head, bytes) else head
        except PeerUnreachableError:
            return UNREACHED
        self._inline = watches
        if watches:
            connection.late.add(self)
        try:
            while self._outcome is None:
                frame = stream.take()
                if frame is None:
                    await stream.news()
                    continue
                for message in self._take(*frame):
                    await send(message)
        except PeerError as error:
            for message in self._take_failure(error):
                await send(message)
        finally:
            connection.late.discard(self)
            self._close_stream()
            if self._tasks:
                await cancel_and_wait(*self._tasks)
        return self._outcome or LOST

    # What the owner sends; no I/O ---------------------------------------------------------------------------------

    def _take(self, kind: Kind, payload: bytes) -> Sequence[Message]:
        """Take a frame in; return what the client is sent, and note what came of it if this is the end.

        Raises:
            AnswerCutError: if the answer is not whole, and nothing more comes.
            PeerProtocolError: if this may not come now.

        """
        if kind is Kind.WANT:
            self._want()
            return ()
        if kind is Kind.ANSWER or kind is Kind.START:
            return self._take_start(kind, payload)
        if not self._started:
            return self._take_refusal(kind, payload)
        if kind is Kind.BODY or kind is Kind.LAST:
            last = kind is Kind.LAST
            if last and not self._trailers:
                self._end(DONE)
            return ({"type": "http.response.body", "body": payload, "more_body": not last},)
        if kind is Kind.TRAILERS and self._trailers:
            trailers = paired(unpack(payload))
            self._end(DONE)
            return ({"type": "http.response.trailers", "headers": trailers, "more_trailers": False},)
        if kind is Kind.ENDED:
            self._ended = True
            raise AnswerCutError("the application at the owner of the uid has failed in the middle of its answer")
        raise PeerProtocolError(f"{kind.name} in the middle of an answer")

    def _take_start(self, kind: Kind, payload: bytes) -> Sequence[Message]:
        """Take in the head of an answer, or a whole one, which is what most are."""
        if self._started:
            raise PeerProtocolError("a second head of an answer")
        head, body = unpack_with_body(payload) if kind is Kind.ANSWER else (payload, None)
        status, parts = unpack_number(head)
        start: Message = {"type": "http.response.start", "status": status, "headers": paired(parts[1:])}
        self._started = True
        if body is not None:
            self._end(DONE)
            return start, {"type": "http.response.body", "body": body, "more_body": False}
        self._trailers = parts[:1] == [b"t"]
        if self._trailers:
            start["trailers"] = True
        if self._reconnects and is_events(start):
            self._endless.add(self)
        return (start,)

    def _take_refusal(self, kind: Kind, payload: bytes) -> Sequence[Message]:
        if kind is Kind.REFUSED:
            self._end(Outcome(Carried.REFUSED, Refusal.from_payload(payload)))
            return ()
        if kind is not Kind.ENDED:
            raise PeerProtocolError(f"{kind.name} before the head of an answer")
        self._end(DONE)  # the application has failed: the client is told as a web server does
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        start: Message = {"type": "http.response.start", "status": 500, "headers": headers}
        return start, {"type": "http.response.body", "body": b"Internal Server Error"}

    def _take_failure(self, error: PeerError) -> Sequence[Message]:
        """Take in that nothing more comes; what is not an outcome is raised."""
        if isinstance(error, ClientGoneError):
            if self._error is not None:
                raise self._error from None
            self._outcome = DONE
            return ()
        if isinstance(error, LeavingError):
            self._outcome = DONE
            return ({"type": "http.response.body", "body": b"", "more_body": False},)
        if self._started:
            raise AnswerCutError(str(error)) from error
        if not isinstance(error, PeerLostError):
            raise error
        return ()

    def _end(self, outcome: Outcome) -> None:
        self._ended = True
        self._outcome = outcome

    # What the client sends ----------------------------------------------------------------------------------------

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
