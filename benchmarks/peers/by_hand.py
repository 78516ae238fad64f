"""What a team writes by hand: a client of Redis, a ``TTLCache`` in front of it, and a channel for what has moved.

A miss is one ``SET ... NX GET``, a pod for a new uid is chosen at random. There are no pods that die, no epochs, and
an answer that was in flight while its uid moved is cached all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import attrs
from cachetools import TTLCache
from redis.asyncio import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

_CHANNEL = "by-hand:moved"
_TTL = 600


@attrs.define
class ByHand:
    """Routes over the client that gave ``place`` and ``set_pod``."""

    place: Callable[[str, int], Awaitable[Any]]
    set_pod: Callable[[str, int], Awaitable[Any]]
    pods: int
    cache: TTLCache[str, int]
    hits: int = 0

    async def compute(self, uid: str) -> int:
        """Return the pod of a uid."""
        try:
            pod = self.cache[uid]
        except KeyError:
            pod = self.cache[uid] = await self._place(uid)
        else:
            self.hits += 1
        return pod

    async def move(self, uid: str, pod_index: int) -> None:
        """Give a uid to a pod, and tell everybody."""
        await self.set_pod(uid, pod_index)

    def forget(self, uid: str) -> None:
        """Drop a uid that has moved."""
        self.cache.pop(uid, None)

    async def _place(self, uid: str) -> int:
        chosen = random.randrange(self.pods)
        before = await self.place(uid, chosen)
        return chosen if before is None else int(before)


@contextlib.asynccontextmanager
async def _with_redis_py(port: int, pods: int, size: int, ttl: float, callers: int) -> AsyncIterator[ByHand]:
    async with Redis.from_url(f"redis://127.0.0.1:{port}", max_connections=callers + 2) as redis:

        async def place(uid: str, pod: int) -> Any:
            return await redis.set(f"by-redis-py:{uid}", pod, nx=True, get=True, ex=_TTL)

        async def set_pod(uid: str, pod: int) -> None:
            pipeline: Any = redis.pipeline()
            await pipeline.set(f"by-redis-py:{uid}", pod, ex=_TTL).publish(_CHANNEL, uid).execute()

        router = ByHand(place, set_pod, pods, TTLCache(size, ttl))

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    router.forget(message["data"].decode())

        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(_CHANNEL)
            listening = asyncio.create_task(listen())
            try:
                yield router
                assert not listening.done()
            finally:
                listening.cancel()
                await asyncio.wait([listening])


@contextlib.asynccontextmanager
async def _with_glide(port: int, pods: int, size: int, ttl: float, callers: int) -> AsyncIterator[ByHand]:
    import glide  # noqa: PLC0415 - it may be missing

    glide.Logger.set_logger_config(glide.LogLevel.ERROR)
    configuration: Any = glide.GlideClientConfiguration
    client: Any = None

    async def place(uid: str, pod: int) -> Any:
        return await client.set(
            f"by-glide:{uid}",
            str(pod),
            conditional_set=glide.ConditionalChange.ONLY_IF_DOES_NOT_EXIST,
            expiry=glide.ExpirySet(glide.ExpiryType.SEC, _TTL),
            return_old_value=True,
        )

    async def set_pod(uid: str, pod: int) -> None:
        batch = glide.Batch(is_atomic=True)
        batch.set(f"by-glide:{uid}", str(pod), expiry=glide.ExpirySet(glide.ExpiryType.SEC, _TTL))
        batch.publish(uid, f"{_CHANNEL}:glide")
        await client.exec(batch, raise_on_error=True)

    router = ByHand(place, set_pod, pods, TTLCache(size, ttl))
    loop = asyncio.get_running_loop()

    def heard(message: Any, _context: Any) -> None:
        loop.call_soon_threadsafe(router.forget, message.message.decode())

    client = await glide.GlideClient.create(
        configuration(
            [glide.NodeAddress("127.0.0.1", port)],
            request_timeout=5000,
            inflight_requests_limit=callers * 2,
            pubsub_subscriptions=configuration.PubSubSubscriptions(
                {configuration.PubSubChannelModes.Exact: {f"{_CHANNEL}:glide"}}, heard, None
            ),
        )
    )
    try:
        yield router
    finally:
        await client.close()


@attrs.frozen
class Way:
    """One way to write it: its name, what it imports, and what opens it."""

    name: str
    module: str
    open: Callable[[int, int, int, float, int], AbstractAsyncContextManager[ByHand]]


WAYS = (
    Way("redis.asyncio + TTLCache", "redis", _with_redis_py),
    Way("valkey-glide + TTLCache", "glide", _with_glide),
)
