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
from stateful_route.demo.load import CONNECTIONS, Load, Tally
from stateful_route.demo.names import MESSAGES_PATH, SERVICE_NAME
from stateful_route.demo.processes import ChildError, Fleet
from stateful_route.store.embedded import start_embedded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Seconds since the start of the demo. A request ends 4 s after the last one was sent at the latest, and the processes
# within another 4 s, so that the whole takes 30 s at most.
_READY = 10.0
_LAST_REQUEST = 20.0

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


@attrs.frozen(kw_only=True)
class Options:
    """What to run: see ``stateful-route demo --help``."""

    pods: int
    gateways: int
    users: int
    requests: int
    redis_url: str
    keep_open: bool


def main(options: Options) -> int:
    """Run the demo; return 0 if all went well, 1 if not, 2 if it cannot be run like this, 130 if it was interrupted."""
    # What fails is said here in its place.
    logging.getLogger("stateful_route").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(Demo(options, Console(highlight=False)).run())
    except ConfigError as error:
        status, message = _USAGE, str(error)
    except StoreError as error:
        status, message = _FAILED, f"no use of Redis: {error}"
    except ChildError as error:
        status, message = _FAILED, str(error)
    print(f"stateful-route: {message}", file=sys.stderr)
    return status


class Demo:
    """One run."""

    def __init__(self, options: Options, console: Console) -> None:
        """Make a run whose output goes to ``console``."""
        self.options = options
        self.console = console
        self.status = _INTERRUPTED
        self._started = time.monotonic()

    async def run(self) -> int:
        """Show it all; return the exit status.

        Raises:
            ConfigError: if there is no server to embed, or the URL is none.
            StoreError: if the server does not answer.
            ChildError: if a pod or a gateway does not come up.

        """
        options = self.options
        # Of its own, so that a server that others use is safe; and soon forgotten there.
        config = BaseConfig(namespace=f"demo-{secrets.token_hex(4)}")
        with _ended_by_signals():
            async with (
                _redis(options.redis_url) as redis_url,
                StatefulRoute.from_url(redis_url, config) as route,
                Fleet(redis_url, config.namespace, pods=options.pods, gateways=options.gateways) as fleet,
            ):
                info = await route.store.info()
                await self._start(fleet, info.product)
                load = Load(options.users, options.requests)
                await self._load(load, fleet)
                async with route.client() as client:
                    uids_of = await client.batch_get_linked_pod("", load.uids, SERVICE_NAME)
                links = {pod: len(uids_of.get(pod, ())) for pod in range(options.pods)}
                self._report(load.tally, links, fleet)
                if options.keep_open:
                    self._invite(fleet)
                    await anyio.sleep_forever()
        return self.status

    async def _start(self, fleet: Fleet, product: str) -> None:
        options = self.options
        self.console.print(f"[bold]stateful_route {__version__}[/], {product} {_origin(options.redis_url)}")
        with self._busy("starting the pods and the gateways"):
            await fleet.start(_READY - self._elapsed)
        what = f"{_many(options.pods, 'pod')} and {_many(options.gateways, 'gateway')}"
        self.console.print(f"{what} are up, a process each [dim]({self._elapsed:.1f} s)[/]")

    async def _load(self, load: Load, fleet: Fleet) -> None:
        options = self.options
        with self._progress() as progress:
            task = progress.add_task("requests", total=options.requests, failed=0, wrong=0)

            def show(tally: Tally) -> None:
                progress.update(task, completed=tally.sent, failed=tally.failed, wrong=len(tally.misroutes))

            urls = [gateway.url for gateway in fleet.gateways]
            await load.run(urls, _LAST_REQUEST - self._elapsed, show)
        what = f"{_many(options.users, 'user')} sent {_many(load.tally.sent, 'request')}"
        how = f"{CONNECTIONS} at a time, over keep-alive connections"
        self.console.print(f"{what}, {how} [dim]({load.tally.seconds:.1f} s)[/]")
