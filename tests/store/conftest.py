"""What tests of the store share: a client of redis-py to look at what is stored, and a store that borrows it."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer


@pytest.fixture
async def redis(shared_server: LocalServer) -> AsyncIterator[Any]:
    """Provide a client of the shared server, with strings for bytes."""
    async with Redis.from_url(shared_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[RedisStore]:
    """Provide a store over that client."""
    async with aclosing(RedisStore(open_client(redis, Limits(5.0, 8)))) as store:
        yield store
