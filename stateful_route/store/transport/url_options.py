"""Reads the options in the URL of a store: what a connection of redis-py is made with."""

from __future__ import annotations

import difflib
import inspect
import re
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import attrs
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection

from stateful_route._log import log

if TYPE_CHECKING:
    from collections.abc import Callable

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


class RefusedError(Exception):
    """What is allowed instead of a part of the URL."""


def read_options(query: str, scheme: str) -> dict[str, Any]:
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
