"""Both drivers together, on a real server, as an application uses them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trustme
from redis.asyncio import Redis, RedisCluster, Sentinel

from stateful_route import (
    BaseConfig,
    ConfigError,
    LifecycleError,
    Link,
    LinkKind,
    NoRoutablePodError,
    NotOwnerError,
    RoutingState,
    ServerInfo,
    StatefulRoute,
    StoreProtocolError,
    StoreUnavailableError,
)
from stateful_route.store.redis.keys import KeySpace
from stateful_route.testing import cluster, local_server, sentinel_group
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stateful_route import ClientDriver, ServerDriver
    from stateful_route.embedded.server import LocalServer

SERVICE = "room"
FAST = BaseConfig(heartbeat=0.05, lease=1.0, refresh=0.05)


def config_of(namespace: str) -> BaseConfig:
    return attrs.evolve(FAST, namespace=namespace)


def roomy(namespace: str) -> BaseConfig:
    """Return settings with which a machine that stands still for a second makes no call late."""
    return attrs.evolve(FAST, namespace=namespace, lease=10.0, call_deadline=5.0)


def pod(namespace: str, pod_index: int) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)


@pytest.fixture
async def route(shared_server: LocalServer, namespace: str) -> AsyncIterator[StatefulRoute]:
    async with StatefulRoute.from_url(shared_server.url, config_of(namespace)) as opened:
        yield opened


@pytest.fixture
async def pods(route: StatefulRoute, namespace: str) -> AsyncIterator[list[ServerDriver]]:
    drivers = [route.server(pod(namespace, index)) for index in range(3)]
    for driver in drivers:
        await driver.start()
    yield drivers
    for driver in drivers:
        await driver.stop()


@pytest.fixture
async def client(route: StatefulRoute, pods: list[ServerDriver]) -> AsyncIterator[ClientDriver]:
    async with route.client() as started:
        yield started


async def test_many_callers(own_server: LocalServer, namespace: str) -> None:
    """Uids that many callers ask for at once are placed by a few scripts, and each caller gets its own answer."""
    uids = [f"user-{i}" for i in range(500)]
    async with Redis.from_url(own_server.url) as redis, contextlib.AsyncExitStack() as stack:
        config = attrs.evolve(config_of(namespace), lease=10.0, call_deadline=5.0)
        route = StatefulRoute.from_url(own_server.url, config)
        await stack.enter_async_context(route)
        for index in range(3):
            await stack.enter_async_context(route.server(pod(namespace, index)))
        client = await stack.enter_async_context(route.client())
        await client.pods("", SERVICE)
        await redis.config_resetstat()
        placed = await asyncio.gather(*(client.compute_linked_pod("", uid, SERVICE) for uid in uids))
        scripts = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        links = await route.store.get_links(namespace, uids, SERVICE)

    assert scripts < 60
    assert placed == [link.pod_index for link in links if isinstance(link, Link)]
    assert 140 < min(Counter(placed).values())


class TestPlacing:
    async def test_sticky(self, client: ClientDriver, route: StatefulRoute) -> None:
        """Every client routes a uid to the pod that it was first placed on."""
        uids = [f"user-{i}" for i in range(50)]
        first = [await client.compute_linked_pod("", uid, SERVICE) for uid in uids]
        async with route.client() as other:
            second = [await other.compute_linked_pod("", uid, SERVICE) for uid in uids]

        assert first == second

    async def test_spread(self, client: ClientDriver) -> None:
        """New uids spread over all pods, pod 0 too, though no heartbeat shows them yet."""
        placed = Counter([await client.compute_linked_pod("", f"user-{i}", SERVICE) for i in range(300)])

        assert {0, 1, 2} == set(placed)
        assert max(placed.values()) <= 110

    async def test_load_decides(self, client: ClientDriver, pods: list[ServerDriver]) -> None:
        """A pod with much more load gets no new uid while it is compared with others."""
        await pods[1].set_load_state(1_000_000)
        await eventually(lambda: loads_seen(client, SERVICE, 1, 1_000_000))
        placed = {await client.compute_linked_pod("", f"user-{i}", SERVICE) for i in range(50)}

        assert {0, 2} == placed

    async def test_race(self, route: StatefulRoute, pods: list[ServerDriver]) -> None:
        """Many clients that place one uid at the same time agree on its pod."""
        clients = [route.client() for _ in range(10)]
        for one in clients:
            await one.start()
        answers = await asyncio.gather(*(one.compute_linked_pod("", "alice", SERVICE) for one in clients))

        assert 1 == len(set(answers))

    async def test_batch(self, client: ClientDriver) -> None:
        """A batch places each uid once, and finds the ones that were there."""
        alice = await client.compute_linked_pod("", "alice", SERVICE)
        uids = [f"user-{i}" for i in range(1000)]
        by_pod = await client.batch_compute_linked_pod("", [*uids, "alice", "alice"], SERVICE)
        again = await client.batch_get_linked_pod("", [*uids, "nobody"], SERVICE)

        assert sorted([*uids, "alice"]) == sorted(uid for some in by_pod.values() for uid in some)
        assert "alice" in by_pod[alice]
        assert sorted(uids) == sorted(uid for some in again.values() for uid in some)

    async def test_no_pods(self, route: StatefulRoute, namespace: str) -> None:
        """Without a pod there is a clear error, and a pod that comes up is used at the next call."""
        async with route.client() as lonely:
            with pytest.raises(NoRoutablePodError, match="none was ever seen"):
                await lonely.compute_linked_pod("", "alice", SERVICE)
            async with route.server(pod(namespace, 7)):
                assert 7 == await lonely.compute_linked_pod("", "alice", SERVICE)

    async def test_new_pod(self, client: ClientDriver, route: StatefulRoute, namespace: str) -> None:
        """A pod that has just come up is known when it is asked for, and one that never was is not."""
        rooms = client.service(SERVICE)
        await rooms.pods()
        async with route.server(pod(namespace, 9)) as late:
            found = await rooms.pod(9)

        assert found is not None
        assert late.incarnation == found.incarnation
        assert await rooms.pod(10) is None

    async def test_view(self, client: ClientDriver, pods: list[ServerDriver]) -> None:
        """The view of a service gives links with their epoch, and the same epoch until the owner changes."""
        rooms = client.service(SERVICE)
        link = await rooms.route("alice")
        handle = await pods[link.pod_index].claim("alice")
        found = await rooms.find("alice")

        assert LinkKind.TEMPORARY is link.kind
        assert handle.epoch == link.epoch
        assert found is not None
        assert (LinkKind.PERSISTENT, link.epoch) == (found.kind, found.epoch)
        assert {0, 1, 2} == set(await rooms.pods())


async def loads_seen(client: ClientDriver, service: str, pod_index: int, load: int) -> bool:
    return (await client.service(service).pods())[pod_index].report.load == load


class TestRoutingState:
    async def test_announced(self, shared_server: LocalServer, namespace: str, pods: list[ServerDriver]) -> None:
        """A change of the routing state is in the store, and announced, when the call returns."""
        async with Redis.from_url(shared_server.url) as redis, redis.pubsub() as listener:
            await listener.subscribe(KeySpace().events(namespace, SERVICE))
            await listener.get_message(timeout=5.0)
            await pods[1].set_routing_state(RoutingState.DENY_NEW_CALL)
            table = await pods[1]._links._store.read_pods(namespace, SERVICE)
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=5.0)

        assert RoutingState.DENY_NEW_CALL is table.pods[1].report.routing_state
        assert message is not None
        assert f"pod 1 {pods[1].incarnation} DENY_NEW_CALL".encode() == message["data"]

    async def test_denied(self, client: ClientDriver, pods: list[ServerDriver]) -> None:
        """A pod that denies new calls keeps its uids and gets no others."""
        before = {f"old-{i}": await client.compute_linked_pod("", f"old-{i}", SERVICE) for i in range(30)}
        await pods[1].set_routing_state(RoutingState.DENY_NEW_CALL)
        await eventually(lambda: state_seen(client, 1, RoutingState.DENY_NEW_CALL))
        after = {uid: await client.compute_linked_pod("", uid, SERVICE) for uid in before}
        new = {await client.compute_linked_pod("", f"new-{i}", SERVICE) for i in range(30)}

        assert before == after
        assert {0, 2} == new

    async def test_goodbye(self, route: StatefulRoute, namespace: str) -> None:
        """A pod that is stopped says so, and its next life has nothing to wait for."""
        async with route.server(pod(namespace, 0)) as first:
            pass
        table = await route.store.read_pods(namespace, SERVICE)
        async with route.server(pod(namespace, 0)) as second:
            assert second.incarnation > first.incarnation

        assert RoutingState.SHUTDOWN is table.pods[0].report.routing_state


async def state_seen(client: ClientDriver, pod_index: int, state: RoutingState) -> bool:
    return (await client.service(SERVICE).pods())[pod_index].report.routing_state is state


class TestOwning:
    async def test_one_owner(self, pods: list[ServerDriver]) -> None:
        """Of all pods that claim a uid at the same time one owns it, and the others know which."""
        handles = await asyncio.gather(*(driver.claim("alice") for driver in pods))
        owners = [handle for handle in handles if handle.is_owned()]

        assert 1 == len(owners)
        assert {owners[0].epoch} == {handle.epoch for handle in handles}
        refused = next(handle for handle in handles if not handle.is_owned())
        with pytest.raises(NotOwnerError) as raised:
            refused.require()
        assert (owners[0].pod_index, owners[0].epoch) == (raised.value.pod_index, raised.value.epoch)

    async def test_release(self, client: ClientDriver, pods: list[ServerDriver]) -> None:
        """A released uid is owned by nobody, and another pod can claim it at a higher epoch."""
        handle = await pods[0].claim("alice")
        released = await handle.release()
        other = await pods[2].claim("alice")

        assert released
        assert not handle.is_owned()
        assert other.is_owned()
        assert other.epoch is not None
        assert handle.epoch is not None
        assert other.epoch > handle.epoch
        assert not await handle.release()
        assert 2 == await client.get_linked_pod_not_cache("", "alice", SERVICE)

    async def test_grace(self, client: ClientDriver, pods: list[ServerDriver]) -> None:
        """A uid that was released with grace comes back to the pod that had it, with the same epoch."""
        handle = await pods[2].claim("alice")
        await handle.release(grace=30.0)
        link = await client.service(SERVICE).route("alice")

        assert (2, handle.epoch, LinkKind.TEMPORARY) == (link.pod_index, link.epoch, link.kind)

    async def test_restart_inherits(self, route: StatefulRoute, namespace: str) -> None:
        """A restarted pod is told that it held the uid in an older life, whose memory is gone."""
        first = route.server(pod(namespace, 0))
        await first.start()
        before = await first.claim("alice")
        await first._beating.stop()  # as if it were killed
        async with route.server(pod(namespace, 0)) as second:
            at_once = await second.claim("alice")

            async def owned() -> bool:
                return (await second.claim("alice")).is_owned()

            await eventually(owned)
            after = second.owned("alice")
            again = await second.claim("alice")

        assert not before.inherited
        assert (None, False) == (at_once.pod_index, at_once.is_owned())
        assert after is not None
        assert after.inherited
        assert after.previous is not None
        assert (first.incarnation, before.epoch) == (after.previous.incarnation, after.previous.epoch)
        assert again is after

    async def test_two_processes_of_one_index(self, route: StatefulRoute, namespace: str) -> None:
        """The older of two pods with the same index owns nothing once the newer one is there."""
        async with route.server(pod(namespace, 0)) as older:
            handle = await older.claim("alice")
            async with route.server(pod(namespace, 0)) as newer:
                await eventually(lambda: not handle.is_owned())
                with pytest.raises(LifecycleError, match="superseded"):
                    await older.claim("bob")
                with pytest.raises(LifecycleError, match="superseded"):
                    await older.set_routing_state(RoutingState.READY)

                async def owned() -> bool:
                    return (await newer.claim("alice")).is_owned()

                await eventually(owned)

    async def test_services_of_a_uid(self, client: ClientDriver, pods: list[ServerDriver], namespace: str) -> None:
        """All services of a uid are listed, temporary links included, and removed ones are not."""
        await client.set_linked_pod_if_absent("", "alice", SERVICE, 1)
        await pods[0].set_linked_pod(namespace, "alice", "doc", 4)
        await pods[0].set_linked_pod(namespace, "alice", "gone", 5)
        await pods[0].remove_linked_pod(namespace, "alice", "gone")

        assert {SERVICE: 1, "doc": 4} == await client.get_link_service("", "alice")


class TestPoison:
    async def test_one_bad_heartbeat(self, shared_server: LocalServer, client: ClientDriver, namespace: str) -> None:
        """A heartbeat that cannot be read hides its pod, and no other."""
        bad: list[bytes] = [
            b"",
            b"\xff\xfe",
            b"1 1 1 1 READY 1 0 0 0 p 0 {",
            b"1 1 1 1 READY 1 -1 0 0 {}",
            b'9 9 9 9 READY 9 0 0 0 {"capacity":NaN}',
        ]
        async with Redis.from_url(shared_server.url) as redis:
            for number, entry in enumerate(bad):
                await redis.hset(KeySpace().pods(namespace, SERVICE), str(100 + number), entry)
            await redis.hset(KeySpace().pods(namespace, SERVICE), "not a number", "1 1 1 1 READY 1 0 0 0 p 0 {}")
        placed = {await client.compute_linked_pod("", f"user-{i}", SERVICE) for i in range(60)}
        table = await client._store.read_pods(namespace, SERVICE)

        assert {0, 1, 2} == placed
        assert len(bad) + 1 == table.unreadable

    async def test_bad_link(self, shared_server: LocalServer, client: ClientDriver, namespace: str) -> None:
        """A link that cannot be read is an error to a reader, is counted, and is overwritten by a placement."""
        async with Redis.from_url(shared_server.url) as redis:
            await redis.lpush(KeySpace().link(namespace, "alice", SERVICE), "of another type")
        with pytest.raises(StoreProtocolError, match="cannot be read") as raised:
            await client.get_linked_pod("", "alice", SERVICE)
        placed = await client.compute_linked_pod("", "alice", SERVICE)

        assert not raised.value.maybe_applied
        assert placed == await client.get_linked_pod_not_cache("", "alice", SERVICE)
        assert 2 == client.statistics().unreadable


class TestOpening:
    @pytest.mark.parametrize("url", ["http://host", "", "redis+sentinel://127.0.0.1:1", "redis://127.0.0.1:1/0?db=x"])
    async def test_bad_url(self, url: str) -> None:
        """A URL that cannot be opened is refused by name."""
        with pytest.raises(ConfigError, match="url is"):
            async with StatefulRoute.from_url(url):
                pass

    async def test_password_is_not_shown(self) -> None:
        """The password of a URL is in no error."""
        with pytest.raises(ConfigError) as raised:
            StatefulRoute.from_url("rredis://user:secret@host")

        assert "secret" not in str(raised.value)

    async def test_not_a_client(self) -> None:
        """What is not an asyncio client of redis-py is refused."""
        with pytest.raises(ConfigError, match="redis_client"):
            StatefulRoute(object())  # type: ignore[arg-type]

    async def test_outside_the_block(self, shared_server: LocalServer) -> None:
        """A route that is not open gives no drivers, and is not opened twice."""
        route = StatefulRoute.from_url(shared_server.url)
        with pytest.raises(LifecycleError, match="call open"):
            route.client()
        async with route:
            with pytest.raises(LifecycleError, match="open already"):
                await route.open()

    async def test_borrowed_client_is_not_closed(self, shared_server: LocalServer, namespace: str) -> None:
        """A client of redis-py works on after the route is closed."""
        async with Redis.from_url(shared_server.url) as redis:
            async with StatefulRoute(redis, config_of(namespace)) as route, route.server(pod(namespace, 0)):
                async with route.client() as client:
                    assert 0 == await client.compute_linked_pod("", "alice", SERVICE)
            assert await redis.ping()

    async def test_drivers_end_with_the_route(self, shared_server: LocalServer, namespace: str) -> None:
        """Drivers that nobody stopped are stopped with the route, and leave no task behind."""
        before = asyncio.all_tasks()
        async with StatefulRoute.from_url(shared_server.url, config_of(namespace)) as route:
            await route.server(pod(namespace, 0)).start()
            client = route.client()
            await client.start()
            await client.compute_linked_pod("", "alice", SERVICE)

        assert before == asyncio.all_tasks()
        with pytest.raises(LifecycleError, match="stopped"):
            await client.compute_linked_pod("", "bob", SERVICE)

    async def test_eviction(self, caplog: pytest.LogCaptureFixture) -> None:
        """A server that may delete links by itself is warned of, once, when it is opened."""
        with local_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as evicting:
            with caplog.at_level(logging.WARNING, "stateful_route"):
                async with StatefulRoute.from_url(evicting.url):
                    pass

        (record,) = caplog.records
        assert "allkeys-lru" in record.getMessage()


async def works(route: StatefulRoute, namespace: str) -> None:
    """Place, claim and find a uid."""
    async with route.server(pod(namespace, 0)) as server, route.client() as client:
        uids = [f"user-{i}" for i in range(100)]
        by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)
        handle = await server.claim("user-1")

        assert {0: uids} == by_pod
        assert handle.is_owned()
        assert 0 == await client.get_linked_pod_not_cache("", "user-1", SERVICE)


class TestTopologies:
    async def test_embedded(self, namespace: str) -> None:
        """A private server starts with the route."""
        async with StatefulRoute.from_url("embedded://", roomy(namespace)) as route:
            await works(route, namespace)

    async def test_password_and_database(self, namespace: str) -> None:
        """A URL has a password and a database."""
        with local_server("--requirepass", "a:b/c", tcp=True) as guarded:
            url = f"redis://:a%3Ab%2Fc@127.0.0.1:{guarded.port}/3"
            async with StatefulRoute.from_url(url, roomy(namespace)) as route:
                await works(route, namespace)
            async with Redis.from_url(url) as redis:
                assert 0 < await redis.dbsize()

    async def test_tls(self, shared_server: LocalServer, namespace: str, tmp_path: Path) -> None:
        """A ``rediss://`` URL speaks TLS, and trusts whom its query says."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def terminate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            plain_reader, plain_writer = await asyncio.open_unix_connection(shared_server.socket)
            await asyncio.gather(pump(reader, plain_writer), pump(plain_reader, writer))

        terminator = await asyncio.start_server(terminate, "127.0.0.1", 0, ssl=context)
        address = f"rediss://127.0.0.1:{terminator.sockets[0].getsockname()[1]}/0"
        async with terminator:
            async with StatefulRoute.from_url(f"{address}?ssl_ca_certs={tmp_path}/ca.pem", roomy(namespace)) as route:
                await works(route, namespace)
            async with StatefulRoute.from_url(address, roomy(namespace)) as route:
                with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
                    await route.store.get_services(namespace, "alice")

    async def test_sentinel(self, namespace: str) -> None:
        """Sentinel names the primary, to a URL and to a client of redis-py."""
        with sentinel_group() as group:
            async with StatefulRoute.from_url(group.url, roomy(namespace)) as route:
                await works(route, namespace)
            watchers = Sentinel([("127.0.0.1", sentinel.port or 0) for sentinel in group.sentinels])
            async with watchers.master_for("mymaster") as redis:
                async with StatefulRoute(redis, roomy(namespace + "-2")) as route:
                    await works(route, namespace + "-2")
            for watcher in watchers.sentinels:
                await watcher.aclose()

    async def test_cluster(self, namespace: str) -> None:
        """A cluster serves a URL and a client of redis-py."""
        with cluster() as nodes:
            async with StatefulRoute.from_url(nodes.url, roomy(namespace)) as route:
                await works(route, namespace)
                info = await route.store.info()

            assert info.product.startswith("valkey ")
            assert "noeviction" == info.eviction_policy
            async with RedisCluster(host="127.0.0.1", port=nodes.nodes[1].port or 0) as redis:
                async with StatefulRoute(redis, roomy(namespace + "-2")) as route:
                    await works(route, namespace + "-2")
