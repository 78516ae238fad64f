"""From a URL to pipelined connections of that topology, set so that they repeat nothing by themselves."""

from __future__ import annotations

import logging
import re
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
_ALIASES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkey+cluster": "redis+cluster",
}
_SINGLE = ("redis", "rediss", "unix")
_PORT, _SENTINEL_PORT = 6379, 26379

_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '([^']*)'")


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
    """Return a URL that ``open_url`` can open, in the words of redis-py: ``redis`` for ``valkey``.

    Raises:
        ConfigError: if it can open none such.

    """
    given = url.partition(":")[0] if isinstance(url, str) else ""
    scheme = _ALIASES.get(given.lower(), given.lower())
    if scheme not in _SCHEMES:
        known = ", ".join((*_SCHEMES, *_ALIASES))
        raise ConfigError("url", _without_password(url), f"a URL that begins with one of {known}")
    url = scheme + url[len(given) :]
    if allowed := _allowed_instead(url):
        raise ConfigError("url", _without_password(url), allowed)
    return url


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

    The query takes what redis-py takes in a URL, for example ``?ssl_ca_certs=/path``; ``?ssl=true`` turns TLS on for
    Sentinel and Cluster.

    Raises:
        ConfigError: if the URL cannot be read, or the server to embed is not to be found.

    """
    url = check_url(url)
    parts = urlsplit(url)
    options: dict[str, Any] = {
        # The store has its own deadline for each call, and repeats nothing.
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        # The older protocol needs no handshake, and the scripts' replies are the same in both.
        "protocol": 2,
    }
    try:
        if parts.scheme in _SINGLE:
            return _single(url, options, limits)
        if parts.scheme == "redis+sentinel":
            return _sentinel(parts, options, limits)
        if parts.scheme == "redis+cluster":
            return _cluster(parts, options, limits)
    except (ValueError, TypeError, RedisError, UnboundLocalError) as error:  # the last is a stumble of redis-py 6
        raise ConfigError("url", _without_password(url), _readable(error, parts.scheme)) from error
    return await _embedded(parts, options, limits)


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


def _allowed_instead(url: str) -> str | None:
    """Return what is allowed instead of a URL that redis-py cannot read, or would misunderstand; else ``None``."""
    scheme, _, rest = url.partition(":")
    if scheme != "unix" and not rest.startswith("//"):
        return f"a URL that begins with {scheme}://"
    if "#" in url:
        return "a URL without '#': in a user or password it is written %23"
    try:
        parts = urlsplit(url)
        hosts = [host for host, _ in _hosts(parts, _PORT)] if scheme not in {"unix", "embedded"} else []
    except ValueError:
        return "host:port, the port a number; in a user or password '/', '?' and '@' are written %2F, %3F and %40"
    path = unquote(parts.path).strip("/")
    database = dict(parse_qsl(parts.query)).get("db", path)
    mistakes = {
        "unix": ((not path or parts.netloc.rpartition("@")[2], "the path of a socket, as in unix:///run/valkey.sock"),),
        "redis+sentinel": (
            (not all(hosts), "a host at each place, as in redis+sentinel://host:port,host:port/service"),
            (not path, "the name of a service as the path, as in redis+sentinel://host:26379/mymaster"),
        ),
        "redis+cluster": (
            (not all(hosts), "a host at each place, as in redis+cluster://host:port,host:port"),
            (path not in {"", "0"} or database not in {"", "0"}, "no database but 0: a cluster has no other"),
        ),
        "embedded": (),
    }
    one_server = (
        (len(hosts) > 1, "one host; several are for redis+sentinel:// and redis+cluster://"),
        (not re.fullmatch(r"[0-9]*", path), f"the number of a database as the path, as in {scheme}://host:6379/0"),
    )
    return next((allowed for wrong, allowed in mistakes.get(scheme, one_server) if wrong), None)


def _readable(error: Exception, scheme: str) -> str:
    """Return what is allowed instead of what redis-py did not understand in a query."""
    unknown = _UNKNOWN_OPTION.search(str(error))
    if unknown is None:
        return f"a URL that redis-py can read: {error}"
    name = unknown[1]
    if name.startswith("ssl") and scheme != "rediss":
        tls = "in a rediss:// URL" if scheme in _SINGLE else "with ssl=true"
        return f"the query parameter {name!r} only {tls}"
    return f"what redis-py knows in a query: unknown query parameter {name!r}"


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Read ``host:port,host:port`` after the credentials; a host may be left out.

    Raises:
        ValueError: if a port is none.

    """
    places = [urlsplit(f"//{place}") for place in parts.netloc.rpartition("@")[2].split(",")]
    return [(place.hostname or "", place.port or default_port) for place in places]


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
    if not isinstance(url, str):
        return url
    url = re.sub(r"(password=)[^&#]*", r"\1***", url)
    if "@" not in url:
        return url
    scheme, slashes, rest = re.fullmatch(r"([^:]*:?)(/*)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]  # any
    return f"{scheme}{slashes}***@{rest.rpartition('@')[2]}"
