"""A connection between two peers: frames of many streams over one transport."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError
from stateful_route.web.peer.frames import FRAME, HEAD_SIZE, MAX_CHUNK, MAX_PAYLOAD, Kind, kind_of
from stateful_route.web.peer.stream import Stream

_log = logging.getLogger("stateful_route")

_HIGH_WATER = 1024 * 1024
# Before it is known who is there nothing longer is read.
_MAX_HELLO = 4096
# Payloads from this size on are not copied into one write with others.
_LARGE = 16 * 1024
# The longest time in seconds between two looks at a connection, and of silence after which the other side is pinged.
_LOOK = 1.0
# How many times it is looked at, and so pinged, at least before it counts as lost.
_LOOKS = 4


class Connection(asyncio.Protocol):
    """Frames in both directions; those of one turn of the event loop are sent together.

    ``silence`` is for how many seconds the other side may be silent while it is pinged, until it counts as lost: a
    process that was stopped keeps its connections.
    """

    def __init__(self, *, silence: float) -> None:
        """Make the protocol of a transport to come."""
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._every = min(_LOOK, silence / _LOOKS)
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._out: list[bytes | memoryview] = []
        self._flushing = False
        self._drained: asyncio.Future[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._heard = self._looked = self._loop.time()
        self._longest = _MAX_HELLO
        self.streams: dict[int, Stream] = {}
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
        stream.set_write_buffer_limits(high=_HIGH_WATER)
        self._look = self._loop.call_later(self._every, self._look_after)
        self.connected()

    def data_received(self, data: bytes) -> None:
        """Hand each whole frame to its stream."""
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        begin, end = 0, len(data)
        try:
            while end - begin >= HEAD_SIZE:
                length, number, sid = FRAME.unpack_from(data, begin)
                if length > self._longest:
                    raise PeerProtocolError(f"a frame of {length} bytes is longer than {self._longest}")  # noqa: TRY301
                stop = begin + HEAD_SIZE + length
                if stop > end:
                    break
                self._take(number, sid, data[begin + HEAD_SIZE : stop])
                begin = stop
        except PeerProtocolError as error:
            _log.warning("%r is closed: it sent %s", self, error)
            self.abort(error)
            return
        self._rest = data[begin:] if begin else data

    def _take(self, number: int, sid: int, payload: bytes) -> None:
        stream = self.streams.get(sid)
        if stream is not None:
            stream.feed(kind_of(number), payload)
        elif number == Kind.PING:
            self.send(Kind.PONG, 0)
        elif number != Kind.PONG:
            self.received(kind_of(number), sid, payload)

    def pause_writing(self) -> None:
        """Let nobody write bodies for now."""
        self.full = True

    def resume_writing(self) -> None:
        """Let them write again."""
        self.full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._end(PeerLostError(f"the connection to a peer has ended: {exc or 'it closed'}"))

    # Sending ------------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, sid: int, payload: bytes | memoryview = b"") -> None:
        """Send a frame, with the others of this turn of the event loop."""
        self._out.append(FRAME.pack(len(payload), kind, sid))
        if payload:
            self._out.append(payload)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        if self._transport is None or self._transport.is_closing():
            return
        if any(len(part) > _LARGE for part in out):
            self._transport.writelines(out)
        else:
            self._transport.write(b"".join(out))

    async def drained(self) -> None:
        """Return once the transport takes more, or the connection has ended."""
        while self.full and not self.lost.done():
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    # The streams --------------------------------------------------------------------------------------------------

    def open(self, sid: int) -> Stream:
        """Return a new stream of that number."""
        stream = self.streams[sid] = Stream(self, sid)
        return stream

    def forget(self, sid: int) -> None:
        """Drop what still comes for a stream."""
        self.streams.pop(sid, None)

    # The end ------------------------------------------------------------------------------------------------------

    @property
    def trusted(self) -> bool:
        """Whether the other side has proven who it is."""
        return self._longest > _MAX_HELLO

    def trust(self) -> None:
        """Let the other side send whole requests."""
        self._longest = max(MAX_PAYLOAD, MAX_CHUNK)

    @property
    def alive(self) -> bool:
        """Whether streams may be opened."""
        return not self.lost.done()

    def close(self) -> None:
        """Send what is to be sent, and close."""
        if self._out:
            self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: PeerError) -> None:
        """Close at once, and fail what is under way."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: PeerError) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        if self._look is not None:
            self._look.cancel()
        self.full = False
        self.resume_writing()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.fail(error)

    def _look_after(self) -> None:
        """Ping the other side if it is silent, and give it up if it stays so."""
        now = self._loop.time()
        self._look = self._loop.call_later(self._every, self._look_after)
        late = now - self._looked > 2 * self._every  # this process stood still: what has come meanwhile is not read yet
        self._looked = now
        silent = now - self._heard
        if late or silent < self._every:
            return
        if silent > self._silence:
            self.abort(PeerLostError(f"a peer has not answered for {silent:.1f} s"))
        elif self.streams:
            self.send(Kind.PING, 0)
        else:
            self._heard = now - self._every  # nobody waits: ping once somebody does

    def __repr__(self) -> str:
        peer: Any = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"<{type(self).__name__} to {peer or 'a unix socket'}: {len(self.streams)} streams>"
