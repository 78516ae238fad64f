"""Scripts that tests run over connections, without a store around them."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stateful_route.store.transport.script import Script
from stateful_route.store.transport.topology import Limits, open_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.store.transport.base import Connections


def script_of(name: str, source: str, args: tuple[str, ...] = (), *, writes: bool = True) -> Script:
    """Return a script of one key."""
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, ("key",), args, None, writes=writes, source=source, sha=sha)


SET = script_of("set", "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]", ("value",))
GET = script_of("get", "return redis.call('GET', KEYS[1])", writes=False)
APPEND = script_of("append", "return redis.call('APPEND', KEYS[1], ARGV[1])", ("value",))
FAIL = script_of("fail", "redis.call('SET', KEYS[1], '1') return redis.call('LPUSH', KEYS[1], 'x')")


@asynccontextmanager
async def connections_at(url: str, deadline: float = 5.0, pending: int = 1000) -> AsyncIterator[Connections]:
    """Open the connections of a URL."""
    connections = await open_url(url, Limits(deadline, pending))
    try:
        yield connections
    finally:
        await connections.aclose()
