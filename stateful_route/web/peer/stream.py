"""One request or one WebSocket on a connection between two peers."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from stateful_route.web.errors import PeerProtocolError, StreamEndedError
from stateful_route.web.peer.frames import COUNTED, FRAME_COST, MAX_CHUNK, MAX_PAYLOAD, WINDOW, Kind, pack_with_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.web.peer.connection import Connection

_GRANT_AT = WINDOW // 2
# What is sent while there is credit may exceed it by a chunk.
_MOST_WAITING = WINDOW + MAX_CHUNK + FRAME_COST
# More than a stream has of frames that are not counted, in its whole life.
_MOST_SIGNS = 8
_CREDIT_SIZE = 4
# After these nothing comes, and nothing is read there any more.
_ENDS = frozenset({Kind.GONE, Kind.CLOSE, Kind.ENDED, Kind.REFUSED})
# A body up to this size goes in one frame with the head of its answer, if both are there in one turn of the loop.
_SHORT = 16 * 1024


_ENDED = StreamEndedError("the request has ended")


class Stream:
    """Frames in and out, each direction with a window of ``frames.WINDOW`` bytes.

    Who sends waits while the other side has not read what is on its way, or while the transport is full: so a slow
    reader costs a window of memory, here and there. Several tasks may read, and several may send.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_sending",
        "_signs",
        "_start",
        "_taken",
        "_waiters",
        "_waiting",
        "failure",
        "frames",
        "sid",
    )

    def __init__(self, connection: Connection, sid: int) -> None:
        self._connection = connection
        self.sid = sid
        self.frames: collections.deque[tuple[Kind, bytes]] = collections.deque()
        """What has come and was not read."""
        self.failure: Exception | None = None
        """Why nothing is sent any more, and nothing will come once what has come is read."""
        self._credit = WINDOW
        self._taken = 0
        self._waiting = 0
        self._signs = 0
        self._start: tuple[int, int, bytes] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    # What comes in ------------------------------------------------------------------------------------------------

    def feed(self, kind: Kind, payload: bytes) -> None:
        """Take a frame in.

        Raises:
            PeerProtocolError: if the other side sends what it may not.

        """
        if kind in COUNTED:
            self._waiting += len(payload) + FRAME_COST
            if self._waiting > _MOST_WAITING:
                raise PeerProtocolError(f"{self._waiting} bytes of one stream are more than its window")
        elif kind is Kind.CREDIT:
            self._take_credit(payload)
            return
        else:
            self._take_sign(kind)
        if kind is not Kind.GONE:
            self.frames.append((kind, payload))
        if self._waiters:
            self.wake()

    def _take_credit(self, payload: bytes) -> None:
        self._credit += int.from_bytes(payload[:_CREDIT_SIZE], "big")
        if self._credit > WINDOW or len(payload) != _CREDIT_SIZE:
            raise PeerProtocolError("more credit than there is")
        self.wake()

    def _take_sign(self, kind: Kind) -> None:
        self._signs += 1
        if kind not in self._connection.takes or self._signs > _MOST_SIGNS:
            raise PeerProtocolError(f"{kind.name} on a stream where it should not be")
        if kind in _ENDS:
            self.fail(StreamEndedError("the other side has ended the stream"))

    def fail(self, error: Exception) -> None:
        """Let nothing come any more, and nothing be sent."""
        if self.failure is None:
            self.failure = error
        if self._waiters:
            self.wake()

    async def next(self) -> tuple[Kind, bytes]:
        """Return the next frame.

        Raises:
            PeerError: if the connection has ended, or the stream has.

        """
        while (frame := self.take()) is None:
            await self.news()
        return frame

    def take(self) -> tuple[Kind, bytes] | None:
        """Return the next frame; ``None`` if it has not come: there is ``news`` then. No I/O.

        Raises:
            PeerError: if the connection has ended, or the stream has.

        """
        if not self.frames:
            if self.failure is not None:
                self._check()
            return None
        kind, payload = self.frames.popleft()
        if kind in COUNTED:
            size = len(payload) + FRAME_COST
            self._waiting -= size
            self._taken += size
            if self._taken >= _GRANT_AT:
                self.send(Kind.CREDIT, self._taken.to_bytes(_CREDIT_SIZE, "big"))
                self._taken = 0
        return kind, payload

    # What goes out ------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame that is not counted: heads and signs. Once the stream has ended it does nothing.

        Raises:
            ValueError: if it is longer than ``frames.MAX_PAYLOAD``.

        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"{kind.name} of {len(payload)} bytes is longer than {MAX_PAYLOAD}")
        if self.failure is None:
            self._connection.send(kind, self.sid, payload)

    def send_start(self, payload: bytes) -> None:
        """Send the head of an answer without trailers; a short body that follows at once goes in one frame with it.

        Raises:
            ValueError: if it is longer than ``frames.MAX_PAYLOAD``.

        """
        place = self._connection.place
        self.send(Kind.START, payload)
        self._start = (*place, payload)

    def send_now(self, kind: Kind, payload: bytes) -> bool:
        """Send bytes that are counted, if they can go at once; return whether they could. No wait.

        Raises:
            PeerError: if the connection has ended, or the stream has.

        """
        if self.failure is not None:
            self._check()
        start, self._start = self._start, None
        connection = self._connection
        if len(payload) > MAX_CHUNK or self._sending is not None or self._credit <= 0 or connection.full:
            return False
        if start is not None and kind is Kind.LAST and len(payload) <= _SHORT and len(start[2]) <= _SHORT:
            turn, place, head = start
            if connection.resend(turn, place, Kind.ANSWER, self.sid, pack_with_body(head, payload)):
                return True
        self._send_counted(kind, payload)
        return True

    async def send_bytes(self, kind: Kind, payload: bytes, part: Kind) -> None:
        """Send bytes that are counted; what is longer than a chunk goes in frames of the kind ``part`` before it.

        Raises:
            PeerError: if the connection has ended, or the stream has.

        """
        if self.send_now(kind, payload):
            return
        sending = asyncio.get_running_loop().create_task(self._send_after(self._sending, kind, payload, part))
        self._sending = sending
        sending.add_done_callback(self._sent)
        await asyncio.shield(sending)

    async def _send_after(self, before: asyncio.Task[None] | None, kind: Kind, payload: bytes, part: Kind) -> None:
        """Send what does not go at once: in its turn, and whole though who waits for it is cancelled."""
        if before is not None:
            await asyncio.wait([before])
        view = memoryview(payload)
        begin, last = 0, len(view) - MAX_CHUNK
        while begin < last:
            await self._wait_for_room()
            self._send_counted(part, view[begin : begin + MAX_CHUNK])
            begin += MAX_CHUNK
        await self._wait_for_room()
        self._send_counted(kind, view[begin:])

    def _sent(self, sending: asyncio.Task[None]) -> None:
        if self._sending is sending:
            self._sending = None
        if not sending.cancelled():
            sending.exception()  # who waits is told

    def _send_counted(self, kind: Kind, payload: bytes | memoryview) -> None:
        self._credit -= len(payload) + FRAME_COST
        self._connection.send(kind, self.sid, payload)

    async def _wait_for_room(self) -> None:
        while True:
            self._check()
            if self._credit <= 0:
                await self.news()
            elif self._connection.full:
                self._connection.held.add(self)
                try:
                    await self.news()
                finally:
                    self._connection.held.discard(self)
            else:
                return

    def abandon(self, error: Exception) -> None:
        """Tell the other side that nobody waits for the answer any more, and end the stream."""
        self.send(Kind.GONE)
        self.fail(error)

    def close(self) -> None:
        """Forget the stream: what still comes for it is dropped, and who still sends is told."""
        self._connection.forget(self.sid)
        if self.failure is None:
            self.fail(_ENDED)

    # Waiting ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # one error fails many streams: it does not collect their frames

    def news(self) -> asyncio.Future[None]:
        """Return what is done once there may be a frame, credit or a failure that was not there yet."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Let all that wait look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class AwaitedStream(Stream):
    """A stream whose first news are told at once, and not to a task that waits.

    It calls ``on_news`` once: when the first frame has come, or the stream has failed.
    """

    __slots__ = ("on_news",)

    def __init__(self, connection: Connection, sid: int) -> None:
        super().__init__(connection, sid)
        self.on_news: Callable[[], None] | None = None

    def feed(self, kind: Kind, payload: bytes) -> None:
        """Take a frame in.

        Raises:
            PeerProtocolError: if the other side sends what it may not.

        """
        super().feed(kind, payload)
        if self.frames:
            self._tell()

    def fail(self, error: Exception) -> None:
        """Let nothing come any more, and nothing be sent."""
        super().fail(error)
        self._tell()

    def _tell(self) -> None:
        on_news, self.on_news = self.on_news, None
        if on_news is not None:
            on_news()

    @property
    def whole(self) -> bytes | None:
        """The payload of an answer that has come in one piece; ``None`` if it has not."""
        return self.frames[0][1] if self.frames and self.frames[0][0] is Kind.ANSWER else None

    def finish(self) -> None:
        """Drop what has come, and end the stream."""
        self.on_news = None
        self.frames.clear()
        self.close()
