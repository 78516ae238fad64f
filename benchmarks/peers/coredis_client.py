"""coredis, with its defaults: it multiplexes."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from benchmarks.peers import Call, Place, ScriptPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.store.transport.script import ScriptCall


@contextlib.asynccontextmanager
async def _open(place: Place) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    import coredis  # noqa: PLC0415 - it may be missing

    async with coredis.Redis(host=place.host, port=place.ports[0]) as redis:
        yield functools.partial(_bound, redis)


@contextlib.asynccontextmanager
async def _open_cluster(place: Place) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    import coredis  # noqa: PLC0415 - it may be missing
    from coredis.connection import TCPLocation  # noqa: PLC0415 - the same

    nodes = [TCPLocation(place.host, port) for port in place.ports]
    async with coredis.RedisCluster(startup_nodes=nodes) as redis:
        yield functools.partial(_bound, redis)


def _bound(redis: Any, call: ScriptCall) -> Call:
    return functools.partial(redis.evalsha, call.script.sha, list(call.keys), list(call.args))


COREDIS = ScriptPeer(name="coredis", module="coredis", open=_open, open_cluster=_open_cluster)
