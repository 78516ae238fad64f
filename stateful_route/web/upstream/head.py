"""Heads of requests and answers, as they pass from one connection to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from stateful_route.web.asgi import NO_BODY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.web.asgi import Message

OF_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""Headers of the connection, and not of the request (RFC 9110, 7.6.1)."""

# What we say instead, or the web server in front has answered.
_NOT_SENT = OF_CONNECTION | {b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"}
# The web server in front adds a date of its own.
_NOT_TAKEN = OF_CONNECTION | {b"date"}
_CHUNKED = b"transfer-encoding: chunked\r\n"
_NONE: frozenset[bytes] = frozenset()
_PLAIN = frozenset({b"keep-alive", b"close", b"upgrade"})
_OF_ALL = frozenset(
    {b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"set-cookie"}
    | {b"x-pod-index", b"x-link-epoch"}  # a client cannot have the fencing token taken away
)
_NOT_IMITATED = _NOT_SENT | {b"content-length", b"host"}


@attrs.frozen
class RequestHead:
    """The head of a request as it is sent.

    Attributes:
        data: its bytes.
        is_head: whether its answer has no body.
        has_body: whether a body follows.
        chunked: whether that is sent in chunks.

    """

    data: bytes
    is_head: bool
    has_body: bool
    chunked: bool


def request_head(scope: Message, host: str) -> RequestHead | None:
    """Return the head of a request; ``None`` if it could be read as something else than what it is.

    What is of the client's connection is left out, and what a client says of its address is replaced by what the web
    server knows of it. A request of HTTP/1.0 need not name a host, one of 1.1 has to: ``host``, then.
    """
    method = scope["method"]
    line = f"{method} ".encode() + target_of(scope)
    lines = [line + b" HTTP/1.1\r\n"]
    has_length = chunked = False
    hosts = 0
    not_sent = _NOT_SENT | connection_options(scope["headers"])
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            chunked = True
        elif name == b"content-length":
            has_length = value != b"0"
            lines.append(b"content-length: %b\r\n" % value)
        elif name not in not_sent and not is_imitation(name, _NOT_IMITATED):
            hosts += name == b"host"
            lines.append(b"%b: %b\r\n" % (name, value))
    if not hosts:
        lines.append(f"host: {host}\r\n".encode())
    lines.append(b"x-forwarded-proto: %b\r\n" % scope.get("scheme", "http").replace("ws", "http").encode())
    if scope.get("client"):
        lines.append(b"x-forwarded-for: %b\r\n" % scope["client"][0].encode())
    if chunked:
        lines = [line for line in lines if not line.startswith(b"content-length:")]
        lines.append(_CHUNKED)
    lines.append(b"\r\n")
    data = b"".join(lines)
    if hosts > 1 or line.count(b" ") != 1 or not _has_lines(data, len(lines)):
        return None
    return RequestHead(data, method == "HEAD", has_length or chunked, chunked)


def _has_lines(data: bytes, count: int) -> bool:
    """Whether it has just so many lines."""
    return data.count(b"\n") == count == data.count(b"\r") and b"\0" not in data


def is_imitation(name: bytes, names: frozenset[bytes]) -> bool:
    """Whether a header is one of these to an app that takes an underscore for a hyphen, as one behind WSGI does."""
    return b"_" in name and name.replace(b"_", b"-") in names


def target_of(scope: Message) -> bytes:
    """Return what a request asks for, as its client has spelled it."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"], safe="/:@!$&'()*+,;=~").encode() or b"/"
    query = scope.get("query_string") or b""
    return b"%b?%b" % (raw, query) if query else raw


def response_headers(status: int, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return those of an answer that the client gets: without what is of the connection of the app."""
    not_taken = _NOT_TAKEN | connection_options(headers)
    if status in NO_BODY:  # a length is allowed there, and says nothing of this answer
        not_taken |= {b"content-length"}
    return [header for header in headers if header[0] not in not_taken]


def connection_options(headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the headers of which ``Connection`` says that they are of the connection, but for those that all need."""
    named = _NONE
    for name, value in headers:
        if name == b"connection" and value.lower() not in _PLAIN:
            named |= frozenset(option.strip().lower() for option in value.split(b",")) - _OF_ALL
    return named
