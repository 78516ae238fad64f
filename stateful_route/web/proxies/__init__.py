"""Configurations of proxies that carry requests to the pods of a service: files of text, and what is filled in."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

import attrs

from stateful_route._validation import check_id, check_int, check_seconds
from stateful_route.errors import ConfigError
from stateful_route.web.addresses import is_http_address
from stateful_route.web.proxies.cache import cache_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateful_route.web.uids.sources import UidSource

FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "haproxy-lua": "haproxy.lua"}
"""The template of each configuration."""
_MODES = "decide", "replay"
_MOST_KEPT = 60
_PORT = re.compile(r"[0-9]{1,5}")
_PLAIN = re.compile(r"[ !#%&()*+,\-./0-9:;<=>?@A-Z\[\]^_a-z{|}~]+")  # fits into a comment and quotes of each language
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@attrs.frozen(kw_only=True)
class Plan:
    """What a proxy is to do.

    Attributes:
        service: the name of the service.
        uid: the sources of its uids, as text.
        sources: the same sources, whose ``missing`` the proxy may have to answer.
        mode: ``decide`` if the proxy asks first, ``replay`` if a pod that is not the owner has it repeat the request.
        listen: where the proxy listens: a port, or host and port.
        decide: host and port of ``stateful-route decide``.
        pods: host and port of each pod, or of what balances over all of them: needed for ``replay``; to ``decide`` they
            are where requests go while nobody decides.
        hold: seconds for which a question may be held.
        keep: seconds, from 0, for which nginx keeps an answer.

    Raises:
        ConfigError: naming the option that is wrong or missing.
        InvalidArgumentError: naming the one of a wrong type or range.

    """

    service: str
    uid: str
    sources: Sequence[UidSource]
    mode: str
    listen: str
    decide: str
    pods: Sequence[str]
    hold: float
    keep: int = 0

    def __attrs_post_init__(self) -> None:
        check_id("service", self.service)
        check_seconds("patience", self.hold)
        check_int("keep", self.keep, 0, _MOST_KEPT)
        for option, value in (("service", self.service), ("uid", self.uid)):
            if not _PLAIN.fullmatch(value):
                raise ConfigError(option, value, "printable ASCII, without quotes, dollar signs and backslashes")
        if self.mode not in _MODES:
            raise ConfigError("mode", self.mode, f"one of {', '.join(_MODES)}")
        for option, value in (("decide", self.decide), *(("pods", pod) for pod in self.pods)):
            if not is_http_address(value):
                raise ConfigError(option, value, "host:port")
            if option == "pods" and self.pods.count(value) > 1:
                raise ConfigError(option, value, "each of them once")
        if not is_http_address(f"host:{self.listen}" if _PORT.fullmatch(self.listen) else self.listen):
            raise ConfigError("listen", self.listen, "a port, or host:port")
        if self.mode == "replay" and not self.pods:
            raise ConfigError("pods", None, "with replay: host:port of the pods, or of what balances over them")

    @property
    def listen_port(self) -> int:
        """The port of ``listen``."""
        return int(self.listen.rpartition(":")[2])

    def command(self, proxy: str) -> str:
        """Return the command that answers the questions."""
        host, _, port = self.decide.rpartition(":")
        where = f"--host {host.strip('[]')} --port {port}"
        return f"stateful-route decide --for {proxy} --service '{self.service}' --uid '{self.uid}' {where}"


def printed(proxy: str, plan: Plan) -> str:
    """Return the configuration of a proxy, or the Lua that HAProxy loads.

    Raises:
        ConfigError: if there is none, the proxy cannot do it in that mode, or nginx cannot keep answers of the sources.

    """
    if proxy not in FILES:
        known = ", ".join(f'"{name}"' for name in FILES)
        raise ConfigError("proxy", proxy, f"one of {known}; docs/proxies.md has those of Caddy and Envoy")
    if plan.mode != "decide" and proxy != "nginx":
        raise ConfigError("mode", plan.mode, f"decide: {proxy} cannot repeat a request at another server")
    keep = plan.keep if plan.mode == "decide" and proxy == "nginx" else 0
    key, maps = cache_key(plan.uid) if keep else ("", [])
    host, _, port = plan.listen.rpartition(":")
    return _filled(
        FILES[proxy],
        {
            plan.mode: [plan.mode],
            "service": [plan.service],
            "listen": [plan.listen],
            "bind": [f"{host}:{port}"],
            "decide": [plan.decide] if plan.mode == "decide" else [],
            "command": [plan.command(proxy)],
            "pods": plan.pods,
            "alone": [] if plan.pods else ["alone"],
            "upstream": ["$stateful_upstream" if plan.pods else "$stateful_pod"],
            "timeout": [str(int(plan.hold) + 5)],
            "statuses": [
                str(status) for status in (400, *sorted({one.missing for one in plan.sources if one.missing}))
            ],
            "keep": [str(keep)] if keep else [],
            "key": [key],
            "maps": maps,
        },
    )


def _filled(file: str, values: Mapping[str, Sequence[str]]) -> str:
    """Return a template with its places filled in.

    A line with a ``{{name}}`` comes once for each value of the first name in it, ``{{number}}`` from 0. ``@if`` and
    names begin the lines that come only if each of those has a value, up to the next ``@if`` or ``@end``.
    """
    lines, holds = [], True
    for line in (resources.files(__package__) / file).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("@"):
            holds = all(values.get(name) for name in line.split()[1:])
        elif holds:
            names = [name for name in _PLACE.findall(line) if name != "number"]
            for number, value in enumerate(values[names[0]] if names else [""]):
                found = {name: values[name][0] for name in names} | dict.fromkeys(names[:1], value)
                lines.append(_line(line, found | {"number": str(number)}))
    return "".join(lines)


def _line(line: str, found: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: found[place[1]], line)
