"""``stateful-route run``."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import Parameter

from stateful_route.cli.directory import (
    DirectoryOptions,
    ListeningOptions,
    MetricsOptions,
    ProxiesOptions,
    ServiceOptions,
    secret_of,
    sources_of,
)
from stateful_route.cli.ending import FAILED, NOT_STARTED, USAGE, CommandError, need, say
from stateful_route.cli.listening import bound, not_listening, url_of
from stateful_route.cli.logs import LogOptions, log_to_stderr, of_uvicorn
from stateful_route.cli.options import SHARED, Path, Pause, Port, Seconds, documented, read_by, whole
from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from stateful_route.web.run.supervisor import Policy
    from stateful_route.web.uids.sources import UidSource

# Seconds without a request after which a uid is released, unless --uid says otherwise: an app that knows nothing of us
# never says that a session has ended.
_IDLE = 1800.0
_MOST_FAILURES = 1000  # more is a mistake


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class RunOptions(LogOptions, MetricsOptions, DirectoryOptions, ProxiesOptions, ListeningOptions, ServiceOptions):
    """What ``run`` is told."""

    app_port: Annotated[Port | None, Parameter(help="the port of the app; by default a free one")] = None
    health: Annotated[
        Path | None,
        Parameter(
            help="a path of the app that answers 2xx or 3xx once it serves; by default it only has to take connections"
        ),
    ] = None
    start_timeout: Annotated[Seconds, Parameter(help="seconds that the app has to start; 60 by default")] = 60.0
    live: Annotated[
        Path | None,
        Parameter(
            help="a path of the app that answers 2xx or 3xx; it is killed if it does not any more; by default it is "
            "not asked"
        ),
    ] = None
    live_every: Annotated[
        Pause,
        Parameter(help="seconds between two questions of --live, and that the app has for an answer; 5 by default"),
    ] = 5.0
    live_failures: Annotated[
        int,
        Parameter(
            metavar="N",
            converter=read_by(lambda text: whole(text, 1, _MOST_FAILURES, "a number")),
            help="how many questions of --live in a row have to fail until it is killed; 3 by default",
        ),
    ] = 3
    restart: Annotated[
        Literal["never", "on-failure", "always"],
        Parameter(help="whether another one is started when the app ends; on-failure by default"),
    ] = "on-failure"
    stop_timeout: Annotated[
        Seconds, Parameter(help="seconds that the app has to end after SIGTERM, before SIGKILL; 10 by default")
    ] = 10.0
    linger_idle: Annotated[
        Seconds,
        Parameter(help="seconds without a request after which a uid may leave while it drains; 5 by default"),
    ] = 5.0
    idle: Annotated[
        Seconds,
        Parameter(help=f"seconds without a request after which a uid without a ttl is released; {_IDLE:g} by default"),
    ] = _IDLE
    load: Annotated[
        Literal["links", "requests", "cpu"],
        Parameter(
            help="what new uids are placed by: how many uids, open requests, or CPU (it needs psutil); links by default"
        ),
    ] = "links"


@documented
def run(
    *command: Annotated[str, Parameter(metavar="COMMAND", required=True, help="behind --, with its arguments")],
    options: RunOptions,
) -> int:
    """Run an unmodified app, in any language, with its sessions at the right copy.

    Runs an app that knows nothing of us as a child, and is its web server: a request is served by the copy of the app
    that holds the state of its uid, wherever it arrives. Start it as often as you like, on as many hosts, behind any
    balancer.

      stateful-route run --service demo --uid query:session_hash,cookie:sid --port 8000 -- python app.py --port {port}

    The app listens on 127.0.0.1, on the port that replaces {port} in its arguments, and is PORT in its environment.
    When it ends, by whatever cause, its uids go to other copies at once; one that runs and does not answer --live any
    more is killed. SIGTERM: no new uids; the old ones are served until they are idle for --linger-idle seconds, or the
    drain deadline comes; then the app gets SIGTERM. SIGINT or a second SIGTERM ends all at once. SIGHUP, SIGUSR1 and
    SIGUSR2 go on to the app.

    Exit status: that of the app; 128 and the signal, if one has ended it; 126 or 127 if it cannot be started; 1 if it
    does not serve in time. 0 if it was told to end. 2 if a setting is wrong or the port is taken. 3 if Redis is not
    reached at the start.
    """
    need("run", "gateway", "uvicorn", "httptools", "websockets")
    if sys.platform == "win32":
        raise CommandError("run needs a system with POSIX signals", USAGE)
    log_to_stderr(options.log_format)
    with asyncio.Runner(loop_factory=_event_loop()) as runner:
        return runner.run(_supervise(options, command))


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that is installed."""
    try:
        import uvloop  # noqa: PLC0415 - of the extra, on some systems
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _supervise(options: RunOptions, command: Sequence[str]) -> int:
    import uvicorn  # noqa: PLC0415 - an extra

    from stateful_route.web.run.child import LOOPBACK, Child, ChildError  # noqa: PLC0415
    from stateful_route.web.run.front import RunFront  # noqa: PLC0415
    from stateful_route.web.run.load import ChildCpu, OpenRequests  # noqa: PLC0415
    from stateful_route.web.run.supervisor import Supervisor  # noqa: PLC0415
    from stateful_route.web.upstream.app import Upstream  # noqa: PLC0415

    child = Child(command, options.app_port, health=options.health, start_within=options.start_timeout)
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
        uid=[_idle(source, options.idle) for source in sources_of(options.uid)],
        redis=options.redis,
        namespace=options.namespace,
        secret=secret_of(options.secret_file),
        patience=options.patience,
        drain="linger",
        linger_idle=options.linger_idle,
        on_signal=False,
        load_source=load,
        metrics=options.metrics,
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
        **of_uvicorn(options.log_format),
    )
    listener = bound(options.host, options.port)
    front.serves_at = url_of(options.host, listener.getsockname()[1])
    try:
        return await Supervisor(child, front, config, listener, _policy(options)).run()
    except ChildError as error:
        say(error)
        return error.status or FAILED
    except StoreError as error:
        say(error)
        return NOT_STARTED
    except OSError as error:
        raise not_listening(options.host, options.port, error) from None
    finally:
        listener.close()


def _policy(options: RunOptions) -> "Policy":
    from stateful_route.web.run.liveness import Liveness  # noqa: PLC0415 - of an extra, as those above
    from stateful_route.web.run.supervisor import Policy  # noqa: PLC0415

    liveness = None
    if options.live is not None:
        liveness = Liveness(path=options.live, every=options.live_every, failures=options.live_failures)
    return Policy(restart=options.restart, stop_within=options.stop_timeout, liveness=liveness)


def _idle(source: "UidSource", idle: float) -> "UidSource":
    from stateful_route.web.uids.sources import DEFAULT  # noqa: PLC0415 - of an extra, as those above

    return attrs.evolve(source, ttl=idle or None) if source.ttl == DEFAULT else source
