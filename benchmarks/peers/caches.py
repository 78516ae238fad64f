"""Caches in memory that the Python world uses, each filled with the pods of many uids."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache

from benchmarks.peers import CachePeer, Filling, Lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def _open_cachetools(filling: Filling) -> AsyncIterator[Lookup]:
    cache: TTLCache[tuple[str, str, str], int] = TTLCache(filling.size, filling.ttl)
    for uid in filling.uids():
        cache[filling.namespace, uid, filling.service] = filling.pod_index

    async def lookup(namespace: str, uid: str, service_name: str) -> int:
        return cache[namespace, uid, service_name]

    yield lookup


@contextlib.asynccontextmanager
async def _open_async_lru(filling: Filling) -> AsyncIterator[Lookup]:
    from async_lru import alru_cache  # noqa: PLC0415 - it may be missing

    @alru_cache(maxsize=filling.size, ttl=filling.ttl)
    async def lookup(namespace: str, uid: str, service_name: str) -> int:
        return filling.pod_index

    for uid in filling.uids():
        await lookup(filling.namespace, uid, filling.service)
    yield lookup
    assert lookup.cache_info().currsize > 0
    await lookup.cache_close()


@contextlib.asynccontextmanager
async def _open_cashews(filling: Filling) -> AsyncIterator[Lookup]:
    import cashews  # noqa: PLC0415 - it may be missing

    cache = cashews.Cache()
    cache.setup("mem://", size=filling.size)
    for uid in filling.uids():
        await cache.set(_text(filling.namespace, uid, filling.service), filling.pod_index, expire=filling.ttl)

    async def lookup(namespace: str, uid: str, service_name: str) -> int:
        return _found(await cache.get(_text(namespace, uid, service_name)))

    yield lookup
    await cache.close()


@contextlib.asynccontextmanager
async def _open_aiocache(filling: Filling) -> AsyncIterator[Lookup]:
    import aiocache  # noqa: PLC0415 - it may be missing

    cache = aiocache.SimpleMemoryCache()
    for uid in filling.uids():
        await cache.set(_text(filling.namespace, uid, filling.service), filling.pod_index, ttl=filling.ttl)

    async def lookup(namespace: str, uid: str, service_name: str) -> int:
        return _found(await cache.get(_text(namespace, uid, service_name)))

    yield lookup
    await cache.clear()  # with it, the timer that it holds for each key
    await cache.close()


def _text(namespace: str, uid: str, service_name: str) -> str:
    """Return the key for a cache whose keys are strings."""
    return f"{namespace}:{uid}:{service_name}"


def _found(value: Any) -> int:
    if value is None:
        raise LookupError("not cached")
    pod_index: int = value
    return pod_index


TTL_CACHE = CachePeer(name="TTLCache", module="cachetools", open=_open_cachetools)
ASYNC_LRU = CachePeer(name="async_lru", module="async_lru", open=_open_async_lru)
CASHEWS = CachePeer(name="cashews", module="cashews", open=_open_cashews)
AIOCACHE = CachePeer(name="aiocache", module="aiocache", open=_open_aiocache)

OTHERS = (ASYNC_LRU, CASHEWS, AIOCACHE)
