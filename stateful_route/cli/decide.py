"""``stateful-route decide``."""

from __future__ import annotations

import argparse
from typing import Any

from stateful_route.cli.directory import add_directory, add_listening, add_restores, add_service, secret_of, sources_of
from stateful_route.cli.ending import need

PORT = 7950
"""Where it listens unless told otherwise."""
PROXIES = "nginx", "haproxy", "caddy", "traefik", "envoy"
_BACKLOG = 4096
# Seconds that uvicorn keeps an idle connection of the proxy: longer than the proxy does, or a question is lost.
_KEEP_ALIVE = 3600
_DESCRIPTION = """\
Serves the question of a proxy: where does this request go? It answers with the address of the pod that has the uid of
the request, and carries nothing itself. `stateful-route proxy-config` prints the configuration of a proxy that asks.

The pods run StickyMiddleware with an http_address, or are reached by a template (--address). It needs
the extra `gateway`. SIGTERM and Ctrl-C end it. Exit status 2 if a setting is wrong, 3 if it cannot start.
"""


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
    add_listening(parser, "127.0.0.1", PORT)
    add_directory(parser)
    add_restores(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need("decide", "gateway", "uvicorn", "httptools")
    import uvicorn  # noqa: PLC0415 - it is an extra

    from stateful_route.cli.shortcut import shortcut  # noqa: PLC0415
    from stateful_route.web.decide import StickyDecide  # noqa: PLC0415 - not for the other commands

    app = StickyDecide(
        service=options.service,
        uid=sources_of(options),
        asked_by=options.asked_by,
        address=options.address,
        redis=options.redis or None,
        namespace=options.namespace,
        secret=secret_of(options),
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
