"""Configurations of proxies that carry requests to the pods of a service, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.web.proxies import caddy, envoy, haproxy, nginx, traefik

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateful_route.web.proxies.plan import Plan

PRINTERS: Mapping[tuple[str, str], Callable[[Plan], str]] = {
    ("nginx", "decide"): nginx.decide,
    ("nginx", "replay"): nginx.replay,
    ("haproxy", "decide"): haproxy.decide,
    ("haproxy-lua", "decide"): haproxy.lua,
    ("envoy", "decide"): envoy.decide,
    ("caddy", "decide"): caddy.decide,
    ("traefik", "decide"): traefik.decide,
}
"""What prints a configuration, by proxy and mode."""
