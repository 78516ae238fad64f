"""The frames that peers send each other, and how their payloads are written and read.

A frame is a head of nine bytes, the length of the payload, the kind and the number of the stream, and the payload. One
stream is one request or one WebSocket. Requests are not sent as HTTP: what the web server has parsed is sent in parts
with their lengths in front, so that nothing in a request can be read as the beginning of another one.
"""

from __future__ import annotations

import enum
import itertools
import struct
from typing import TYPE_CHECKING

import attrs

from stateful_route.web.errors import PeerProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME = struct.Struct(">IBI")
HEAD_SIZE = FRAME.size

MAX_CHUNK = 128 * 1024
"""The most bytes of a body in one frame: between two of them other streams have their turn."""

MAX_PAYLOAD = 1024 * 1024
"""The longest payload in bytes: heads and WebSocket messages in one piece."""

WINDOW = 512 * 1024
"""How many bytes of one direction of a stream may be on their way, or wait for a slow reader."""

FRAME_COST = 128
"""What a counted frame takes of the window besides its payload: an empty one takes memory too."""

MAX_STREAMS = 16 * 1024
"""How many requests and WebSockets a peer may have here at the same time."""


class Kind(enum.IntEnum):
    """What a frame says. Those of a request go from the edge, where it arrived, to its owner; the others back."""

    OPEN = 1
    """Edge: a request, or a WebSocket."""
    BODY = 2
    """Both: a part of a body."""
    LAST = 3
    """Both: the last part of a body, and the end of that direction."""
    START = 4
    """Owner: status and headers."""
    TRAILERS = 5
    """Owner: trailers, after the last part of the body."""
    TEXT = 6
    """Both: a WebSocket message of text, or the end of one that came in parts."""
    BINARY = 7
    """Both: a WebSocket message of bytes, or the end of one that came in parts."""
    PART = 8
    """Both: a part of a long WebSocket message."""
    ACCEPT = 9
    """Owner: the WebSocket is accepted."""
    CLOSE = 10
    """Both: the WebSocket is closed, with a code."""
    ENDED = 11
    """Owner: the application has ended, and there is no more to come."""
    REFUSED = 12
    """Owner: nothing was done: the uid is not served here."""
    GONE = 13
    """Edge: the client went away, or nobody waits for the answer any more."""
    CREDIT = 14
    """Both: so many bytes more may be sent on this stream."""
    WANT = 15
    """Owner: the application reads the body; sent if the client waits for that (100-continue)."""
    PING = 16
    """Both: is there anybody?"""
    PONG = 17
    """Both: the answer to a ping."""
    HELLO = 18
    """Edge: who asks for the connection; the first frame."""
    CHALLENGE = 19
    """Owner: who it is, proven; or why it refuses."""
    PROOF = 20
    """Edge: that it is who it says; from here on streams may be opened."""
    ANSWER = 21
    """Owner: a short answer that is whole: START and LAST in one."""
    STATE = 22
    """Edge: the state of a uid, which is to move there. Sent only to who says that it adopts states."""


COUNTED = frozenset({Kind.BODY, Kind.LAST, Kind.TEXT, Kind.BINARY, Kind.PART})
"""What takes of the window of its stream."""

FROM_EDGE = COUNTED | {Kind.CLOSE, Kind.GONE, Kind.CREDIT}
"""What the edge may send on a stream that is open."""

FROM_OWNER = COUNTED | {
    Kind.START,
    Kind.TRAILERS,
    Kind.ACCEPT,
    Kind.CLOSE,
    Kind.ENDED,
    Kind.REFUSED,
    Kind.CREDIT,
    Kind.WANT,
    Kind.ANSWER,
}
"""What the owner may send on a stream."""


# How a payload begins whose parts have their lengths in front.
_WITH_LENGTHS = b"\1"

KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


def kind_of(number: int) -> Kind:
    """Return the kind of that number.

    Raises:
        PeerProtocolError: if there is none.

    """
    kind = KINDS.get(number)
    if kind is None:
        raise PeerProtocolError(f"a frame of the unknown kind {number}")
    return kind


def pack(parts: Sequence[bytes], mark: bytes = b"\0") -> bytes:
    """Return the parts in one payload.

    A ``mark`` of one byte stands before each of them; if a part has one in it, which is rare, their number and their
    lengths stand in front instead.
    """
    joined = mark.join((b"", *parts))
    count = len(parts)
    if joined.count(mark) == count:
        return joined
    return b"".join((_WITH_LENGTHS, struct.pack(f">{count + 1}I", count, *map(len, parts)), *parts))


