"""States that travel between processes: one stream for each, on the connection that requests take too."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import StatefulRouteError, StateRefusedError
from stateful_route.pods import PodLife
from stateful_route.server.parcels import Parcel, Verdict
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerError, PeerProtocolError, PeerUnreachableError, StreamEndedError
from stateful_route.web.peer.frames import Kind, Refusal, pack, pack_with_body, unpack, unpack_with_body

if TYPE_CHECKING:
    from stateful_route.pods import PodState
    from stateful_route.server.parcels import StateReceiver
    from stateful_route.web.peer.dialer import Dialer
    from stateful_route.web.peer.stream import Stream

# A state up to this size goes in one frame with what it is of, as the body of a request does.
_SHORT = 64 * 1024
_PARTS = 8
_MOVED, _STAYS, _UNKNOWN = b"moved", b"stays", b"unknown"
# Digits of the largest number in a head.
_DIGITS = 20


@attrs.frozen
class Head:
    """What opens a stream of a state: a parcel without its data, and how long that is."""

    parcel: Parcel
    size: int
    inline: bytes | None
    """The data, if it came along."""


def pack_parcel(parcel: Parcel) -> bytes:
    """Return the payload that opens the stream, with the data in it if that is short."""
    sender = parcel.sender
    numbers = sender.pod_index, sender.incarnation, parcel.epoch, parcel.checksum, len(parcel.data)
    parts = [
        parcel.uid.encode("utf-8", "surrogatepass"),
        parcel.move.encode(),
        *(b"%d" % number for number in numbers),
        b"" if parcel.idle_ttl is None else repr(parcel.idle_ttl).encode(),
    ]
    return pack_with_body(pack(parts), parcel.data if len(parcel.data) <= _SHORT else b"")


def unpack_parcel(payload: bytes) -> Head:
    """Read what ``pack_parcel`` wrote.

    Raises:
        PeerProtocolError: if it cannot be read.

    """
    packed, data = unpack_with_body(payload)
    parts = unpack(packed)
    if len(parts) != _PARTS:
        raise PeerProtocolError("the head of a state that lacks parts")
    try:
        uid, move = parts[0].decode("utf-8", "surrogatepass"), parts[1].decode("ascii")
        pod, incarnation, epoch, checksum, size = map(_number, parts[2:7])
        idle_ttl = float(parts[7]) if parts[7] else None
    except ValueError as error:
        raise PeerProtocolError("the head of a state that cannot be read") from error
    parcel = Parcel(uid, move, PodLife(pod, incarnation), epoch, idle_ttl, checksum, data)
    return Head(parcel, size, data if size <= _SHORT else None)


def _number(part: bytes) -> int:
    if not part.isdigit() or len(part) > _DIGITS:
        raise PeerProtocolError("a part that is no number")
    return int(part)


class PeerCarrier:
    """Implements ``StateCarrier`` over the connections between peers."""

    def __init__(self, dialer: Dialer) -> None:
        """Carry over the connections of that dialer."""
        self._dialer = dialer
        self._receiver: StateReceiver | None = None
        self._sent: dict[str, Stream] = {}
        """The streams of parcels whose receivers wait for a word, by the names of the attempts."""
        self._tasks = Tasks()

    def attach(self, receiver: StateReceiver) -> None:
        """See ``StateCarrier``."""
        self._receiver = receiver

    # Sending ------------------------------------------------------------------------------------------------------

    async def send(self, pod: PodState, parcel: Parcel) -> PodLife:
        """See ``StateCarrier``.

        Raises:
            StateRefusedError: if the pod does not take it.
            PeerError: if the pod is not reached, or the connection ends.

        """
        address = PeerAddress.parse(pod.report.address)
        if address is None:
            raise PeerUnreachableError(f"pod {pod.pod_index} publishes no address for peers")
        connection = self._dialer.connected(address) or await self._dialer.connect(address)
        stream = connection.open_state(pack_parcel(parcel))
        try:
            life = await _delivered(stream, parcel)
        except BaseException as error:
            stream.abandon(error if isinstance(error, PeerError) else PeerUnreachableError("it is not sent"))
            stream.close()
            raise
        self._sent[parcel.move] = stream
        return life

    async def settle(self, pod: PodState, verdict: Verdict) -> None:
        """See ``StateCarrier``.

        Raises:
            PeerError: if the connection has ended: the receiver finds out by itself.

        """
        del pod  # it goes the way of the parcel
        stream = self._sent.pop(verdict.move, None)
        if stream is None:
            return
        try:
            if verdict.moved:
                await stream.send_bytes(Kind.TEXT, b"%b %d" % (_MOVED, verdict.epoch or 0), Kind.PART)
                await stream.next()  # it is adopted
            else:
                await stream.send_bytes(Kind.TEXT, _UNKNOWN if verdict.moved is None else _STAYS, Kind.PART)
        finally:
            stream.close()

    # Receiving ----------------------------------------------------------------------------------------------------

    def take(self, stream: Stream, payload: bytes) -> None:
        """Take a state that a peer sends: what its listener calls.

        Raises:
            PeerProtocolError: if it cannot be read.

        """
        head = unpack_parcel(payload)
        self._tasks.start(self._take(stream, head), f"state of {head.parcel.uid!r}")

    async def _take(self, stream: Stream, head: Head) -> None:
        receiver, parcel = self._receiver, head.parcel
        try:
            if receiver is None:
                raise StateRefusedError(parcel.uid, "the process adopts nothing")
            with receiver.room_for(parcel.uid, head.size):
                data = await _read(stream, head.size) if head.inline is None else head.inline
            life = await receiver.receive(attrs.evolve(parcel, data=data))
            stream.send(Kind.START, b"%d %d" % (life.pod_index, life.incarnation))
            await self._wait_for_word(stream, receiver, parcel)
        except StatefulRouteError as error:
            log.debug("state_not_arrived", "a state of %(uid)r did not arrive: %(error)s", uid=parcel.uid, error=error)
            stream.send(Kind.REFUSED, Refusal(str(error)).to_payload())
        finally:
            stream.close()

    async def _wait_for_word(self, stream: Stream, receiver: StateReceiver, parcel: Parcel) -> None:
        try:
            kind, payload = await stream.next()
        except StreamEndedError:  # the sender has waited too long for the answer: it moves nothing by this attempt
            await receiver.settle(Verdict(parcel.uid, parcel.move, moved=False))
            return
        except PeerError:
            receiver.lose(parcel.uid, parcel.move)
            return
        except asyncio.CancelledError:
            receiver.lose(parcel.uid, parcel.move)
            raise
        word, _, epoch = payload.partition(b" ")
        if kind is Kind.TEXT and word == _MOVED:
            await receiver.settle(Verdict(parcel.uid, parcel.move, moved=True, epoch=_number(epoch)))
        else:
            await receiver.settle(Verdict(parcel.uid, parcel.move, moved=False if word == _STAYS else None))
        stream.send(Kind.ENDED)

    async def stop(self) -> None:
        """Take nothing any more."""
        await self._tasks.stop()


async def _delivered(stream: Stream, parcel: Parcel) -> PodLife:
    """Send what was not sent with the head, and return the answer of who has received it."""
    if len(parcel.data) > _SHORT:
        with contextlib.suppress(StreamEndedError):  # it is refused: what has come says why
            await stream.send_bytes(Kind.LAST, parcel.data, Kind.BODY)
    kind, payload = await stream.next()
    if kind is Kind.REFUSED:
        raise StateRefusedError(parcel.uid, Refusal.from_payload(payload).reason)
    pod_index, _, incarnation = payload.partition(b" ")
    if kind is not Kind.START:
        raise PeerProtocolError(f"{kind.name} in answer to a state")
    return PodLife(_number(pod_index), _number(incarnation))


async def _read(stream: Stream, size: int) -> bytes:
    """Return the data that comes in parts, never more than was told."""
    parts: list[bytes] = []
    missing = size
    while True:
        kind, payload = await stream.next()
        missing -= len(payload)
        parts.append(payload)
        if kind not in {Kind.BODY, Kind.LAST} or missing < 0 or (kind is Kind.LAST and missing):
            raise PeerProtocolError("a state that is not as long as it was said to be")
        if kind is Kind.LAST:
            return b"".join(parts)
