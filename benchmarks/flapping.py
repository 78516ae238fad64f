"""A dashboard whose Redis comes and goes, for hours: ``python -m benchmarks.flapping [--minutes N] [--pages N]``.

The dashboard is a process of its own, and pages read its stream throughout. Redis is refused, or swallows what it is
sent, for up to 3 s, over and over, while pods come and go. Each minute a line tells the dashboard's resident memory,
its open files, how often the pages were told that Redis is lost, and that it is back. It ends with status 1 if a page
was not told, if the dashboard has ended, or if its memory went on rising in the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info
from stateful_route import StatefulRoute
from stateful_route.embedded.server import LocalServer
from stateful_route.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFIG = attrs.evolve(CONFIG, heartbeat=0.5, lease=5.0, drain_deadline=0.1)
_LONGEST = 3.0
_MOST_MORE = 3_000_000
"""Bytes by which memory may rise in the second half: the allocator keeps what a moment needed."""


async def flap(proxy: FaultProxy, until: float, losses: Counter[str]) -> None:
    """Take Redis away and give it back, until that time of the loop."""
    while asyncio.get_running_loop().time() < until:
        fault = random.choice((proxy.refuse, proxy.black_hole))
        fault()
        await asyncio.sleep(random.uniform(0.3, _LONGEST))
        proxy.pass_through()
        losses[fault.__name__] += 1
        await asyncio.sleep(random.uniform(1.5, _LONGEST))


async def come_and_go(route: StatefulRoute) -> None:
    """Run a pod, again and again, beside one that stays."""
    async with route.server(info(0)):
        for number in range(1, 1_000_000):
            async with route.server(info(1 + number % 3)) as pod:
                for uid in range(50):
                    await pod.claim(f"user-{number}-{uid}")
                await asyncio.sleep(2.0)


async def read(port: int, told: Counter[str]) -> None:
    """Be a page: read the stream, count what it tells, and connect again if it ends."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
            writer.write(f"GET /api/stream?service={SERVICE} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
            told["connected"] += 1
            with contextlib.closing(writer):
                first = True
                while line := await reader.readline():
                    if line.startswith(b"data: "):
                        events = json.loads(line[6:])["events"]
                        told.update(event["kind"] for event in ([] if first else events))
                        first = False
        await asyncio.sleep(0.5)


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def run(minutes: float, pages: int) -> int:
    """Return the status of the process."""
    losses: Counter[str] = Counter()
    told = [Counter[str]() for _ in range(pages)]
    memory: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(LocalServer())
        proxy = await stack.enter_async_context(FaultProxy(server))
        route = await stack.enter_async_context(StatefulRoute.from_url(server.url, _CONFIG))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stateful_route.cli", "dashboard", "--service", SERVICE, "--redis", proxy.url),
            *("--namespace", NAMESPACE, "--port", "0", "--interval", "0.5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        stack.callback(_kill, process)
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        port = int(line.rsplit(":", 1)[1].split("/")[0])
        print(line, end="", flush=True)
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(come_and_go(route)), *(group.create_task(read(port, each)) for each in told)]
            began = asyncio.get_running_loop().time()
            flaps = group.create_task(flap(proxy, began + 60 * minutes, losses))
            while not flaps.done() and process.returncode is None:
                await asyncio.wait([flaps], timeout=60)
                memory.append(resident(process.pid))
                files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
                print(
                    f"{time.strftime('%H:%M')} {memory[-1] / 1e6:.1f} MB, {files} files, {losses.total()} losses; "
                    f"pages were told {min(each['lost'] for each in told)} times lost, "
                    f"{min(each['back'] for each in told)} back",
                    flush=True,
                )
            await asyncio.sleep(_LONGEST)  # what was last is told
            for task in (flaps, *others):
                task.cancel()
        alive = process.returncode is None
        if alive:
            process.terminate()
            await process.wait()
    # A loss that is over before the next look is none for the page; one may have begun before it looked.
    was_told = all(each["back"] - each["lost"] in {0, 1} and each["lost"] > losses.total() / 2 for each in told)
    half = memory[len(memory) // 2 :]
    rises = max(half) - half[0]
    print(f"{dict(losses)}; a page: {dict(told[0])}; memory of the second half rose by {rises / 1e6:.1f} MB")
    return 0 if alive and was_told and rises < _MOST_MORE else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flapping", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="how long; default 60")
    parser.add_argument("--pages", type=int, default=5, metavar="N", help="how many pages read; default 5")
    given = parser.parse_args(arguments)
    return asyncio.run(run(given.minutes, given.pages))


if __name__ == "__main__":
    sys.exit(main())
