"""``stateful-route decide``."""

from typing import Annotated, Literal

import attrs
from cyclopts import Parameter

from stateful_route.cli.directory import DirectoryOptions, RestoresOptions, ServiceOptions, secret_of, sources_of
from stateful_route.cli.ending import need
from stateful_route.cli.listening import check_free, url_of
from stateful_route.cli.logs import LogOptions, log_to_stderr, of_uvicorn
from stateful_route.cli.options import SHARED, Host, Port, documented

PORT = 7950
"""Where it listens unless told otherwise."""
_BACKLOG = 4096
# Seconds that uvicorn keeps an idle connection of the proxy: longer than the proxy does, or a question is lost.
_KEEP_ALIVE = 3600


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DecideOptions(LogOptions, RestoresOptions, DirectoryOptions, ServiceOptions):
    """What ``decide`` is told."""

    asked_by: Annotated[
        Literal["nginx", "haproxy", "caddy", "traefik", "envoy"],
        Parameter(name="--for", help="who asks; nginx by default"),
    ] = "nginx"
    address: Annotated[
        str | None,
        Parameter(
            metavar="TEMPLATE",
            help="where the proxy reaches a pod, with any of {host}, {pod_index} and {pod_name} in it, for example "
            "{host}:8000; by default what the pod publishes as its http_address",
        ),
    ] = None
    host: Annotated[Host, Parameter(help="where to listen; 127.0.0.1 by default")] = "127.0.0.1"
    port: Annotated[Port, Parameter(help=f"{PORT} by default")] = PORT


@documented
def decide(*, options: DecideOptions) -> int:
    """Tell a proxy (nginx, HAProxy, Envoy, Caddy, Traefik) where each request goes.

    Serves the question of a proxy: where does this request go? It answers with the address of the pod that has the uid
    of the request, and carries nothing itself. `stateful-route proxy-config` prints the configuration of a proxy that
    asks.

    The pods run StickyMiddleware with an http_address, or are reached by a template (--address). It needs the extra
    `gateway`. SIGTERM and Ctrl-C end it. Exit status 2 if a setting is wrong or the port is
    taken, 3 if it cannot start.
    """
    need("decide", "gateway", "uvicorn", "httptools")
    import uvicorn  # noqa: PLC0415 - it is an extra

    from stateful_route.cli.shortcut import shortcut  # noqa: PLC0415
    from stateful_route.web.decide import StickyDecide  # noqa: PLC0415 - not for the other commands

    log_to_stderr(options.log_format)
    app = StickyDecide(
        service=options.service,
        uid=sources_of(options.uid),
        asked_by=options.asked_by,
        address=options.address,
        redis=options.redis or None,
        namespace=options.namespace,
        secret=secret_of(options.secret_file),
        patience=options.patience,
        restores=options.restores,
    )
    app.check()
    check_free(options.host, options.port)
    app.serves_at = url_of(options.host, options.port)
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
        **of_uvicorn(options.log_format),
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 3
