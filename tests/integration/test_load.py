"""Load sources in a real process: CPU that is really burnt, and a load that really arrives."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from stateful_route import ServerInfo, StatefulRoute
from stateful_route.load import CpuUsage, PodFacts
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

# A thousandth of a core: however busy the machine is, what burns gets more than a hundred times as much.
CORES = 0.001
PATIENCE = 30.0


async def test_a_thread_burns() -> None:
    """The CPU load rises while a thread of the process burns CPU."""
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    async with CpuUsage(CORES, period=0.05) as usage:
        thread = threading.Thread(target=burn)
        thread.start()
        try:
            await eventually(lambda: usage(PodFacts()) > 1000, within=PATIENCE)
        finally:
            stop.set()
            thread.join()


async def test_a_child_process_burns() -> None:
    """The CPU load rises above that of the process alone while a child burns CPU, and falls when it ends."""
    async with CpuUsage(CORES, period=0.05) as usage:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        try:
            # A quarter of a core; this process takes a few hundredths while it waits.
            await eventually(lambda: usage.percent > 25_000, within=PATIENCE)
        finally:
            child.kill()
            await child.wait()
        burnt = usage.percent
        await eventually(lambda: usage.percent < burnt, within=PATIENCE)


async def test_route(shared_server: LocalServer, namespace: str) -> None:
    """What a source says of the pod is in Redis, as route.server() hands the source on."""
    info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    async with StatefulRoute.from_url(shared_server.url) as route:
        async with route.server(info, load_source=lambda facts: facts.load_at(0.017)) as server:
            table = await route.store.read_pods(namespace, "room")

            assert [17, 17] == [table.pods[0].load_state.value, await server.get_load_state()]
