"""Try another release beside this one: ``python -m tools.side_by_side REV``. Exit status 1: something does not hold."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stateful_route.testing import local_server
from tools.side_by_side.drivers import Drivers
from tools.side_by_side.processes import SideBySideError
from tools.side_by_side.releases import KEPT, NoReleaseError, Release, prepared, today
from tools.side_by_side.web import WebServers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.side_by_side.processes import Trial

PARTS: dict[str, type[Trial]] = {"drivers": Drivers, "web": WebServers}


def main() -> int:
    """Prepare the other release, and run each part with it on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tools.side_by_side", description="Try two releases side by side.")
    parser.add_argument("release", nargs="?", default=KEPT, help="a revision, a wheel, or a virtual environment")
    parser.add_argument("--quick", action="store_true", help="run a revision with the dependencies that are here")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            other = prepared(options.release, Path(folder), installed=not options.quick)
            for part in options.part or PARTS:
                began = time.monotonic()
                print(f"{part}: {other.name} beside {today().name}", flush=True)
                run(part, other, Path(folder), lambda line: print(f"  {line}", flush=True))
                print(f"  {time.monotonic() - began:.0f} s", flush=True)
        except (NoReleaseError, SideBySideError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def run(part: str, other: Release, folder: Path, say: Callable[[str], None] = print) -> None:
    """Run one part.

    Raises:
        SideBySideError: what should hold does not.

    """

    async def on(url: str) -> None:
        async with PARTS[part](other, today(), url, folder, say) as trial:
            await trial.run()

    with local_server() as server:
        asyncio.run(on(server.url))


if __name__ == "__main__":
    sys.exit(main())
