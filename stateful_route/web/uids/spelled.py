"""Sources of uids as they are spelled on a command line: ``query:session_hash,cookie:sid,ttl=1800``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from stateful_route.errors import ConfigError
from stateful_route.web.uids.body import JsonBody, McpParam
from stateful_route.web.uids.issued import SignedCookie
from stateful_route.web.uids.learned import JsonResponse, Location, ResponseCookie, ResponseHeader
from stateful_route.web.uids.sources import Cookie, Header, Path, Query, Subprotocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.web.uids.sources import UidSource


def _subprotocol(which: str, **options: Any) -> UidSource:
    return Subprotocol(index=int(which), **options) if which.isdecimal() else Subprotocol(prefix=which, **options)


_KINDS: dict[str, Callable[..., UidSource]] = {
    "header": Header,
    "cookie": Cookie,
    "query": Query,
    "path": Path,
    "subprotocol": _subprotocol,
    "json-body": JsonBody,
    "mcp-param": McpParam,
    "response-header": ResponseHeader,
    "response-cookie": ResponseCookie,
    "location": Location,
    "json-response": JsonResponse,
}
_SIGNED = "signed-cookie"
_ALLOWED = f"KIND:WHERE with a kind of {', '.join([*_KINDS, _SIGNED])}"


def _yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _ends(text: str) -> list[str | int]:
    return [int(one) if one.isdecimal() else one for one in text.split("+")]


# What may follow a source, and how it is read.
_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "ttl": (float, "seconds"),
    "place": (_yes, "yes or no"),
    "missing": (int, "a status from 400 to 599"),
    "release_on": (_ends, "any of delete, 404 and 410, with + between them"),
    "limit": (int, "bytes"),
    "prefix": (str, "what the uid begins with"),
    "path": (str, "a path"),
    "max_age": (int, "seconds"),
    "secure": (_yes, "yes or no"),
    "same_site": (str, "lax, strict or none"),
    "partitioned": (_yes, "yes or no"),
    "domain": (str, "the name of a host"),
}


def sources_from(text: str, *, cookie_secrets: Sequence[str] = ()) -> list[UidSource]:
    """Return the sources that a text names, in their order.

    A source is ``KIND:WHERE``: a kind is the name of a class in small letters with hyphens, so ``json-body:/id`` is
    ``JsonBody("/id")``; ``subprotocol:2`` counts from 0, and ``subprotocol:room-`` is a prefix. What follows it with an
    equals sign is an option of it: ``header:mcp-session-id,ttl=1800,place=no``.

    Args:
        text: the sources and their options, with commas between them.
        cookie_secrets: of ``signed-cookie:NAME``, the newest first.

    Raises:
        ConfigError: if it names no source, or something that there is not.
        InvalidArgumentError: naming the part of a source that is of a wrong type or range.

    """
    sources: list[UidSource] = []
    made: tuple[Callable[..., UidSource], str] | None = None
    options: dict[str, Any] = {}

    def finish() -> None:
        if made is not None:
            sources.append(_make(*made, options))
            options.clear()

    for part in text.split(","):
        name, equals, value = part.partition("=")
        if made is not None and equals and name in _OPTIONS:
            options[name] = _option(part, name, value)
            continue
        finish()
        made = _kind(part, cookie_secrets)
    finish()
    return sources


def _kind(part: str, cookie_secrets: Sequence[str]) -> tuple[Callable[..., UidSource], str]:
    kind, colon, where = part.partition(":")
    make = functools.partial(SignedCookie, secrets=cookie_secrets) if kind == _SIGNED else _KINDS.get(kind)
    if make is None or not colon or not where:
        raise ConfigError("uid", part, _ALLOWED)
    return make, where


def _option(part: str, name: str, value: str) -> Any:
    read, allowed = _OPTIONS[name]
    try:
        return read(value)
    except (ValueError, KeyError):
        raise ConfigError("uid", part, f"{name}= with {allowed}") from None


def _make(make: Callable[..., UidSource], where: str, options: dict[str, Any]) -> UidSource:
    try:
        return make(where, **options)
    except TypeError as error:
        raise ConfigError("uid", f"{where},{','.join(options)}", f"options of that kind of source ({error})") from None
