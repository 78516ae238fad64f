"""From a URL to a client of that topology, set so that it waits for nothing and repeats nothing by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import anyio
import attrs
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route.errors import ConfigError
from stateful_route.store.embedded import start_embedded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "embedded")
_SINGLE = ("redis", "rediss", "unix")
_PORT, _SENTINEL_PORT = 6379, 26379


@attrs.frozen
class Opened:
    """A client that was opened from a URL, and what closes it and all that came with it."""

    client: Redis | RedisCluster
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


async def open_url(url: str, max_connections: int, deadline: float) -> Opened:
    """Open the server, the servers or the embedded server that the URL names. Connects to none of them yet.

    ``deadline`` is that of a call, in seconds: the sentinels together may take half of it to name the primary.

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
        "max_connections": max_connections,
        # The store has its own deadline around each call, and repeats nothing: see connections.py.
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        # The older protocol needs no handshake, and the scripts' replies are the same in both.
        "protocol": 2,
    }
    try:
        if scheme in _SINGLE:
            return _single(url, options)
        if scheme == "redis+sentinel":
            return _sentinel(urlsplit(url), options, deadline)
        if scheme == "redis+cluster":
            return _cluster(urlsplit(url), options)
    except (ValueError, TypeError) as error:
        raise ConfigError("url", _without_password(url), f"a URL that redis-py can read: {error}") from error
    return await _embedded(urlsplit(url), options)


def _single(url: str, options: dict[str, Any]) -> Opened:
    client = Redis.from_url(url, **options)
    return Opened(client, client.aclose)


def _sentinel(parts: SplitResult, options: dict[str, Any], deadline: float) -> Opened:
    service = unquote(parts.path.strip("/"))
    if not service:
        raise ValueError("the path names no service")
    options |= _credentials(parts) | _query(parts)
    hosts = _hosts(parts, _SENTINEL_PORT)
    patience = deadline / 2 / len(hosts)
    watching = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": options["retry"]}
    watchers = Sentinel(hosts, sentinel_kwargs=watching, **options)
    client = watchers.master_for(service)

    async def close() -> None:
        await client.aclose()
        for watcher in watchers.sentinels:
            await watcher.aclose()

    return Opened(client, close)


def _cluster(parts: SplitResult, options: dict[str, Any]) -> Opened:
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, _PORT)]
    client = RedisCluster(startup_nodes=nodes, **(options | _credentials(parts) | _query(parts)))
    return Opened(client, client.aclose)


async def _embedded(parts: SplitResult, options: dict[str, Any]) -> Opened:
    server = await start_embedded(parts.netloc + parts.path or None)
    client = Redis.from_url(server.url, **options)

    async def close() -> None:
        await client.aclose()
        await anyio.to_thread.run_sync(server.stop)

    return Opened(client, close)


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
