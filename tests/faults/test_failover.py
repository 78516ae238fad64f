"""A primary dies under load: who takes over is found, in bounded time and with bounded effort, and nobody hangs."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from redis.crc import key_slot

from stateful_route.errors import StoreError
from stateful_route.store.transport.cluster import PipelinedCluster
from stateful_route.store.transport.server import PipelinedServer
from stateful_route.testing import cluster, sentinel_group
from tests.leaks import nothing_left
from tests.store.script_calls import GET, SET, connections_at
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.script import ScriptCall
    from tests.faults.conftest import Measured

DEADLINE = 0.5
PATIENT = 5.0  # a deadline that a healthy server meets on any machine
CALLERS = 20
SLOTS = 16384


@attrs.define
class Callers:
    """Callers who repeat one call for ever, and what became of their calls."""

    connections: Connections
    call: ScriptCall
    done: int = 0
    errors: list[BaseException] = attrs.field(factory=list)
    tasks: list[asyncio.Task[None]] = attrs.field(factory=list)

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self._run()) for _ in range(CALLERS)]

    async def stop(self) -> None:
        """Let each end the call that it makes; nobody hangs in one."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks, timeout=10.0)

        assert all(task.cancelled() for task in self.tasks)

    async def _run(self) -> None:
        while True:
            try:
                await self.connections.run(self.call)
                self.done += 1
            except StoreError as error:
                self.errors.append(error)
            await asyncio.sleep(0.001)  # who fails at once does not keep the others from their turn


@pytest.fixture(autouse=True)
async def clean() -> AsyncIterator[None]:
    """Check that a test leaves nothing behind."""
    async with nothing_left():
        yield


async def goes_on(callers: Callers, count: int = 100) -> None:
    """Wait until that many further calls are done."""
    goal = callers.done + count
    await eventually(lambda: callers.done >= goal, within=20.0)


def _asked(server: LocalServer) -> str:
    """Return what a server says of its role; nothing while Sentinel ends its connections, as it promotes it."""
    try:
        return server.ask("INFO", "replication")
    except OSError:
        return ""


def _promoted(replica: LocalServer) -> float:
    """Return when a replica has become the primary: blocks until then, for a thread."""
    while "role:master" not in _asked(replica):
        time.sleep(0.01)
    return time.monotonic()


@pytest.mark.scenario(4)
async def test_sentinel(namespace: str, measured: Measured) -> None:
    """Sentinel names another primary: calls fail typed meanwhile and are done again after, with few connections."""
    with sentinel_group() as group:
        async with connections_at(group.url, DEADLINE) as connections:
            assert isinstance(connections, PipelinedServer)
            callers = Callers(connections, SET.command((namespace,), ("v",)))
            callers.start()
            await goes_on(callers)
            killed = time.monotonic()
            group.primary.kill()
            await eventually(lambda: bool(callers.errors))
            promoting = asyncio.create_task(asyncio.to_thread(_promoted, group.replica))
            await goes_on(callers, 1)
            took = time.monotonic() - killed
            promoted = await promoting - killed
            await goes_on(callers)
            await callers.stop()
            connects = connections._pipe.connects
            await eventually(lambda: group.elected() is group.replica)  # all sentinels have heard

    measured(
        f"Sentinel promoted {promoted:.1f} s after a kill, at a down-after of 1 s, and it was written again "
        f"{max(0.0, took - promoted):.2f} s after that; {connects} connections; 0 stuck"
    )
    assert 2 <= connects <= 10
    assert took - promoted < 2.0


async def test_sentinel_demotes(namespace: str) -> None:
    """A primary that has become a replica is left for the new one, though it is alive and its connection too."""
    with sentinel_group() as group:
        async with connections_at(group.url, DEADLINE) as connections:
            assert isinstance(connections, PipelinedServer)
            callers = Callers(connections, SET.command((namespace,), ("v",)))
            callers.start()
            await goes_on(callers)
            order = ("SENTINEL", "FAILOVER", "mymaster")  # refused while the replica looks down, on a busy machine
            await eventually(lambda: group.sentinels[0].ask(*order) == "+OK", within=20.0)
            await eventually(lambda: group.elected() is group.replica, within=20.0)
            await goes_on(callers)
            await callers.stop()
            role = await connections.command("ROLE")

    assert b"master" == role[0]


def key_of(shard: int, namespace: str) -> str:
    """Return a key of one of three primaries."""
    names = (f"{namespace}:{i}" for i in range(100_000))
    return next(name for name in names if key_slot(name.encode()) * 3 // SLOTS == shard)


@pytest.mark.scenario(5)
async def test_cluster(namespace: str, measured: Measured) -> None:
    """A primary of a cluster is killed: the other shards see no error and go on, its own goes on with its replica."""
    with cluster(primaries=3, replicas=1) as nodes:
        for node in nodes.nodes:  # or else the servers themselves refuse to serve while one of them is away
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        async with connections_at(nodes.url, PATIENT) as connections:
            assert isinstance(connections, PipelinedCluster)
            table = connections._table
            shards = [Callers(connections, SET.command((key_of(i, namespace),), (i,))) for i in range(3)]
            for callers in shards:
                callers.start()
            for callers in shards:
                await goes_on(callers)
            before = table.readings
            killed = time.monotonic()
            nodes.nodes[0].kill()
            await eventually(lambda: bool(shards[0].errors))
            progress: list[Any] = []
            while not progress or shards[0].done == progress[0][0]:
                progress.append([callers.done for callers in shards])
                await goes_on(shards[1], 200)
            took = time.monotonic() - killed
            await goes_on(shards[0])
            readings = table.readings - before
            for callers in shards:
                await callers.stop()
            connects = sum(pipe.connects for pipe in table._pipes.values())
            await eventually(lambda: table._task is None)
            value = await connections.run(GET.command((key_of(0, namespace),), ()))

    measured(f"its shard back {took:.1f} s after a kill, at a node-timeout of 2 s; 0 errors at the others")
    assert 5 < len(progress)
    assert [] == shards[1].errors == shards[2].errors
    assert all(later > earlier for (_, _, earlier), (_, _, later) in itertools.pairwise(progress))
    assert 1 <= readings <= 40
    assert connects <= 12
    assert b"0" == value


async def test_cluster_closed_in_an_outage(namespace: str) -> None:
    """Closing does not wait for a primary that is away for longer than a deadline, and ends all who wait for it."""
    with cluster(primaries=3) as nodes:
        async with connections_at(nodes.url, DEADLINE) as connections:
            calls = [SET.command((key_of(i, namespace),), ("v",)) for i in range(3)]
            await asyncio.gather(*map(connections.run, calls))
            nodes.nodes[0].pause()
            waiting = [asyncio.ensure_future(connections.run(calls[0])) for _ in range(50)]
            with suppress(StoreError):
                await connections.run(calls[0])
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        nodes.nodes[0].resume()

    assert all(isinstance(answer, StoreError) for answer in answers)
