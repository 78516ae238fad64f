"""Where this process is reached by its peers, if nobody says so."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stateful_route.errors import ConfigError, StoreUnavailableError

if TYPE_CHECKING:
    from stateful_route.web.peer.address import PeerAddress
    from stateful_route.web.peer.listener import PeerListener

_LOOPBACK = "127.0.0.1"
_TCP = re.compile(r"tcp(?:://(\[[^\]]+\]|[^:/\[\]]*):(\d{1,5}))?")
_ANY_PORT = 6379
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - to see that it is one


async def listen(listener: PeerListener, where: str, host: str | None, redis: Any) -> PeerAddress:
    """Listen as ``where`` says, and return what to publish.

    ``tcp`` is a free port on the address that this host has on its way to Redis, and no other; ``tcp://host:port`` is
    that one; ``unix`` and ``unix:///folder`` are a socket in a folder. ``host`` is what is published instead.

    Raises:
        ConfigError: if it cannot be listened there, or it is not known what to publish.

    """
    if where == "unix" or where.startswith("unix:///"):
        return await listener.listen_unix(where.removeprefix("unix://").removeprefix("unix") or None)
    match = _TCP.fullmatch(where)
    if match is None:
        raise ConfigError("listen", where, "tcp, tcp://host:port, unix or unix:///folder")
    found = await local_host(redis) if match[1] is None or (match[1] in _EVERYWHERE and host is None) else None
    if match[1] is None:
        return await listener.listen_tcp(host if host is not None and is_local(host) else str(found), 0, host)
    bound = match[1].strip("[]")
    return await listener.listen_tcp(bound, int(match[2]), host or found or bound)


def is_local(host: str) -> bool:
    """Whether one can listen on that address."""
    try:
        info = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(info[0], socket.SOCK_STREAM) as probe:
            probe.bind(info[4])
    except OSError:
        return False
    return True


async def local_host(redis: Any) -> str:
    """Return the address that this host has on its way to Redis; nothing is sent.

    Raises:
        StoreUnavailableError: if the host of Redis has no address, or not yet.
        ConfigError: if there is no way to it.

    """
    host, port = host_of(redis)
    if host is None:
        return _LOOPBACK  # a unix socket or a server of this process: all peers are on this host
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        for family, kind, protocol, _, address in infos:
            with socket.socket(family, kind, protocol) as probe:
                try:
                    probe.connect(address)  # of UDP: it only chooses the way
                except OSError:
                    continue
                return str(probe.getsockname()[0])
    except OSError as error:
        # In Compose the name of a container is not there before the container is.
        why = f"the host of Redis, {host!r}, is not found: {error}"
        raise StoreUnavailableError(why, operation="connect", maybe_applied=False) from error
    raise ConfigError("host", None, f"the address at which the other processes reach this one: no way to {host!r}")


def host_of(redis: Any) -> tuple[str | None, int]:
    """Return host and port of a Redis, the first one if there are several; without a host it is on this one."""
    if isinstance(redis, str):
        parts = urlsplit(redis)
        if parts.scheme in {"unix", "embedded"}:
            return None, 0
        first = parts.netloc.rpartition("@")[2].split(",")[0]
        one = urlsplit(f"//{first}")
        return one.hostname or "localhost", one.port or _ANY_PORT
    pool = getattr(redis, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", {})
    if "path" in settings:
        return None, 0
    return settings.get("host", "localhost"), int(settings.get("port", _ANY_PORT))
