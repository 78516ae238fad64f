"""One request or one WebSocket on a connection between two peers."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from stateful_route.web.errors import PeerLostError, PeerProtocolError
from stateful_route.web.peer.frames import MAX_CHUNK, WINDOW, Kind

if TYPE_CHECKING:
    from stateful_route.web.peer.connection import Connection

_COUNTED = frozenset({Kind.BODY, Kind.LAST, Kind.TEXT, Kind.BINARY, Kind.PART})
_GRANT_AT = WINDOW // 2
# What is sent while there is credit may exceed it by a chunk.
_MOST_WAITING = WINDOW + MAX_CHUNK


class Stream:
    """Frames in and out, each direction with a window of ``frames.WINDOW`` bytes.

    Who sends waits while the other side has not read what is on its way, or while the transport is full: so a slow
    reader costs a window of memory, here and there.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_room",
        "_sending",
        "_taken",
        "_waiter",
        "_waiting",
        "failure",
        "frames",
        "gone",
        "sid",
    )

    def __init__(self, connection: Connection, sid: int) -> None:
        """Open it; nothing is sent."""
        self._connection = connection
        self.sid = sid
        self.frames: collections.deque[tuple[Kind, bytes]] = collections.deque()
        """What has come and was not read."""
        self.failure: Exception | None = None
        """Why nothing will come any more, once what has come is read."""
        self.gone = False
        """Whether the other side waits for nothing any more: what it says of that may not be read yet."""
        self._credit = WINDOW
        self._taken = 0
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None

    # What comes in ------------------------------------------------------------------------------------------------

    def feed(self, kind: Kind, payload: bytes) -> None:
        """Take a frame in.

        Raises:
            PeerProtocolError: if the other side sends more than it may.

        """
        if kind is Kind.CREDIT:
            self._credit += int.from_bytes(payload, "big")
            self._wake_sender()
            return
        if kind in _COUNTED:
            self._waiting += len(payload)
            if self._waiting > _MOST_WAITING:
                raise PeerProtocolError(f"{self._waiting} bytes of one stream are more than its window")
        elif kind is Kind.GONE or kind is Kind.CLOSE:
            self.gone = True
            self._wake_sender()
        self.frames.append((kind, payload))
        self._wake_reader()

    def fail(self, error: Exception) -> None:
        """Let nothing come any more, and nothing be sent."""
        if self.failure is None:
            self.failure = error
        self._wake_reader()
        self._wake_sender()

    async def next(self) -> tuple[Kind, bytes]:
        """Return the next frame.

        Raises:
            PeerError: if the connection has ended, or the stream was failed.

        """
        while not self.frames:
            if self.failure is not None:
                raise self.failure
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        kind, payload = self.frames.popleft()
        if kind in _COUNTED:
            size = len(payload)
            self._waiting -= size
            self._taken += size
            if self._taken >= _GRANT_AT:
                self._connection.send(Kind.CREDIT, self.sid, self._taken.to_bytes(4, "big"))
                self._taken = 0
        return kind, payload

    # What goes out ------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame that is not counted: heads and signs; if the connection has ended it is dropped."""
        self._connection.send(kind, self.sid, payload)

    async def send_bytes(self, kind: Kind, payload: bytes, part: Kind) -> None:
        """Send bytes that are counted; what is longer than a chunk goes in frames of the kind ``part`` before it.

        Raises:
            PeerError: if the connection has ended.

        """
        if len(payload) <= MAX_CHUNK and self._sending is None and self._credit > 0 and not self._connection.full:
            self._send_counted(kind, payload)
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
        if self.failure is not None:
            raise self.failure
        self._credit -= len(payload)
        self._connection.send(kind, self.sid, payload)

    async def _wait_for_room(self) -> None:
        while self._credit <= 0 and self.failure is None and not self.gone:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None
        if self._connection.full:
            await self._connection.drained()

    def close(self) -> None:
        """Forget the stream: what still comes for it is dropped, and nobody waits to send."""
        self._connection.forget(self.sid)
        if self._sending is not None:
            self.fail(PeerLostError("the stream was closed"))

    def _wake_reader(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_sender(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
