"""The faults of a soak, and the one who chooses among them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.soak.world import LEASE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.soak.processes import Process
    from benchmarks.soak.world import World

    OfPod: TypeAlias = Callable[["Faults", int], Awaitable[None]]

_PAUSE = (0.2, 1.5)
_QUIET = 40.0
"""Seconds of faults between two times of quiet."""


class Faults:
    """Makes faults, by chance, and never at all pods at a time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self._busy: set[int] = set()
        self._redis = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, until: float) -> None:
        """Make faults until a time of the monotonic clock, with quiet in between, and at the end."""
        while time.monotonic() < until:
            ends = min(until, time.monotonic() + _QUIET)
            while time.monotonic() < ends:
                self._begin_one()
                self._end_with_the_first_that_failed()
                await asyncio.sleep(self.random.uniform(*_PAUSE))
            if self._running:
                await asyncio.wait(self._running)
            self._end_with_the_first_that_failed()
            self.world.note("quiet")
            await self.world.agree()

    def _end_with_the_first_that_failed(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            task.result()

    def _begin_one(self) -> None:
        of_redis = _OF_SENTINEL if self.world.group is not None else _OF_REDIS
        if self.random.random() < 0.2 and not self._redis.locked():
            name = self.random.choice(list(of_redis))
            self._go(name, self._alone(of_redis[name]))
            return
        of_pods = {name: fault for name, fault in _OF_PODS.items() if self.world.proxies or "cut" not in name}
        free = [index for index in range(len(self.world.pods)) if index not in self._busy]
        if len(free) < 2:
            return
        name, index = self.random.choice(list(of_pods)), self.random.choice(free)
        if name == "a gateway cut off":
            if self.world.proxies:
                self._go(name, cut_gateway(self))
            return
        self._busy.add(index)
        self._go(name, self._at(index, of_pods[name]))

    def _go(self, name: str, fault: Awaitable[None]) -> None:
        self.world.faults[name] += 1

        async def make() -> None:
            await fault

        self._running.add(asyncio.create_task(make(), name=name))

    async def _alone(self, fault: Callable[[Faults], Awaitable[None]]) -> None:
        async with self._redis:
            await fault(self)

    async def _at(self, index: int, fault: OfPod) -> None:
        try:
            with self.world.pod_fault(index):
                await fault(self, index)
        finally:
            self._busy.discard(index)

    def pod(self, index: int, what: str) -> Process:
        process = self.world.pods[index]
        self.world.note(f"{process.name}: {what}")
        return process

    async def start_again(self, index: int) -> None:
        self.world.pods[index] = await self.world.start_pod(index)


async def kill(faults: Faults, index: int) -> None:
    await faults.pod(index, "kill -9").kill()
    await asyncio.sleep(faults.random.choice((0.0, 2 * LEASE)) * faults.random.random())
    await faults.start_again(index)


async def terminate(faults: Faults, index: int) -> None:
    process = faults.pod(index, "SIGTERM")
    process.expected_to_end = True
    process.send(signal.SIGTERM)
    await faults.world.retire(process)
    await faults.start_again(index)


async def two_processes(faults: Faults, index: int) -> None:
    older = faults.pod(index, "a second process with its index")
    older.expected_to_end = True
    await faults.start_again(index)
    await faults.world.retire(older)


async def two_processes_one_deaf(faults: Faults, index: int) -> None:
    """The older process does not hear that it is superseded, as it was stopped, or is cut off. It has callers yet."""
    world, older = faults.world, faults.pod(index, "a second process with its index, of which it does not hear")
    older.expected_to_end = True
    stops = faults.random.random() < 0.5 or not world.proxies
    with world.store_fault(loses=False):
        if stops:
            older.send(signal.SIGSTOP)
            starting = asyncio.create_task(faults.start_again(index))
            await asyncio.sleep(faults.random.uniform(0.3, 0.8) * LEASE)
            older.send(signal.SIGCONT)
            await starting
        else:
            world.proxies[older.name].black_hole()
            await faults.start_again(index)
            await asyncio.sleep(1.5 * LEASE)
            world.proxies[older.name].refuse()
            world.proxies[older.name].pass_through()
        world.note(f"{older.name} hears again")
        await world.retire(older)


def stop_for(least: float, most: float) -> OfPod:
    async def stop(faults: Faults, index: int) -> None:
        seconds = faults.random.uniform(least, most) * LEASE
        process = faults.pod(index, f"SIGSTOP for {seconds:.2f} s")
        process.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send(signal.SIGCONT)
        faults.world.note(f"{process.name}: SIGCONT")
        await asyncio.sleep(LEASE)

    return stop


def stall_for(least: float, most: float) -> OfPod:
    async def stall(faults: Faults, index: int) -> None:
        seconds = faults.random.uniform(least, most) * LEASE
        faults.pod(index, f"its event loop stands still for {seconds:.2f} s").tell(f"stall {seconds}")
        await asyncio.sleep(seconds + LEASE)

    return stall


async def _cut(faults: Faults, process: Process) -> None:
    seconds = faults.random.choice((0.0, 0.3, 1.0, 2.0)) * LEASE * faults.random.random()
    proxy = faults.world.proxies[process.name]
    how = faults.random.choice((proxy.refuse, proxy.black_hole, proxy.cut_before_reply, proxy.cut_before_request))
    faults.world.note(f"{process.name}: {how.__name__} for {seconds:.2f} s")
    with faults.world.store_fault(loses=False):
        how()
        await asyncio.sleep(seconds)
        if how == proxy.black_hole:
            proxy.refuse()  # connections that have lost something end, in the end
        proxy.pass_through()
        faults.world.note(f"{process.name}: connected again")
    await asyncio.sleep(LEASE)


async def cut(faults: Faults, index: int) -> None:
    await _cut(faults, faults.world.pods[index])


async def cut_gateway(faults: Faults) -> None:
    await _cut(faults, faults.random.choice(faults.world.gateways))


async def pause(faults: Faults) -> None:
    world, seconds = faults.world, faults.random.uniform(0.1, 2.0) * LEASE
    world.note(f"Redis: SIGSTOP for {seconds:.2f} s")
    with world.store_fault(loses=False):
        world.server.pause()
        await asyncio.sleep(seconds)
        world.server.resume()
        world.note("Redis: SIGCONT")


async def empty(faults: Faults) -> None:
    world, seconds = faults.world, faults.random.choice((0.0, 1.0)) * faults.random.uniform(0.0, 2 * LEASE)
    world.note(f"Redis: kill -9, and empty after {seconds:.2f} s")
    with world.store_fault(loses=True):
        await asyncio.to_thread(world.server.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(world.server.restart)
        world.note("Redis: empty, and up")
    await asyncio.sleep(2 * LEASE)


async def end_connections(faults: Faults) -> None:
    world = faults.world
    world.note("Redis: CLIENT KILL")
    server = world.server if world.group is None else _primary(world)
    with world.store_fault(loses=False), contextlib.suppress(OSError):
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", faults.random.choice(("normal", "pubsub")))


async def flush_scripts(faults: Faults) -> None:
    world = faults.world
    world.note("Redis: SCRIPT FLUSH")
    server = world.server if world.group is None else _primary(world)
    with contextlib.suppress(OSError):
        await asyncio.to_thread(server.ask, "SCRIPT", "FLUSH")


def _primary(world: World):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a LocalServer
    assert world.group is not None
    servers = (world.group.primary, world.group.replica)
    roles = [server for server in servers if server.pid is not None and "role:master" in _info(server)]
    return roles[0] if roles else servers[0]


def _info(server) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001 - a LocalServer
    try:
        return str(server.ask("INFO", "replication"))
    except OSError:
        return ""


async def fail_over(faults: Faults) -> None:
    """Kill the primary; the replica takes over, and what it had not got yet is lost."""
    world = faults.world
    assert world.group is not None
    primary = await asyncio.to_thread(_primary, world)
    replica = world.group.replica if primary is world.group.primary else world.group.primary
    world.note("Sentinel: the primary is killed")
    with world.store_fault(loses=not world.plan.durable):
        await asyncio.to_thread(primary.kill)
        await _until(lambda: "role:master" in _info(replica), "another primary")
        world.note("Sentinel: the replica is the primary")
        await asyncio.sleep(LEASE)
        await asyncio.to_thread(primary.restart)
        await _until(lambda: "master_link_status:up" in _info(primary), "the replica in sync")
        await _until(lambda: "online" in _info(replica), "the primary with its replica")
        world.note("Sentinel: the old primary is a replica in sync")
        await asyncio.sleep(1.0)


async def _until(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not await asyncio.to_thread(fact):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within a minute")
        await asyncio.sleep(0.1)


_OF_PODS: dict[str, OfPod] = {
    "pod killed": kill,
    "pod told to leave": terminate,
    "pod stopped, shorter than the lease": stop_for(0.1, 0.6),
    "pod stopped, longer": stop_for(1.1, 2.5),
    "loop stalled, shorter than the lease": stall_for(0.1, 0.6),
    "loop stalled, longer": stall_for(1.1, 2.5),
    "two processes of one index": two_processes,
    "two of them, the older deaf": two_processes_one_deaf,
    "pod cut off": cut,
    "a gateway cut off": lambda faults, index: cut_gateway(faults),
}
_OF_REDIS = {
    "Redis paused": pause,
    "Redis emptied": empty,
    "connections ended": end_connections,
    "scripts flushed": flush_scripts,
}
_OF_SENTINEL = {
    "failed over": fail_over,
    "connections ended": end_connections,
    "scripts flushed": flush_scripts,
}
