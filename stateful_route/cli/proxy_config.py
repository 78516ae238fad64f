"""``stateful-route proxy-config``."""

from typing import Annotated, Literal

import attrs
from cyclopts import Parameter

from stateful_route.cli.decide import PORT
from stateful_route.cli.directory import ServiceOptions, cookie_secrets
from stateful_route.cli.options import SHARED, documented

# Of `signed-cookie`, which is only read here: its secrets belong to who decides.
_ANY_SECRET = "-" * 32


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ProxyConfigOptions(ServiceOptions):
    """What ``proxy-config`` is told."""

    mode: Annotated[Literal["decide", "replay"], Parameter(help="decide by default")] = "decide"
    listen: Annotated[str, Parameter(metavar="PORT", help="port, or host:port; 8080 by default")] = "8080"
    decide: Annotated[
        str,
        Parameter(metavar="ADDRESS", help=f"host:port of `stateful-route decide`; 127.0.0.1:{PORT} by default"),
    ] = f"127.0.0.1:{PORT}"
    pods: Annotated[
        str,
        Parameter(
            metavar="ADDRESSES",
            help="host:port of each pod, with commas, or of what balances over them: where requests go first with "
            "replay; with decide, where they go while nobody decides (optional)",
        ),
    ] = ""
    patience: Annotated[
        float,
        Parameter(metavar="SECONDS", help="seconds for which a question is held, as `decide` is told; 6 by default"),
    ] = 6.0
    keep: Annotated[
        int,
        Parameter(
            metavar="SECONDS",
            help="seconds, 1 to 60, for which nginx keeps an answer: for uids that are asked for many times a second; "
            "0 by default: it asks each time. Only with StickyMiddleware in the pods, which sends on what has moved "
            "meanwhile",
        ),
    ] = 0


@documented
def proxy_config(
    proxy: Annotated[str, Parameter(help="nginx, haproxy, or haproxy-lua: what that one loads")],
    /,
    *,
    options: ProxyConfigOptions,
) -> int:
    """Print the configuration of a proxy that carries the requests.

    Prints a complete configuration, with comments, of a proxy that carries the requests of a service to its pods.

    decide: the proxy asks `stateful-route decide` where a request goes, and sends it there.

    replay: the proxy sends a request to any pod; one that is not the owner of its uid says who is, and the proxy
    repeats the request there (nginx only).

    docs/proxies.md has the configurations of Caddy and Envoy.
    """
    from stateful_route.web.proxies import Plan, printed  # noqa: PLC0415 - not for the other commands
    from stateful_route.web.uids.spelled import sources_from  # noqa: PLC0415

    plan = Plan(
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
    print(printed(proxy, plan), end="")
    return 0
