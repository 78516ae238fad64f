"""Traefik: ``forwardAuth`` asks at one entry point, and routers of another one go by the index of the pod."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    from stateful_route.web.proxies.plan import Plan

_TEXT = """\
# Traefik in front of the service '$service': it asks `stateful-route decide` where a request goes
# Printed by `stateful-route proxy-config traefik`. NOT TRIED: written for Traefik 3 by its documentation.
#
# Beside it runs, for each Traefik or for all of them:
#   $command
# Traefik cannot go to an address that it is told with a request. So a request passes twice through it: the entry point
# `web` asks, and sends it on to the entry point `owner`, whose routers go by the index of the pod. The pods are those
# of --pods, in the order of their indexes: those of a StatefulSet, or with STATEFUL_ROUTE_POD_INDEX set.
#
# This is the dynamic configuration (a file provider). The static one needs
#   entryPoints:
#     web:   { address: "$bind" }
#     owner: { address: "127.0.0.1:7951" } # for Traefik itself only: who reaches it chooses the pod

http:
  middlewares:
    stateful-decide:
      forwardAuth:
        address: "http://$decide/"
        trustForwardHeader: false # X-Forwarded-Method and X-Forwarded-Uri are Traefik's own
        authResponseHeaders: [X-Pod-Index, X-Link-Epoch] # a client's own headers of these names end here
  routers:
    stateful-web:
      entryPoints: [web]
      rule: "PathPrefix(`/`)"
      middlewares: [stateful-decide]
      service: stateful-owner
$routers
  services:
    stateful-owner: { loadBalancer: { servers: [{ url: "http://127.0.0.1:7951" }] } }
$services
"""


def decide(plan: Plan) -> str:
    """Return the dynamic configuration with which Traefik asks first.

    Raises:
        ConfigError: if the plan names no pods, or sources that it cannot serve.

    """
    if not plan.pods:
        raise ConfigError("pods", None, "with Traefik: host:port of each pod, in the order of their indexes")
    if "signed-cookie:" in plan.uid:
        raise ConfigError("uid", plan.uid, "other sources: Traefik cannot give the pod a cookie that a client gets now")
    routers, services = [], []
    for number, pod in enumerate(plan.pods):
        rule = f"Header(`X-Pod-Index`, `{number}`)"
        routers.append(f'    stateful-{number}: {{ entryPoints: [owner], rule: "{rule}", service: stateful-{number} }}')
        services.append(f'    stateful-{number}: {{ loadBalancer: {{ servers: [{{ url: "http://{pod}" }}] }} }}')
    values = {
        "service": plan.service,
        "command": plan.command("traefik"),
        "decide": plan.decide,
        "bind": plan.listen if plan.listen_host else f":{plan.listen_port}",
        "routers": "\n".join(routers),
        "services": "\n".join(services),
    }
    return Template(_TEXT).substitute(values)
