"""``stateful-route gateway``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from stateful_route.cli.directory import (
    add_directory,
    add_listening,
    add_proxies,
    add_restores,
    add_service,
    secret_of,
    sources_of,
)
from stateful_route.cli.ending import NOT_STARTED, need

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.web.gateway import StickyGateway

_DESCRIPTION = """\
Serves HTTP and WebSockets, and has each request served by the pod that has its uid. The pods run StickyMiddleware, are
those of `stateful-route run`, or serve HTTP at what they publish or a template says (--address): these get X-Pod-Index
and X-Link-Epoch, and answer 421 if a uid is not theirs. A request without a uid goes to a pod that is chosen by load.
SIGTERM and Ctrl-C end it once the requests have ended. Exit status 2 if a setting is wrong, 3 if it cannot start.
"""
_SETTINGS = "STATEFUL_ROUTE_GATEWAY"
_BACKLOG = 4096


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "gateway",
        help="have each request served by the pod of its uid: a balancer of its own",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_service(parser)
    add_listening(parser, "0.0.0.0", 8000)  # noqa: S104 - a balancer is for others
    add_proxies(parser)
    add_directory(parser)
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="processes on that port; 1 by default")
    add_restores(parser)
    address = (
        "where the pods serve HTTP, with any of {host}, {pod_index} and {pod_name} in it, for example "
        "room-{pod_index}.room:8000; by default what each pod publishes"
    )
    parser.add_argument("--address", metavar="TEMPLATE", help=address)
    parser.set_defaults(run=_run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 256:  # noqa: PLR2004 - more is a mistake
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes from 1 to 256")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    need("gateway", "gateway", "uvicorn", "httptools", "websockets")
    import uvicorn  # noqa: PLC0415 - an extra

    names = ("service", "uid", "redis", "namespace", "secret_file", "patience", "restores", "address")
    os.environ[_SETTINGS] = json.dumps({name: getattr(options, name) for name in names})
    make().check()  # what is wrong is said once, and not by each worker
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again once it has ended
    told = _signals() if options.workers > 1 else None
    uvicorn.run(
        f"{__name__}:make",
        factory=True,
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


def make() -> StickyGateway:
    """Return the gateway of a worker, by the settings that the command has put into its environment.

    Raises:
        ConfigError: if a setting is missing or wrong.

    """
    from stateful_route.web.gateway import StickyGateway  # noqa: PLC0415 - not for the other commands

    logging.basicConfig(level=logging.WARNING, format="stateful-route: %(message)s", stream=sys.stderr)
    options = argparse.Namespace(**json.loads(os.environ[_SETTINGS]))
    return StickyGateway(
        service=options.service,
        uid=sources_of(options),
        redis=options.redis,
        namespace=options.namespace,
        secret=secret_of(options),
        patience=options.patience,
        restores=options.restores,
        address=options.address,
    )
