"""Processes without an index, on a real server: each leases one, and a killed one's goes to the next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import attrs

from stateful_route import BaseConfig, ServerInfo, StatefulRoute
from tests.waiting import eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer

SERVICE = "room"
FAST = BaseConfig(heartbeat=0.1, lease=1.0, refresh=0.1, listen_patience=0.2, drain_deadline=1.0)

# What each worker of `uvicorn --workers 4` does: all have the same environment, and the same host name.
WORKER = """
import asyncio, os, sys
from stateful_route import BaseConfig, StatefulRoute

async def main():
    config = BaseConfig.from_env()
    async with StatefulRoute.from_url(os.environ["REDIS_URL"], config) as route, route.server() as server:
        handle = await server.claim(f"uid-{os.getpid()}")
        print(server.pod_index, handle.is_owned(), flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def workers(server: LocalServer, namespace: str, count: int) -> AsyncIterator[list[Process]]:
    """Run so many processes until the end of the block, and more of those that ``begin`` adds."""
    running: list[Process] = []
    try:
        running += [await begin(server, namespace) for _ in range(count)]
        yield running
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def begin(server: LocalServer, namespace: str) -> Process:
    """Start a worker."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STATEFUL_ROUTE_")}
    environ |= {
        "REDIS_URL": server.url,
        "HOSTNAME": "web-7",
        "STATEFUL_ROUTE_POD_INDEX": "leased",
        "STATEFUL_ROUTE_NAMESPACE": namespace,
        "STATEFUL_ROUTE_SERVICE_NAME": SERVICE,
        "STATEFUL_ROUTE_HEARTBEAT": "0.1",
        "STATEFUL_ROUTE_LEASE": "1.0",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, env=environ, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def said(process: Process) -> tuple[int, bool]:
    """Return the index of a worker, and whether it owned at once."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        index, owned = (await process.stdout.readline()).split()
    return int(index), owned == b"True"


async def test_workers(own_server: LocalServer, namespace: str) -> None:
    """Four workers have four indexes; of one that is killed with -9 the next has it, once the death is confirmed."""
    config = attrs.evolve(FAST, namespace=namespace)
    async with (
        workers(own_server, namespace, 4) as running,
        StatefulRoute.from_url(own_server.url, config) as route,
        route.client() as client,
    ):
        indexes = [await said(process) for process in running]
        assert [(index, True) for index in range(4)] == sorted(indexes)

        victim = running[1]
        dead = indexes[1][0]
        uid = f"uid-{victim.pid}"
        assert dead == await client.compute_linked_pod("", uid, SERVICE)
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()

        async def is_confirmed() -> bool:
            table = await route.store.read_pods(namespace, SERVICE)
            return any(pod.pod_index == dead and pod.dead for pod in table.pods)

        async with asyncio.timeout(60):
            while not await is_confirmed():
                await client.compute_linked_pod("", "somebody", SERVICE)
                await asyncio.sleep(0.05)
        running.append(await begin(own_server, namespace))
        assert (dead, True) == await said(running[-1])


async def test_moved(own_server: LocalServer, namespace: str) -> None:
    """A pod whose index went to another process goes on under another one, and hears there what others change."""
    config = attrs.evolve(FAST, namespace=namespace)
    info = ServerInfo(namespace=namespace, service_name=SERVICE, pod_name="web")
    async with StatefulRoute.from_url(own_server.url, config) as route, route.server(info) as old:
        await old.claim("alice")
        life = (await route.store.read_pods(namespace, SERVICE)).pods[0].life
        goodbye = attrs.evolve(
            (await route.store.read_pods(namespace, SERVICE)).pods[0].report, routing_state="SHUTDOWN"
        )
        await route.store.heartbeat(old.server_info, life.incarnation, 10**6, goodbye, 1.0, 100.0)
        async with route.server(info) as new:
            assert 0 == new.pod_index
            await eventually(lambda: old.pod_index == 1)
            assert old.owned("alice") is None

            handle = await old.claim("bob")
            assert handle.is_owned()
            await new.set_linked_pod("", "bob", SERVICE, 0)
            await eventually(lambda: not handle.is_owned())
            assert old.healthy
