"""Cases of WebSockets by the numbers that the Autobahn test suite has for them, and a client on bare sockets.

The numbers and what each is about are facts about that suite; the frames and the client are our own. Cases that differ
only in time or repeat others at a larger size are left out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import zlib
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PROTOCOL, INVALID_DATA, TOO_BIG = 1002, 1007, 1009
_BAD = frozenset({PROTOCOL, INVALID_DATA, TOO_BIG})
RESET = -1
"""In the place of a code: the connection ended without a close."""
_WITHIN = 20.0
_FINAL, _COMPRESSED = 0x80, 0x40


def unmasked(mask: bytes, payload: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame of a client."""
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + mask + unmasked(mask, payload)


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def fragments(opcode: int, *parts: bytes) -> list[bytes]:
    """Return one message in as many frames."""
    last = len(parts) - 1
    return [frame(CONTINUATION if n else opcode, part, fin=n == last) for n, part in enumerate(parts)]


@attrs.frozen
class Case:
    """What a client sends, in pieces, and what it has to get."""

    pieces: list[bytes]
    echoes: list[str | bytes] = attrs.Factory(list)
    """Messages that come back; of a case that fails, those that may have come back before."""
    pongs: list[bytes] = attrs.Factory(list)
    codes: frozenset[int | None] = frozenset({1000})
    """Codes of the close that ends it. ``None``: a close without one."""
    chop: int = 0
    """Octets that are written at a time; 0: each frame as it is."""
    offer: str = ""
    """The extensions that the client offers."""
    reason: str = ""
    closes: bool = False
    """Whether the client closes it once all has come back."""

    def is_passed_by(self, outcome: Outcome) -> bool:
        """Whether that is as it has to be; who fails a connection may reset it, and the close with it."""
        if not self.codes & {None, 1000} and self.codes & _BAD:
            return outcome.code in self.codes | {RESET} and outcome.echoes == self.echoes[: len(outcome.echoes)]
        as_said = outcome.code in self.codes and (outcome.reason == self.reason or outcome.code != 1000)
        return as_said and (self.echoes, self.pongs) == (outcome.echoes, outcome.pongs)


@attrs.frozen
class Outcome:
    """What a client has got until the connection ended."""

    echoes: list[str | bytes]
    pongs: list[bytes]
    code: int | None
    reason: str


def _good(frames: list[bytes], *echoes: str | bytes, pongs: list[bytes] | None = None, chop: int = 0) -> Case:
    if not (echoes or pongs):
        return Case([*frames, close()], chop=chop)
    return Case(frames, list(echoes), pongs or [], chop=chop, closes=True)


def _bad(frames: list[bytes], *before: str | bytes, code: int = PROTOCOL, chop: int = 0) -> Case:
    return Case(frames, list(before), codes=frozenset({code}), chop=chop)


def _framing() -> Iterator[tuple[str, Case]]:
    for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
        yield f"1.1.{number}", _good([frame(TEXT, b"*" * size)], "*" * size)
        yield f"1.2.{number}", _good([frame(BINARY, b"\xfe" * size)], b"\xfe" * size)
    yield "1.1.8", _good([frame(TEXT, b"*" * 65536)], "*" * 65536, chop=997)
    yield "1.2.8", _good([frame(BINARY, b"\xfe" * 65536)], b"\xfe" * 65536, chop=997)


def _pings() -> Iterator[tuple[str, Case]]:
    for number, payload in enumerate((b"", b"Hello", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125), 1):
        yield f"2.{number}", _good([frame(PING, payload)], pongs=[payload])
    yield "2.5", _bad([frame(PING, b"\xfe" * 126)])
    yield "2.6", _good([frame(PING, b"\xfe" * 125)], pongs=[b"\xfe" * 125], chop=1)
    yield "2.7", _good([frame(PONG)])
    yield "2.8", _good([frame(PONG, b"unsolicited")])
    yield "2.9", _good([frame(PONG, b"unsolicited"), frame(PING, b"ping")], pongs=[b"ping"])
    ten = [b"payload-%d" % number for number in range(10)]
    yield "2.10", _good([frame(PING, each) for each in ten], pongs=ten)
    yield "2.11", _good([frame(PING, each) for each in ten], pongs=ten, chop=1)


