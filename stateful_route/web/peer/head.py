"""How the head of a request travels: what the web server said of it, in parts.

Most of it is the same for all requests of a listener: scheme, version, the server's own address. That is one part,
which each side reads and writes once, and remembers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs

from stateful_route.web.errors import PeerProtocolError
from stateful_route.web.peer.frames import flat, pack, paired, text_of, unpack

_FIXED = 10
# What is told of a request, a letter each.
_INLINE, _WAITS = b"b", b"w"
# That ``send`` raises when the client is gone (2.4) is so for WebSockets; of HTTP the app hears it from ``receive``.
_VERSIONS = {"http": "2.3", "websocket": "2.4"}
_NO_EXTENSION: dict[str, Any] = {}
_EXTENSIONS = {"http": "http.response.trailers", "websocket": "websocket.http.response"}
_REMEMBERED = 256


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
    extended = _EXTENSIONS[kind] in (scope.get("extensions") or _NO_EXTENSION)
    host, port = scope.get("server") or ("", 0)
    client, client_port = scope.get("client") or ("", 0)
    texts = kind, "x" if extended else "", scope.get("http_version", "1.1"), scope.get("scheme", "http")
    same = _pack_setting(texts, scope.get("root_path") or "", host, port)
    flags = b"" if body is None else _INLINE
    parts = [
        same,
        flags + _WAITS if waits else flags,
        b"" if uid is None else uid.encode("utf-8", "surrogatepass"),
        b"%d" % source,
        scope["method"].encode() if kind == "http" else ",".join(scope.get("subprotocols") or ()).encode(),
        scope["path"].encode("utf-8", "surrogatepass"),
        scope.get("raw_path") or b"",
        scope.get("query_string") or b"",
        f"{client}\n{client_port}".encode(),
        body or b"",
    ]
    parts += flat(scope["headers"])
    return pack(parts)


def unpack_head(payload: bytes) -> CarriedHead:
    """Read what ``pack_head`` wrote.

    Raises:
        PeerProtocolError: if it cannot be read.

    """
    parts = unpack(payload)
    if len(parts) < _FIXED:
        raise PeerProtocolError("the head of a request that lacks parts")
    same, flags, uid, source, what, path, raw, query, client, body = parts[:_FIXED]
    scope = _unpack_setting(same).copy()
    try:
        if scope["type"] == "http":
            scope["method"] = what.decode()
        else:
            scope["subprotocols"] = what.decode().split(",") if what else []
        scope["path"] = path.decode("utf-8", "surrogatepass")
        scope["raw_path"] = raw
        scope["query_string"] = query
        scope["headers"] = paired(parts[_FIXED:])
        scope["client"] = _address(client.decode())
        scope["extensions"] = scope["extensions"].copy()
        number = int(source)
        whose = uid.decode("utf-8", "surrogatepass") or None
    except ValueError as error:
        raise PeerProtocolError("the head of a request that cannot be read") from error
    return CarriedHead(scope, whose, number, body if _INLINE in flags else None, _WAITS in flags)


@lru_cache(_REMEMBERED)
def _pack_setting(texts: tuple[str, str, str, str], root: str, host: str, port: int | None) -> bytes:
    return pack([text.encode("utf-8", "surrogatepass") for text in (*texts, root, f"{host}\n{port or 0}")])


@lru_cache(_REMEMBERED)
def _unpack_setting(same: bytes) -> dict[str, Any]:
    parts = unpack(same)
    if len(parts) != 6 or parts[0] not in {b"http", b"websocket"}:  # noqa: PLR2004 - as they are written above
        raise PeerProtocolError("a request of an unknown kind")
    kind, extended, version, scheme = (text_of(part) for part in parts[:4])
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": _VERSIONS[kind]},
        "http_version": version,
        "scheme": scheme,
        "root_path": parts[4].decode("utf-8", "surrogatepass"),
        "server": _address(text_of(parts[5])),
        "extensions": {_EXTENSIONS[kind]: {}} if extended else {},
    }


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.partition("\n")
    return (host, int(port)) if host and port.isdigit() else None
