"""Writes an answer that an owner has sent in one piece, as HTTP/1.1."""

from __future__ import annotations

import functools
import http
import re
from typing import TYPE_CHECKING

from stateful_route.web.asgi import NO_BODY
from stateful_route.web.peer.frames import paired, unpack_number, unpack_with_body

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST = 200
# Of these the web server knows more: it writes such an answer itself.
_FRAMING = frozenset({b"transfer-encoding", b"connection", b"upgrade"})
_LENGTH = b"content-length"
_NUMBER = re.compile(rb"[0-9]{1,18}")


def _line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_LINES = {status: _line(status) for status in range(_FIRST, 600)}
# Answers of an app have few different heads, unless they tell the time or the like.
_REMEMBERED = 512
_SHORT = 512


def head_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the lines of some headers."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def write_empty(status: int, headers: Sequence[tuple[bytes, bytes]], added: bytes) -> bytes | None:
    """Return the bytes of an answer without a body, ``added`` among its header lines; ``None`` if it is not plain."""
    line, lines = _LINES.get(status), head_lines(headers)
    if line is None or status in NO_BODY or not _are_lines(lines, len(headers)):
        return None
    return b"%b%b%bcontent-length: 0\r\n\r\n" % (line, added, lines)


def write_whole(payload: bytes, added: bytes, *, is_head: bool) -> tuple[int, bytes] | None:
    """Return the status and the bytes of an answer, ``added`` among its header lines.

    ``None`` if it is not plain: it has headers of the connection, its length is not that of its body, a header has a
    line break in it, or its status is not one of an answer. The web server says what is wrong with it then.

    Raises:
        PeerProtocolError: if the payload cannot be read.

    """
    head, body = unpack_with_body(payload)
    read = (_read if len(head) <= _SHORT else _read.__wrapped__)(head)
    if read is None:
        return None
    status, line, lines, length = read
    if is_head or status in NO_BODY:
        return status, b"".join((line, added, lines, b"\r\n"))
    if length is None:
        return status, b"%b%b%bcontent-length: %d\r\n\r\n%b" % (line, added, lines, len(body), body)
    if length != len(body):
        return None
    return status, b"".join((line, added, lines, b"\r\n", body))


def _are_lines(lines: bytes, count: int) -> bool:
    """Whether no header has a line break in it."""
    return lines.count(b"\n") == lines.count(b"\r") == count and b"\0" not in lines


@functools.lru_cache(_REMEMBERED)
def _read(head: bytes) -> tuple[int, bytes, bytes, int | None] | None:
    """Return status, first line, header lines and content length of an answer; ``None`` if it is not plain."""
    status, parts = unpack_number(head)
    line = _LINES.get(status)
    headers = [(name.lower(), value) for name, value in paired(parts[1:])]
    lengths = [value for name, value in headers if name == _LENGTH]
    if line is None or len(lengths) > 1 or not _FRAMING.isdisjoint([name for name, _ in headers]):
        return None
    lines = head_lines(headers)
    if not _are_lines(lines, len(headers)):
        return None
    if not lengths:
        return status, line, lines, None
    return (status, line, lines, int(lengths[0])) if _NUMBER.fullmatch(lengths[0]) else None