def _reserved() -> Iterator[tuple[str, Case]]:
    hello, ping = frame(TEXT, b"Hello"), frame(PING)
    yield "3.1", _bad([frame(TEXT, b"Hello", rsv=1)])
    for number, chop in ((2, 0), (3, 0), (4, 1)):
        wrong = frame(TEXT, b"Hello", rsv=number)
        yield f"3.{number}", _bad([hello, wrong, ping], "Hello", chop=chop)
    yield "3.5", _bad([frame(BINARY, b"\0\xff", rsv=5)])
    yield "3.6", _bad([frame(PING, b"Hello", rsv=6)])
    yield "3.7", _bad([frame(CLOSE, rsv=7)])
    for group, first in ((1, 3), (2, 11)):
        yield f"4.{group}.1", _bad([frame(first)])
        yield f"4.{group}.2", _bad([frame(first + 1, b"reserved")])
        yield f"4.{group}.3", _bad([hello, frame(first + 2), ping], "Hello")
        yield f"4.{group}.4", _bad([hello, frame(first + 3, b"reserved"), ping], "Hello")
        yield f"4.{group}.5", _bad([hello, frame(first + 4, b"reserved"), ping], "Hello", chop=1)


def _fragmented() -> Iterator[tuple[str, Case]]:
    yield "5.1", _bad([frame(PING, b"one", fin=False), frame(CONTINUATION, b"two")])
    yield "5.2", _bad([frame(PONG, b"one", fin=False), frame(CONTINUATION, b"two")])
    two = fragments(TEXT, b"fragment1", b"fragment2")
    pinged = [two[0], frame(PING, b"ping"), two[1]]
    for number, chop in enumerate((0, 997, 1)):
        yield f"5.{3 + number}", _good(two, "fragment1fragment2", chop=chop)
        yield f"5.{6 + number}", _good(pinged, "fragment1fragment2", pongs=[b"ping"], chop=chop)
        for first, fin in ((9, True), (12, False)):
            stray = [frame(CONTINUATION, b"nothing to continue", fin=fin), frame(TEXT, b"Hello")]
            yield f"5.{first + number}", _bad(stray, chop=chop)
    hello = frame(TEXT, b"Hello")
    yield "5.15", _bad([*two, frame(CONTINUATION, b"stray", fin=False), hello], "fragment1fragment2")
    for number, fin in ((16, False), (17, True)):
        again = [frame(CONTINUATION, b"stray", fin=fin), frame(TEXT, b"one", fin=False), frame(CONTINUATION, b"two")]
        yield f"5.{number}", _bad([*again, *again])
    yield "5.18", _bad([frame(TEXT, b"one", fin=False), hello])
    five = fragments(TEXT, b"f1", b"f2", b"f3", b"f4", b"f5")
    among = [*five[:2], frame(PING, b"one"), *five[2:4], frame(PING, b"two"), five[4]]
    yield "5.19", _good(among, "f1f2f3f4f5", pongs=[b"one", b"two"])
    yield "5.20", _good([b"".join(among)], "f1f2f3f4f5", pongs=[b"one", b"two"])


