"""Where a process is reached by its peers and by proxies, as it is published with its heartbeats.

``peer://10.0.0.7:40123#KEY,KEY,http=10.0.0.7:8000,name=room-0``: what has an equals sign is no name of a key. A release
that does not know it takes it for one of a key that it does not have.
"""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

_TCP = re.compile(r"peer://(\[[0-9A-Za-z:.%_-]+\]|[^\[\]/:#?\s\0]+):([0-9]{1,5})")
_NAME = re.compile(r"[0-9A-Za-z._-]{1,253}")
_HTTP = re.compile(r"(\[[0-9A-Za-z:.%_-]+\]|[0-9A-Za-z._-]+):([0-9]{1,5})")
_MOST_PORT = 65535
# More addresses than a service has processes at a time.
_REMEMBERED = 4096


@attrs.frozen(cache_hash=True)
class PeerAddress:
    """A TCP address or a unix socket, the names of the keys that are accepted there, and where proxies reach it.

    Attributes:
        host: a name or an IP address, without brackets; empty for a unix socket.
        port: from 1 to 65535; 0 for a unix socket.
        path: of the unix socket; empty for TCP.
        keys: names of keys; see ``keys.PeerKeys``.
        http: host and port at which the process speaks HTTP, for proxies; empty if it publishes none.
        name: of the process, for proxies that know it by that; empty if it publishes none.

    """

    host: str = ""
    port: int = 0
    path: str = ""
    keys: tuple[str, ...] = ()
    http: str = ""
    name: str = ""

    def __str__(self) -> str:
        if self.path:
            where = f"peer+unix://{self.path}"
        else:
            where = f"peer://[{self.host}]:{self.port}" if ":" in self.host else f"peer://{self.host}:{self.port}"
        more = [f"{key}={value}" for key, value in (("http", self.http), ("name", self.name)) if value]
        return f"{where}#{','.join((*self.keys, *more))}"

    @classmethod
    def parse(cls, text: str | None) -> PeerAddress | None:
        """Return the address, or ``None`` if this is none: a pod without the middleware may have published it."""
        return None if text is None else _parse(text)


def is_http_address(text: str) -> bool:
    """Whether this is a host and a port from 1 to 65535, of which a proxy can make a URL."""
    match = _HTTP.fullmatch(text)
    return match is not None and match[2].isascii() and 0 < int(match[2]) <= _MOST_PORT


def is_name(text: str) -> bool:
    """Whether this is a name that can be published: letters, digits, dots, hyphens and underscores."""
    return _NAME.fullmatch(text) is not None


@lru_cache(_REMEMBERED)
def _parse(text: str) -> PeerAddress | None:
    where, _, rest = text.partition("#")
    parts = list(filter(None, rest.split(",")))
    keys = tuple(part for part in parts if "=" not in part)
    said = dict(part.split("=", 1) for part in parts if "=" in part)
    http, name = said.get("http", ""), said.get("name", "")
    http, name = http if is_http_address(http) else "", name if is_name(name) else ""
    if where.startswith("peer+unix:///") and "\0" not in where:
        return PeerAddress(path=where.removeprefix("peer+unix://"), keys=keys, http=http, name=name)
    match = _TCP.fullmatch(where)
    if match is None or not 0 < int(match[2]) <= _MOST_PORT:
        return None
    return PeerAddress(match[1].strip("[]"), int(match[2]), keys=keys, http=http, name=name)
