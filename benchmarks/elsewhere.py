"""Pods and gateways in processes of their own, as they are for a gateway that is measured."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

# Some pods, until its input ends.
_PODS = """
import asyncio, contextlib, sys
from benchmarks.cases.pods import CONFIG, info
from stateful_route import StatefulRoute

async def main(url, count):
    async with StatefulRoute.from_url(url, CONFIG) as route, contextlib.AsyncExitStack() as stack:
        for index in range(count):
            await stack.enter_async_context(route.server(info(index)))
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

# A pod in a process of its own, which claims and releases on demand; both processes read the same monotonic clock.
_POD = """
import asyncio, sys, time
from benchmarks.cases.pods import CONFIG, info
from stateful_route import StatefulRoute

async def main(url):
    loop = asyncio.get_running_loop()
    async with StatefulRoute.from_url(url, CONFIG) as route, route.server(info(1_000_000)) as server:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order, uid = line.split()
            if order == "claim":
                await server.claim(uid)
                print("claimed", flush=True)
            else:
                begun = time.perf_counter()
                await server.owned(uid).release()
                print(begun, flush=True)

asyncio.run(main(sys.argv[1]))
"""

# A gateway in a process of its own, with so many calls in flight until its input ends.
_LOAD = """
import asyncio, itertools, sys
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE
from stateful_route import StatefulRoute

async def main(url, callers):
    numbers = itertools.count()
    ending = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with StatefulRoute.from_url(url, CONFIG) as route, route.client() as client:

        async def place():
            while not ending.done():
                await client.compute_linked_pod(NAMESPACE, f"elsewhere-load-{next(numbers)}", SERVICE)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(place())
            await asyncio.sleep(0.1)
            print("ready", flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def pods(url: str, count: int) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run that many pods."""
    return _running(_PODS, url, str(count))


def pod_on_demand(url: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run a pod: to the line ``claim UID`` it answers ``claimed``, to ``release UID`` with when it began that."""
    return _running(_POD, url)


def load(url: str, callers: int) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run a gateway with so many callers, each of which places one new uid after the other."""
    return _running(_LOAD, url, str(callers))


@contextlib.asynccontextmanager
async def _running(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script that says when it is ready, and ends well when its input ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        assert await process.wait() == 0
