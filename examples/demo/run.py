"""The demo from start to end: a server, the processes, the load, the chaos, the tables."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import attrs
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from examples.demo import report
from examples.demo.chaos import Chaos, Timing
from examples.demo.load import AT_ONCE, Load, Tally
from examples.demo.names import MESSAGES_PATH, SERVICE_NAME, TUNING
from examples.demo.processes import ChildError, Fleet
from stateful_route import BaseConfig, ConfigError, StatefulRoute, StoreError, __version__
from stateful_route.embedded.server import start_embedded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from stateful_route.embedded.server import LocalServer

# Seconds since the start. The last answer of a calm run comes 4 s after the last request at the latest, and the
# processes end within another 4 s: it all takes less than 30 s. A chaos run takes less than a minute.
_READY_BY = 10.0
_LAST_REQUEST_BY = 20.0

# The requests of a chaos run are spread over so many seconds, which is about what it takes; and a user is never silent
# for longer than that many, for else it would not be seen for how long one was not served.
_SPREAD = 30.0
_SILENCE = 3.0
# Seconds between two lines into a pipe, which shows no bar.
_LINE_EACH = 5.0

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


@attrs.frozen(kw_only=True)
class Options:
    """What to run; ``python -m examples.demo --help`` explains them."""

    pods: int
    gateways: int
    users: int
    requests: int
    redis_url: str
    keep_open: bool
    chaos: bool
    timing: Timing = attrs.field(factory=Timing)

    @property
    def rate(self) -> float:
        """How many messages a second are sent in a chaos run."""
        return max(self.requests / _SPREAD, self.users / _SILENCE)


def main(options: Options) -> int:
    """Run the demo; return 0 if all went well, 1 if not, 2 if it cannot be run like this, 130 if it was interrupted."""
    # What the package would log, the demo says itself.
    log = logging.getLogger("stateful_route")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return asyncio.run(run(options, Console(highlight=False)))
    except ConfigError as error:
        status, message = _USAGE, str(error)
    except StoreError as error:
        status, message = _FAILED, f"Redis cannot be used: {error}"
    except ChildError as error:
        status, message = _FAILED, str(error)
    finally:
        log.setLevel(level)
    print(f"stateful-route: {message}", file=sys.stderr)
    return status


async def run(options: Options, console: Console) -> int:
    """Run the demo; return the exit status.

    Raises:
        ConfigError: if the URL is none, there is no server to embed, or no pod to take over from another.
        StoreError: if the server does not answer.
        ChildError: if a process does not come up, or does not end.

    """
    if options.chaos and options.pods == 1:
        raise ConfigError("--pods", 1, "at least 2, as one is killed; or --no-chaos")
    started = time.monotonic()
    status = _INTERRUPTED
    # A namespace of its own leaves alone what else is on the server.
    config = BaseConfig(namespace=f"demo-{secrets.token_hex(4)}")
    load = Load(options.users)
    with _cancelled_by_signals():
        async with _server(options.redis_url) as (url, server), StatefulRoute.from_url(url, config) as route:
            product = (await route.store.info()).product
            console.print(f"[bold]stateful_route {__version__}[/] with {product}")
            async with Fleet(url, config.namespace, pods=options.pods, gateways=options.gateways) as fleet:
                if not console.is_terminal:  # else the spinner says so
                    console.print("starting the processes")
                with console.status("starting the processes"):
                    await fleet.start(started + _READY_BY - time.monotonic())
                counts = f"{_many(options.pods, 'pod')}, {_many(options.gateways, 'gateway')} and a database"
                console.print(f"{counts}, a process each, ready after {time.monotonic() - started:.1f} s")
                console.print(f"heartbeat {TUNING.heartbeat:g} s, lease {TUNING.lease_seconds:g} s")

                chaos = Chaos(fleet, load, server, options.timing) if options.chaos else None
                gateways = [gateway.url for gateway in fleet.gateways]
                with _progress(console, None if chaos else options.requests) as show:
                    if chaos is None:
                        left = started + _LAST_REQUEST_BY - time.monotonic()
                        await load.run(gateways, options.requests, left, show)
                    else:
                        await _run_chaos(chaos, load, gateways, options.rate, show)
                async with route.client() as client:
                    linked = await client.batch_get_linked_pod("", load.uids, SERVICE_NAME)

                status = _report(options, console, load, linked, fleet, chaos)
                if options.keep_open:
                    _invite(console, gateways)
                    await anyio.sleep_forever()
    return status


async def _run_chaos(
    chaos: Chaos, load: Load, gateways: Sequence[str], rate: float, show: Callable[[Tally], None]
) -> None:
    """Run the script while the users go on."""
    ended = asyncio.Event()

    async def flow() -> None:
        await load.flow(gateways, rate, ended, show)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(flow())
            await chaos.run()
            ended.set()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    await chaos.close()


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Leave the block at Ctrl-C or SIGTERM; its clean-up is bounded in time, and further ones do not disturb it."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, scope.cancel)
        yield


@contextlib.asynccontextmanager
async def _server(url: str) -> AsyncIterator[tuple[str, LocalServer | None]]:
    """Hand out the URL of a server for all processes: the one given, or that of a server started for it, and that."""
    parts = urlsplit(url)
    if parts.scheme != "embedded":
        yield url, None
        return
    server = await start_embedded(parts.netloc + parts.path or None)
    try:
        yield server.url, server
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)


@contextlib.contextmanager
def _progress(console: Console, requests: int | None) -> Iterator[Callable[[Tally], None]]:
    """Show how far the load is; hand out what is to be told of each request. Into a pipe a line goes each 5 s."""
    calm = (BarColumn(bar_width=24, complete_style="green"), MofNCompleteColumn())
    chaos = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("[bold]{task.description:<16}[/] {task.completed:,.0f}"))
    columns = (
        *(chaos if requests is None else calm),
        TextColumn("requests, {task.fields[failed]:,} failed, {task.fields[wrong]:,} wrong"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("calm", total=requests, failed=0, wrong=0)
        next_line = time.monotonic() + _LINE_EACH

        def show(tally: Tally) -> None:
            nonlocal next_line
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + _LINE_EACH
                counts = f"{tally.sent:,} requests, {tally.failed:,} failed, {len(tally.wrong):,} wrong"
                console.print(f"{tally.phases[-1].name}: {counts}")
            progress.update(
                task,
                description=tally.phases[-1].name,
                completed=tally.sent,
                failed=tally.failed,
                wrong=len(tally.wrong),
            )

        yield show


def _report(
    options: Options, console: Console, load: Load, linked: Mapping[int, list[str]], fleet: Fleet, chaos: Chaos | None
) -> int:
    """Show the tables and all that went wrong; return the exit status."""
    tally, findings = load.tally, chaos.findings if chaos else None
    users = _many(options.users, "user")
    if chaos is None:
        how = f"{AT_ONCE} requests at a time over keep-alive connections"
        console.print(f"{users}, {how}, for {tally.seconds:.1f} s")
    else:
        console.print(f"{users}, {options.rate:,.0f} messages a second, for {tally.seconds:.1f} s")
        console.print(report.phases(tally))
    links = {pod_index: len(linked.get(pod_index, ())) for pod_index in range(options.pods)}
    asked_for = options.requests if chaos is None else None
    console.print(report.table(tally, links, asked_for=asked_for, findings=findings))
    if findings is not None:
        for remark in report.remarks(tally, findings, options.pods):
            console.print(remark, style="dim", markup=False, soft_wrap=True)
    problems = list(report.problems(tally, findings))
    problems += [child.report() for child in fleet.children if child.ended]
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    if problems:
        return _FAILED
    console.print("No request failed, and each answer came from the pod that held the user.", style="green")
    return _OK


def _invite(console: Console, gateways: Sequence[str]) -> None:
    path = MESSAGES_PATH.format(uid="alice")
    console.print("\nAll of it stays up until Ctrl-C. The gateways:")
    for url in gateways:
        console.print(f"  {url}", soft_wrap=True)
    console.print("Try this, more than once, with either of them:")
    console.print(f"  curl -i -X POST {gateways[0]}{path} -d hello", soft_wrap=True)
    console.print(f"  curl -i {gateways[-1]}{path}", soft_wrap=True)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
