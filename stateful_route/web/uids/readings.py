"""Other readings of a request: what a proxy, or an app in another language, may take it for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_to_bytes

from stateful_route.web.uids.request import RequestHead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.web.uids.found import Found, UidSources

_COOKIE = b"cookie"
# What no target of a request may have in it (RFC 9112, 3.2): some cut it off there, some encode it.
_NEVER = re.compile(rb"[\x00-\x20\x7f#]")
# What some resolve, merge, cut off or decode in a path.
_ODD = re.compile(rb"[\x80-\xff;\\]|//|/\.|%(?:2[ef]|5c)", re.IGNORECASE)
_SLASH = re.compile("%2f", re.IGNORECASE)
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def is_plain(target: bytes) -> bool:
    """Whether a path, with its query or without, is read by everybody as by us, as far as a ``Path`` looks at it."""
    return _ODD.search(target) is None and _NEVER.search(target) is None


def reads_alike(sources: UidSources, request: RequestHead, found: Found | None, *, by_envoy: bool = False) -> bool:
    """Whether everybody who reads the request finds the uid that we have ``found``, or none if we have found none.

    ``by_envoy``: it was Envoy that repeated it, which writes ``!`` for each byte of a header that is not UTF-8.
    What is odd elsewhere in a request does no harm: ``//`` in another path, a query parameter that comes twice.
    """
    scope = request.scope
    if _NEVER.search(scope["raw_path"]) or _NEVER.search(scope["query_string"]):
        return False
    uid = None if found is None else found.uid
    return all(_uid(sources, other) == uid for other in _others(request, uid, by_envoy=by_envoy))


def _uid(sources: UidSources, request: RequestHead) -> str | None:
    found = sources.find(request)
    return None if found is None else found.uid


def _others(request: RequestHead, uid: str | None, *, by_envoy: bool) -> Iterator[RequestHead]:
    scope = request.scope
    if _ODD.search(scope["raw_path"]):
        for path in _paths(scope["raw_path"].decode("latin-1")):
            yield RequestHead({**scope, "path": path})
    for query in _queries(scope["query_string"]):
        yield RequestHead({**scope, "query_string": query})
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    cookies = [piece for name, value in headers if name == _COOKIE for piece in value.split(b";")]
    if _twice(name for name, _ in headers) or _twice(piece.partition(b"=")[0].strip() for piece in cookies):
        rest = [header for header in reversed(headers) if header[0] != _COOKIE]
        yield RequestHead({**scope, "headers": [*rest, (_COOKIE, b";".join(reversed(cookies)))]})
    # A header that comes twice is the same as one with a comma (RFC 9110, 5.3): Envoy asks with that one.
    if uid is None or "," in uid or uid.startswith("sha256-"):
        yield RequestHead({**scope, "headers": [(name, value.partition(b",")[0]) for name, value in headers]})
    if by_envoy:
        yield RequestHead({**scope, "headers": [(name, value.replace(b"!", b"?")) for name, value in headers]})


def _twice(names: Iterator[bytes]) -> bool:
    listed = list(names)
    return len(set(listed)) < len(listed)


def _paths(raw: str) -> Iterator[str]:
    """Give a path with its encoded slashes left in, and one in which all is resolved that somebody resolves."""
    yield "%2F".join(unquote(part) for part in _SLASH.split(raw))
    whole = unquote_to_bytes(raw.encode("latin-1")).decode("utf-8", "replace").replace("\\", "/")
    segments: list[str] = []
    for part in whole.split("/"):
        segment = part.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    yield "/" + "/".join(segments) + "/" * (bool(segments) and whole.endswith("/"))


def _queries(query: bytes) -> Iterator[bytes]:
    """Give a query in which the first one of a name is the last one, and one with what some take for ``&``."""
    pieces = query.split(b"&")
    names = [piece.partition(b"=")[0] for piece in pieces]
    if any(b"%" in name or b"+" in name for name in names) or _twice(iter(names)):
        yield b"&".join(reversed(pieces))
    if b";" in query:
        pieces = query.replace(b";", b"&").split(b"&")
        yield b"&".join(pieces)
        yield b"&".join(reversed(pieces))
    if not query.isascii():
        yield quote(query, safe=_VISIBLE).encode()
