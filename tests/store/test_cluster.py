"""A Redis Cluster through one connection for each primary: moved slots, slots on their way, primaries that are away."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError
from stateful_route.store.transport.cluster import PipelinedCluster
from stateful_route.store.transport.topology import Limits, open_client
from stateful_route.testing import cluster
from tests.leaks import nothing_left
from tests.store.script_calls import APPEND, FAIL, GET, SET, connections_at, script_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.store.transport.base import Connections
    from stateful_route.testing.servers import Cluster

SLOTS = 16384
DEADLINE = 5.0
INCREMENT_BOTH = attrs.evolve(
    script_of("both", "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])"), keys=("one", "other")
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Run a cluster of three primaries."""
    with cluster(primaries=3) as running:
        yield running


@pytest.fixture
async def connections(nodes: Cluster) -> AsyncIterator[PipelinedCluster]:
    """Provide connections to the cluster. Afterwards nothing is left."""
    async with nothing_left(), pipelined(nodes) as opened:
        yield opened


@asynccontextmanager
async def pipelined(nodes: Cluster, deadline: float = DEADLINE) -> AsyncIterator[PipelinedCluster]:
    async with connections_at(nodes.url, deadline) as opened:
        assert isinstance(opened, PipelinedCluster)
        yield opened


def keys_of(shard: int, namespace: str, count: int = 1) -> list[str]:
    """Return keys in the middle of the slots of a primary, which no test moves."""
    begin, end = SLOTS * shard // 3 + 1000, SLOTS * (shard + 1) // 3 - 1000
    names = (f"{namespace}:{i}" for i in range(100_000))
    found = (name for name in names if begin <= key_slot(name.encode()) < end)
    return [next(found) for _ in range(count)]


def connects(connections: PipelinedCluster) -> int:
    return sum(pipe.connects for pipe in connections._table._pipes.values())


@pytest.fixture
async def borrower(nodes: Cluster) -> AsyncIterator[Connections]:
    """Connections by the settings of a client of redis-py."""
    async with RedisCluster.from_url(nodes.url.replace("redis+cluster", "redis").partition(",")[0]) as client:
        async with aclosing(open_client(client, Limits(DEADLINE, 100))) as connections:
            yield connections


