"""How the head of a request travels: what the web server said of it, in parts."""

from __future__ import annotations

from typing import Any

import attrs

from stateful_route.web.errors import PeerProtocolError
from stateful_route.web.peer.frames import flat, pack, paired, text_of, unpack

_FIXED = 15
# What is told of the request, a letter each.
_INLINE, _TRAILERS, _DENIAL, _WAITS = b"b", b"t", b"d", b"w"
_NO_EXTENSION: dict[str, Any] = {}


@attrs.frozen
class CarriedHead:
    """A request as its owner gets it.

    Attributes:
        scope: of ASGI, without what the owner's server adds.
        uid: of the request; ``None`` if it has none, and was sent to a pod that takes new ones.
        source: which of the uid sources found it, by its place in their order.
        body: the whole body, or ``None`` if it comes in frames of its own.
        waits: whether the client sends the body only once the application reads it (100-continue).

    """

    scope: dict[str, Any]
    uid: str | None
    source: int
    body: bytes | None
    waits: bool


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def pack_head(scope: dict[str, Any], uid: str | None, source: int, body: bytes | None, *, waits: bool) -> bytes:
    """Return the payload that opens a stream, with the whole body in it if that is at hand."""
    extensions = scope.get("extensions") or _NO_EXTENSION
    flags = b"" if body is None else _INLINE
    if waits:
        flags += _WAITS
    if "http.response.trailers" in extensions:
        flags += _TRAILERS
    if "websocket.http.response" in extensions:
        flags += _DENIAL
    client, server = scope.get("client") or ("", 0), scope.get("server") or ("", 0)
    path = scope["path"]
    fixed = [
        scope["type"].encode(),
        flags,
        b"" if uid is None else _text(uid),
        b"%d" % source,
        scope.get("method", "GET").encode(),
        scope.get("http_version", "1.1").encode(),
        scope.get("scheme", "http").encode(),
        _text(path),
        scope.get("raw_path") or b"",
        scope.get("query_string") or b"",
        _text(scope.get("root_path") or ""),
        _text(f"{client[0]}\n{client[1] or 0}"),
        _text(f"{server[0]}\n{server[1] or 0}"),
        ",".join(scope.get("subprotocols") or ()).encode(),
        body or b"",
    ]
    return pack(fixed + flat(scope["headers"]))


def unpack_head(payload: bytes) -> CarriedHead:
    """Read what ``pack_head`` wrote.

    Raises:
        PeerProtocolError: if it cannot be read.

    """
    parts = unpack(payload)
    if len(parts) < _FIXED:
        raise PeerProtocolError("the head of a request that lacks parts")
    kind, flags, uid, source, method, version, scheme, path, raw, query, root, client, server, protocols, body = parts[
        :_FIXED
    ]
    if kind not in {b"http", b"websocket"}:
        raise PeerProtocolError(f"a request of the unknown kind {kind!r}")
    scope: dict[str, Any] = {
        "type": kind.decode(),
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": text_of(version),
        "scheme": text_of(scheme),
        "path": path.decode("utf-8", "surrogatepass"),
        "raw_path": raw,
        "query_string": query,
        "root_path": root.decode("utf-8", "surrogatepass"),
        "headers": paired(parts[_FIXED:]),
        "client": _address(client),
        "server": _address(server),
    }
    if kind == b"http":
        scope["method"] = text_of(method)
        scope["extensions"] = {"http.response.trailers": {}} if _TRAILERS in flags else {}
    else:
        scope["subprotocols"] = [each for each in text_of(protocols).split(",") if each]
        scope["extensions"] = {"websocket.http.response": {}} if _DENIAL in flags else {}
    if not source.isdigit():
        raise PeerProtocolError("a request without the number of its source")
    return CarriedHead(
        scope,
        uid.decode("utf-8", "surrogatepass") or None,
        int(source),
        body if _INLINE in flags else None,
        _WAITS in flags,
    )


def _address(part: bytes) -> tuple[str, int] | None:
    host, _, port = text_of(part).partition("\n")
    return (host, int(port)) if host and port.isdigit() else None