def unpack(payload: bytes, begin: int = 0, mark: bytes = b"\0") -> list[bytes]:
    """Return the parts of a payload, from an offset on.

    Raises:
        PeerProtocolError: if it is not what ``pack`` returns.

    """
    first, *parts = (payload[begin:] if begin else payload).split(mark)
    if not first:
        return parts
    if first[:1] != _WITH_LENGTHS:
        raise PeerProtocolError("a payload that is not in parts")
    return _unpack_by_lengths(payload, begin + 1)


def _unpack_by_lengths(payload: bytes, begin: int) -> list[bytes]:
    size = len(payload)
    count = int.from_bytes(payload[begin : begin + 4], "big")
    begin += 4
    end = begin + 4 * count
    if end > size:
        raise PeerProtocolError(f"a payload of {size} bytes is too short for its parts")
    parts = []
    for length in struct.unpack_from(f">{count}I", payload, begin):
        begin, end = end, end + length
        parts.append(payload[begin:end])
    if end != size:
        raise PeerProtocolError(f"a payload of {size} bytes does not have the length of its parts")
    return parts


flat = itertools.chain.from_iterable
"""Gives names and values of headers by turns."""


def paired(parts: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return headers from names and values by turns.

    Raises:
        PeerProtocolError: if a value is missing.

    """
    if len(parts) % 2:
        raise PeerProtocolError("a header without a value")
    by_turns = iter(parts)
    return list(zip(by_turns, by_turns, strict=True))


def pack_number(number: int, *parts: bytes) -> bytes:
    """Return the payload of a status or a code, with what belongs to it."""
    return number.to_bytes(2, "big") + pack(parts)


def unpack_number(payload: bytes) -> tuple[int, list[bytes]]:
    """Return what ``pack_number`` was given.

    Raises:
        PeerProtocolError: if it is not what ``pack_number`` returns.

    """
    if len(payload) < 2:  # noqa: PLR2004 - the size of the number
        raise PeerProtocolError("a payload that is too short for its number")
    return int.from_bytes(payload[:2], "big"), unpack(payload, 2)


def pack_with_body(head: bytes, body: bytes) -> bytes:
    """Return the payload of a head and the body that belongs to it: of a request, or of a whole answer."""
    return b"".join((len(head).to_bytes(4, "big"), head, body))


def unpack_with_body(payload: bytes) -> tuple[bytes, bytes]:
    """Return what ``pack_with_body`` was given.

    Raises:
        PeerProtocolError: if it is not what ``pack_with_body`` returns.

    """
    end = 4 + int.from_bytes(payload[:4], "big")
    if len(payload) < end:
        raise PeerProtocolError("a payload that is too short for its head")
    return payload[4:end], payload[end:]


def number_of(part: bytes) -> int:
    """Return a part that is a number from 0, of nine digits at most.

    Raises:
        PeerProtocolError: if it is none.

    """
    if not part.isdigit() or len(part) > 9:  # noqa: PLR2004 - as said
        raise PeerProtocolError("a part that is no number")
    return int(part)


def text_of(part: bytes) -> str:
    """Return a part that is text.

    Raises:
        PeerProtocolError: if it is not UTF-8.

    """
    try:
        return part.decode()
    except UnicodeDecodeError as error:
        raise PeerProtocolError("a part that is not UTF-8") from error


MOVED, AWAY, FULL, LEAVING, LOST = "moved", "away", "full", "leaving", "lost"
MANY = "many"
"""Why a peer does nothing with a request.

The uid is another pod's, or nobody's; Redis does not answer; there is no room; the process ends, and still has the uid;
the app behind the process was lost while it had the request, so that it is not known what came of it.
"""


@attrs.frozen
class Refusal:
    """That a peer did nothing with a request.

    Attributes:
        reason: ``MOVED``, ``AWAY``, ``FULL``, ``LEAVING`` or ``LOST``; a later release may know more.

    """

    reason: str

    def to_payload(self) -> bytes:
        """Return the payload of the frame."""
        return pack([self.reason.encode()])

    @classmethod
    def from_payload(cls, payload: bytes) -> Refusal:
        """Read the payload of the frame.

        Raises:
            PeerProtocolError: if it cannot be read.

        """
        parts = unpack(payload)
        if len(parts) != 1:
            raise PeerProtocolError("a refusal that cannot be read")
        return cls(text_of(parts[0]))
