"""The store on a real server passes what every store has to, in every topology and through every client."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import settings
from redis.asyncio import Redis

from stateful_route.store.connections import connections_of
from stateful_route.store.keys import KeySpace
from stateful_route.store.redis_store import RedisStore
from stateful_route.store.topology import open_url
from stateful_route.testing import StoreConformance, StoreKit, cluster, link_machine, local_server
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.models import LinkKey
    from stateful_route.store.connections import RedisClient
    from stateful_route.store.embedded import LocalServer

DEADLINE = 5.0
KEYS = KeySpace()


def kit_over(client: RedisClient) -> StoreKit:
    """Return a kit for the store over a client: what it does behind the store's back goes through the client too."""
    store = RedisStore(connections_of(client, DEADLINE, 64))
    redis: Any = client  # the commands of Redis and of RedisCluster have the same names, and no common type

    async def poison_link(key: LinkKey) -> None:
        await redis.set(KEYS.link(key.namespace, key.uid, key.service_name), "not a link")

    async def poison_pod(namespace: str, service_name: str, pod_index: int) -> None:
        await redis.hset(KEYS.pods(namespace, service_name), str(pod_index), "not a heartbeat")

    async def expire(key: LinkKey) -> None:
        link = KEYS.link(key.namespace, key.uid, key.service_name)
        index = KEYS.index(key.namespace, key.uid)
        await redis.pexpire(link, 1)
        # The index has the deadline too: a millisecond after 1970 is one that has passed.
        entry = await redis.hget(index, key.service_name)
        pod = entry.split(b" " if isinstance(entry, bytes) else " ")[0]
        await redis.hset(index, key.service_name, (pod.decode() if isinstance(pod, bytes) else pod) + " 1")
        await eventually(lambda: gone(link))

    async def gone(link: str) -> bool:
        return not await redis.exists(link)

    return StoreKit(store=store, advance=anyio.sleep, poison_link=poison_link, poison_pod=poison_pod, expire=expire)


@asynccontextmanager
async def kit_at(url: str) -> AsyncIterator[StoreKit]:
    """Provide a kit for the store at a URL."""
    opened = await open_url(url, 64, DEADLINE)
    try:
        yield kit_over(opened.client)
    finally:
        await opened.close()


class TestOneServer(StoreConformance):
    """The store on one server does what every store has to."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store on one server."""
        async with kit_at(shared_server.url) as kit:
            yield kit


class TestBorrowedClient(StoreConformance):
    """The store does the same over a client of the application that decodes replies and speaks the newer protocol."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store over a client with settings of its own."""
        async with Redis.from_url(shared_server.url, decode_responses=True, protocol=3) as client:
            yield kit_over(client)


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """Run a cluster for all tests that need one."""
    with cluster(primaries=3) as nodes:
        yield nodes.url


class TestCluster(StoreConformance):
    """The store on a cluster does what every store has to."""

    @pytest.fixture
    async def store_kit(self, cluster_url: str) -> AsyncIterator[StoreKit]:
        """Provide the store on a cluster."""
        async with kit_at(cluster_url) as kit:
            yield kit


@asynccontextmanager
async def own_server_kit() -> AsyncIterator[StoreKit]:
    """Provide the store on a server of its own, for the state machine, which takes no fixtures."""
    with local_server() as own:
        async with kit_at(own.url) as kit:
            yield kit


TestModel = link_machine(own_server_kit).TestCase
TestModel.settings = settings(TestModel.settings, max_examples=40, stateful_step_count=50, deadline=None)
