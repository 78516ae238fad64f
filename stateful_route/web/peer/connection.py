"""A connection between two peers: frames of many streams over one transport."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any, ClassVar, cast

from stateful_route._log import log
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError
from stateful_route.web.peer.frames import FRAME, HEAD_SIZE, KINDS, MAX_PAYLOAD, Kind, kind_of
from stateful_route.web.uvicorn.outlet import Outlet

if TYPE_CHECKING:
    from stateful_route.web.peer.stream import Stream

_HIGH_WATER = 1024 * 1024
# Bytes of one turn of the event loop that are handed to the transport at once: it says when it is full.
_FLUSH_AT = 256 * 1024
# Heads and payloads of frames, as many: the other side begins with 16 requests or answers while this one goes on.
_FLUSH_PARTS = 32
# Before it is known who is there nothing longer is read.
_MAX_HELLO = 4096
# Payloads from this size on are not copied into one write with others.
_LARGE = 16 * 1024
# Whether ``writelines`` of asyncio says that the transport is full: not before 3.12.9 and 3.13.2 (CVE-2024-12254).
_WRITELINES_WAITS = not (3, 12) <= sys.version_info < (3, 12, 9) and not (3, 13) <= sys.version_info < (3, 13, 2)
# The longest time in seconds between two looks at a connection, and of silence after which the other side is pinged.
_LOOK = 1.0
# How many times it is looked at, and so pinged, at least before it counts as lost.
_LOOKS = 4


class Connection(asyncio.Protocol):
    """Frames in both directions; those of one turn of the event loop are sent together, many in a few writes.

    ``silence`` is for how many seconds the other side may be silent while it is pinged, until it counts as lost: a
    process that was stopped keeps its connections.
    """

    takes: ClassVar[frozenset[Kind]] = frozenset()
    """What the other side may send on a stream that is open."""

    def __init__(self, *, silence: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._every = min(_LOOK, silence / _LOOKS)
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._rest = b""
        self._parts: list[bytes | memoryview] = []
        self._missing = 0
        self._coming = (0, 0)
        self._out: list[bytes | memoryview] = []
        self._size = 0
        self._turn = 0
        self._large = False
        self._flushing = False
        self._closing = False
        self._retired = False
        self._look: asyncio.TimerHandle | None = None
        self._heard = self._looked = self._loop.time()
        self._longest = _MAX_HELLO
        self.trusted = False
        """Whether the other side has proven who it is."""
        self.streams: dict[int, Stream] = {}
        self.held: set[Stream] = set()
        """Those that wait until the transport takes more."""
        self.full = False
        """Whether the transport takes no more for now."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done once the connection has ended."""

    # What the sides do on top -------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Begin: the transport is there."""

    def received(self, kind: Kind, sid: int, payload: bytes) -> None:
        """Take a frame in that is of no stream; ``sid`` is the number of a new one, or of one that has ended.

        Raises:
            PeerProtocolError: if it should not be here.

        """

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = stream = cast("asyncio.Transport", transport)  # that of uvloop is no subclass
        self._outlet = Outlet(stream)
        stream.set_write_buffer_limits(high=_HIGH_WATER)
        with contextlib.suppress(OSError):  # a host that vanished while nothing is under way: the system finds out
            stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._look = self._loop.call_later(self._every, self._look_after)
        self.connected()

    def data_received(self, data: bytes) -> None:
        """Hand each whole frame to its stream."""
        self._heard = self._loop.time()
        try:
            if self._missing:
                data = self._continue(data)
            if data:
                self._read(self._rest + data if self._rest else data)
        except PeerProtocolError as error:
            log.warning("peer_closed", "%(peer)s is closed: it sent %(error)s", peer=self, error=error)
            self.abort(error)

    def _continue(self, data: bytes) -> bytes:
        """Take the next part of a payload in, and return what follows on it: the payload is joined once."""
        missing = self._missing
        self._missing = max(0, missing - len(data))
        if self._missing:
            self._parts.append(data)
            return b""
        parts, self._parts = self._parts, []
        parts.append(memoryview(data)[:missing])
        self._take(*self._coming, b"".join(parts))
        return data[missing:]

    def _read(self, data: bytes) -> None:
        begin, end = 0, len(data)
        while end - begin >= HEAD_SIZE and not self._closing:
            length, number, sid = FRAME.unpack_from(data, begin)
            if length > self._longest:
                raise PeerProtocolError(f"a frame of {length} bytes is longer than {self._longest}")
            begin += HEAD_SIZE
            stop = begin + length
            if stop > end:
                self._coming = number, sid
                self._missing = stop - end
                self._parts.append(memoryview(data)[begin:])
                begin = end
                break
            self._take(number, sid, data[begin:stop])
            begin = stop
        self._rest = data[begin:]

    def _take(self, number: int, sid: int, payload: bytes) -> None:
        stream = self.streams.get(sid)
        kind = KINDS.get(number) or kind_of(number)
        if stream is not None:
            stream.feed(kind, payload)
        elif self.trusted and kind is Kind.PING:
            if not self.full:  # it hears from this side as it is
                self.send(Kind.PONG, 0)
        elif not self.trusted or kind is not Kind.PONG:
            self.received(kind, sid, payload)

    def pause_writing(self) -> None:
        """Let nobody write bodies for now."""
        self.full = True

    def resume_writing(self) -> None:
        """Let them write again."""
        self.full = False
        for stream in self.held:
            stream.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._end(PeerLostError(f"the connection to a peer has ended: {exc or 'it closed'}"))

    # Sending ------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> tuple[int, int]:
        """Where the next frame will be: the number of what is sent together, and the place in it."""
        return self._turn, len(self._out)

    def send(self, kind: Kind, sid: int, payload: bytes | memoryview = b"") -> None:
        """Send a frame, with the others of this turn of the event loop."""
        length = len(payload)
        self._out.append(FRAME.pack(length, kind, sid))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if length:
            self._out.append(payload)
            self._size += length
            if length > _LARGE:
                self._large = True
            if self._size > _FLUSH_AT or len(self._out) >= _FLUSH_PARTS:
                self._flush()

    def resend(self, turn: int, place: int, kind: Kind, sid: int, payload: bytes) -> bool:
        """Send another frame, with a payload, in place of one that is not sent yet; return whether that was so."""
        if turn != self._turn:
            return False
        self._out[place : place + 2] = FRAME.pack(len(payload), kind, sid), payload
        self._size += len(payload)
        return True

    def _flush(self) -> None:
        self._flushing = False
        if not self._out:
            return
        out, self._out = self._out, []
        large, self._large = self._large, False
        self._size = 0
        self._turn += 1
        if self._outlet is None or self._transport is None or self._transport.is_closing():
            return
        if large and _WRITELINES_WAITS:
            self._transport.writelines(out)
        else:
            self._outlet.write(b"".join(out))

    # The streams --------------------------------------------------------------------------------------------------

    def forget(self, sid: int) -> None:
        """Drop what still comes for a stream."""
        self.streams.pop(sid, None)
        if self._retired and not self.streams:
            self.close()

    def retire(self) -> None:
        """Close it once what is under way has ended."""
        self._retired = True
        if not self.streams:
            self.close()

    # The end ------------------------------------------------------------------------------------------------------

    def trust(self) -> None:
        """Let the other side send whole requests."""
        self.trusted = True
        self._longest = MAX_PAYLOAD

    @property
    def alive(self) -> bool:
        """Whether streams may be opened."""
        return not self._closing

    def close(self) -> None:
        """Send what is to be sent, for ``silence`` seconds at most, and close."""
        self._flush()
        self._closing = True
        self._heard = self._loop.time()
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: PeerError) -> None:
        """Close at once, and fail what is under way."""
        has_ended = self.lost.done()  # asyncio may raise then, until Python 3.12
        self._end(error)
        if self._transport is not None and not has_ended:
            self._transport.abort()

    def _end(self, error: PeerError) -> None:
        self._closing = True
        if self.lost.done():
            return
        self.lost.set_result(None)
        if self._look is not None:
            self._look.cancel()
        self._parts.clear()
        self.full = False
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.fail(error)

    def _look_after(self) -> None:
        """Ping the other side if it is silent, and give it up if it stays so."""
        now = self._loop.time()
        self._look = self._loop.call_later(self._every, self._look_after)
        late = now - self._looked > 2 * self._every
        self._looked = now
        if late or not (self.streams or self._closing):
            # This process stood still, and has not read what came meanwhile; or nobody waits for an answer.
            self._heard = max(self._heard, now - self._every)
        silent = now - self._heard
        if silent > self._silence:
            self.abort(PeerLostError(f"a peer has not answered for {silent:.1f} s"))
        elif silent >= self._every and self.streams:
            self.send(Kind.PING, 0)

    def __repr__(self) -> str:
        peer: Any = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"<{type(self).__name__} to {peer or 'a unix socket'}: {len(self.streams)} streams>"
