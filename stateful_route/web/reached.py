"""Where proxies and clients reach a pod: what it publishes, or a template."""

from __future__ import annotations

import os
import string
from functools import lru_cache
from typing import TYPE_CHECKING

import attrs

from stateful_route.errors import ConfigError
from stateful_route.web.peer.address import PeerAddress, is_http_address, is_name

if TYPE_CHECKING:
    from stateful_route.config import BaseConfig

HTTP_VARIABLE = "STATEFUL_ROUTE_HTTP_ADDRESS"
_FLY_VARIABLE = "FLY_MACHINE_ID"
PEER = "peer"
"""As the HTTP address of a pod: the port on which its peers reach it."""

_FIELDS = frozenset({"host", "pod_index", "pod_name"})
_ALLOWED = "a text with any of {host}, {pod_index} and {pod_name} in it"
# More pods than a service has at a time.
_REMEMBERED = 4096


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


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check(argument: str, template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise ConfigError(argument, template, f"{_ALLOWED} ({error})") from None
    for _, field, form, conversion in parts:
        if field is not None and (field not in _FIELDS or form or conversion):
            raise ConfigError(argument, template, _ALLOWED)
