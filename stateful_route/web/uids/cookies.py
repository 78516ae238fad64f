"""Cookies, read as a browser sends them and an application sets them: whatever they hold, nothing raises."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""The name of a header or a cookie: RFC 9110, section 5.6.2."""

VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")
"""What a cookie may hold without quotes: RFC 6265, section 4.1.1."""

_ESCAPED = re.compile(r"\\([0-3][0-7][0-7]|.)", re.DOTALL)
# The cookie is to be dropped at once: no time left, or one that passed long ago.
_DROPPED = re.compile(
    r";\s*(?:max-age\s*=\s*(?:-|0+\s*(?:;|$))|expires\s*=[^;]*[ -](?:19[0-9]{2}|70)\b)", re.IGNORECASE
)
_MAX_AGE = re.compile(r";\s*max-age\s*=\s*[1-9]", re.IGNORECASE)


def pairs(headers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give name and value of each cookie of ``Cookie`` headers, in their order; skip what has no name."""
    for header in headers:
        for piece in header.split(";"):
            name, equals, value = piece.partition("=")
            name = name.strip()
            if equals and name:
                value = value.strip()
                yield name, _unquoted(value) if value[:1] == '"' else value


def cookies_set(headers: Iterable[str]) -> dict[str, str]:
    """Return the cookies that ``Set-Cookie`` headers set, by name; the last one of a name counts.

    Those that are emptied or dropped (``Max-Age=0``, or an ``Expires`` before 2000) are not in it.
    """
    found: dict[str, str] = {}
    for header in headers:
        pair, _, rest = header.partition(";")
        name, equals, value = pair.partition("=")
        name = name.strip()
        value = value.strip()
        if equals and name:
            found[name] = "" if _is_dropped(f";{rest}") else _unquoted(value)
    return {name: value for name, value in found.items() if value}


def _is_dropped(attributes: str) -> bool:
    return _DROPPED.search(attributes) is not None and _MAX_AGE.search(attributes) is None


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':  # noqa: PLR2004 - the two quotes
        return value
    inner = value[1:-1]
    return _ESCAPED.sub(_unescaped, inner) if "\\" in inner else inner


def _unescaped(match: re.Match[str]) -> str:
    text = match[1]
    return chr(int(text, 8)) if len(text) > 1 else text