_GREEK = "κόσμε"
_VALID = {
    "6.2.1": "Hello-µ@ßöäüàá-UTF-8!!",
    "6.5.1": "κόσμε\U00010000edited",
    "6.6.2": "κ",
    "6.6.5": "κό",
    "6.6.7": "κόσ",
    "6.6.9": "κόσμ",
    "6.6.11": _GREEK,
    "6.7.1": "\0",
    "6.7.2": "\x80",
    "6.7.3": "\u0800",
    "6.7.4": "\U00010000",
    "6.9.1": "\x7f",
    "6.9.2": "\u07ff",
    "6.9.3": "\uffff",
    "6.9.4": "\U0010ffff",
    "6.11.1": "\ud7ff",
    "6.11.2": "\ue000",
    "6.11.3": "\ufffd",
    "6.11.4": "\U0010ffff",
    "6.22.1": "\ufffe",
    "6.22.2": "\uffff",
    **{f"6.22.{3 + n}": chr((plane << 16) + last) for n, (plane, last) in enumerate(
        (plane, last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF)
    )},
    **{f"6.23.{n + 1}": chr(0xFFF9 + n) for n in range(7)},
}  # fmt: skip
_FIRST_OF_FIVE, _FIRST_OF_SIX = b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"
_INVALID = {
    "6.3.1": _GREEK.encode() + b"\xed\xa0\x80edited",
    "6.6.1": _GREEK.encode()[:1],
    "6.6.3": _GREEK.encode()[:3],
    "6.6.4": "κό".encode()[:3],
    "6.6.6": "κόσ".encode()[:-1],
    "6.6.8": "κόσμ".encode()[:-1],
    "6.6.10": _GREEK.encode()[:-1],
    "6.8.1": _FIRST_OF_FIVE,
    "6.8.2": _FIRST_OF_SIX,
    "6.10.1": b"\xf7\xbf\xbf\xbf",
    "6.10.2": b"\xfb\xbf\xbf\xbf\xbf",
    "6.10.3": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "6.11.5": b"\xf4\x90\x80\x80",
    "6.12.1": b"\x80",
    "6.12.2": b"\xbf",
    **{f"6.12.{n + 1}": b"\x80\xbf" * (n // 2) + b"\x80" * (n % 2) for n in range(2, 7)},
    "6.12.8": bytes(range(0x80, 0xC0)),
    **{f"6.13.{n + 1}": b"".join(bytes([each, 0x20]) for each in range(first, last)) for n, (first, last) in enumerate(
        ((0xC0, 0xE0), (0xE0, 0xF0), (0xF0, 0xF8), (0xF8, 0xFC), (0xFC, 0xFE))
    )},
    **{f"6.14.{n + 1}": each for n, each in enumerate(
        (b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80",
         b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf")
    )},
    "6.15.1": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf",
    "6.16.1": b"\xfe",
    "6.16.2": b"\xff",
    "6.16.3": b"\xfe\xfe\xff\xff",
    **{f"6.{group}.{n + 1}": each for group, sequences in (
        (17, (b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf")),
        (18, (b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf")),
        (19, (b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80")),
    ) for n, each in enumerate(sequences)},
    **{f"6.20.{n + 1}": chr(each).encode("utf-8", "surrogatepass") for n, each in enumerate(
        (0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF)
    )},
    **{f"6.21.{n + 1}": (chr(high) + chr(low)).encode("utf-8", "surrogatepass") for n, (high, low) in enumerate(
        (high, low) for high in (0xD800, 0xDB7F, 0xDB80, 0xDBFF) for low in (0xDC00, 0xDFFF)
    )},
}  # fmt: skip


def _texts() -> Iterator[tuple[str, Case]]:
    yield "6.1.1", _good([frame(TEXT)], "")
    yield "6.1.2", _good(fragments(TEXT, b"", b"", b""), "")
    yield "6.1.3", _good(fragments(TEXT, b"", b"middle", b""), "middle")
    text = _VALID["6.2.1"].encode()
    yield "6.2.2", _good(fragments(TEXT, text[:7], text[7:]), text.decode())
    yield "6.2.3", _good(fragments(TEXT, *(bytes([octet]) for octet in text)), text.decode())
    yield "6.2.4", _good(fragments(TEXT, *(bytes([octet]) for octet in _GREEK.encode())), _GREEK)
    for name, valid in _VALID.items():
        yield name, _good([frame(TEXT, valid.encode())], valid)
    for name, invalid in _INVALID.items():
        yield name, _bad([frame(TEXT, invalid)], code=INVALID_DATA)
    octets = [bytes([octet]) for octet in _INVALID["6.3.1"]]
    yield "6.3.2", _bad(fragments(TEXT, *octets), code=INVALID_DATA)
    for number, (before, after) in enumerate(((b"\xf4", b"\x90\x80\x80"), (b"\xf4\x90", b"\x80\x80")), 1):
        split = [_GREEK.encode() + before, after, b"edited"]
        yield f"6.4.{number}", _bad(fragments(TEXT, *split), code=INVALID_DATA)
        yield f"6.4.{number + 2}", _bad([frame(TEXT, b"".join(split))], code=INVALID_DATA, chop=4)


def _closes() -> Iterator[tuple[str, Case]]:
    hello = frame(TEXT, b"Hello World!")
    yield "7.1.1", _good([hello], "Hello World!")
    yield "7.1.2", _good([close()])
    yield "7.1.3", Case([close(), frame(PING)])
    yield "7.1.4", Case([close(), hello])
    first, second = fragments(TEXT, b"one", b"two")
    yield "7.1.5", Case([first, close(), second])
    yield "7.1.6", Case([close(), frame(TEXT, b"B" * 262_144), hello, frame(PING)])
    yield "7.3.1", Case([close(None)], codes=frozenset({None, 1000}))
    yield "7.3.2", _bad([frame(CLOSE, b"a")])
    yield "7.3.3", Case([close(1000)])
    yield "7.3.4", Case([close(1000, b"Hello World!")], reason="Hello World!")
    yield "7.3.5", Case([close(1000, b"*" * 123)], reason="*" * 123)
    yield "7.3.6", _bad([close(1000, b"*" * 124)])
    yield "7.5.1", Case([close(1000, b"\xce\xba\xed\xa0\x80")], codes=frozenset({INVALID_DATA, PROTOCOL}))
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(valid, 1):
        yield f"7.7.{number}", Case([close(code)], codes=frozenset({code, 1000}))
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield f"7.9.{number}", _bad([close(code)])
    for number, code in enumerate((5000, 65535), 1):
        yield f"7.13.{number}", Case([close(code)], codes=frozenset({code, 1000, PROTOCOL}))


def _limits() -> Iterator[tuple[str, Case]]:
    kilobyte = 1024
    for number, size in ((1, 64), (2, 256), (3, 1024), (4, 4096), (6, 16384)):
        yield f"9.1.{number}", _good([frame(TEXT, b"*" * size * kilobyte)], "*" * size * kilobyte)
        yield f"9.2.{number}", _good([frame(BINARY, b"\xfe" * size * kilobyte)], b"\xfe" * size * kilobyte)
    whole = 256 * kilobyte
    for number, size in enumerate((64, 256, kilobyte, 4 * kilobyte, 16 * kilobyte, 64 * kilobyte, whole), 1):
        for group, opcode, octet in ((3, TEXT, b"*"), (4, BINARY, b"\xfe")):
            parts = [octet * size] * (whole // size)
            echo = "*" * whole if opcode == TEXT else octet * whole
            yield f"9.{group}.{number}", _good([b"".join(fragments(opcode, *parts))], echo)
    for number, size in enumerate((64, 128, 256, 512, 1024, 2048), 1):
        yield f"9.5.{number}", _good([frame(TEXT, b"*" * 65536)], "*" * 65536, chop=size)
        yield f"9.6.{number}", _good([frame(BINARY, b"\xfe" * 65536)], b"\xfe" * 65536, chop=size)
    for number, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
        yield f"9.7.{number}", _good([frame(TEXT, b"*" * size) * 50], *["*" * size] * 50)
        yield f"9.8.{number}", _good([frame(BINARY, b"\xfe" * size) * 50], *[b"\xfe" * size] * 50)
    yield "10.1.1", _good(fragments(TEXT, *[b"*" * 1300] * 50, b"*" * 536), "*" * 65536)
    yield "beyond 16 MB", _bad([frame(BINARY, b"\xfe" * (16 * kilobyte * kilobyte + 1))], code=TOO_BIG)


def deflated(payload: bytes) -> bytes:
    """Return a frame of a text that is compressed without what came before it."""
    packer = zlib.compressobj(wbits=-9)
    data = packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT, data.removesuffix(b"\0\0\xff\xff"), rsv=4)


_OFFERS = (
    "",
    "; client_no_context_takeover; server_no_context_takeover",
    "; server_max_window_bits=10",
    "; client_max_window_bits; server_max_window_bits=15",
)


def _compressed() -> Iterator[tuple[str, Case]]:
    for number, size in enumerate((16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072), 1):
        text = "".join(f'{{"key{n}": "välue {n * n}"}},' for n in range(size // 24 + 1))
        for group, offer in (("12.1", ""), *((f"13.{n}", offer) for n, offer in enumerate(_OFFERS[1:], 1))):
            pieces = [deflated(text.encode())] * 5
            yield f"{group}.{number}", Case(pieces, [text] * 5, offer=f"permessage-deflate{offer}", closes=True)
    broken = [frame(TEXT, b"\x07\xff\xff\xff\xff", rsv=4)]
    codes = frozenset[int | None]({PROTOCOL, INVALID_DATA})
    yield "not deflated", Case(broken, codes=codes, offer="permessage-deflate")


CASES: dict[str, Case] = {
    number: case
    for cases in (_framing, _pings, _reserved, _fragmented, _texts, _closes, _limits, _compressed)
    for number, case in cases()
}


def as_server(piece: bytes) -> bytes:
    """Return the frames of a piece as a server sends them: unmasked."""
    told = bytearray()
    while piece:
        size = piece[1] & 0x7F
        longer = {126: 2, 127: 8}.get(size, 0)
        if longer:
            size = int.from_bytes(piece[2 : 2 + longer], "big")
        start = 2 + longer + 4
        told += bytes([piece[0], piece[1] & 0x7F]) + piece[2 : 2 + longer]
        told += unmasked(piece[start - 4 : start], piece[start : start + size])
        piece = piece[start + size :]
    return bytes(told)


# The client ---------------------------------------------------------------------------------------------------------


async def play(port: int, target: str, case: Case) -> Outcome:
    """Send what a case has, and return what came back until the server ended the connection.

    Raises:
        TimeoutError: if it did not.

    """
    async with asyncio.timeout(_WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        try:
            deflates = await _shake_hands(reader, writer, target, case)
            sending = asyncio.ensure_future(_send(writer, case))
            try:
                return await _outcome(reader, writer, case, zlib.decompressobj(-15) if deflates else None)
            finally:
                sending.cancel()
        finally:
            writer.transport.abort()


async def _shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, case: Case) -> bool:
    lines = [f"GET {target} HTTP/1.1", "Host: tests", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13"]
    lines += [f"Sec-WebSocket-Extensions: {case.offer}"] if case.offer else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    deflates = b"permessage-deflate" in head
    assert deflates == bool(case.offer), head
    return deflates


async def _send(writer: asyncio.StreamWriter, case: Case) -> None:
    data = b"".join(case.pieces)
    step = case.chop or len(data)  # in one: what comes after a close would reset the connection
    with contextlib.suppress(ConnectionError):  # the server may end a bad one before it has read all
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await asyncio.sleep(0)  # or several go in one packet
        await writer.drain()


async def _outcome(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: Case, unpacker: zlib._Decompress | None
) -> Outcome:
    echoes: list[str | bytes] = []
    pongs: list[bytes] = []
    parts = bytearray()
    code: int | None
    opcode, compressed, closed, code, reason = TEXT, False, not case.closes, RESET, ""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            if not closed and len(echoes) == len(case.echoes) and len(pongs) == len(case.pongs):
                closed = True
                writer.write(close())
            first, payload = await _frame(reader)
            kind = first & 0x0F
            if kind == CLOSE:
                code, reason = int.from_bytes(payload[:2], "big") if payload else None, payload[2:].decode()
            elif kind == PONG:
                pongs.append(payload)
            elif kind in {CONTINUATION, TEXT, BINARY}:
                if kind:
                    opcode, compressed = kind, bool(first & _COMPRESSED)
                parts += payload
                if first & _FINAL:
                    if compressed and unpacker is not None:
                        parts[:] = unpacker.decompress(bytes(parts) + b"\0\0\xff\xff")
                    echoes.append(parts.decode() if opcode == TEXT else bytes(parts))
                    parts.clear()
    return Outcome(echoes, pongs, code, reason)


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return first, await reader.readexactly(size)
