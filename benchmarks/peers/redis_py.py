"""redis.asyncio: with its defaults, without time-outs, and with a pool whose callers wait."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode

from benchmarks.peers import Call, Place, ScriptPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.store.transport.script import ScriptCall

_WAITING_POOL = 50


@contextlib.asynccontextmanager
async def _open(place: Place, **options: Any) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    url = f"redis://{place.host}:{place.ports[0]}"
    async with Redis.from_url(url, max_connections=place.callers + 1, **options) as redis:
        yield functools.partial(_bound, redis)


@contextlib.asynccontextmanager
async def _open_blocking(place: Place) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    pool = BlockingConnectionPool(host=place.host, port=place.ports[0], max_connections=_WAITING_POOL, timeout=None)
    async with Redis.from_pool(pool) as redis:
        yield functools.partial(_bound, redis)


@contextlib.asynccontextmanager
async def _open_cluster(place: Place) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    nodes = [ClusterNode(place.host, port) for port in place.ports]
    async with RedisCluster(startup_nodes=nodes, max_connections=place.callers + 1) as redis:
        yield functools.partial(_bound, redis)


def _bound(redis: Redis | RedisCluster, call: ScriptCall) -> Call:
    return functools.partial(redis.evalsha, call.script.sha, len(call.keys), *call.keys, *call.args)


REDIS_PY = ScriptPeer(name="redis.asyncio", module="redis", open=_open, open_cluster=_open_cluster)
REDIS_PY_UNTIMED = ScriptPeer(
    name="redis.asyncio, no time-out", module="redis", open=functools.partial(_open, socket_timeout=None)
)
REDIS_PY_BLOCKING = ScriptPeer(name="redis.asyncio, pool of 50", module="redis", open=_open_blocking)
