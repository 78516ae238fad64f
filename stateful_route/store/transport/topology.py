"""Opens what a URL names, or a client of redis-py: pipelined connections, which retry nothing by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import attrs
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stateful_route.embedded.server import start_embedded
from stateful_route.errors import ConfigError
from stateful_route.store.transport.cluster import PipelinedCluster
from stateful_route.store.transport.pipe import can_take_over
from stateful_route.store.transport.primacy import AgreeingSentinel
from stateful_route.store.transport.server import PipelinedServer, nothing
from stateful_route.store.transport.url import RefusedError, StoreUrl, read_url, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from stateful_route.store.transport.base import Connections

RedisClient: TypeAlias = Redis | RedisCluster
"""The asyncio clients of redis-py whose settings can be read."""

# The store has its own deadline for each call, and retries nothing. The older protocol needs no handshake, and the
# scripts' replies are the same in both.
_OURS: dict[str, Any] = {"socket_timeout": None, "retry": Retry(NoBackoff(), 0), "protocol": 2}


@attrs.frozen
class Limits:
    """What a call may cost.

    Attributes:
        deadline: the longest time of a call, in seconds.
        pending: most commands in flight to one server; further ones wait.

    """

    deadline: float
    pending: int


def check_url(url: str) -> str:
    """Return a URL that ``open_url`` can open, in the words of redis-py: ``redis`` for ``valkey``.

    Raises:
        ConfigError: if it can open none such. It shows nothing of the URL that could be a password.

    """
    return read_url(url).text


async def open_url(url: str, limits: Limits) -> Connections:
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
        server = await start_embedded(read.path or None)
        settings = _OURS | read_url(server.url).options
        return _server(UnixDomainSocketConnection, settings, limits, lambda: anyio.to_thread.run_sync(server.stop))
    try:
        return _WAYS[read.kind](read, _OURS | read.options, limits)
    except RefusedError as refused:
        allowed = str(refused)
    except (TypeError, ValueError, RedisError):  # its text and its cause could be of the URL
        options = ", ".join(sorted(read.options.keys() - {"username", "password", "path", "db"})) or "none"
        allowed = f"options that the installed redis-py takes, which are not all of {options}"
    raise ConfigError("url", shown(url), allowed)


def _single(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Connections:
    if read.scheme == "unix":
        return _server(UnixDomainSocketConnection, settings, limits)
    ((host, port),) = read.places
    settings |= {"host": host or "localhost", "port": port}
    return _server(SSLConnection if read.tls else Connection, settings, limits)


def _sentinel(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Connections:
    service = read.path.strip("/")
    watchers = AgreeingSentinel(read.places, service, limits.deadline / 2, {})
    return _named_by(watchers, settings | {"ssl": read.tls}, limits)


def _cluster(read: StoreUrl, settings: dict[str, Any], limits: Limits) -> Connections:
    settings.pop("db", None)
    kind = SSLConnection if read.tls else Connection
    _check_kind(kind, settings)
    return PipelinedCluster(kind, settings, read.places, limits.deadline, limits.pending)


_WAYS = {"single": _single, "sentinel": _sentinel, "cluster": _cluster}


def check_client(client: object) -> None:
    """Accept only an asyncio client of redis-py whose settings can be read.

    Raises:
        ConfigError: for anything else.

    """
    if not isinstance(client, Redis | RedisCluster):
        # By its type: of a URL that is no string, or a client of another kind, the repr may hold a password.
        allowed = "a redis.asyncio.Redis or RedisCluster, or a URL as a string"
        raise ConfigError("redis_client", f"of type {type(client).__name__}", allowed)
    open_client(client, Limits(1.0, 1))  # which connects to nothing


def open_client(client: RedisClient, limits: Limits) -> Connections:
    """Open connections of our own to where a client connects, by its settings. Connects to nothing yet.

    Nothing of the client is used or closed; what is changed in it later is not noticed.

    Raises:
        ConfigError: if a part of the client would do what cannot be read from settings. It names that part.

    """
    try:
        return _cluster_of(client, limits) if isinstance(client, RedisCluster) else _server_of(client, limits)
    except RefusedError as refused:
        allowed = str(refused)
    except (AttributeError, LookupError, TypeError, ValueError, RedisError):  # its text could be of the password
        allowed = "one whose settings are where the installed redis-py has them"
    raise ConfigError("redis_client", f"of type {type(client).__name__}", allowed)


def _server_of(client: Redis, limits: Limits) -> Connections:
    pool: Any = client.connection_pool
    _refuse_override(type(pool), "make_connection")
    kind, settings = pool.connection_class, _ours(pool.connection_kwargs)
    if not hasattr(pool, "sentinel_manager"):
        return _server(kind, settings, limits)
    manager = pool.sentinel_manager
    _refuse_override(type(manager), "discover_master")
    if not pool.is_master:
        raise RefusedError("the client of a primary, as master_for() of a Sentinel returns it")
    if getattr(manager, "_force_master_ip", None):
        raise RefusedError("the client of a Sentinel without force_master_ip")
    places = [(place["host"], int(place["port"])) for place in map(_settings_of, manager.sentinels)]
    watchers = AgreeingSentinel(places, pool.service_name, limits.deadline / 2, _ours(manager.sentinel_kwargs))
    del settings["connection_pool"]
    return _named_by(watchers, settings | {"connection_class": kind}, limits)


def _cluster_of(client: RedisCluster, limits: Limits) -> Connections:
    nodes: list[Any] = list(client.nodes_manager.startup_nodes.values())
    kind, settings = nodes[0].connection_class, _ours(nodes[0].connection_kwargs)
    settings.pop("redis_connect_func", None)  # of one that reads from replicas: it lets a server answer for others
    _check_kind(kind, settings)
    places = [(node.host, int(node.port)) for node in nodes]
    remap = client.nodes_manager.address_remap
    return PipelinedCluster(kind, settings, places, limits.deadline, limits.pending, remap)


def _settings_of(client: Redis) -> dict[str, Any]:
    return client.connection_pool.connection_kwargs


def _ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of connections that we open as a client does: it is not told of maintenance over them."""
    return {name: value for name, value in settings.items() if "maint_notifications" not in name} | _OURS


def _named_by(watchers: AgreeingSentinel, settings: dict[str, Any], limits: Limits) -> Connections:
    pool = SentinelConnectionPool(watchers.majority.service, watchers, **settings)
    # Kept by this reference: redis-py has a weak one there.
    settings = pool.connection_kwargs | {"connection_pool": pool}
    return _server(pool.connection_class, settings, limits, watchers.aclose)


def _server(
    kind: Any, settings: dict[str, Any], limits: Limits, close: Callable[[], Awaitable[None]] = nothing
) -> Connections:
    _check_kind(kind, settings)
    return PipelinedServer(kind, settings, limits.deadline, limits.pending, close)


def _check_kind(kind: Any, settings: dict[str, Any]) -> None:
    """Refuse connections over which a pipe could not do as they do."""
    _refuse_override(kind, "read_response", "send_packed_command")
    if not can_take_over(kind(**settings)):
        raise RefusedError(f"a release of redis-py that is known: {kind.__name__} has its stream elsewhere")


def _refuse_override(kind: Any, *methods: str) -> None:
    """Refuse a class whose methods are not redis-py's own: nobody would call them."""
    for name in methods:
        owner = next((parent for parent in getattr(kind, "__mro__", ()) if name in vars(parent)), type(kind))
        if owner.__module__.partition(".")[0] != "redis":
            raise RefusedError(f"a client of redis-py's own classes: {owner.__name__} has another {name}()")
