"""What nginx keeps an answer of who decides by: all of a request that says which uid it is for."""

from __future__ import annotations

import re

from stateful_route.errors import ConfigError

_PATH = "$stateful_path"
_SIMPLE = re.compile(r"[A-Za-z0-9_]+")
_BY_KIND = {"path": _PATH, "location": _PATH, "subprotocol": "$http_sec_websocket_protocol"}
_BY_HEADER = {"header", "response-header"}
_BY_COOKIE = {"cookie", "response-cookie", "signed-cookie"}
_IN_BODIES = {"json-body", "json-response"}  # which who decides does not see


def cache_key(uid: str) -> str:
    """Return the key, in variables of nginx, for sources as they are spelled.

    Raises:
        ConfigError: if one of them looks at something else.

    """
    parts = (part.partition(":") for part in uid.split(",") if ":" in part.partition("=")[0])
    found = [_variable(kind, where) for kind, _, where in parts]
    return "|".join(dict.fromkeys(one for one in found if one))


def _variable(kind: str, where: str) -> str:
    if kind in _IN_BODIES:
        return ""
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    if kind in _BY_HEADER and _SIMPLE.fullmatch(where.replace("-", "_")):
        return f"$http_{where.lower().replace('-', '_')}"
    if kind in _BY_COOKIE:
        return f"$cookie_{where}" if _SIMPLE.fullmatch(where) else "$http_cookie"
    if kind == "query":
        return f"$arg_{where}" if _SIMPLE.fullmatch(where) else "$args"
    raise ConfigError("keep", kind, "0 with this source: nginx does not see what it looks at")
