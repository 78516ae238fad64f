"""The settings of a client of redis-py lead our own connections to where its own lead, or an error says why not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from redis import CredentialProvider
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.cluster import LoadBalancingStrategy

from stateful_route import StatefulRoute
from stateful_route.errors import ConfigError, StoreError
from stateful_route.store.transport.topology import Limits, open_client
from stateful_route.testing import FaultProxy, cluster, local_server, sentinel_group
from tests.store.script_calls import APPEND, GET, SET
from tests.store.test_topology import guarded, seen, tls_before

if TYPE_CHECKING:
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer

__all__ = ["guarded"]  # a fixture

LIMITS = Limits(5.0, 100)
MARK = "a-secret"


class Credentials(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "alice", "pass:word/"


async def greet(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("CLIENT", "SETNAME", "greeted")
    await connection.read_response()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("default", "0", "")),
        ({"username": "alice", "password": "pass:word/", "db": 3, "client_name": "a-pod"}, ("alice", "3", "a-pod")),
        ({"credential_provider": Credentials(), "db": "2"}, ("alice", "2", "")),
        ({"redis_connect_func": greet}, ("default", "0", "greeted")),
        (
            {
                "decode_responses": True,
                "protocol": 3,
                "health_check_interval": 1,
                "retry": Retry(ExponentialBackoff(), 10),
                "single_connection_client": True,
                "socket_timeout": 0.001,
                "socket_keepalive": True,
            },
            ("default", "0", ""),
        ),
    ],
)
async def test_server(guarded: LocalServer, settings: dict[str, Any], expected: tuple[str, str, str]) -> None:
    """User, database and name are those of the client; how it decodes, retries and waits does not matter."""
    client = Redis(host="127.0.0.1", port=guarded.port or 0, **settings)
    async with aclosing(open_client(client, LIMITS)) as connections:
        facts = await seen(connections)
        await connections.run(SET.command(("key",), ("value",)))

        assert b"value" == await connections.run(GET.command(("key",), ()))
    assert expected == (facts["user"], facts["db"], facts["name"])


async def test_unix(shared_server: LocalServer) -> None:
    """So is the path of a socket; and of the client no connection is taken, be its pool of one connection."""
    pool = BlockingConnectionPool.from_url(shared_server.url, max_connections=1)
    async with Redis.from_pool(pool) as client, aclosing(open_client(client, LIMITS)) as connections:
        taken = await pool.get_connection()

        assert str(shared_server.socket) in (await seen(connections))["addr"]
        await pool.release(taken)


async def test_tls(shared_server: LocalServer, tmp_path: Path) -> None:
    """So is what a client trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_before(shared_server, authority) as address:
        for query in (f"?ssl_ca_certs={tmp_path}/ca.pem", ""):
            async with aclosing(open_client(Redis.from_url(address + query), LIMITS)) as connections:
                if query:
                    assert b"PONG" == await connections.command("PING")
                else:
                    with pytest.raises(StoreError, match=r"(?i)certificate"):
                        await connections.command("PING")


async def test_lost_reply(shared_server: LocalServer, namespace: str) -> None:
    """The retries of the client are none of ours: a script whose reply was lost runs once, and the error says maybe."""
    async with (
        FaultProxy(shared_server) as proxy,
        aclosing(open_client(Redis.from_url(proxy.url), LIMITS)) as connections,
    ):
        await connections.run(APPEND.command((namespace,), ("a",)))
        proxy.cut_before_reply()
        with pytest.raises(StoreError) as raised:
            await connections.run(APPEND.command((namespace,), ("b",)))

        assert b"ab" == await connections.run(GET.command((namespace,), ()))
    assert raised.value.maybe_applied


async def test_sentinel(namespace: str) -> None:
    """The client of one of three sentinels leads to the primary that a majority of all of them names."""
    with sentinel_group() as group:
        watchers = Sentinel([("localhost", group.sentinels[0].port or 0)], db=1, client_name="a-pod")
        async with aclosing(open_client(watchers.master_for("mymaster"), LIMITS)) as connections:
            await connections.run(SET.command((namespace,), ("value",)))
            facts = await seen(connections)

            assert 0.0 == await connections.prove(namespace)
            assert 0.0 < await connections.prove(namespace)
    assert ("1", "a-pod") == (facts["db"], facts["name"])


async def test_cluster(namespace: str) -> None:
    """A client of a cluster leads to all primaries, at the addresses that it has for them."""
    with cluster(primaries=3) as nodes:
        client = RedisCluster(
            host="127.0.0.1",
            port=nodes.nodes[0].port or 0,
            load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN,
            address_remap=lambda place: ("localhost", place[1]),
        )
        async with aclosing(open_client(client, LIMITS)) as connections:
            calls = [SET.command((f"{namespace}-{number}",), (number,)) for number in range(30)]
            replies = await asyncio.gather(*map(connections.run, calls))
            primaries = await connections.primaries()
            places = sorted(f"localhost:{node.port}" for node in nodes.nodes)

            assert 0.0 == await connections.prove(namespace)
    assert [str(number).encode() for number in range(30)] == replies
    assert places == primaries


class OtherReading(Connection):
    async def read_response(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError


class StreamElsewhere(UnixDomainSocketConnection):
    @property
    def _reader(self) -> None:
        raise AttributeError

    @_reader.setter
    def _reader(self, reader: object) -> None:
        pass


class OtherPool(ConnectionPool):
    def make_connection(self) -> Any:
        raise NotImplementedError


class OtherSentinel(Sentinel):
    async def discover_master(self, service_name: str) -> Any:
        raise NotImplementedError


def over(pool: ConnectionPool) -> Redis:
    return Redis.from_pool(pool)


WATCHED = [("127.0.0.1", 1)]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: over(ConnectionPool(OtherReading, password=MARK)), "OtherReading has another read_response()"),
        (lambda: over(ConnectionPool(StreamElsewhere, path=f"/{MARK}")), "StreamElsewhere has its stream elsewhere"),
        (lambda: over(OtherPool(password=MARK)), "OtherPool has another make_connection()"),
        (lambda: over(ConnectionPool(Connection, no_such_setting=MARK)), "settings are where the installed redis-py"),
        (lambda: OtherSentinel(WATCHED, password=MARK).master_for("s"), "OtherSentinel has another discover_master()"),
        (lambda: Sentinel(WATCHED, password=MARK).slave_for("s"), "the client of a primary"),
    ],
)
def test_not_understood(make: Any, named: str) -> None:
    """A client that would do something else than its settings say is refused, with what that is, and no secret."""
    with pytest.raises(ConfigError) as raised:
        StatefulRoute(make())

    assert named in str(raised.value)
    assert MARK not in f"{raised.value!r} {raised.value.__context__!r}"


async def test_client_is_left_alone() -> None:
    """The client makes no connection for us, and may be closed before the route is."""
    with local_server() as server:
        client = Redis.from_url(server.url)
        async with StatefulRoute(client) as route:
            await client.ping()
            await client.aclose()
            info = await route.store.info()

    assert info.product
