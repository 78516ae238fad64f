"""Where a process is reached by its peers, as it is published with its heartbeats."""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

_TCP = re.compile(r"peer://(\[[0-9A-Za-z:.%_-]+\]|[^\[\]/:#?\s\0]+):([0-9]{1,5})")
_MOST_PORT = 65535
# More addresses than a service has processes at a time.
_REMEMBERED = 4096


@attrs.frozen(cache_hash=True)
class PeerAddress:
    """A TCP address or a unix socket, and the names of the keys that are accepted there.

    Attributes:
        host: a name or an IP address, without brackets; empty for a unix socket.
        port: from 1 to 65535; 0 for a unix socket.
        path: of the unix socket; empty for TCP.
        keys: names of keys; see ``keys.PeerKeys``.

    """

    host: str = ""
    port: int = 0
    path: str = ""
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.path:
            where = f"peer+unix://{self.path}"
        else:
            where = f"peer://[{self.host}]:{self.port}" if ":" in self.host else f"peer://{self.host}:{self.port}"
        return f"{where}#{','.join(self.keys)}"

    @classmethod
    def parse(cls, text: str | None) -> PeerAddress | None:
        """Return the address, or ``None`` if this is none: a pod without the middleware may have published it."""
        return None if text is None else _parse(text)


@lru_cache(_REMEMBERED)
def _parse(text: str) -> PeerAddress | None:
    where, _, names = text.partition("#")
    keys = tuple(filter(None, names.split(",")))
    if where.startswith("peer+unix:///") and "\0" not in where:
        return PeerAddress(path=where.removeprefix("peer+unix://"), keys=keys)
    match = _TCP.fullmatch(where)
    if match is None or not 0 < int(match[2]) <= _MOST_PORT:
        return None
    return PeerAddress(match[1].strip("[]"), int(match[2]), keys=keys)
