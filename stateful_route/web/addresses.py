"""Addresses: what a process publishes with its heartbeats, where it listens, and where proxies and clients reach a pod.

``peer://10.0.0.7:40123#KEY,KEY,http=10.0.0.7:8000,name=room-0``: what has an equals sign is no name of a key. A release
that does not know it takes it for one of a key that it does not have.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import string
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from stateful_route.errors import ConfigError, StoreUnavailableError

if TYPE_CHECKING:
    from stateful_route.config import BaseConfig
    from stateful_route.web.peer.listener import PeerListener

HTTP_VARIABLE = "STATEFUL_ROUTE_HTTP_ADDRESS"
PEER = "peer"
"""As the HTTP address of a pod: the port on which its peers reach it."""

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Za-z:.%_-]+\]|[^\[\]/:#?\s\0]+):([0-9]{1,5})")
_NAME = re.compile(r"[0-9A-Za-z._-]{1,253}")
_MOST_PORT = 65535
# More pods, and so addresses, than a service has at a time.
_REMEMBERED = 4096

_LISTEN = re.compile(r"tcp(?:://(\[[^\]]+\]|[^:/\[\]]*):(\d{1,5}))?")
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - to see that it is one
_REDIS_PORT = 6379

_FLY_VARIABLE = "FLY_MACHINE_ID"
_FIELDS = frozenset({"host", "pod_index", "pod_name"})
_ALLOWED = "a text with any of {host}, {pod_index} and {pod_name} in it"


# Their texts ------------------------------------------------------------------------------------------------------


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return a host, without brackets, and a port from 1 to 65535; ``None`` if this is no such text."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or not 0 < int(match[2]) <= _MOST_PORT:
        return None
    return match[1].strip("[]"), int(match[2])


def is_http_address(text: str) -> bool:
    """Whether this is a host and a port of which a proxy can make a URL."""
    where = host_and_port(text)
    return where is not None and (text.startswith("[") or is_name(where[0]))


def is_name(text: str) -> bool:
    """Whether this is a name that can be published: letters, digits, dots, hyphens and underscores."""
    return _NAME.fullmatch(text) is not None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@attrs.frozen(cache_hash=True)
class PeerAddress:
    """A TCP address or a unix socket, the names of the keys that are accepted there, and where proxies reach it.

    Attributes:
        host: a name or an IP address, without brackets; empty for a unix socket.
        port: from 1 to 65535; 0 for a unix socket.
        path: of the unix socket; empty for TCP.
        keys: names of keys; see ``keys.PeerKeys``.
        http: host and port at which the process speaks HTTP, for proxies; empty if it publishes none.
        name: of the process, for proxies that know it by that; empty if it publishes none.

    """

    host: str = ""
    port: int = 0
    path: str = ""
    keys: tuple[str, ...] = ()
    http: str = ""
    name: str = ""

    def __str__(self) -> str:
        where = f"peer+unix://{self.path}" if self.path else f"peer://{_bracketed(self.host)}:{self.port}"
        more = [f"{key}={value}" for key, value in (("http", self.http), ("name", self.name)) if value]
        return f"{where}#{','.join((*self.keys, *more))}"

    @classmethod
    def parse(cls, text: str | None) -> PeerAddress | None:
        """Return the address, or ``None`` if this is none: a pod without the middleware may have published it."""
        return None if text is None else _parse(text)


@lru_cache(_REMEMBERED)
def _parse(text: str) -> PeerAddress | None:
    where, _, rest = text.partition("#")
    parts = list(filter(None, rest.split(",")))
    keys = tuple(part for part in parts if "=" not in part)
    said = dict(part.split("=", 1) for part in parts if "=" in part)
    http, name = said.get("http", ""), said.get("name", "")
    http, name = http if is_http_address(http) else "", name if is_name(name) else ""
    if where.startswith("peer+unix:///") and "\0" not in where:
        return PeerAddress(path=where.removeprefix("peer+unix://"), keys=keys, http=http, name=name)
    reached = host_and_port(where.removeprefix("peer://")) if where.startswith("peer://") else None
    return None if reached is None else PeerAddress(*reached, keys=keys, http=http, name=name)


# Of this process --------------------------------------------------------------------------------------------------


async def listen(listener: PeerListener, where: str, host: str | None, redis: Any) -> PeerAddress:
    """Listen as ``where`` says, and return what to publish.

    ``tcp`` is a free port on the address that this host has on its way to Redis, and no other; ``tcp://host:port`` is
    that one; ``unix`` and ``unix:///folder`` are a socket in a folder. ``host`` is what is published instead.

    Raises:
        ConfigError: if it cannot be listened there, or it is not known what to publish.

    """
    if where == "unix" or where.startswith("unix:///"):
        return await listener.listen_unix(where.removeprefix("unix://").removeprefix("unix") or None)
    match = _LISTEN.fullmatch(where)
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
        return one.hostname or "localhost", one.port or _REDIS_PORT
    pool = getattr(redis, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", {})
    if "path" in settings:
        return None, 0
    return settings.get("host", "localhost"), int(settings.get("port", _REDIS_PORT))


def published(address: PeerAddress, http_address: str | None, config: BaseConfig) -> PeerAddress:
    """Return what a process publishes: where its peers reach it, where proxies do, and its name.

    The name is that of the machine on Fly, or the one in the config.

    Raises:
        ConfigError: if the HTTP address has no host, and the peers reach this process by a unix socket.

    """
    name = os.environ.get(_FLY_VARIABLE) or config.pod_name or ""
    http = http_address or ""
    if http == PEER:
        http = _bracketed(address.host) + f":{address.port}"
    elif http.startswith(":"):
        http = _bracketed(address.host) + http
    if http and not is_http_address(http):
        raise ConfigError("http_address", http_address, "host:port: with a unix socket for peers the host is not known")
    return attrs.evolve(address, http=http, name=name if is_name(name) else "")


def checked_http_address(given: str | None) -> str | None:
    """Return what is given, or what the environment says.

    Raises:
        ConfigError: if it is no host and port, nor a port after a colon, nor "peer".

    """
    given = given or os.environ.get(HTTP_VARIABLE) or None
    if given is None or given == PEER:
        return given
    if not isinstance(given, str) or not is_http_address(f"host{given}" if given.startswith(":") else given):
        raise ConfigError("http_address", given, 'host:port; :port on the address at which peers reach it; or "peer"')
    return given


# Of a pod ---------------------------------------------------------------------------------------------------------


class Addresses:
    """Says where a pod is reached, by what it publishes or by a template."""

    def __init__(self, argument: str, template: str | None) -> None:
        """Take a template, or none: then it is what the pod publishes.

        Raises:
            ConfigError: naming the argument, if the template has other fields than it may.

        """
        if template is not None:
            _check(argument, template)
        self._template = template
        self.of = lru_cache(_REMEMBERED)(self._of)
        """Return where the pod with an index and a published address is reached; ``None`` if that is not known."""

    def _of(self, pod_index: int, address: str | None) -> str | None:
        peer = PeerAddress.parse(address)
        if self._template is None:
            return (peer.http or None) if peer is not None else None
        known = {"host": "", "pod_name": ""} if peer is None else {"host": _bracketed(peer.host), "pod_name": peer.name}
        if any(not known[name] for name in known if f"{{{name}}}" in self._template):
            return None
        return self._template.format(pod_index=pod_index, **known)


def _check(argument: str, template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise ConfigError(argument, template, f"{_ALLOWED} ({error})") from None
    for _, field, form, conversion in parts:
        if field is not None and (field not in _FIELDS or form or conversion):
            raise ConfigError(argument, template, _ALLOWED)
