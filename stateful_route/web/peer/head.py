"""How the head of a request travels: what the web server said of it, in parts.

Most of it is the same for all requests of a listener: scheme, version, the server's own address. That is one part,
which each side reads and writes once, and remembers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs

from stateful_route.web.errors import PeerProtocolError
from stateful_route.web.peer.frames import (
    flat,
    number_of,
    pack,
    pack_with_body,
    paired,
    text_of,
    unpack,
    unpack_with_body,
)

_FIXED = 9
# What is told of a request, a letter each.
_INLINE, _WAITS, _RAW = b"b", b"w", b"r"
_NO_EXTENSION: dict[str, Any] = {}
_NOWHERE: tuple[None, None] = (None, None)
_EXTENSIONS = {"http": "http.response.trailers", "websocket": "websocket.http.response"}
_REMEMBERED = 256
# Before the parts of a part: not a NUL, which stands before the part itself.
_MARK = b"\x1f"
# What is longer is not remembered: a part of it may be the client's.
_SHORT = 512
# That ``send`` raises when the client is gone (2.4) is so for WebSockets; of HTTP the app hears it from ``receive``.
_VERSIONS = {"http": "2.3", "websocket": "2.4"}


@attrs.frozen
class CarriedHead:
    """A request as its owner gets it.

    Attributes:
        scope: of ASGI, without what the owner's server adds.
        uid: of the request; ``None`` if it has none, and was sent to a pod that takes new ones.
        source: which of the uid sources found it, by its place in their order.
        body: the whole body, or ``None`` if it comes in frames of its own.
        waits: whether the body is sent only once the application reads it.

    """

    scope: dict[str, Any]
    uid: str | None
    source: int
    body: bytes | None
    waits: bool


def pack_head(scope: dict[str, Any], uid: str | None, source: int, body: bytes | None, *, waits: bool) -> bytes:
    """Return the payload that opens a stream, with the whole body in it if that is at hand."""
    kind = scope["type"]
    is_http = kind == "http"
    extended = _EXTENSIONS[kind] in (scope.get("extensions") or _NO_EXTENSION)
    texts = (
        kind,
        "x" if extended else "",
        scope.get("http_version", "1.1"),
        scope.get("scheme", "http" if is_http else "ws"),
    )
    root = scope.get("root_path") or ""
    pack_setting = _pack_setting if len(root) <= _SHORT else _pack_setting.__wrapped__
    raw = scope.get("raw_path")
    parts = [
        pack_setting(texts, root, *(scope.get("server") or _NOWHERE)),
        (b"" if body is None else _INLINE) + (_WAITS if waits else b"") + (b"" if raw is None else _RAW),
        b"" if uid is None else uid.encode("utf-8", "surrogatepass"),
        b"%d" % source,
        scope["method"].encode()
        if is_http
        else pack([text.encode() for text in scope.get("subprotocols") or ()], _MARK),
        scope["path"].encode("utf-8", "surrogatepass"),
        raw or b"",
        scope.get("query_string") or b"",
        _pack_address(*(scope.get("client") or _NOWHERE)),
    ]
    parts += flat(scope["headers"])
    return pack_with_body(pack(parts), body or b"")


def unpack_head(payload: bytes) -> CarriedHead:
    """Read what ``pack_head`` wrote.

    Raises:
        PeerProtocolError: if it cannot be read.

    """
    packed, body = unpack_with_body(payload)
    parts = unpack(packed)
    if len(parts) < _FIXED:
        raise PeerProtocolError("the head of a request that lacks parts")
    same, flags, uid, source, what, path, raw, query, client = parts[:_FIXED]
    scope = (_unpack_setting if len(same) <= _SHORT else _unpack_setting.__wrapped__)(same).copy()
    try:
        scope["path"] = path.decode("utf-8", "surrogatepass")
        whose = uid.decode("utf-8", "surrogatepass") or None
    except UnicodeDecodeError as error:
        raise PeerProtocolError("the head of a request that cannot be read") from error
    if scope["type"] == "http":
        scope["method"] = text_of(what)
    else:
        scope["subprotocols"] = [text_of(part) for part in unpack(what, mark=_MARK)]
    if _RAW in flags:
        scope["raw_path"] = raw
    scope["query_string"] = query
    scope["headers"] = paired(parts[_FIXED:])
    scope["client"] = _address(client)
    scope["extensions"] = scope["extensions"].copy()
    return CarriedHead(scope, whose, number_of(source), body if _INLINE in flags else None, _WAITS in flags)


@lru_cache(_REMEMBERED)
def _pack_setting(texts: tuple[str, str, str, str], root: str, host: str | None, port: int | None) -> bytes:
    parts = [text.encode("utf-8", "surrogatepass") for text in (*texts, root)]
    return pack([*parts, _pack_address(host, port)], _MARK)


@lru_cache(_REMEMBERED)
def _unpack_setting(same: bytes) -> dict[str, Any]:
    parts = unpack(same, mark=_MARK)
    if len(parts) != 6 or parts[0] not in {b"http", b"websocket"}:  # noqa: PLR2004 - as they are written above
        raise PeerProtocolError("a request of an unknown kind")
    kind, extended, version, scheme = (text_of(part) for part in parts[:4])
    try:
        root = parts[4].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise PeerProtocolError("the head of a request that cannot be read") from error
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": _VERSIONS[kind]},
        "http_version": version,
        "scheme": scheme,
        "root_path": root,
        "server": _address(parts[5]),
        "extensions": {_EXTENSIONS[kind]: {}} if extended else {},
    }


@lru_cache(_REMEMBERED)
def _pack_address(host: str | None, port: int | None) -> bytes:
    """Return an address in one part: the port is ``None`` for a unix socket, and the host if there is no address."""
    if host is None:
        return b""
    return f"{'' if port is None else port}\n{host}".encode("utf-8", "surrogateescape")


@lru_cache(_REMEMBERED)
def _address(part: bytes) -> tuple[str, int | None] | None:
    if not part:
        return None
    port, _, host = part.partition(b"\n")
    return host.decode("utf-8", "surrogateescape"), number_of(port) if port else None
