"""What does not belong in Redis, or may be deleted from it, and ids that nobody should have."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from stateful_route import BaseConfig, InvalidArgumentError, ServerInfo, StatefulRoute, StoreProtocolError
from stateful_route.store import LinkKey, Outcome, PodLife
from stateful_route.store.redis.keys import KeySpace

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from tests.faults.conftest import Measured

KEYS = KeySpace()
GARBAGE = (b"", b"\xff\xfe", b"nan", b"-1", b"1 2", b"x" * 1_000_000, b"1 nan nan nan nan nan")


def info(namespace: str, index: int) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)


@pytest.mark.scenario(22)
async def test_hostile_ids(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Of 100,000 ids made of what has a meaning in keys no two share a key, and what is no id is refused."""
    random = Random(1)
    parts = "{}:%*?[]\\^ \t-\N{SNOWMAN}%7B%3A"

    def part() -> str:
        return "".join(random.choice(parts) for _ in range(random.randint(1, 6))).strip() or "x"

    triples = {(f"{namespace}{part()}", part(), part()) for _ in range(120_000)}
    keys = {KEYS.link(*triple) for triple in triples}
    refused = 0
    async with StatefulRoute.from_url(shared_server.url, BaseConfig(call_deadline=10.0)) as route:
        for number, triple in enumerate(sorted(triples)[:300]):
            await route.store.claim(LinkKey(*triple), PodLife(number, 1))
        found = [await route.store.get_link(LinkKey(*triple)) for triple in sorted(triples)[:300]]
        async with route.client() as client:
            for uid in ("", " ", "x" * 513, "\ud800", "\t\n"):
                with pytest.raises(InvalidArgumentError):
                    await client.compute_linked_pod(namespace, uid, "room")
                refused += 1

    measured(f"{len(triples) - len(keys)} collisions of {len(triples)}, {refused} of 5 refused")
    assert len(keys) == len(triples) > 100_000
    assert list(range(300)) == [link.pod_index for link in found if link]


@pytest.mark.scenario(24)
async def test_poisoned_pod(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Entries of pods that cannot be read are left out, and the other pods get all uids."""
    config = BaseConfig(namespace=namespace, lease=30.0, refresh=0.1, call_deadline=10.0)
    key = KEYS.pods(namespace, "room")
    async with StatefulRoute.from_url(shared_server.url, config) as route, Redis.from_url(shared_server.url) as redis:
        async with route.server(info(namespace, 0)), route.server(info(namespace, 1)):
            for number, garbage in enumerate(GARBAGE):
                await redis.hset(key, str(10 + number), garbage)
            async with route.client() as client:
                routed = [await client.compute_linked_pod("", f"user-{number}", "room") for number in range(100)]

    measured(f"{sum(pod in {0, 1} for pod in routed)} of 100 routed")
    assert {0, 1} == set(routed)


@pytest.mark.scenario(25)
async def test_poisoned_link(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """A link that cannot be read is a typed error to who reads it, and a placement writes over it."""
    others = 0
    async with StatefulRoute.from_url(shared_server.url, BaseConfig(call_deadline=10.0)) as route:
        async with Redis.from_url(shared_server.url) as redis:
            for number, garbage in enumerate(GARBAGE):
                key = LinkKey(namespace, f"user-{number}", "room")
                await redis.set(KEYS.link(namespace, key.uid, "room"), garbage)
                with pytest.raises(StoreProtocolError):
                    await route.store.get_link(key)
                placed = await route.store.place(key, PodLife(0, 1), 60.0)
                others += placed.outcome is not Outcome.OVERWRITTEN

    measured(f"{others} other errors or answers of {2 * len(GARBAGE)} calls")
    assert 0 == others


@pytest.mark.scenario(26)
async def test_eviction(own_server: LocalServer, measured: Measured, caplog: pytest.LogCaptureFixture) -> None:
    """A route to a server that may delete keys by itself says so when it is opened, and one to another does not."""
    with caplog.at_level(logging.WARNING, "stateful_route"):
        async with StatefulRoute.from_url(own_server.url):
            quiet = len(caplog.records)
        own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        async with StatefulRoute.from_url(own_server.url):
            warnings = [record.getMessage() for record in caplog.records]

    measured(f"{len(warnings)} warning")
    assert 0 == quiet
    assert 1 == len(warnings)
    assert "noeviction" in warnings[0]