class Moving:
    """Moves one slot from the first primary to another, step by step."""

    def __init__(self, nodes: Cluster, clients: list[Redis], slot: int) -> None:
        self._clients = clients
        self._ids = [node.ask("CLUSTER", "MYID") for node in nodes.nodes]
        self._port = nodes.nodes[1].port
        self._slot = slot

    async def begin(self) -> None:
        source, target = self._clients[:2]
        await target.execute_command("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._ids[0])
        await source.execute_command("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._ids[1])

    async def move(self, count: int) -> int:
        """Move so many keys; return how many there were."""
        source = self._clients[0]
        keys = await source.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, count)
        if keys:
            await source.execute_command("MIGRATE", "127.0.0.1", self._port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        return len(keys)

    async def end(self) -> None:
        """Say who has the slot; the others learn it from these two."""
        for client in (self._clients[1], self._clients[0]):
            await client.execute_command("CLUSTER", "SETSLOT", self._slot, "NODE", self._ids[1])


@pytest.fixture
async def tag(nodes: Cluster, namespace: str) -> str:
    """Return a hash tag whose slot is the first primary's, and is no other test's."""
    tags = (f"{namespace}-{i}" for i in range(100_000))
    return next(tag for tag in tags if key_slot(tag.encode()) < SLOTS // 3 - 2000)


@pytest.fixture
async def moving(nodes: Cluster, tag: str) -> AsyncIterator[Moving]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Redis.from_url(node.url)) for node in nodes.nodes]
        yield Moving(nodes, clients, key_slot(tag.encode()))


def errors(nodes: Cluster, code: str) -> int:
    """Return how often the nodes answered an error of that code."""
    found = [re.search(rf"errorstat_{code}:count=(\d+)", node.ask("INFO", "errorstats")) for node in nodes.nodes]
    return sum(int(each[1]) for each in found if each)


class TestSlots:
    async def test_moved(
        self, nodes: Cluster, connections: PipelinedCluster, tag: str, moving: Moving, namespace: str
    ) -> None:
        """A call for a slot that was moved is answered by its new primary, and the table is read once for all."""
        keys = [f"{{{tag}}}{i}" for i in range(100)]
        await connections.run_many([SET.command((key,), (key,)) for key in keys])
        await moving.begin()
        while await moving.move(1000):
            pass
        await moving.end()
        before = errors(nodes, "MOVED"), connections._table.readings, connects(connections)
        replies = await asyncio.gather(*(connections.run(GET.command((key,), ())) for key in keys))
        await eventually(lambda: connections._table.readings > before[1])
        again = await connections.run_many([GET.command((key,), ()) for key in keys])

        assert [key.encode() for key in keys] == replies == again
        assert 1 <= errors(nodes, "MOVED") - before[0] <= 100
        assert 2 >= connections._table.readings - before[1]
        assert 1 >= connects(connections) - before[2]

    @pytest.mark.parametrize("borrowed", [False, True])
    async def test_proof_of_a_moved_one(
        self, nodes: Cluster, connections: Connections, borrower: Connections, tag: str, moving: Moving, borrowed: bool
    ) -> None:
        """A proof does not fail because the table is stale: it finds whom the others name, known for no time yet."""
        if borrowed:
            connections = borrower
        assert 0.0 == await connections.prove(tag)
        known = await connections.prove(tag)
        await moving.begin()
        await moving.end()
        await eventually(lambda: f":{nodes.nodes[1].port}" in nodes.nodes[2].ask("GET", tag))
        anew = await connections.prove(tag)
        later = await connections.prove(tag)

        assert 0.0 == anew < min(known, later)

    @pytest.mark.parametrize("borrowed", [False, True])
    async def test_on_its_way(
        self, nodes: Cluster, connections: Connections, borrower: Connections, tag: str, moving: Moving, borrowed: bool
    ) -> None:
        """While a slot is moved under load, key by key, each call is done once, and none fails."""
        if borrowed:
            connections = borrower
        done = asyncio.Event()
        counts: dict[int, int] = {}

        async def increment(number: int) -> None:
            call = INCREMENT_BOTH.command((f"{{{tag}}}a{number}", f"{{{tag}}}b{number}"), ())
            while not done.is_set():
                reply = await connections.run(call)
                counts[number] = counts.get(number, 0) + 1

                assert counts[number] == reply

        before = errors(nodes, "ASK"), errors(nodes, "TRYAGAIN")
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(increment(number))
            await eventually(lambda: len(counts) == 20)
            await moving.begin()
            while await moving.move(1):  # noqa: ASYNC110 - not for a fact: the pause is the callers' turn
                await asyncio.sleep(0.01)
            await moving.end()
            seen = dict(counts)
            await eventually(lambda: all(counts[number] > seen[number] for number in counts))
            done.set()

        assert errors(nodes, "ASK") > before[0]
        assert errors(nodes, "TRYAGAIN") > before[1]

    async def test_half_moved(self, connections: PipelinedCluster, tag: str, moving: Moving) -> None:
        """A call whose keys are apart is tried until they are together again, within its deadline."""
        one, other = f"{{{tag}}}a", f"{{{tag}}}b"
        await connections.run(INCREMENT_BOTH.command((one, other), ()))
        await moving.begin()
        await moving.move(1)
        waiting = asyncio.ensure_future(connections.run(INCREMENT_BOTH.command((one, other), ())))
        await asyncio.wait([waiting], timeout=0.5)  # longer than a few tries
        still = not waiting.done()
        while await moving.move(1):
            pass
        await moving.end()

        assert still
        assert 2 == await waiting

    async def test_not_served(self, nodes: Cluster, connections: PipelinedCluster, namespace: str) -> None:
        """A slot that nobody serves is unavailable, and nothing was changed; the others do not notice."""
        (key,), (other,) = keys_of(0, namespace), keys_of(1, namespace)
        await connections.run(SET.command((key,), ("before",)))
        slot = str(key_slot(key.encode()))
        nodes.nodes[0].ask("CLUSTER", "DELSLOTS", slot)
        try:
            with pytest.raises(StoreUnavailableError) as raised:
                await connections.run(SET.command((key,), ("after",)))
            lost, found = await connections.run_many([SET.command((name,), ("x",)) for name in (key, other)])
        finally:
            nodes.nodes[0].ask("CLUSTER", "ADDSLOTS", slot)

        assert not raised.value.maybe_applied
        assert isinstance(lost, StoreUnavailableError)
        assert b"x" == found

        async def served() -> bool:
            with suppress(StoreError):
                return bool(await connections.run(GET.command((key,), ())))
            return False

        await eventually(served)

    async def test_errors_of_scripts(self, connections: PipelinedCluster, namespace: str) -> None:
        """An error that says nothing about slots does not make anybody look at them."""
        call = FAIL.command((namespace,), ())
        with pytest.raises(StoreProtocolError):
            await connections.run(call)
        before = connections._table.readings
        for _ in range(20):
            with pytest.raises(StoreProtocolError, match="WRONGTYPE") as raised:
                await connections.run(call)

            assert raised.value.maybe_applied
        assert connections._table._task is None or not connections._table._stale
        assert before == connections._table.readings

    async def test_forgotten_scripts(self, nodes: Cluster, connections: PipelinedCluster, namespace: str) -> None:
        """Scripts that the nodes forget at any time cause no error."""
        done = asyncio.Event()

        async def flush() -> None:
            while not done.is_set():
                for node in nodes.nodes:
                    node.ask("SCRIPT", "FLUSH")
                await asyncio.sleep(0)

        flushing = asyncio.create_task(flush())
        try:
            for _ in range(5):
                keys = [f"{namespace}:{i}" for i in range(200)]
                calls = [SET.command((key,), (key,)) for key in keys]
                one_by_one = await asyncio.gather(*map(connections.run, calls))

                assert [key.encode() for key in keys] == one_by_one == await connections.run_many(calls)
        finally:
            done.set()
            await flushing


class TestBatches:
    async def test_order(self, connections: PipelinedCluster, namespace: str) -> None:
        """In a batch over all primaries, the calls for one key are done in their order."""
        keys = [f"{namespace}:{i}" for i in range(30)]
        calls = [APPEND.command((key,), (letter,)) for letter in "abcdefgh" for key in keys]
        replies = await connections.run_many(calls)
        values = await connections.run_many([GET.command((key,), ()) for key in keys])

        assert [length for length in range(1, 9) for _ in keys] == replies
        assert {b"abcdefgh"} == set(values)

    async def test_one_primary_is_away(self, nodes: Cluster, namespace: str) -> None:
        """If one primary does not answer, each call for it has the error, and the others have their replies."""
        keys = [keys_of(shard, namespace, 20) for shard in range(3)]
        async with pipelined(nodes, deadline=0.5) as connections:
            calls = [SET.command((key,), (key,)) for trio in zip(*keys, strict=True) for key in trio]
            await connections.run_many(calls)
            nodes.nodes[1].pause()
            try:
                replies = await connections.run_many(calls)
            finally:
                nodes.nodes[1].resume()

        assert {(StoreTimeoutError, True)} == {(type(reply), reply.maybe_applied) for reply in replies[1::3]}
        assert [[key.encode() for key in keys[shard]] for shard in (0, 2)] == [replies[shard::3] for shard in (0, 2)]


class TestAway:
    async def test_others_do_not_notice(self, nodes: Cluster, namespace: str) -> None:
        """While one primary says nothing, calls at the others go on without an error, and nobody reconnects there."""
        keys = [keys_of(shard, namespace)[0] for shard in range(3)]
        async with pipelined(nodes, deadline=0.3) as connections:
            calls = [GET.command((key,), ()) for key in keys]
            await asyncio.gather(*map(connections.run, calls))
            table = connections._table
            before = table.readings, connects(connections)
            nodes.nodes[1].pause()
            try:
                waiting = [asyncio.ensure_future(connections.run(calls[1])) for _ in range(50)]
                answered = 0
                while not all(task.done() for task in waiting):
                    await asyncio.gather(connections.run(calls[0]), connections.run(calls[2]))
                    answered += 1
                errors = await asyncio.gather(*waiting, return_exceptions=True)
                for _ in range(20):
                    await asyncio.gather(connections.run(calls[0]), connections.run(calls[2]))
                    with suppress(StoreError):
                        await connections.run(calls[1])
                readings, connected = table.readings - before[0], connects(connections) - before[1]
            finally:
                nodes.nodes[1].resume()
            await eventually(lambda: works(connections, calls[1]))

        assert {StoreTimeoutError} == {type(error) for error in errors}
        assert 50 < answered
        assert 20 >= readings
        assert 2 >= connected

    async def test_unreachable(self) -> None:
        """A cluster none of whose nodes can be reached is unavailable, for single calls, batches and commands."""
        async with connections_at("redis+cluster://127.0.0.1:1,127.0.0.1:2", deadline=0.3) as connections:
            for _ in range(2):
                for attempt in (connections.run(SET.command(("k",), ("v",))), connections.command("INFO")):
                    with pytest.raises(StoreError) as raised:
                        await attempt

                    assert not raised.value.maybe_applied
                answers = await connections.run_many([SET.command((f"k{i}",), ("v",)) for i in range(50)])

                assert {False} == {answer.maybe_applied for answer in answers}


async def works(connections: Connections, call: Any) -> bool:
    with suppress(StoreError):
        await connections.run(call)
        return True
    return False


class TestClose:
    async def test_under_load(self, nodes: Cluster, namespace: str) -> None:
        """Closed under load, what is in flight is answered or fails typed, and no task or connection is left."""
        async with nothing_left():
            await self._close_under_load(nodes, namespace)

    async def _close_under_load(self, nodes: Cluster, namespace: str) -> None:
        async with pipelined(nodes) as connections:
            keys = [f"{namespace}:{i}" for i in range(30)]

            async def call(key: str) -> int:
                count = 0
                with suppress(StoreUnavailableError):
                    while True:
                        await connections.run(SET.command((key,), ("v",)))
                        count += 1
                return count

            calling = [asyncio.create_task(call(key)) for key in keys]
            await eventually(lambda: connections._table.readings > 0)
            await connections.run_many([GET.command((key,), ()) for key in keys])
        counts = await asyncio.gather(*calling)
        with pytest.raises(StoreUnavailableError, match="closed"):
            await connections.run(SET.command((keys[0],), ("v",)))
        with pytest.raises(StoreUnavailableError, match="closed"):
            await connections.command("INFO")

        assert 0 < sum(counts)
        assert not any(pipe.connected for pipe in connections._table._pipes.values())

    async def test_before_it_was_used(self, nodes: Cluster) -> None:
        """Closed before the table was read, or while it is, calls are refused at once."""
        async with pipelined(nodes) as connections:
            waiting = asyncio.ensure_future(connections.run(GET.command(("k",), ())))
            await asyncio.sleep(0)  # it asks for the table
        await asyncio.wait([waiting])

        assert isinstance(waiting.exception(), StoreUnavailableError)
        with pytest.raises(StoreUnavailableError, match="closed"):
            await connections.run(GET.command(("k",), ()))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
async def test_eager_tasks() -> None:
    """With eager tasks, the reading of the slots that a failing pipe asks for does not break into its failing."""
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    with cluster(1) as servers:
        async with connections_at(f"redis+cluster://127.0.0.1:{servers.nodes[0].port}", deadline=0.5) as connections:
            await connections.run(GET.command(("key",), ()))
            servers.nodes[0].kill()
            await asyncio.sleep(0.5)
            await asyncio.gather(
                *(connections.run(GET.command((f"key-{i}",), ())) for i in range(10)), return_exceptions=True
            )

    assert [] == errors
