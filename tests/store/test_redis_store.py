"""The store on a real server passes what every store has to, in every topology and through every client."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import settings
from redis.asyncio import Redis, RedisCluster

from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport import resp
from stateful_route.store.transport.topology import Limits, open_client, open_url
from stateful_route.testing import StoreConformance, StoreKit, cluster, link_machine, local_server
from tests.store.cross_section import CrossSection
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.links import LinkKey
    from stateful_route.store.transport.topology import RedisClient

DEADLINE = 5.0
HISTORY = 5  # changes of a link that are kept by the stores that keep any
KEYS = KeySpace()


def kit_of(store: RedisStore, client: RedisClient, history: int = 0) -> StoreKit:
    """Return a kit for a store that keeps so much; what is done behind its back goes through the client."""
    redis: Any = client  # the commands of Redis and of RedisCluster have the same names, and no common type

    async def poison_link(key: LinkKey) -> None:
        await redis.set(KEYS.link(key.namespace, key.uid, key.service_name), "not a link")

    async def poison_pod(namespace: str, service_name: str, pod_index: int) -> None:
        await redis.hset(KEYS.pods(namespace, service_name), str(pod_index), "not a heartbeat")

    async def expire(key: LinkKey) -> None:
        link = KEYS.link(key.namespace, key.uid, key.service_name)
        await redis.pexpire(link, 1)
        await eventually(lambda: gone(link))

    async def gone(link: str) -> bool:
        return not await redis.exists(link)

    return StoreKit(
        store=store,
        advance=anyio.sleep,
        poison_link=poison_link,
        poison_pod=poison_pod,
        expire=expire,
        history=history,
    )


@asynccontextmanager
async def kit_at(url: str, history: int = 0) -> AsyncIterator[StoreKit]:
    """Provide a kit for the store at a URL."""
    connections = await open_url(url, Limits(DEADLINE, pending=64))
    async with aclosing(RedisStore(connections, history=history)) as store, client_at(url) as client:
        yield kit_of(store, client, history)


def client_at(url: str) -> Redis | RedisCluster:
    """Return a client of redis-py for a URL of ours."""
    if url.startswith("redis+cluster"):
        host, port = url.removeprefix("redis+cluster://").split(",")[0].split(":")
        return RedisCluster(host=host, port=int(port))
    return Redis.from_url(url)


class TestOneServer(StoreConformance):
    """The store on one server does what every store has to."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store on one server."""
        async with kit_at(shared_server.url) as kit:
            yield kit


class TestBorrowedClient(CrossSection):
    """The store does the same over a client of the application that decodes replies and speaks the newer protocol."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store over a client with settings of its own."""
        async with Redis.from_url(shared_server.url, decode_responses=True, protocol=3) as client:
            async with aclosing(RedisStore(open_client(client, Limits(DEADLINE, 64)), history=HISTORY)) as store:
                yield kit_of(store, client, HISTORY)


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """Run a cluster for all tests that need one."""
    with cluster(primaries=3) as nodes:
        yield nodes.url


class TestCluster(StoreConformance):
    """The store on a cluster does what every store has to."""

    @pytest.fixture
    async def store_kit(self, cluster_url: str) -> AsyncIterator[StoreKit]:
        """Provide the store on a cluster; it keeps histories."""
        async with kit_at(cluster_url, HISTORY) as kit:
            yield kit


class TestBorrowedCluster(CrossSection):
    """The store does the same over a cluster client of the application."""

    @pytest.fixture
    async def store_kit(self, cluster_url: str) -> AsyncIterator[StoreKit]:
        """Provide the store over a client of a cluster."""
        async with client_at(cluster_url) as client:
            async with aclosing(RedisStore(open_client(client, Limits(DEADLINE, 64)))) as store:
                yield kit_of(store, client)


class TestWithoutHiredis(CrossSection):
    """The store does the same where hiredis is not installed."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreKit]:
        """Provide the store with what stands in for hiredis."""
        monkeypatch.setattr(resp, "hiredis", None)
        monkeypatch.setattr(resp, "pack", resp.pack_in_python)
        async with kit_at(shared_server.url) as kit:
            yield kit


class TestNewerProtocol(CrossSection):
    """The store does the same over RESP3, if the URL says so."""

    @pytest.fixture
    async def store_kit(self, shared_server: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store over the newer protocol; it keeps histories."""
        async with kit_at(f"{shared_server.url}?protocol=3", HISTORY) as kit:
            yield kit


@asynccontextmanager
async def own_server_kit() -> AsyncIterator[StoreKit]:
    """Provide the store on a server of its own, for the state machine, which takes no fixtures."""
    with local_server() as own:
        async with kit_at(own.url, HISTORY) as kit:
            yield kit


TestModel = link_machine(own_server_kit).TestCase
TestModel.settings = settings(TestModel.settings, max_examples=40, stateful_step_count=50, deadline=None)
