"""Reads the URL of a store. It holds a password: no error shows more of it than what is certainly none."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from stateful_route.errors import ConfigError
from stateful_route.store.transport.url_options import RefusedError, read_options

Kind = Literal["single", "sentinel", "cluster", "embedded"]

_KINDS: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "embedded": "embedded",
}
_ALIASES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkey+cluster": "redis+cluster",
}
# What is taken for the URL of a store, and is none: the word itself is no password.
_OTHERS = frozenset({"http", "https", "tcp", "tls", "ssl", "ws", "wss", "redis-sentinel", "redis-cluster", "memcached"})
_PORT, _SENTINEL_PORT = 6379, 26379
_MAX_PORT = 65535

# A host as it may be shown: the user and the password are never taken for one.
_HOST = r"[\w.-]+|\[[\w:.%-]+\]"
_PLACE = re.compile(rf"({_HOST}|)(?::([0-9]{{0,5}}))?")
_SHOWN_PLACES = re.compile(rf"(?:{_HOST})(?::[0-9]{{1,5}})?(?:,(?:{_HOST})(?::[0-9]{{1,5}})?)*")
_BINARY = re.compile(r"[\w./ +-]*")
_DATABASE_PATH = re.compile("/?[0-9]*")
_SHOWN_PATHS = {scheme: re.compile(r"[\w./%+-]*") for scheme in ("unix", "redis+sentinel", "embedded")}
_HIDDEN = "***"
_BRACKETED = re.compile(r"\[(.*)\]")

_MISREAD = "host:port, the port a number; in a user or password '/', '?' and '@' are written %2F, %3F and %40"


@attrs.frozen
class StoreUrl:
    """What a URL says.

    Attributes:
        text: the URL itself, in the words of redis-py: ``redis`` for ``valkey``. It may hold a password.
        scheme: what it begins with.
        kind: what it leads to.
        places: the hosts and their ports.
        path: what stands after them: the path of a socket, the name of a service of Sentinel, or of a binary.
        options: what the connections of redis-py are to be made with. It may hold a password.
        tls: whether they are to be encrypted.

    """

    text: str = attrs.field(repr=False)
    scheme: str
    kind: Kind
    places: tuple[tuple[str, int], ...]
    path: str
    options: dict[str, Any] = attrs.field(repr=False)
    tls: bool


def read_url(url: object) -> StoreUrl:
    """Read the URL of a store.

    Raises:
        ConfigError: if it is none, or would be misunderstood; with nothing of it that could be a password.

    """
    try:
        return _read(url)
    except RefusedError as refused:
        allowed = str(refused)
    # Raised outside the handler: no lower error goes along, whose text may be a part of the URL.
    raise ConfigError("url", shown(url), allowed)


def shown(url: object) -> str:
    """Return what of a URL may be shown: no user, no password, no query, and nothing that could be one of them.

    That is little of a URL with a slip, where nobody knows what a part was meant to be.
    """
    if not isinstance(url, str):
        return f"of type {type(url).__name__}"
    scheme, separator, rest = url.partition("://")
    known = _ALIASES.get(scheme.lower(), scheme.lower())
    if not separator or known not in _KINDS.keys() | _OTHERS:
        return _HIDDEN
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(netloc) :].partition("?")
    user, at, places = netloc.rpartition("@")
    if "#" in rest or "@" in path + query or (places and not _SHOWN_PLACES.fullmatch(places)):
        return f"{scheme}://{_HIDDEN}"
    path_shown = path if _SHOWN_PATHS.get(known, _DATABASE_PATH).fullmatch(path) else f"/{_HIDDEN}"
    return f"{scheme}://{_HIDDEN if user else ''}{at}{places}{path_shown}{f'?{_HIDDEN}' if query else ''}"


def _read(url: object) -> StoreUrl:
    if not isinstance(url, str):
        raise RefusedError("a string; str(url) of a pydantic URL and url.geturl() of a SplitResult are such")
    given = url.partition(":")[0]
    scheme = _ALIASES.get(given.lower(), given.lower())
    if scheme not in _KINDS:
        hint = "" if "://" in url else " and '://', as redis://localhost:6379 does; what was given is hidden"
        raise RefusedError(f"a URL that begins with one of {', '.join((*_KINDS, *_ALIASES))}{hint}")
    text = scheme + url[len(given) :]
    if scheme != "unix" and not text.startswith(f"{scheme}://"):
        raise RefusedError(f"a URL that begins with {scheme}://")
    if "#" in text:
        raise RefusedError("a URL without '#': in a user or password it is written %23")
    try:
        text.encode()
        parts = urlsplit(text)
    except ValueError:
        raise RefusedError(_MISREAD) from None
    if "@" in parts.path:  # of a password with a slash before it
        raise RefusedError(_MISREAD)
    return _read_binary(text, parts) if scheme == "embedded" else _read_address(text, scheme, parts)


def _read_binary(text: str, parts: SplitResult) -> StoreUrl:
    """Read what the embedded server is."""
    binary = parts.netloc + parts.path
    if parts.query or not _BINARY.fullmatch(binary):
        raise RefusedError("embedded://, or that and the name or path of a server, without a user or options")
    return StoreUrl(text, parts.scheme, "embedded", (), binary, {}, tls=False)


def _read_address(text: str, scheme: str, parts: SplitResult) -> StoreUrl:
    user, _, netloc = parts.netloc.rpartition("@")
    kind = _KINDS[scheme]
    places = _places(netloc, _SENTINEL_PORT if kind == "sentinel" else _PORT)
    path = unquote(parts.path)
    options = read_options(parts.query, scheme)
    _add_credentials(options, user)
    if wrong := _wrong_place(scheme, places, path, options):
        raise RefusedError(wrong)
    tls = scheme == "rediss" or options.pop("ssl", False)
    if scheme == "unix":
        options["path"] = path
    elif kind == "single" and path.strip("/"):
        options.setdefault("db", int(path.strip("/")))
    return StoreUrl(text, scheme, kind, places, path, options, tls=tls)


def _add_credentials(options: dict[str, Any], given: str) -> None:
    """Add user and password as they stand before the host."""
    user, _, password = given.partition(":")
    for name, value in (("username", unquote(user)), ("password", unquote(password))):
        if value and name in options:
            raise RefusedError(f"one {name}: before the host, or in the query")
        if value:
            options[name] = value


def _wrong_place(scheme: str, places: tuple[tuple[str, int], ...], path: str, options: dict[str, Any]) -> str | None:
    """Return what is allowed instead of such hosts and such a path, if they are wrong."""
    name = path.strip("/")
    hosts = all(host for host, _ in places)
    mistakes = {
        "unix": ((not name or hosts, "the path of a socket, as in unix:///run/valkey.sock"),),
        "redis+sentinel": (
            (not hosts, "a host at each place, as in redis+sentinel://host:port,host:port/service"),
            (
                not name or "/" in name,
                "the name of a service as the path, as in redis+sentinel://host:26379/mymaster?db=0",
            ),
        ),
        "redis+cluster": (
            (not hosts, "a host at each place, as in redis+cluster://host:port,host:port"),
            (name not in {"", "0"} or bool(options.get("db")), "no database but 0: a cluster has no other"),
        ),
    }
    one_server = (
        (len(places) > 1, "one host; several are for redis+sentinel:// and redis+cluster://"),
        (not re.fullmatch("[0-9]{0,9}", name), f"the number of a database as the path, as in {scheme}://host:6379/0"),
    )
    return next((allowed for wrong, allowed in mistakes.get(scheme, one_server) if wrong), None)


def _places(netloc: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Read ``host:port,host:port``; a host may be left out."""
    places = []
    for text in netloc.split(","):
        place = _PLACE.fullmatch(text)
        if place is None or not 0 < int(place[2] or default_port) <= _MAX_PORT:
            raise RefusedError(_MISREAD)
        places.append((unquote(_BRACKETED.sub(r"\1", place[1])), int(place[2] or default_port)))
    return tuple(places)
