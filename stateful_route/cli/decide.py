"""``stateful-route decide``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from stateful_route.cli.ending import need

PORT = 7950
"""Where it listens unless told otherwise."""
PROXIES = "nginx", "haproxy", "caddy", "traefik", "envoy"
COOKIE_SECRETS = "STATEFUL_ROUTE_COOKIE_SECRETS"
_MOST_PORT = 65535
_BACKLOG = 4096
# Seconds that uvicorn keeps an idle connection of the proxy: longer than the proxy does, or a question is lost.
_KEEP_ALIVE = 3600
_DESCRIPTION = """\
Serves the question of a proxy: where does this request go? It answers with the address of the pod that has the uid of
the request, and carries nothing itself. `stateful-route proxy-config` prints the configuration of a proxy that asks.

The pods run StickyMiddleware with an http_address, or are reached by a template (--address). It needs
the extra `gateway`. SIGTERM and Ctrl-C end it. Exit status 2 if a setting is wrong, 3 if it cannot start.
"""
_UID = """\
where the uid of a request is, as the middleware is told: KIND:WHERE[,OPTION=VALUE...], several with commas between
them, for example path:/rooms/{uid},header:x-session-id or signed-cookie:sr,secure=no; see docs/proxies.md"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "decide",
        help="tell a proxy (nginx, HAProxy, Envoy, Caddy, Traefik) where each request goes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_service(parser)
    parser.add_argument("--for", dest="asked_by", choices=PROXIES, default="nginx", help="who asks; nginx by default")
    address = (
        "where the proxy reaches a pod, with any of {host}, {pod_index} and {pod_name} in it, for example {host}:8000; "
        "by default what the pod publishes as its http_address"
    )
    parser.add_argument("--address", metavar="TEMPLATE", help=address)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; 127.0.0.1 by default: for the proxy only")
    parser.add_argument("--port", type=port, default=PORT, metavar="N", help=f"{PORT} by default")
    parser.add_argument("--redis", metavar="URL", help="by default STATEFUL_ROUTE_URL or REDIS_URL of the environment")
    parser.add_argument("--namespace", metavar="NAME", help="by default that of the environment")
    secret = "of the service; rather in STATEFUL_ROUTE_SECRET, as arguments are seen by all users of a machine"  # noqa: S105 - a text
    parser.add_argument("--secret", help=secret)
    hold = "seconds for which a question is held while the pod of its uid is not there; lease + 1 by default"
    parser.add_argument("--patience", type=float, metavar="SECONDS", help=hold)
    restores = "the app has a hand_off: it can load what another of its pods knew, also of ids that it has made"
    parser.add_argument("--restores", action="store_true", help=restores)
    parser.set_defaults(run=_run)


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add what says which requests of which service are meant."""
    parser.add_argument("--service", required=True, metavar="NAME", help="the name of the service")
    parser.add_argument("--uid", required=True, metavar="SOURCES", help=_UID)


def port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or not 0 < int(text) <= _MOST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to {_MOST_PORT}")
    return int(text)


def cookie_secrets() -> list[str]:
    """Return the secrets of ``signed-cookie``, the newest first, from the environment."""
    return [one for one in os.environ.get(COOKIE_SECRETS, "").split(",") if one]


def _run(options: argparse.Namespace) -> int:
    need("decide", "gateway", "uvicorn", "httptools")
    import uvicorn  # noqa: PLC0415 - it is an extra

    from stateful_route.cli.shortcut import shortcut  # noqa: PLC0415
    from stateful_route.web.decide import StickyDecide  # noqa: PLC0415 - not for the other commands
    from stateful_route.web.uids.spelled import sources_from  # noqa: PLC0415

    app = StickyDecide(
        service=options.service,
        uid=sources_from(options.uid, cookie_secrets=cookie_secrets()),
        asked_by=options.asked_by,
        address=options.address,
        redis=options.redis or None,
        namespace=options.namespace,
        secret=options.secret,
        patience=options.patience,
        restores=options.restores,
    )
    app.check()
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=shortcut(app),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 3
