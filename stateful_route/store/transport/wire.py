"""One connection that many callers share: what they send goes out together, and is answered in its order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import redis.exceptions

from stateful_route.store.transport.resp import INCOMPLETE, PUSHES, ReplyError, new_parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.errors import StoreError

# Bytes in one write: the transport says after each whether it takes more.
_WRITE = 65536

# Of a request of one command, which does not collect them.
_NO_REPLIES: list[Any] = []


class Operation(Protocol):
    """What is done by a request, for its errors; a ``Script`` is one."""

    @property
    def name(self) -> str:
        """How errors call it."""
        ...

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        ...


class Request:
    """Commands of one caller that are sent together, and the future of what they are answered.

    For one command that is the reply, or a ``StoreError`` is raised; for more it is the list of replies, with the
    ``StoreError`` in place of those that did not come. An error that the server replies is a reply.
    """

    __slots__ = ("count", "data", "expires", "future", "on_error", "operation", "replies", "sent")

    def __init__(
        self,
        data: bytes,
        operation: Operation,
        expires: float,
        future: asyncio.Future[Any],
        count: int = 1,
        on_error: Callable[[Request, ReplyError | StoreError], None] | None = None,
    ) -> None:
        """Make what is to be sent as ``data``, ``count`` commands, and answered before ``expires``.

        For one command there can be ``on_error``: it is called with what has come instead of an answer, and sees to
        the future.
        """
        self.data = data
        self.operation = operation
        self.expires = expires
        self.future = future
        self.count = count
        self.on_error = on_error
        self.replies: list[Any] = [] if count > 1 else _NO_REPLIES
        self.sent = False

    def fail(self, fault: StoreError) -> None:
        """Give ``fault`` for each reply that has not come, if the caller still waits."""
        if self.future.done():
            return
        if self.on_error is not None:
            self.on_error(self, fault)
        elif self.count == 1:
            self.future.set_exception(fault)
        else:
            self.future.set_result(self.replies + [fault] * (self.count - len(self.replies)))


class Wire(asyncio.Protocol):
    """Sends requests and hands out the replies, until the connection is lost.

    A caller that is cancelled, or gives up, costs nothing: the reply is read when it comes, and dropped.
    """

    def __init__(
        self,
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        ready: Callable[[], None],
        lost: Callable[[Wire, Exception], None],
    ) -> None:
        """Take over an open stream; call ``ready`` when more can be sent, ``lost`` once, when nothing can any more."""
        # The writer closes the transport when it is collected, so it is kept.
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._ready = ready
        self._lost = lost
        self._parser = new_parser()
        self._error: Exception = redis.exceptions.ConnectionError("the server closed the connection")
        self._transport = stream[1].transport
        self.in_flight: deque[Request] = deque()
        """What was sent and is not answered, in its order; once for each command."""
        self.quiet_since = 0.0
        """When something last came, or was sent with nothing in flight, by the clock of the event loop."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.writable = True
        """Whether the transport takes more."""
        self.answered = False
        """Whether anything ever came back."""
        self._transport.set_protocol(self)

    def send(self, waiting: deque[Request], most: int) -> None:
        """Send what waits, as long as the transport takes it and at most ``most`` commands are in flight."""
        in_flight = self.in_flight
        if not in_flight:
            self.quiet_since = self._loop.time()
        while waiting and self.writable and len(in_flight) < most:
            chunks = []
            size = 0
            while waiting and size < _WRITE and len(in_flight) < most:
                request = waiting.popleft()
                if request.future.done():  # cancelled, or too late
                    continue
                request.sent = True
                chunks.append(request.data)
                size += len(request.data)
                if request.count == 1:
                    in_flight.append(request)
                else:
                    in_flight.extend([request] * request.count)
            self._transport.write(b"".join(chunks))

    def abort(self, error: Exception) -> None:
        """End the connection because of ``error``; nothing more is sent."""
        if not self._transport.is_closing():
            self._error = error
        self.writable = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that have come in."""
        self.answered = True
        self.quiet_since = self._loop.time()
        try:
            self._parser.feed(data)
            self._hand_out(self._parser.gets)
        except redis.exceptions.InvalidResponse as error:
            self.abort(error)
            return
        except Exception as error:  # noqa: BLE001 - of hiredis, of which a map with a list for a key is a TypeError
            self.abort(redis.exceptions.InvalidResponse(f"unreadable reply: {type(error).__name__}: {error}"))
            return
        if self.writable:
            self._ready()

    def _hand_out(self, gets: Callable[[], Any]) -> None:
        in_flight = self.in_flight
        while (reply := gets()) is not INCOMPLETE:
            if isinstance(reply, PUSHES):
                continue
            if not in_flight:
                raise redis.exceptions.InvalidResponse(f"a reply that nothing was sent for: {reply!r:.80}")
            request = in_flight.popleft()
            future = request.future
            if request.count > 1:
                request.replies.append(reply)
                if len(request.replies) < request.count:
                    continue
                reply = request.replies
            if future.done():  # cancelled, or too late
                continue
            if reply.__class__ is ReplyError and request.on_error is not None:
                request.on_error(request, reply)
            else:
                future.set_result(reply)

    def pause_writing(self) -> None:
        """Note that the transport has enough to do."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on sending, unless the connection is about to be lost."""
        if not self._transport.is_closing():
            self.writable = True
            self._ready()

    def eof_received(self) -> None:
        """End the connection: what was not sent yet goes over the next one."""
        self.abort(self._error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so once; the cause is the first that was known."""
        self.writable = False
        if exc is not None:
            self._error = redis.exceptions.ConnectionError(f"{type(exc).__name__}: {exc}")
        self._lost(self, self._error)
        if not self.closed.done():
            self.closed.set_result(None)
