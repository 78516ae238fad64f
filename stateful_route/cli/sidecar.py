"""``stateful-route sidecar``."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.cli.directory import redis_url
from stateful_route.cli.ending import USAGE, CommandError
from stateful_route.cli.logs import LogFormat, log_to_stderr
from stateful_route.cli.options import documented
from stateful_route.config import BaseConfig
from stateful_route.route import StatefulRoute
from stateful_route.sidecar.folder import LivesFolder
from stateful_route.sidecar.sidecar import Sidecar


@documented
def sidecar(
    *,
    lives: Annotated[
        str | None,
        Parameter(metavar="DIR", help="the folder; by default STATEFUL_ROUTE_LIFE_DIR of the environment"),
    ] = None,
    redis: Annotated[
        str | None,
        Parameter(
            metavar="URL",
            help="where the pods keep their links; by default STATEFUL_ROUTE_URL or REDIS_URL of the environment",
        ),
    ] = None,
    log_format: LogFormat = "text",
) -> int:
    """End the life of a pod in the moment in which its process ends.

    Watches the processes that have a file in a folder, the setting life_dir of theirs, and ends the life of one that
    has ended, by whatever (kill -9, out of memory): its uids are routed elsewhere within milliseconds instead of once
    its lease has ended. It has to share their process namespace. At SIGTERM it ends once none of them is left; a second
    one ends it at once. Linux only.
    """
    lives = os.environ.get("STATEFUL_ROUTE_LIFE_DIR") if lives is None else lives
    url = redis_url(redis)
    if not lives:
        raise CommandError("sidecar needs --lives DIR, or STATEFUL_ROUTE_LIFE_DIR", USAGE)
    if not url:
        raise CommandError("sidecar needs --redis URL, or STATEFUL_ROUTE_URL or REDIS_URL in the environment", USAGE)
    folder = Path(lives)
    if not folder.is_dir():
        raise CommandError(f"--lives {str(folder)!r} is no folder", USAGE)
    log_to_stderr(log_format, "stateful-route sidecar")
    route = StatefulRoute.from_url(url, BaseConfig.from_env())
    asyncio.run(_watch(route, folder))
    return 0


async def _watch(route: StatefulRoute, folder: Path) -> None:
    async with route:
        sidecar = Sidecar(route.end_life, LivesFolder(folder))
        watching = asyncio.create_task(sidecar.run(), name="stateful_route sidecar")

        def leave() -> None:
            loop.add_signal_handler(signal.SIGTERM, watching.cancel)
            sidecar.leave()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, leave)
        try:
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            await cancel_and_wait(watching)
