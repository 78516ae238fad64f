"""``stateful-route run``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.cli.directory import (
    add_directory,
    add_listening,
    add_proxies,
    add_service,
    port,
    seconds,
    secret_of,
    sources_of,
)
from stateful_route.cli.ending import FAILED, NOT_STARTED, USAGE, CommandError, need, say
from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.web.run.supervisor import Policy
    from stateful_route.web.uids.sources import UidSource

_DESCRIPTION = """\
Runs an app that knows nothing of us as a child, and is its web server: a request is served by the copy of the app that
holds the state of its uid, wherever it arrives. Start it as often as you like, on as many hosts, behind any balancer.

  stateful-route run --service demo --uid query:session_hash,cookie:sid --port 8000 -- python app.py --port {port}

The app listens on 127.0.0.1, on the port that replaces {port} in its arguments, and is PORT in its environment. When it
ends, by whatever cause, its uids go to other copies at once; one that runs and does not answer --live any more is
killed. SIGTERM: no new uids; the old ones are served until they are idle for --linger-idle seconds, or the drain
deadline comes; then the app gets SIGTERM. SIGINT or a second SIGTERM ends all at once. SIGHUP, SIGUSR1 and SIGUSR2 go
on to the app.

Exit status: that of the app; 128 and the signal, if one has ended it; 126 or 127 if it cannot be started; 1 if it does
not serve in time. 0 if it was told to end. 2 if a setting is wrong or the port is taken. 3 if Redis is not reached at
the start.
"""
# Seconds without a request after which a uid is released, unless --uid says otherwise: an app that knows nothing of us
# never says that a session has ended.
_IDLE = 1800.0


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="run an unmodified app, in any language, with its sessions at the right copy",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_service(parser)
    add_listening(parser, "0.0.0.0", 8000)  # noqa: S104 - a web server is for others
    add_proxies(parser)
    add_directory(parser)
    parser.add_argument("--app-port", type=port, metavar="N", help="the port of the app; by default a free one")
    health = "a path of the app that answers 2xx or 3xx once it serves; by default it only has to take connections"
    parser.add_argument("--health", type=_path, metavar="PATH", help=health)
    within = "seconds that the app has to start; 60 by default"
    parser.add_argument("--start-timeout", type=seconds, default=60.0, metavar="SECONDS", help=within)
    live = "a path of the app that answers 2xx or 3xx; it is killed if it does not any more; by default it is not asked"
    parser.add_argument("--live", type=_path, metavar="PATH", help=live)
    every = "seconds between two questions of --live, and that the app has for an answer; 5 by default"
    parser.add_argument("--live-every", type=_pause, default=5.0, metavar="SECONDS", help=every)
    failures = "how many questions of --live in a row have to fail until it is killed; 3 by default"
    parser.add_argument("--live-failures", type=_count, default=3, metavar="N", help=failures)
    restart = "whether another one is started when the app ends; on-failure by default"
    parser.add_argument("--restart", choices=("never", "on-failure", "always"), default="on-failure", help=restart)
    stop = "seconds that the app has to end after SIGTERM, before SIGKILL; 10 by default"
    parser.add_argument("--stop-timeout", type=seconds, default=10.0, metavar="SECONDS", help=stop)
    linger = "seconds without a request after which a uid may leave while it drains; 30 by default"
    parser.add_argument("--linger-idle", type=seconds, default=30.0, metavar="SECONDS", help=linger)
    idle = f"seconds without a request after which a uid without a ttl is released; {_IDLE:g} by default"
    parser.add_argument("--idle", type=seconds, default=_IDLE, metavar="SECONDS", help=idle)
    load = "what new uids are placed by: how many uids, open requests, or CPU (it needs psutil); links by default"
    parser.add_argument("--load", choices=("links", "requests", "cpu"), default="links", help=load)
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="behind --, with its arguments")
    parser.set_defaults(run=_run)


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as /health")
    return text


def _pause(text: str) -> float:
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1000:  # noqa: PLR2004 - more is a mistake
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    need("run", "gateway", "uvicorn", "httptools", "websockets")
    if sys.platform == "win32":
        raise CommandError("run needs a system with POSIX signals", USAGE)
    logging.basicConfig(level=logging.WARNING, format="stateful-route: %(message)s", stream=sys.stderr)
    with asyncio.Runner(loop_factory=_event_loop()) as runner:
        return runner.run(_supervise(options))


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that is installed."""
    try:
        import uvloop  # noqa: PLC0415 - of the extra, on some systems
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _supervise(options: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415 - an extra

    from stateful_route.web.run.child import LOOPBACK, Child, ChildError  # noqa: PLC0415
    from stateful_route.web.run.front import RunFront  # noqa: PLC0415
    from stateful_route.web.run.load import ChildCpu, OpenRequests  # noqa: PLC0415
    from stateful_route.web.run.supervisor import Supervisor  # noqa: PLC0415
    from stateful_route.web.upstream.app import Upstream  # noqa: PLC0415

    child = Child(options.command, options.app_port, health=options.health, start_within=options.start_timeout)
    upstream = Upstream(LOOPBACK, child.port)
    load: Any = None
    if options.load == "cpu":
        need("run --load cpu", "cpu", "psutil")
        load = ChildCpu(child)
    elif options.load == "requests":
        load = OpenRequests(upstream)
    front = RunFront(
        upstream,
        service=options.service,
        uid=[_idle(source, options.idle) for source in sources_of(options)],
        redis=options.redis,
        namespace=options.namespace,
        secret=secret_of(options),
        patience=options.patience,
        drain="linger",
        linger_idle=options.linger_idle,
        on_signal=False,
        load_source=load,
    )
    front.check()
    config = uvicorn.Config(
        front,
        host=options.host,
        port=options.port,
        http="stateful_route.web.uvicorn:StickyProtocol",
        ws="auto",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=options.forwarded_allow_ips,
        timeout_graceful_shutdown=max(1, round(options.stop_timeout)),
    )
    listener = _bound(options.host, options.port)
    try:
        return await Supervisor(child, front, config, listener, _policy(options)).run()
    except ChildError as error:
        say(error)
        return error.status or FAILED
    except StoreError as error:
        say(error)
        return NOT_STARTED
    except OSError as error:
        raise _not_listening(options.host, options.port, error) from None
    finally:
        listener.close()


def _policy(options: argparse.Namespace) -> Policy:
    from stateful_route.web.run.liveness import Liveness  # noqa: PLC0415 - of an extra, as those above
    from stateful_route.web.run.supervisor import Policy  # noqa: PLC0415

    liveness = None
    if options.live is not None:
        liveness = Liveness(path=options.live, every=options.live_every, failures=options.live_failures)
    return Policy(restart=options.restart, stop_within=options.stop_timeout, liveness=liveness)


def _bound(host: str, number: int) -> socket.socket:
    """Return a socket on a port, before anything is started: who listens there is seen at once.

    Two that are started at the same time may both have it, until one of them listens.

    Raises:
        CommandError: if that cannot be.

    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _not_listening(host, number, error) from None
    return listener


def _not_listening(host: str, number: int, error: OSError) -> CommandError:
    return CommandError(f"cannot listen on {host} port {number}: {error.strerror or error}", USAGE)


def _idle(source: UidSource, idle: float) -> UidSource:
    return source if source.ttl is not None or not idle else attrs.evolve(source, ttl=idle)
