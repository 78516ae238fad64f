"""``stateful-route gateway``."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.directory import (
    DirectoryOptions,
    ListeningOptions,
    MetricsOptions,
    ProxiesOptions,
    RestoresOptions,
    ServiceOptions,
    secret_of,
    sources_of,
)
from stateful_route.cli.ending import NOT_STARTED, need
from stateful_route.cli.listening import check_free, url_of
from stateful_route.cli.logs import LogOptions, log_to_stderr, of_uvicorn
from stateful_route.cli.options import SHARED, documented, read_by, whole

if TYPE_CHECKING:
    from stateful_route.web.gateway import StickyGateway

_SETTINGS = "STATEFUL_ROUTE_GATEWAY"
_BACKLOG = 4096
_MOST_WORKERS = 256  # more is a mistake


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class GatewayOptions(
    LogOptions, RestoresOptions, MetricsOptions, DirectoryOptions, ProxiesOptions, ListeningOptions, ServiceOptions
):
    """What ``gateway`` is told."""

    workers: Annotated[
        int,
        Parameter(
            metavar="N",
            converter=read_by(lambda text: whole(text, 1, _MOST_WORKERS, "a number of processes")),
            help="processes on that port; 1 by default",
        ),
    ] = 1
    address: Annotated[
        str | None,
        Parameter(
            metavar="TEMPLATE",
            help="where the pods serve HTTP, with any of {host}, {pod_index} and {pod_name} in it, for example "
            "room-{pod_index}.room:8000; by default what each pod publishes",
        ),
    ] = None


@documented
def gateway(*, options: GatewayOptions) -> int:
    """Have each request served by the pod of its uid: a balancer of its own.

    Serves HTTP and WebSockets, and has each request served by the pod that has its uid. The pods run StickyMiddleware,
    are those of `stateful-route run`, or serve HTTP at what they publish or a template says (--address): these get
    X-Pod-Index and X-Link-Epoch, and answer 421 if a uid is not theirs. A request without a uid goes to a pod that is
    chosen by load. SIGTERM and Ctrl-C end it once the requests have ended. Exit status 2 if a setting is wrong or the
    port is taken, 3 if it cannot start.
    """
    need("gateway", "gateway", "uvicorn", "httptools", "websockets")
    import uvicorn  # noqa: PLC0415 - an extra

    os.environ[_SETTINGS] = json.dumps(attrs.asdict(options))
    app = make()
    app.check()  # what is wrong is said before any worker begins
    check_free(options.host, options.port)
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again once it has ended
    told = _signals() if options.workers > 1 else None
    uvicorn.run(
        app if options.workers == 1 else f"{__name__}:make",
        factory=options.workers > 1,
        host=options.host,
        port=options.port,
        workers=options.workers,
        http="stateful_route.web.uvicorn:StickyProtocol",
        ws="auto",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=options.forwarded_allow_ips,
        backlog=_BACKLOG,
        **of_uvicorn(options.log_format),
    )  # it exits with 3 if it cannot start
    return 0 if told is None or told() else NOT_STARTED  # of several workers it does not say so


def _signals() -> Callable[[], bool]:
    """Return what tells whether this process was told to end, by whoever handles that."""
    reader, writer = socket.socketpair()
    reader.settimeout(0)
    writer.settimeout(0)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def told() -> bool:
        signal.set_wakeup_fd(-1)
        with reader, writer, contextlib.suppress(BlockingIOError):
            return not {signal.SIGTERM, signal.SIGINT}.isdisjoint(reader.recv(4096))
        return False

    return told


def _end(*_: object) -> None:
    sys.exit(0)


def make() -> "StickyGateway":
    """Return the gateway of a worker, by the settings that the command has put into its environment.

    Raises:
        ConfigError: if a setting is missing or wrong.

    """
    from stateful_route.web.gateway import StickyGateway  # noqa: PLC0415 - not for the other commands

    options = GatewayOptions(**json.loads(os.environ[_SETTINGS]))
    log_to_stderr(options.log_format)
    app = StickyGateway(
        service=options.service,
        uid=sources_of(options.uid),
        redis=options.redis,
        namespace=options.namespace,
        secret=secret_of(options.secret_file),
        patience=options.patience,
        restores=options.restores,
        address=options.address,
        metrics=options.metrics,
    )
    app.serves_at = url_of(options.host, options.port)
    return app
