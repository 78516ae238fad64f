"""Reads the URL of a store. It holds a password: no error shows more of it than what is certainly none.

Not by redis-py, which guesses where it cannot read: ``/x`` is database 0, ``?socket_keepalive=maybe`` is true,
and 6.2 decodes a password in the query twice. Its options are what a connection is made with here too.
"""

from __future__ import annotations

import difflib
import inspect
import re
import ssl
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection

from stateful_route._log import log
from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

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


class RefusedError(Exception):
    """What is allowed instead of a part of the URL."""


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
    options = _read_options(parts.query, scheme)
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


# Options -------------------------------------------------------------------------------------------------------------

# redis-py sends it as an int, and no server has as many.
_MAX_DATABASE = 2**31 - 1

_TRUE = frozenset({"1", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "n", "no"})
_CERT_REQS = ("none", "optional", "required")
_TLS_VERSIONS = {
    text: version.value
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    for text in (version.name.replace("_", "."), version.name, str(version.value))
}


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _flag(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def _database(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > _MAX_DATABASE:
        raise ValueError(text)
    return int(text)


def _protocol(text: str) -> int:
    return {"2": 2, "3": 3}[text]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:  # noqa: PLR2004 - days: longer than anybody waits, and no NaN
        raise ValueError(text)
    return seconds


def _cert_reqs(text: str) -> str:
    return _CERT_REQS[_CERT_REQS.index(text.lower().removeprefix("cert_"))]


def _tls_version(text: str) -> int:
    return _TLS_VERSIONS[text]


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    return [ssl.VerifyFlags[name.strip()] for name in text.split(",")]


@attrs.frozen
class _Option:
    """How to read an option, and what is allowed for it, in words."""

    read: Callable[[str], Any]
    allowed: str = "a text"


_OPTIONS = {
    "client_name": _Option(_text),
    "db": _Option(_database, "the number of a database"),
    "password": _Option(_text),
    "protocol": _Option(_protocol, "2 or 3"),
    "socket_connect_timeout": _Option(_seconds, "a number of seconds above 0"),
    "socket_keepalive": _Option(_flag, "true or false"),
    "ssl": _Option(_flag, "true or false"),
    "username": _Option(_text),
    "ssl_ca_certs": _Option(_text, "the path of a file"),
    "ssl_ca_data": _Option(_text, "certificates as PEM"),
    "ssl_ca_path": _Option(_text, "the path of a folder"),
    "ssl_cert_reqs": _Option(_cert_reqs, ", ".join(_CERT_REQS)),
    "ssl_certfile": _Option(_text, "the path of a file"),
    "ssl_check_hostname": _Option(_flag, "true or false"),
    "ssl_ciphers": _Option(_text),
    "ssl_exclude_verify_flags": _Option(_verify_flags, "names of ssl.VerifyFlags, with commas"),
    "ssl_include_verify_flags": _Option(_verify_flags, "names of ssl.VerifyFlags, with commas"),
    "ssl_keyfile": _Option(_text, "the path of a file"),
    "ssl_min_version": _Option(_tls_version, ", ".join(_TLS_VERSIONS)),
    "ssl_password": _Option(_text),
}

# What redis-py takes, and would do nothing here: another program that is given the same URL may need it.
_IGNORED = frozenset(
    {
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "max_connections",
        "retry_on_error",
        "retry_on_timeout",
        "socket_timeout",
        "timeout",
    }
)


def _read_options(query: str, scheme: str) -> dict[str, Any]:
    """Read the query. As in redis-py an empty value is none: that of a template whose variable was not set."""
    allowed = [name for name in _OPTIONS if _is_allowed(name, scheme)]
    options: dict[str, Any] = {}
    for number, part in enumerate(query.removesuffix("&").split("&") if query else (), 1):
        if "=" not in part:
            raise RefusedError(f"name=value for each option; the one at place {number} is none")
        ((name, value),) = parse_qsl(part, keep_blank_values=True)
        if name in _IGNORED:
            log.warning(
                "url_option_ignored",
                "the option %(option)s of the URL does nothing here: calls have deadlines, and one connection",
                option=name,
            )
            continue
        if name not in allowed:
            raise RefusedError(_instead_of(name, number, allowed, scheme))
        if name in options:
            raise RefusedError(f"each option once; {name!r} is there again")
        if value:
            options[name] = _read_value(name, value)
    if scheme not in {"rediss", "unix"} and not options.get("ssl"):
        early = [name for name in options if name.startswith("ssl_")]
        if early:
            raise RefusedError(f"the option {early[0]!r} only with ssl=true")
    return options


def _read_value(name: str, value: str) -> object:
    try:
        value.encode()
        return _OPTIONS[name].read(value)
    except (ValueError, KeyError):
        raise RefusedError(f"for the option {name!r}: {_OPTIONS[name].allowed}") from None


def _is_allowed(name: str, scheme: str) -> bool:
    """Whether the URL of such a server has that option."""
    if name == "ssl":
        return scheme in {"redis+sentinel", "redis+cluster"}
    if name.startswith("ssl_"):
        return scheme not in {"redis", "unix"}
    return (name, scheme) != ("socket_keepalive", "unix")


def _instead_of(name: str, number: int, allowed: list[str], scheme: str) -> str:
    """Return what is allowed instead of an option, whose name is shown only if we know it: it may be of a password."""
    if name in _OPTIONS and name.startswith("ssl"):
        return f"the option {name!r} only {'for TLS over TCP' if scheme == 'unix' else 'in a rediss:// URL'}"
    if name in _OPTIONS or name in _names_in_redis_py():
        what = f"{name!r} is not for such a URL"
    else:
        meant = difflib.get_close_matches(name.lower(), allowed, n=1)
        what = f"the one at place {number} is not known" + (f" (is {meant[0]!r} meant?)" if meant else "")
    return f"of options {', '.join(allowed)}; {what}"


def _names_in_redis_py() -> set[str]:
    """Return the names of all that redis-py takes: what we set ourselves, or is no text, among them."""
    kinds = (Redis, ConnectionPool, Connection, UnixDomainSocketConnection, SSLConnection)
    signatures = [inspect.signature(taker) for kind in kinds for taker in kind.__mro__[:-1]]
    return {name for signature in signatures for name in signature.parameters} - {"args", "kwargs"}
