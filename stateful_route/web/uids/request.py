"""The heads of a request and of its answer, as far as ids are looked for in them: read lazily, and once."""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import Any
from urllib.parse import unquote_plus

from stateful_route.web.uids.cookies import cookies_set, pairs
from stateful_route.web.uids.json_text import is_json, parsed

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


def first_header(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first value of the header, latin-1, without white space around it; ``None`` if it is not there."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1").strip()
    return None


def path_below(root: str, path: str) -> str:
    """Return the path within the application that is mounted at ``root``; as it is, if it is not below that."""
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if not rest or rest[0] == "/" else path


class RequestHead:
    """A request, as the sources of uids see it: a cheap wrapper of an ASGI scope, of type ``http`` or ``websocket``.

    Header names are bytes in lower case, as ASGI gives them. Nothing here raises, whatever a client sends.
    """

    __slots__ = ("_body", "_cookies", "_json", "_query", "scope")

    def __init__(self, scope: dict[str, Any], body: bytes | None = None) -> None:
        """Look at this scope; ``body`` is the whole of it, or ``None`` if it was not read, or is too long."""
        self.scope = scope
        self._body = body
        self._cookies: dict[str, str] | None = None
        self._query: dict[str, str] | None = None
        self._json: tuple[Any] | None = None

    def __repr__(self) -> str:
        return f"<RequestHead: {self.method} {self.path!r}>"

    @property
    def body(self) -> bytes | None:
        """The whole body, or ``None`` if it was not read, or was longer than it may be."""
        return self._body

    @body.setter
    def body(self, body: bytes | None) -> None:
        self._body = body
        self._json = None

    @property
    def method(self) -> str:
        """The method, in capitals as it came; ``"GET"`` of a WebSocket."""
        method: str = self.scope.get("method", "GET")
        return method

    @property
    def path(self) -> str:
        """The path within the application: percent-decoded, and without the ``root_path`` under which it is mounted."""
        scope = self.scope
        path: str = scope["path"]
        root = scope.get("root_path")
        return path_below(root, path) if root else path

    @property
    def root_path(self) -> str:
        """The path under which the application is mounted; empty if it is not."""
        root: str = self.scope.get("root_path") or ""
        return root

    @property
    def subprotocols(self) -> list[str]:
        """What a WebSocket asks for in ``Sec-WebSocket-Protocol``, in its order; empty of other requests."""
        return list(self.scope.get("subprotocols") or ())

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, as the request says; ``None`` if it does not, or says something else."""
        return _length(self.header(b"content-length"))

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, latin-1, without white space around it; ``None`` if it is not there."""
        return first_header(self.scope["headers"], name)

    def headers(self, name: bytes) -> list[str]:
        """Return all values of a header, latin-1, in their order."""
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]

    def cookies(self) -> dict[str, str]:
        """Return the cookies by name; the last one of a name counts, as in Starlette and Django."""
        if self._cookies is None:
            self._cookies = dict(pairs(self.headers(b"cookie")))
        return self._cookies

    def cookie_values(self, name: str) -> list[str]:
        """Return what all cookies of that name hold: a neighbouring domain may have put one in front."""
        return [value for key, value in pairs(self.headers(b"cookie")) if key == name]

    def query(self, name: str) -> str | None:
        """Return the value of a query parameter, decoded; ``None`` if it is not there.

        The last one of a name counts, as in Starlette and Django; what is not UTF-8 is replaced, as there.
        """
        if self._query is None:
            self._query = _parameters(self.scope.get("query_string") or b"")
        return self._query.get(name)

    def json(self) -> Any | None:
        """Return the value of the body; ``None`` if it was not read, is not JSON, or nested too deeply."""
        if self._json is None:
            self._json = (parsed(self._body),)
        return self._json[0]

    def is_json(self) -> bool:
        """Whether the body is JSON, as its content type says."""
        return is_json(self.header(b"content-type"))

    def may_have_body(self, limit: float = inf) -> bool:
        """Whether the head allows for a body of at most ``limit`` bytes: by the method, and by the length it gives."""
        if self.scope["type"] != "http" or self.method in _BODILESS:
            return False
        length = self.content_length
        return length is None or 0 < length <= limit

    def may_have_json(self, limit: float = inf) -> bool:
        """Whether the head allows for a body of JSON of at most ``limit`` bytes."""
        return self.may_have_body(limit) and self.is_json()


class AnswerHead:
    """An answer, as the sources that learn see it.

    Attributes:
        status: of HTTP; 101 of a WebSocket that was accepted.
        headers: as ASGI gives them, with names in lower case.
        body: the whole of it, or ``None`` if it was not kept, or is too long.

    """

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | None = None) -> None:
        """Look at this answer."""
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<AnswerHead: {self.status}>"

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, as the answer says; ``None`` if it does not, or says something else."""
        return _length(self.header(b"content-length"))

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, latin-1, without white space around it; ``None`` if it is not there."""
        return first_header(self.headers, name)

    @cached_property
    def _cookies(self) -> dict[str, str]:
        return cookies_set([value.decode("latin-1") for key, value in self.headers if key == b"set-cookie"])

    def cookies(self) -> dict[str, str]:
        """Return the cookies that the answer sets, by name, without those that it drops."""
        return self._cookies

    def json(self) -> Any | None:
        """Return the value of the body; ``None`` if it was not kept, is not JSON, or nested too deeply."""
        return parsed(self.body)

    def may_have_json(self, limit: int) -> bool:
        """Whether the head allows for a body of JSON of at most ``limit`` bytes, not compressed."""
        if not is_json(self.header(b"content-type")) or self.header(b"content-encoding") not in {None, "identity"}:
            return False
        length = self.content_length
        return length is None or 0 < length <= limit


def _length(text: str | None) -> int | None:
    return int(text) if text and len(text) <= 18 and text.isascii() and text.isdigit() else None  # noqa: PLR2004


def _parameters(query: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in query.decode("latin-1").split("&"):
        name, _, value = piece.partition("=")
        found[_decoded(name)] = _decoded(value)
    return found


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text
