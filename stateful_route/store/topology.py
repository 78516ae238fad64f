"""From a URL to pipelined connections of that topology, set so that they repeat nothing by themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import anyio
import attrs
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stateful_route.errors import ConfigError
from stateful_route.store.connections import connections_of
from stateful_route.store.embedded import start_embedded
from stateful_route.store.pipelined.cluster import PipelinedCluster
from stateful_route.store.pipelined.pipe import can_take_over
from stateful_route.store.pipelined.server import PipelinedServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.store.connections import Connections

_log = logging.getLogger("stateful_route")

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "embedded")
_SINGLE = ("redis", "rediss", "unix")
_PORT, _SENTINEL_PORT = 6379, 26379


@attrs.frozen
class Limits:
    """What a call may cost.

    Attributes:
        deadline: the longest time of a call, in seconds.
        pending: commands under way to one server, above which further ones wait.
        connections: the same for the connections of a client of redis-py, if there has to be one.

    """

    deadline: float
    pending: int
    connections: int


@attrs.frozen
class Opened:
    """The connections that were opened from a URL, and what closes them and all that came with them."""

    connections: Connections
    close: Callable[[], Awaitable[None]]


def check_url(url: str) -> str:
    """Return the scheme of a URL that ``open_url`` can open.

    Raises:
        ConfigError: if it can open none such.

    """
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    if scheme not in _SCHEMES:
        raise ConfigError("url", _without_password(url), f"a URL that begins with one of {', '.join(_SCHEMES)}")
    return scheme


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

    The query takes what redis-py takes in a URL, for example ``?ssl_ca_certs=/path``; ``?ssl=true`` turns TLS on for
    Sentinel and Cluster.

    Raises:
        ConfigError: if the URL cannot be read, or the server to embed is not to be found.

    """
    scheme = check_url(url)
    options: dict[str, Any] = {
        # The store has its own deadline for each call, and repeats nothing.
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        # The older protocol needs no handshake, and the scripts' replies are the same in both.
        "protocol": 2,
    }
    try:
        if scheme in _SINGLE:
            return _single(url, options, limits)
        if scheme == "redis+sentinel":
            return _sentinel(urlsplit(url), options, limits)
        if scheme == "redis+cluster":
            return _cluster(urlsplit(url), options, limits)
    except (ValueError, TypeError, RedisError, UnboundLocalError) as error:  # the last is a stumble of redis-py 6
        raise ConfigError("url", _without_password(url), f"a URL that redis-py can read: {error}") from error
    return await _embedded(urlsplit(url), options, limits)


def _single(url: str, options: dict[str, Any], limits: Limits) -> Opened:
    return _pipelined(Redis.from_url(url, max_connections=limits.connections, **options), limits)


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
    _log.warning("this release of redis-py is not known: its own connections are used, which are slower")
    return False


def _sentinel(parts: SplitResult, options: dict[str, Any], limits: Limits) -> Opened:
    service = unquote(parts.path.strip("/"))
    if not service:
        raise ValueError("the path names no service")
    options |= _credentials(parts) | _query(parts)
    hosts = _hosts(parts, _SENTINEL_PORT)
    patience = limits.deadline / 2 / len(hosts)
    watching = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": options["retry"]}
    watchers = Sentinel(hosts, sentinel_kwargs=watching, max_connections=limits.connections, **options)
    opened = _pipelined(watchers.master_for(service), limits)

    async def close() -> None:
        await opened.close()
        for watcher in watchers.sentinels:
            await watcher.aclose()

    return Opened(opened.connections, close)


def _cluster(parts: SplitResult, options: dict[str, Any], limits: Limits) -> Opened:
    hosts = _hosts(parts, _PORT)
    options |= _credentials(parts) | _query(parts)
    settings = {name: value for name, value in options.items() if name not in {"ssl", "db"}}
    kind = SSLConnection if options.get("ssl") else Connection
    if _can_pipeline(kind, settings):
        connections = PipelinedCluster(kind, settings, hosts, limits.deadline, limits.pending)
        return Opened(connections, connections.aclose)
    nodes = [ClusterNode(host, port) for host, port in hosts]
    client = RedisCluster(startup_nodes=nodes, max_connections=limits.connections, **options)
    return Opened(connections_of(client, limits.deadline, limits.connections), client.aclose)


async def _embedded(parts: SplitResult, options: dict[str, Any], limits: Limits) -> Opened:
    server = await start_embedded(parts.netloc + parts.path or None)
    opened = _single(server.url, options, limits)

    async def close() -> None:
        await opened.close()
        await anyio.to_thread.run_sync(server.stop)

    return Opened(opened.connections, close)


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Read ``host:port,host:port`` after the credentials."""
    hosts = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{place}")
        if not one.hostname:
            raise ValueError(f"no host in {place!r}")
        hosts.append((one.hostname, one.port or default_port))
    return hosts


def _credentials(parts: SplitResult) -> dict[str, str]:
    """Read ``user:password`` before the hosts."""
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def _query(parts: SplitResult) -> dict[str, Any]:
    """Read the query as redis-py reads it, and ``ssl``, which it has no name for."""
    options: dict[str, Any] = dict(parse_url(f"redis://?{parts.query}"))
    if (tls := dict(parse_qsl(parts.query)).get("ssl")) is not None:
        options["ssl"] = tls.lower() in {"1", "true", "yes"}
    return options


def _without_password(url: object) -> object:
    """Return the URL as it may be shown."""
    if not isinstance(url, str) or "@" not in url:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}"
