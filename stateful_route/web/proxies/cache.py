"""What nginx keeps an answer of who decides by: all of a request that says which uid it is for.

A map of nginx takes the value of a parameter or a cookie, if it is plain and comes once; otherwise all of the query, or
all cookies, are the key. nginx's own ``$cookie_`` takes the first one, in any case of letters, and its ``$arg_`` and
``$args`` are those of the question, which has none.
"""

from __future__ import annotations

import re

from stateful_route.errors import ConfigError

_PATH = "$stateful_path"
_SIMPLE = re.compile(r"[A-Za-z0-9_]+")
_BY_KIND = {"path": _PATH, "location": _PATH, "subprotocol": "$http_sec_websocket_protocol"}
_BY_HEADER = {"header", "response-header"}
_BY_COOKIE = {"cookie", "response-cookie", "signed-cookie"}
_IN_BODIES = {"json-body", "json-response"}  # which who decides does not see
_BETWEEN = "\\n"  # which is in no part of a key: what is in one cannot be shifted into another
# Of a piece that is another one; a name that is percent-encoded may be that of the source.
_PARAMETER = "(?!{name}(?:[=&]|$))[^&;%+#=]*(?:=[^&;#]*)?"
_COOKIE = r"(?!\s*{name}\s*=)[^;]*"
_MAP = """\
    map {source} {variable} {{
        default {source};
        "~^{other}(?:{mark}{other})*$" "";
        "~^(?:{other}{mark})*\\s*({name}=[^&;#\\x22]*)(?:{mark}{other})*$" "$1";
    }}"""


def cache_key(uid: str) -> tuple[str, list[str]]:
    """Return the key, in variables of nginx, for sources as they are spelled, and the maps that make them.

    Raises:
        ConfigError: if one of them looks at something else.

    """
    parts = (part.partition(":") for part in uid.split(",") if ":" in part.partition("=")[0])
    maps: list[str] = []
    found = [_variable(kind, where, maps) for kind, _, where in parts]
    return _BETWEEN.join(dict.fromkeys(one for one in found if one)), maps


def _variable(kind: str, where: str, maps: list[str]) -> str:
    if kind in _IN_BODIES:
        return ""
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    if kind in _BY_HEADER and _SIMPLE.fullmatch(where.replace("-", "_")):
        return f"$http_{where.lower().replace('-', '_')}"
    if kind in _BY_COOKIE:
        return _mapped("$http_cookie", where, ";", _COOKIE, maps)
    if kind == "query":
        return _mapped("$stateful_args", where, "&", _PARAMETER, maps)
    raise ConfigError("keep", kind, "0 with this source: nginx does not see what it looks at")


def _mapped(source: str, name: str, mark: str, other: str, maps: list[str]) -> str:
    if not _SIMPLE.fullmatch(name):
        return source
    variable = f"$stateful_key_{len(maps)}"
    other = other.format(name=name)
    maps.append(_MAP.format(source=source, variable=variable, mark=mark, other=other, name=name))
    return variable
