"""Another server becomes the primary, by order or because the old one died: no uid has two owners, no pod loses one.

The old primary may go on taking writes from who is connected to it. So a pod counts its lease only at the one that a
majority of the sentinels names, or of the primaries of a cluster, or to which a new connection leads; and nobody ends a
life at a primary that he has known for less than the lease of that life.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from stateful_route import BaseConfig, ServerInfo, StatefulRoute, StoreError
from stateful_route.errors import StoreUnavailableError
from stateful_route.store.redis.keys import KeySpace
from stateful_route.testing import cluster, local_server, sentinel_group
from tests.store.script_calls import connections_at
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stateful_route.embedded.server import LocalServer
    from stateful_route.server.owning.ownership import Ownership
    from tests.faults.conftest import Measured

LEASE = 2.0
CONFIG = BaseConfig(heartbeat=LEASE / 5, call_deadline=0.5)
UIDS = [f"user-{number}" for number in range(20)]

FailOver = tuple[str, "Callable[[], Awaitable[object]]"]
"""A URL, and what makes another server the primary and returns once all newcomers are led to it."""


@contextlib.asynccontextmanager
async def sentinels(namespace: str, *, killed: bool) -> AsyncIterator[FailOver]:
    """Sentinel names another one. Told to, it makes the old primary a replica only 8 s later, as it does by default."""
    with sentinel_group() as group:

        async def fail_over() -> None:
            if killed:
                group.primary.kill()
            else:
                for sentinel in group.sentinels:
                    sentinel.ask("SENTINEL", "DEBUG", "PUBLISH-PERIOD", "2000")
                order = ("SENTINEL", "FAILOVER", "mymaster")  # refused while the replica looks down, on a busy machine
                await eventually(lambda: group.sentinels[0].ask(*order) == "+OK", within=20.0)
            await eventually(lambda: group.elected() is group.replica, within=30.0)
            if not killed:
                assert "role:master" in group.primary.ask("INFO", "replication")

        yield group.url, fail_over


@contextlib.asynccontextmanager
async def a_cluster(namespace: str, *, killed: bool, order: tuple[str, ...] = ()) -> AsyncIterator[FailOver]:
    """The primary that has the table of the pods is followed by its replica."""
    with cluster(primaries=3, replicas=1) as nodes:
        key = KeySpace().pods(namespace, "room")
        shard = key_slot(key.encode()) * 3 // 16384
        primary, replica = nodes.nodes[shard], nodes.nodes[3 + shard]
        others = [node for node in nodes.nodes[:3] if node is not primary]

        async def fail_over() -> None:
            if killed:
                primary.kill()
            else:
                assert "+OK" == replica.ask("CLUSTER", "FAILOVER", *order)
            moved = f":{replica.port}"
            await eventually(lambda: all(node.ask("GET", key).endswith(moved) for node in others), within=30.0)

        yield nodes.url, fail_over


@contextlib.asynccontextmanager
async def a_name(namespace: str, *, killed: bool) -> AsyncIterator[FailOver]:
    """Somebody promotes a replica by hand, and has a name lead to it: open connections stay with the old one."""
    sync = ("--repl-diskless-sync-delay", "0")
    with local_server(*sync, tcp=True) as primary:
        following = ("--replicaof", "127.0.0.1", str(primary.port))
        with local_server(*sync, *following, tcp=True) as replica:
            await eventually(lambda: "master_link_status:up" in replica.ask("INFO", "replication"), within=30.0)
            leads_to = primary.port

            async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(OSError):
                    while data := await reader.read(65536):
                        writer.write(data)
                writer.close()

            async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(OSError, asyncio.CancelledError):  # asyncio logs it if this is cancelled
                    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", leads_to)
                    await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))
                writer.close()

            async def fail_over() -> None:
                nonlocal leads_to
                if killed:
                    primary.kill()
                assert "+OK" == replica.ask("REPLICAOF", "NO", "ONE")
                leads_to = replica.port

            async with await asyncio.start_server(connect, "127.0.0.1", 0) as name:
                yield f"redis://127.0.0.1:{name.sockets[0].getsockname()[1]}", fail_over


WAYS = {
    "Sentinel, ordered": lambda namespace: sentinels(namespace, killed=False),
    "Sentinel, killed": lambda namespace: sentinels(namespace, killed=True),
    "Cluster, ordered": lambda namespace: a_cluster(namespace, killed=False),
    "Cluster, taken over": lambda namespace: a_cluster(namespace, killed=False, order=("TAKEOVER",)),
    "Cluster, killed": lambda namespace: a_cluster(namespace, killed=True),
    "a name, moved": lambda namespace: a_name(namespace, killed=False),
    "a name, killed": lambda namespace: a_name(namespace, killed=True),
}


@pytest.mark.scenario(30)
@pytest.mark.parametrize("way", WAYS)
async def test_living_pods_keep_their_uids(way: str, namespace: str, measured: Measured) -> None:
    """Who comes after a failover takes no uid of a living pod, and each uid has one owner at a time."""

    def pod(index: int) -> ServerInfo:
        return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)

    async with (
        WAYS[way](namespace) as (url, fail_over),
        StatefulRoute.from_url(url, CONFIG) as route,
        route.server(pod(0)) as first,
        route.server(pod(1)) as second,
    ):
        held = {uid: await (first, second)[i % 2].claim(uid) for i, uid in enumerate(UIDS)}
        await eventually(lambda: first.healthy and second.healthy)
        began = time.monotonic()
        await fail_over()
        took = time.monotonic() - began
        taken: dict[str, Ownership] = {}
        twice = without = 0.0
        async with (
            StatefulRoute.from_url(url, CONFIG) as late,
            late.server(pod(2)) as newcomer,
            late.client() as client,
        ):

            async def take(uid: str) -> None:
                """Do what a gateway and a pod do for a request."""
                with contextlib.suppress(StoreError):
                    if await client.compute_linked_pod(namespace, uid, "room") == 2:
                        taken[uid] = await newcomer.claim(uid)

            looked_at = time.monotonic()
            end = looked_at + 2.5 * LEASE
            while looked_at < end:
                await asyncio.gather(*(take(uid) for uid in UIDS if uid not in taken))
                await asyncio.sleep(0.05)
                before, looked_at = looked_at, time.monotonic()
                if any(taken[uid].is_owned() and held[uid].is_owned() for uid in taken):
                    twice += looked_at - before
                if not all(one.is_owned() for one in held.values()):
                    without += looked_at - before
            kept = sum(bool(first.owned(uid) or second.owned(uid)) for uid in UIDS)

    measured(
        f"{way}: another primary after {took:.1f} s; {twice:.1f} s with two owners, {kept} of {len(UIDS)} uids kept; "
        f"not owned for {without:.1f} s after it, at a lease of {LEASE:g} s"
    )
    assert (0.0, len(UIDS)) == (twice, kept)


async def test_no_majority_of_sentinels(namespace: str) -> None:
    """A pod that hears one of three sentinels owns nothing after its lease, and its uids again once two answer."""
    info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    with sentinel_group() as group:
        async with StatefulRoute.from_url(group.url, CONFIG) as route, route.server(info) as server:
            held = await server.claim("alice")
            for sentinel in group.sentinels[:2]:
                sentinel.pause()
            await eventually(lambda: not held.is_owned(), within=10 * LEASE)
            group.sentinels[0].resume()
            await eventually(held.is_owned, within=10 * LEASE)
            group.sentinels[1].resume()


async def test_one_sentinel_in_the_url(namespace: str) -> None:
    """A URL that names one sentinel leads to the others, as that one knows them: a majority is asked."""
    with sentinel_group() as group:
        url = f"redis+sentinel://127.0.0.1:{group.sentinels[0].port}/mymaster"
        async with connections_at(url, 0.5) as connections:
            assert 0.0 == await connections.prove(namespace)
            group.sentinels[2].pause()
            assert 0.0 < await connections.prove(namespace)
            group.sentinels[1].pause()
            with pytest.raises(StoreUnavailableError, match="1 of 3 have answered"):
                await connections.prove(namespace)
            for sentinel in group.sentinels[1:]:
                sentinel.resume()


async def test_nothing_to_prove(own_server: LocalServer, namespace: str) -> None:
    """A server that never had a replica is its own proof."""
    async with connections_at(own_server.url) as connections:
        assert float("inf") == await connections.prove(namespace)
