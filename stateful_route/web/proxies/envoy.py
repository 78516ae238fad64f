"""Envoy: ``ext_authz`` asks, and a cluster of type ``ORIGINAL_DST`` goes to the address in a header."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.proxies.plan import Plan

_TEXT = """\
# Envoy in front of the service '$service': it asks `stateful-route decide` where a request goes
# Printed by `stateful-route proxy-config envoy`. Tried with Envoy 1.40.
#
# Beside it runs, for each Envoy or for all of them:
#   $command
# The pods run StickyMiddleware with an http_address, which is an IP address and a port: ORIGINAL_DST resolves no names.
# Requests are carried by Envoy alone; one that a pod gets by mistake (its uid has just moved) that pod sends on. Envoy
# does not ask again for a request whose pod dies meanwhile: that one is a 503. Those that come after it are held.

static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: "$host", port_value: $port } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          use_remote_address: true
          stream_idle_timeout: 3600s # of WebSockets and event streams that are silent
          upgrade_configs: [{ upgrade_type: websocket }]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              # What only we may say. A client's own X-Pod-Address is replaced by what is decided.
              request_headers_to_remove: [x-sticky-replayed, x-pod-cookie, x-original-uri, x-original-method]
              routes:
              - match: { prefix: "/" }
                route:
                  cluster: pods
                  timeout: 0s # an answer may take as long as it takes
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              status_on_error: { code: ServiceUnavailable }
              # The uid may be in any header. Without these two the question of a WebSocket would be one itself.
              allowed_headers: { patterns: [{ safe_regex: { regex: ".*" } }] }
              disallowed_headers:
                patterns: [{ exact: connection }, { exact: upgrade }, { exact: transfer-encoding }]
              http_service:
                # It holds a question while a uid is taken over.
                server_uri: { uri: "http://stateful-route", cluster: decide, timeout: ${timeout}s }
                authorization_response:
                  # To the pod: where it is, the fencing token of the uid, and the cookie of a client that was given
                  # one just now.
                  allowed_upstream_headers:
                    patterns:
                    - exact: x-pod-address
                    - exact: x-pod-index
                    - exact: x-link-epoch
                    - exact: cookie
                  allowed_client_headers_on_success: { patterns: [{ exact: set-cookie }] }
                  allowed_client_headers: { patterns: [{ exact: content-type }, { exact: retry-after }] }
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }

  clusters:
  - name: pods
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 2s
    original_dst_lb_config: { use_http_header: true, http_header_name: x-pod-address }
  - name: decide
    type: STRICT_DNS
    connect_timeout: 2s
    load_assignment:
      cluster_name: decide
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: "$decide_host", port_value: $decide_port } } }
"""


def decide(plan: Plan) -> str:
    """Return the bootstrap file with which Envoy asks first."""
    host, _, port = plan.decide.rpartition(":")
    values = {
        "service": plan.service,
        "command": plan.command("envoy"),
        "host": plan.listen_host.strip("[]") or "0.0.0.0",  # noqa: S104 - all addresses, as was asked for
        "port": str(plan.listen_port),
        "decide_host": host.strip("[]"),
        "decide_port": port,
        "timeout": str(plan.timeout),
    }
    return Template(_TEXT).substitute(values)
