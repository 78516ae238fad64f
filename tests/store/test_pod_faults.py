"""The pods of a service when something goes wrong with what is stored of them, or with the server that stores it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ClientDriver, RoutingState, ServerInfo, StatefulRoute, StoreUnavailableError
from stateful_route.pods import HeartbeatOutcome, PodLife
from stateful_route.store import PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.testing import ManualClock, MemoryStore
from tests.insides import directory_of, reader_of
from tests.store.script_calls import connections_at
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

SERVICE = "room"
RETENTION = 3600.0
KEYS = KeySpace()
REFUSED = StoreUnavailableError("NOREPLICAS", operation="any", maybe_applied=False)
FAST: dict[str, Any] = {"heartbeat": 0.1, "lease": 0.5, "refresh": 0.1}


def room(namespace: str, pod_index: int = 0) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)


class TestRefusedWrites:
    """A server that refuses writes (no replica, a full disk, no memory) answers readings: no pod is dead then."""

    @pytest.mark.parametrize("quarters", range(3, 13))
    @pytest.mark.parametrize("pods", [1, 3])
    async def test_return(self, pods: int, quarters: int) -> None:
        """When it takes writes again, a client that is faster than the pods kills none of them."""
        clock, lease = ManualClock(), 500.0
        store = MemoryStore(clock)
        config = BaseConfig(namespace="prod", heartbeat=100.0, refresh=100.0, lease=lease)
        lives = [
            (await store.register(room("prod", i), PodReport(), lease, RETENTION)).incarnation for i in range(pods)
        ]

        async def beat(sequence: int) -> list[HeartbeatOutcome]:
            return [
                await store.heartbeat(room("prod", i), life, sequence, PodReport(), lease, RETENTION)
                for i, life in enumerate(lives)
            ]

        async with ClientDriver(store, config, clock=clock) as client:

            async def look() -> None:
                directory_of(client).peek("prod", SERVICE)  # the service is in use
                await directory_of(client).refresh_all()

            for sequence in range(8):
                await beat(sequence)
                await look()
                clock.advance(lease / 4)
            store.fail_with(REFUSED, "heartbeat", "register", "confirm_death")
            for _ in range(quarters):
                await look()
                clock.advance(lease / 4)
            store.fail_with(None)
            await look()

            assert {HeartbeatOutcome.ACCEPTED} == set(await beat(9))

    async def test_server(self, own_server: LocalServer, namespace: str) -> None:
        """The same with drivers and a server."""
        config = BaseConfig(namespace=namespace, **FAST | {"heartbeat": 0.2})
        async with AsyncExitStack() as stack:
            routes = [await stack.enter_async_context(StatefulRoute.from_url(own_server.url, config)) for _ in range(5)]
            for i in range(10):
                await stack.enter_async_context(routes[0].server(room(namespace, i)))
            clients = [await stack.enter_async_context(route.client()) for route in routes]
            before = {i: pod.incarnation for i, pod in (await clients[0].pods("", SERVICE)).items()}
            for state, seconds in (("0", 1.0), ("1", 1.2), ("0", 1.0)):
                own_server.ask("CONFIG", "SET", "min-replicas-to-write", state)
                ends = time.monotonic() + seconds
                while time.monotonic() < ends:
                    for client in clients:
                        await client.pods("", SERVICE)
                    await asyncio.sleep(0.02)
            table = await routes[0].store.read_pods(namespace, SERVICE)

            assert before == {pod.pod_index: pod.incarnation for pod in table.pods if pod.is_routable(table.now)}


@pytest.mark.parametrize("another", [False, True])
async def test_deadlines_lost(own_server: LocalServer, namespace: str, another: bool) -> None:
    """Pods that died are found dead, though the key of the deadlines was lost (evicted) after their last heartbeat.

    Also if a pod with another index comes up: it does not make that key for itself alone.
    """
    async with AsyncExitStack() as stack:
        route = await stack.enter_async_context(
            StatefulRoute.from_url(own_server.url, BaseConfig(namespace=namespace, **FAST))
        )
        client = await stack.enter_async_context(route.client())
        for i in range(2):
            await route.store.register(room(namespace, i), PodReport(), 0.5, RETENTION)
        await client.pods("", SERVICE)
        own_server.ask("DEL", KEYS.pod_keys(namespace, SERVICE)[2])
        if another:
            await stack.enter_async_context(route.server(room(namespace, 2)))

        async def found_dead() -> bool:
            pods = await client.pods("", SERVICE)
            return pods[0].dead and pods[1].dead

        await eventually(found_dead, within=3.0)


class TestWrongType:
    """A key beside the hash that is of another type is made again from the hash."""

    @pytest.mark.parametrize("part", [1, 2])
    async def test_heartbeat(self, redis: Any, store: RedisStore, namespace: str, part: int) -> None:
        name = KEYS.pod_keys(namespace, SERVICE)[part]
        lives = [await store.register(room(namespace, i), PodReport(), 5.0, RETENTION) for i in range(6)]
        for sequence, load in enumerate((0, 7), 1):
            await redis.delete(name)
            await redis.set(name, "not a sorted set")
            report = PodReport(load=load, zone=f"{load}")
            beat = await store.heartbeat(room(namespace), lives[0].incarnation, sequence, report, 5.0, RETENTION)

            assert HeartbeatOutcome.ACCEPTED is beat
        assert 6 == await redis.zcard(name)
        assert 0 < await redis.pttl(name)

    @pytest.mark.parametrize("part", [1, 2])
    @pytest.mark.parametrize("pod_index", [0, 9])
    async def test_registration(self, redis: Any, store: RedisStore, namespace: str, part: int, pod_index: int) -> None:
        name = KEYS.pod_keys(namespace, SERVICE)[part]
        for i in range(3):
            await store.register(room(namespace, i), PodReport(), 5.0, RETENTION)
        await redis.delete(name)
        await redis.set(name, "not a sorted set")
        await store.register(room(namespace, pod_index), PodReport(), 5.0, RETENTION)

        assert {"0", "1", "2", f"{pod_index}"} == set(await redis.zrange(name, 0, -1))

    @pytest.mark.parametrize("part", [1, 2])
    async def test_death(self, redis: Any, store: RedisStore, namespace: str, part: int) -> None:
        name = KEYS.pod_keys(namespace, SERVICE)[part]
        goodbye = PodReport(routing_state=RoutingState.SHUTDOWN)
        life = await store.register(room(namespace), goodbye, 5.0, RETENTION)
        await redis.delete(name)
        await redis.set(name, "not a sorted set")

        assert await store.confirm_death(namespace, SERVICE, PodLife(0, life.incarnation), RETENTION)

    @pytest.mark.parametrize("part", [1, 2])
    async def test_reading(self, redis: Any, store: RedisStore, namespace: str, part: int) -> None:
        name = KEYS.pod_keys(namespace, SERVICE)[part]
        await store.register(room(namespace), PodReport(), 5.0, RETENTION)
        before = await store.read_pods(namespace, SERVICE)
        await store.register(room(namespace, 1), PodReport(), 5.0, RETENTION)
        await redis.delete(name)
        await redis.set(name, "not a sorted set")
        table = await store.read_pods(namespace, SERVICE, since=before.version)
        await store.read_pods(namespace, SERVICE, since=None)

        assert [0, 1] == [pod.pod_index for pod in table.pods]
        assert table.whole


async def test_reported_after_death() -> None:
    """A pod that is reported after its death was confirmed is not looked at for ever."""
    clock = ManualClock()
    store = MemoryStore(clock)
    config = BaseConfig(namespace="prod", heartbeat=100.0, refresh=100.0, lease=500.0)
    for i in range(2):
        await store.register(room("prod", i), PodReport(), 500.0, RETENTION)
    async with ClientDriver(store, config, clock=clock) as client:
        store.mark_dead("prod", SERVICE, 1)
        await client.pods("", SERVICE)
        table = directory_of(client).peek("prod", SERVICE)
        await reader_of(client).read(table)
        clock.advance(1.0)  # a call to it times out
        await client.report_unreachable("", SERVICE, 1)
        clock.advance(1.0)
        await reader_of(client).read(table)

        assert (await client.pods("", SERVICE))[1].dead
        assert ((), False) == (table.suspicion.asked_for, table.doubted)


class TestClockWentBack:
    async def test_previous_left(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """Nobody waits for longer than a lease for an older life, though the clock was put back by an hour."""
        name = KEYS.pods(namespace, SERVICE)
        await store.register(room(namespace), PodReport(), 5.0, RETENTION)
        entry = (await redis.hget(name, "0")).split(" ")
        entry[2] = str(int(entry[2]) + 3_600_000)
        await redis.hset(name, "0", " ".join(entry))
        again = await store.register(room(namespace), PodReport(), 5.0, RETENTION)

        assert 5.0 >= again.previous_left

    async def test_previous_left_in_memory(self) -> None:
        clock = ManualClock()
        store = MemoryStore(clock)
        await store.register(room("prod"), PodReport(), 5.0, RETENTION)
        clock.set(clock() - 3600.0)
        again = await store.register(room("prod"), PodReport(), 5.0, RETENTION)

        assert 5.0 >= again.previous_left

    async def test_a_life_is_ended(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A life is ended now, though by an entry from the future it waits for an older one: that has ended before."""
        name = KEYS.pods(namespace, SERVICE)
        life = (await store.register(room(namespace), PodReport(), 5.0, RETENTION)).incarnation
        entry = (await redis.hget(name, "0")).split(" ")
        entry[10] = str(int(entry[2]) + 3_599_000)
        entry[2] = str(int(entry[2]) + 3_600_000)
        await redis.hset(name, "0", " ".join(entry))

        assert await store.end_life(namespace, SERVICE, PodLife(0, life), RETENTION)
        (pod,) = (table := await store.read_pods(namespace, SERVICE)).pods
        assert pod.dead
        assert pod.load_state.timestamp <= table.now

    async def test_a_life_is_ended_in_memory(self) -> None:
        clock = ManualClock()
        store = MemoryStore(clock)
        await store.register(room("prod"), PodReport(), 1.0, RETENTION, process="older")
        clock.advance(0.5)
        life = (await store.register(room("prod"), PodReport(), 5.0, RETENTION, process="newer")).incarnation
        clock.advance(1.0)
        await store.heartbeat(room("prod"), life, 1, PodReport(), 5.0, RETENTION)
        clock.set(clock() - 3600.0)

        assert await store.end_life("prod", SERVICE, PodLife(0, life), RETENTION)
        (pod,) = (table := await store.read_pods("prod", SERVICE)).pods
        assert pod.dead
        assert pod.load_state.timestamp <= table.now

    async def test_what_is_told(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """Small changes of a large service are told no more often, though all versions are ahead of the clock."""
        name = KEYS.pods(namespace, SERVICE)
        lives = [await store.register(room(namespace, i), PodReport(load=1000), 60.0, RETENTION) for i in range(100)]
        version, *more = (await redis.hget(name, "table")).split(" ")
        ahead = int(version) + 3_600_000_000
        await redis.hset(name, "table", " ".join([str(ahead), *more]))
        for i, life in enumerate(lives):  # in another state, so each is told with a version that is ahead
            report = PodReport(load=1000, zone="a")
            await store.heartbeat(room(namespace, i), life.incarnation, 1, report, 60.0, RETENTION)
        before = await store.read_pods(namespace, SERVICE)
        for i, life in enumerate(lives):
            report = PodReport(load=1001, zone="a")
            await store.heartbeat(room(namespace, i), life.incarnation, 2, report, 60.0, RETENTION)
        after = await store.read_pods(namespace, SERVICE, since=before.version)

        assert 50 > len(after.pods)


async def test_state_of_a_newer_release(own_server: LocalServer, namespace: str) -> None:
    """A pod in a state that is not known here does not cost a whole reading each time that it changes."""
    async with StatefulRoute.from_url(own_server.url, BaseConfig(namespace=namespace)) as route:
        store, wholes = route.store, []
        read, run = store.read_pods, store._connections.run  # type: ignore[attr-defined]
        life, _ = [await store.register(room(namespace, i), PodReport(), 60.0, RETENTION) for i in range(2)]

        async def note(*args: Any, **more: Any) -> Any:
            table = await read(*args, **more)
            wholes.append(table.whole)
            return table

        async def run_as_newer(call: Any) -> Any:
            if call.name == "heartbeat":
                call = call.script.command(call.keys, tuple("PAUSED" if arg == "READY" else arg for arg in call.args))
            return await run(call)

        store.read_pods = note  # type: ignore[method-assign]
        store._connections.run = run_as_newer  # type: ignore[attr-defined]
        async with route.client() as client:
            table = directory_of(client).peek(namespace, SERVICE)
            await directory_of(client).freshen(table)
            for sequence in range(1, 6):
                report = PodReport(load=sequence)
                await store.heartbeat(room(namespace), life.incarnation, sequence, report, 60.0, RETENTION)
                await reader_of(client).read(table)

        assert 2 >= sum(wholes)  # the first, and when it changed to that state


async def test_absent_for_less_than_its_lease() -> None:
    """A pod that the store has lost is not dead before its own lease has passed, which is longer than the client's."""
    clock = ManualClock()
    store = MemoryStore(clock)
    config = BaseConfig(namespace="prod", heartbeat=100.0, refresh=100.0, lease=500.0)
    life = PodLife(0, (await store.register(room("prod"), PodReport(), 5000.0, RETENTION)).incarnation)
    await store.register(room("prod", 1), PodReport(), 5000.0, RETENTION)
    async with ClientDriver(store, config, clock=clock) as client:
        table = directory_of(client).peek("prod", SERVICE)
        await directory_of(client).freshen(table)
        store._pods.clear()  # the hash of the pods, but not the links
        await store.register(room("prod", 1), PodReport(), 5000.0, RETENTION)
        for _ in range(10):
            await reader_of(client).read(table)
            clock.advance(100.0)

        assert not await reader_of(client).bury(table, life)  # it owns for another 4,000 seconds, as far as it knows


class TestSilence:
    """A silence of all pods delays the confirmation of a death, but not for ever."""

    @pytest.mark.parametrize("share", [0.45, 0.51, 0.6, 0.9])
    async def test_late_survivor(self, share: float) -> None:
        """The only other pod is late with each heartbeat, though within its lease (its event loop stalls)."""
        assert await confirmed_after(share * 5.0, lease=5.0, lease_of_dead=5.0) < 4 * 5.0

    async def test_late_survivor_on_a_server(self, own_server: LocalServer, namespace: str) -> None:
        async with connections_at(own_server.url) as connections:
            store = RedisStore(connections)
            lives = [
                (await store.register(room(namespace, i), PodReport(), 0.5, RETENTION)).incarnation for i in (0, 1)
            ]
            dead = False
            for sequence in range(1, 11):
                for _ in range(10):
                    await asyncio.sleep(0.03)
                    dead |= await store.confirm_death(namespace, SERVICE, PodLife(1, lives[1]), RETENTION)
                await store.heartbeat(room(namespace), lives[0], sequence, PodReport(), 0.5, RETENTION)

            assert dead

    async def test_long_lease(self) -> None:
        """A survivor with a short lease that is late now and then keeps no pod with a long one alive."""
        assert await confirmed_after(1.0, lease=5.0, lease_of_dead=60.0, late=3.0) < 4 * 60.0

    async def test_crash_loop(self) -> None:
        """Nor does a survivor that is registered anew each time."""
        assert await confirmed_after(3.0, lease=5.0, lease_of_dead=5.0, anew=True) < 4 * 5.0


async def confirmed_after(
    period: float, *, lease: float, lease_of_dead: float, late: float = 0.0, anew: bool = False
) -> float:
    """Return after how many seconds pod 1 is confirmed to be dead, which is tried all the time; infinity if not.

    Pod 0 is heard once in a ``period``, but each 20th time only after ``late`` seconds.
    """
    clock, chance = ManualClock(), random.Random(1)
    store = MemoryStore(clock)
    life = (await store.register(room("prod"), PodReport(), lease, RETENTION)).incarnation
    dead = (await store.register(room("prod", 1), PodReport(), lease_of_dead, RETENTION)).incarnation
    began = clock()
    heard, count = began, 0
    while clock() - began < 20 * lease_of_dead:
        clock.advance(chance.uniform(0.01, 0.1))
        count_next = count + 1
        if clock() - heard >= (late if late and count_next % 20 == 0 else period):
            heard, count = clock(), count_next
            if anew:
                await store.register(room("prod"), PodReport(), lease, RETENTION)
            else:
                beat = await store.heartbeat(room("prod"), life, count, PodReport(), lease, RETENTION)
                assert HeartbeatOutcome.ACCEPTED is beat
        if await store.confirm_death("prod", SERVICE, PodLife(1, dead), RETENTION):
            return clock() - began
    return float("inf")
