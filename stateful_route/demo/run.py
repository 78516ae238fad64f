"""The demo from start to end: a server, the processes, the load, the table."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from stateful_route import BaseConfig, ConfigError, StatefulRoute, StoreError, __version__
from stateful_route.demo import report
from stateful_route.demo.load import AT_ONCE, Load, Tally
from stateful_route.demo.names import MESSAGES_PATH, SERVICE_NAME
from stateful_route.demo.processes import ChildError, Fleet
from stateful_route.store.embedded import start_embedded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

# Seconds since the start. The last answer comes 4 s after the last request at the latest, and the processes end within
# another 4 s: it all takes less than 30 s.
_READY_BY = 10.0
_LAST_REQUEST_BY = 20.0

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


@attrs.frozen(kw_only=True)
class Options:
    """What to run; ``stateful-route demo --help`` explains them."""

    pods: int
    gateways: int
    users: int
    requests: int
    redis_url: str
    keep_open: bool


def main(options: Options) -> int:
    """Run the demo; return 0 if all went well, 1 if not, 2 if it cannot be run like this, 130 if it was interrupted."""
    # What the package would log, the demo says itself.
    logging.getLogger("stateful_route").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(run(options, Console(highlight=False)))
    except ConfigError as error:
        status, message = _USAGE, str(error)
    except StoreError as error:
        status, message = _FAILED, f"Redis cannot be used: {error}"
    except ChildError as error:
        status, message = _FAILED, str(error)
    print(f"stateful-route: {message}", file=sys.stderr)
    return status


async def run(options: Options, console: Console) -> int:
    """Run the demo; return the exit status.

    Raises:
        ConfigError: if the URL is none, or there is no server to embed.
        StoreError: if the server does not answer.
        ChildError: if a pod or a gateway does not come up.

    """
    started = time.monotonic()
    status = _INTERRUPTED
    # A namespace of its own leaves alone what else is on the server.
    config = BaseConfig(namespace=f"demo-{secrets.token_hex(4)}")
    load = Load(options.users, options.requests)
    with _cancelled_by_signals():
        async with _server(options.redis_url) as url, StatefulRoute.from_url(url, config) as route:
            product = (await route.store.info()).product
            console.print(f"[bold]stateful_route {__version__}[/] with {product}")
            async with Fleet(url, config.namespace, pods=options.pods, gateways=options.gateways) as fleet:
                with console.status("starting the processes"):
                    await fleet.start(started + _READY_BY - time.monotonic())
                counts = f"{_many(options.pods, 'pod')} and {_many(options.gateways, 'gateway')}"
                console.print(f"{counts}, a process each, ready after {time.monotonic() - started:.1f} s")

                with _progress(console, load) as show:
                    gateways = [gateway.url for gateway in fleet.gateways]
                    await load.run(gateways, started + _LAST_REQUEST_BY - time.monotonic(), show)
                async with route.client() as client:
                    linked = await client.batch_get_linked_pod("", load.uids, SERVICE_NAME)

                status = _report(options, console, load, linked, fleet)
                if options.keep_open:
                    _invite(console, gateways)
                    await anyio.sleep_forever()
    return status


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Leave the block at Ctrl-C or SIGTERM; its clean-up is bounded in time, and further ones do not disturb it."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, scope.cancel)
        yield


@contextlib.asynccontextmanager
async def _server(url: str) -> AsyncIterator[str]:
    """Hand out the URL of a server for all processes: the one given, or that of a server started for it."""
    parts = urlsplit(url)
    if parts.scheme != "embedded":
        yield url
        return
    server = await start_embedded(parts.netloc + parts.path or None)
    try:
        yield server.url
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)


@contextlib.contextmanager
def _progress(console: Console, load: Load) -> Iterator[Callable[[Tally], None]]:
    """Show how far the load is, where somebody can see it; hand out what is to be told of each request."""
    columns = (
        TextColumn("requests"),
        BarColumn(bar_width=24, complete_style="green"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed, {task.fields[misrouted]} misrouted"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=load.requests, failed=0, misrouted=0)
        yield lambda tally: progress.update(
            task, completed=tally.sent, failed=tally.failed, misrouted=len(tally.misroutes)
        )


def _report(options: Options, console: Console, load: Load, linked: Mapping[int, list[str]], fleet: Fleet) -> int:
    """Show the table and all that went wrong; return the exit status."""
    tally = load.tally
    how = f"{AT_ONCE} requests at a time over keep-alive connections"
    console.print(f"{_many(options.users, 'user')}, {how}, for {tally.seconds:.1f} s")
    links = {pod_index: len(linked.get(pod_index, ())) for pod_index in range(options.pods)}
    console.print(report.table(tally, load.requests, links))
    problems = list(report.problems(tally))
    problems += [child.report() for child in fleet.children if child.ended]
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if problems:
        return _FAILED
    console.print("Each answer came from the pod that holds the user.", style="green")
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
