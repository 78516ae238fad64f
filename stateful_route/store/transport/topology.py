"""Opens what a URL names: pipelined connections, which retry nothing by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import attrs
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stateful_route._log import log
from stateful_route.embedded.server import start_embedded
from stateful_route.errors import ConfigError
from stateful_route.store.transport.base import connections_of
from stateful_route.store.transport.cluster import PipelinedCluster
from stateful_route.store.transport.pipe import can_take_over
from stateful_route.store.transport.primacy import AgreeingSentinel
from stateful_route.store.transport.server import PipelinedServer
from stateful_route.store.transport.url import StoreUrl, read_url, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.store.transport.base import Connections


@attrs.frozen
class Limits:
    """What a call may cost.

    Attributes:
        deadline: the longest time of a call, in seconds.
        pending: most commands in flight to one server; further ones wait.
        connections: most connections of a client of redis-py, if there has to be one.

    """

    deadline: float
    pending: int
    connections: int


@attrs.frozen
class Opened:
    """The connections that were opened from a URL, and what closes them with all that belongs to them."""

    connections: Connections
    close: Callable[[], Awaitable[None]]


def check_url(url: str) -> str:
    """Return a URL that ``open_url`` can open, in the words of redis-py: ``redis`` for ``valkey``.

    Raises:
        ConfigError: if it can open none such. It shows nothing of the URL that could be a password.

    """
    return read_url(url).text


async def open_url(url: str, limits: Limits) -> Opened:
    """Open the server, the servers or the embedded server that the URL names. Connects to none of them yet.

    The sentinels together may take half of the deadline to name the primary.

    ==================================================  ===================================================
    URL                                                 what
    ==================================================  ===================================================
    ``redis://user:password@host:port/database``        one server; ``rediss://`` by TLS
    ``unix:///path/of/socket?db=0``                     one server on this machine
    ``redis+sentinel://host:port,host:port/service``    the primary that Sentinel names; ``?db=0``
    ``redis+cluster://host:port,host:port``             a Redis Cluster
    ``embedded://`` or ``embedded://redis-server``      a private server, which ends with the client
    ==================================================  ===================================================

    ``valkey``, ``valkeys``, ``valkey+sentinel`` and ``valkey+cluster`` stand for the same with ``redis``.

    The query takes options of redis-py, for example ``?ssl_ca_certs=/path``: an error lists them. ``?ssl=true`` turns
    TLS on for Sentinel and Cluster.

    Raises:
        ConfigError: if the URL cannot be read, or the server to embed is not to be found.

    """
    read = read_url(url)
    if read.kind == "embedded":
        return await _embedded(read, limits)
    settings: dict[str, Any] = {
        # The store has its own deadline for each call, and retries nothing.
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        # The older protocol needs no handshake, and the scripts' replies are the same in both.
        "protocol": 2,
    } | read.options
    try:
        return _WAYS[read.kind](read, settings, limits)
    except (TypeError, ValueError, RedisError):  # its text and its cause could be of the URL
        pass
    options = ", ".join(sorted(read.options.keys() - {"username", "password", "path", "db"})) or "none"
    raise ConfigError("url", shown(url), f"options that the installed redis-py takes, which are not all of {options}")


def _single(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Opened:
    if read.scheme == "unix":
        pool = ConnectionPool(UnixDomainSocketConnection, limits.connections, **settings)
    else:
        ((host, port),) = read.places
        kind = SSLConnection if read.tls else Connection
        pool = ConnectionPool(kind, limits.connections, host=host or "localhost", port=port, **settings)
    return _pipelined(Redis.from_pool(pool), limits)


def _pipelined(client: Redis, limits: Limits) -> Opened:
    """Open a pipe to where a client would connect. The client itself connects to nothing."""
    pool = client.connection_pool
    kind, settings = pool.connection_class, pool.connection_kwargs
    if _can_pipeline(kind, settings):
        connections = PipelinedServer(kind, settings, limits.deadline, limits.pending)

        async def close() -> None:
            await connections.aclose()
            await client.aclose()  # kept so long: what it knows of Sentinel is only lent to connections

        return Opened(connections, close)
    return Opened(connections_of(client, limits.deadline, limits.connections), client.aclose)


def _can_pipeline(kind: Any, settings: dict[str, Any]) -> bool:
    if can_take_over(kind(**settings)):
        return True
    log.warning(
        "redis_py_unknown",
        "this release of redis-py is not known: its own connections are used, which are slower, without a cache",
    )
    return False


def _sentinel(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Opened:
    service = read.path.strip("/")
    settings |= {"ssl": read.tls, "max_connections": limits.connections}
    watchers = AgreeingSentinel(read.places, service, limits.deadline / 2, **settings)
    opened = _pipelined(watchers.master_for(service), limits)

    async def close() -> None:
        await opened.close()
        await watchers.aclose()

    return Opened(opened.connections, close)


def _cluster(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Opened:
    settings.pop("db", None)
    kind = SSLConnection if read.tls else Connection
    if _can_pipeline(kind, settings):
        connections = PipelinedCluster(kind, settings, read.places, limits.deadline, limits.pending)
        return Opened(connections, connections.aclose)
    nodes = [ClusterNode(host, port) for host, port in read.places]
    client = RedisCluster(startup_nodes=nodes, max_connections=limits.connections, ssl=read.tls, **settings)
    return Opened(connections_of(client, limits.deadline, limits.connections), client.aclose)


_WAYS = {"single": _single, "sentinel": _sentinel, "cluster": _cluster}


async def _embedded(read: StoreUrl, limits: Limits) -> Opened:
    server = await start_embedded(read.path or None)
    opened = await open_url(server.url, limits)

    async def close() -> None:
        await opened.close()
        await anyio.to_thread.run_sync(server.stop)

    return Opened(opened.connections, close)
