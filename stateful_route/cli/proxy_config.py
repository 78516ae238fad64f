"""``stateful-route proxy-config``."""

from __future__ import annotations

import argparse
from typing import Any

from stateful_route.cli.decide import PORT
from stateful_route.cli.directory import add_service, cookie_secrets
from stateful_route.errors import ConfigError

_NAMES = "nginx", "haproxy", "haproxy-lua", "envoy", "caddy", "traefik"
# Of `signed-cookie`, which is only read here: its secrets belong to who decides.
_ANY_SECRET = "-" * 32
_DESCRIPTION = """\
Prints a complete configuration, with comments, of a proxy that carries the requests of a service to its pods.

decide: the proxy asks `stateful-route decide` where a request goes, and sends it there.
replay: the proxy sends a request to any pod; one that is not the owner of its uid says who is, and the proxy repeats
        the request there (nginx only).
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "proxy-config",
        help="print the configuration of a proxy that carries the requests",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("proxy", choices=_NAMES)
    add_service(parser)
    parser.add_argument("--mode", choices=("decide", "replay"), default="decide", help="decide by default")
    parser.add_argument("--listen", default="8080", metavar="PORT", help="port, or host:port; 8080 by default")
    ask = f"host:port of `stateful-route decide`; 127.0.0.1:{PORT} by default"
    parser.add_argument("--decide", default=f"127.0.0.1:{PORT}", metavar="ADDRESS", help=ask)
    pods = (
        "host:port of each pod, with commas, or of what balances over them: where requests go first with replay; with "
        "decide, where they go while nobody decides (optional; for Traefik all pods, in the order of their indexes)"
    )
    parser.add_argument("--pods", default="", metavar="ADDRESSES", help=pods)
    hold = "seconds for which a question is held, as `decide` is told; 6 by default"
    parser.add_argument("--patience", type=float, default=6.0, metavar="SECONDS", help=hold)
    keep = (
        "seconds, 1 to 60, for which nginx keeps an answer: for uids that are asked for many times a second; 0 by "
        "default: it asks each time. Only with StickyMiddleware in the pods, which sends on what has moved meanwhile"
    )
    parser.add_argument("--keep", type=int, default=0, metavar="SECONDS", help=keep)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from stateful_route.web import proxies  # noqa: PLC0415 - not for the other commands
    from stateful_route.web.proxies.plan import Plan  # noqa: PLC0415
    from stateful_route.web.uids.spelled import sources_from  # noqa: PLC0415

    plan = Plan.checked(
        service=options.service,
        uid=options.uid,
        sources=sources_from(options.uid, cookie_secrets=cookie_secrets() or [_ANY_SECRET]),
        mode=options.mode,
        listen=options.listen,
        decide=options.decide,
        pods=[pod for pod in options.pods.split(",") if pod],
        hold=options.patience,
        keep=options.keep,
    )
    printer = proxies.PRINTERS.get((options.proxy, plan.mode))
    if printer is None:
        raise ConfigError("mode", plan.mode, f"decide: {options.proxy} cannot repeat a request at another server")
    print(printer(plan), end="")
    return 0
