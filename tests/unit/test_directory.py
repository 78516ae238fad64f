"""When a client reads the pods of a service: as seldom as it can, and as soon as it must."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, ClientDriver, RoutingState, StoreUnavailableError
from stateful_route.pods import PodChange, PodLife
from stateful_route.store import LinkKey, PodReport
from stateful_route.testing import ManualClock, MemoryStore
from tests.insides import directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import MakeClient

LEASE, RETENTION = CONFIG.lease_seconds, CONFIG.retention_seconds
AWAY = StoreUnavailableError("away", operation="read_pods", maybe_applied=False)
DRAINING = PodReport(routing_state=RoutingState.DENY_NEW_CALL)


def routable(client: ClientDriver) -> list[int]:
    return [pod.pod_index for pod in directory_of(client).peek(NAMESPACE, SERVICE).placements.routable]


async def begin(store: MemoryStore, count: int) -> list[PodLife]:
    return [
        PodLife(i, (await store.register(room(i), PodReport(), LEASE, RETENTION)).incarnation) for i in range(count)
    ]


async def test_changes_only(make_client: MakeClient, store: MemoryStore) -> None:
    """A refresh asks for what has changed since the last one."""
    lives = await begin(store, 3)
    read = store.read_pods
    brought = []

    async def note(*args: str, **more: int) -> object:
        table = await read(*args, **more)  # type: ignore[arg-type]  # whatever it is asked for
        brought.append(len(table.pods))
        return table

    store.read_pods = note  # type: ignore[method-assign,assignment]  # to see what it brings
    async with make_client() as client:
        for _ in range(2):
            await client.pods("", SERVICE)
            await directory_of(client).refresh_all()
        await client.pods("", SERVICE)
        await store.heartbeat(room(1), lives[1].incarnation, 1, PodReport(load=5), LEASE, RETENTION)
        await directory_of(client).refresh_all()

    assert [3, 0, 0, 1] == brought


async def test_lost_pods(make_client: MakeClient, store: MemoryStore) -> None:
    """A store that has lost pods, and has others, is read as a whole at once."""
    await begin(store, 3)
    async with make_client() as client:
        await client.pods("", SERVICE)
        store._pods.clear()
        await store.register(room(1), PodReport(), LEASE, RETENTION)
        await directory_of(client).refresh_all()

        assert [1] == routable(client)


@pytest.mark.parametrize("state", ["DENY_NEW_CALL", "SHUTDOWN"])
async def test_announced(make_client: MakeClient, store: MemoryStore, state: str) -> None:
    """That a pod drains or leaves is known at once, by one reading, as soon as it was announced."""
    lives = await begin(store, 2)
    async with make_client() as client:
        await client.pods("", SERVICE)
        store.operations.clear()
        report = PodReport(routing_state=RoutingState(state))
        await store.heartbeat(room(1), lives[1].incarnation, 1, report, LEASE, RETENTION)
        await eventually(lambda: [0] == routable(client))

        assert 1 == store.operations["read_pods"]


async def test_announced_death(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """A death that one client has confirmed is known to the others by a message and one reading."""
    lives = await begin(store, 2)
    async with make_client() as client:
        await client.pods("", SERVICE)
        for sequence in range(1, 6):
            clock.advance(LEASE / 5)
            await store.heartbeat(room(0), lives[0].incarnation, sequence, PodReport(), LEASE, RETENTION)
        store.operations.clear()
        await store.confirm_death(NAMESPACE, SERVICE, lives[1], RETENTION)  # by another client
        await eventually(lambda: is_dead_to(client)(lives[1]))

        assert (1, 1) == (store.operations["read_pods"], store.operations["confirm_death"])


@pytest.mark.parametrize("incarnation", [0, -1, 1, 2**53, 10**40, None])
@pytest.mark.parametrize("state", ["DENY_NEW_CALL", "SHUTDOWN", "DEAD", "READY", "HIDDEN", ""])
async def test_false_word(make_client: MakeClient, store: MemoryStore, state: str, incarnation: int | None) -> None:
    """Who may only publish costs a living pod nothing, and a client its cached links to the pod until it has read."""
    (life,) = await begin(store, 1)
    await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), life)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        store.operations.clear()
        number = life.incarnation if incarnation is None else incarnation
        directory_of(client)._heard(PodChange(NAMESPACE, SERVICE, 0, number, state))
        cached = client.peek("", "alice", SERVICE)
        known = (
            routable(client),
            table.suspicion.dead.named,
            table.suspicion.leaving.named,
            table.suspicion.confirmable(),
        )
        await eventually(lambda: store.operations["read_pods"] > 0)
        placed = await client.route("", "bob", SERVICE)
        await eventually(lambda: client.peek("", "alice", SERVICE) == 0)

        older, same = number < life.incarnation, number == life.incarnation
        assert (0 if older or (same and state == "READY") else None) == cached
        assert ([0], (), (), []) == known
        assert placed.pod_index == 0
        assert not store.operations["confirm_death"]


async def test_false_words_of_many_pods(make_client: MakeClient, store: MemoryStore) -> None:
    """What is announced of pods that nobody knows, however many, is forgotten at once, and is a few readings."""
    await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        store.operations.clear()
        for pod_index in range(100_000):
            directory_of(client)._heard(PodChange(NAMESPACE, SERVICE, pod_index, 1, "DEAD"))
            directory_of(client)._heard(PodChange(NAMESPACE, f"made-up-{pod_index}", 0, 1, "DEAD"))
        await eventually(lambda: not table.reads.changes.refreshing and store.operations["read_pods"] > 0)

        assert [0] == list(table._pods)
        assert not table.suspicion.rumoured
        assert 1 == len(directory_of(client).services)
        assert 2 >= store.operations["read_pods"]


async def test_false_word_of_a_dead_pod(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """Word of a death that nobody has confirmed keeps no client from confirming it."""
    living, dying = await begin(store, 2)
    async with make_client() as client:
        await client.pods("", SERVICE)
        for sequence in range(1, 6):
            clock.advance(LEASE / 5)
            await store.heartbeat(room(0), living.incarnation, sequence, PodReport(), LEASE, RETENTION)
            await reader_of(client)._read(directory_of(client).peek(NAMESPACE, SERVICE), 1)
        directory_of(client)._heard(PodChange(NAMESPACE, SERVICE, 1, dying.incarnation, "DEAD"))
        rumoured = set(directory_of(client).peek(NAMESPACE, SERVICE).suspicion.rumoured)
        await reader_of(client)._confirm_deaths(directory_of(client).peek(NAMESPACE, SERVICE))

        assert {dying} == rumoured
        assert is_dead_to(client)(dying)


async def test_storm(make_client: MakeClient, store: MemoryStore) -> None:
    """A thousand events at once are a few readings, and the last of them is in the table."""
    async with make_client() as client:
        await begin(store, 1)
        await client.pods("", SERVICE)
        store.operations.clear()
        await begin(store, 1000)
        await eventually(lambda: 1000 == len(routable(client)))

        assert 5 >= store.operations["read_pods"]


async def test_idle_service() -> None:
    """A service of which nothing is looked up is read more seldom; a cached link to a pod that dies is dropped."""
    config = BaseConfig(namespace=NAMESPACE, heartbeat=0.1, lease=0.5, refresh=0.01)
    store = MemoryStore()
    lives = [PodLife(i, (await store.register(room(i), PodReport(), 3.0, RETENTION)).incarnation) for i in range(2)]
    await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), lives[1])
    async with ClientDriver(store, config) as client:
        cached = await client.get_linked_pod("", "alice", SERVICE)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        await reader_of(client).read(table)
        await eventually(lambda: table.reads.awaited)
        store.operations.clear()
        await eventually(lambda: not table.pod(1).usable)
        asked = store.operations["read_pods"]

    assert 1 == cached
    assert 10 > asked  # of three hundred


async def test_many_deaths(make_client: MakeClient, store: MemoryStore) -> None:
    """Clients that see many pods leave at once share the work of confirming their deaths."""
    lives = await begin(store, 100)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(ClientDriver(store, CONFIG, random=Random(number))) for number in range(5)
        ]
        for client in clients:
            await client.pods("", SERVICE)
        store.operations.clear()
        for life in lives:
            goodbye = PodReport(routing_state=RoutingState.SHUTDOWN)
            await store.heartbeat(room(life.pod_index), life.incarnation, 1, goodbye, LEASE, RETENTION)
        await eventually(lambda: all(all(map(is_dead_to(client), lives)) for client in clients))

        assert 250 > store.operations["confirm_death"]  # not five hundred


def is_dead_to(client: ClientDriver) -> Callable[[PodLife], bool]:
    return directory_of(client).peek(NAMESPACE, SERVICE).suspicion.dead.__contains__


async def test_emptied_while_dead(make_client: MakeClient, store: MemoryStore) -> None:
    """A store that has forgotten a dead pod, without a word, has lost links too: the cache is flushed."""
    await begin(store, 1)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        store.mark_dead(NAMESPACE, SERVICE, 0)
        await directory_of(client).refresh_all()
        store.lose_all()
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        await reader_of(client).read(table)
        await begin(store, 1)
        await reader_of(client).read(table)

        assert table.pod(0).usable
        assert client.peek("", "alice", SERVICE) is None


async def test_many_services(make_client: MakeClient, store: MemoryStore) -> None:
    """The readings of many services are spread over the period: a few at once do not hold up the event loop."""
    async with make_client(refresh=2.0) as client:
        for number in range(9):
            await client.pods("", f"room-{number}")
        store.operations.clear()
        refresh = asyncio.create_task(directory_of(client).refresh_all())
        for _ in range(20):
            await asyncio.sleep(0)
        at_once = store.operations["read_pods"]
        await refresh

        assert (2, 9) == (at_once, store.operations["read_pods"])


async def test_used_again(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """A service is left out of the refresh until something is looked up again."""
    await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        asked = []
        for uid in ("alice", "alice", "alice", "bob"):  # all but the first of alice are in the cache
            await client.compute_linked_pod("", uid, SERVICE)
            clock.advance(CONFIG.refresh / 5)
            store.operations.clear()
            await directory_of(client).refresh_all()
            asked.append(store.operations["read_pods"])

        assert [1, 0, 0, 1] == asked


async def test_pods_of_an_unused_service(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """Who asks for the pods of an unused service gets them as they are; without the store, as they were."""
    (life,) = await begin(store, 1)
    async with make_client() as client:
        loads = [(await client.pods("", SERVICE))[0].report.load]
        clock.advance(5 * CONFIG.refresh)
        for sequence, error in enumerate([None, AWAY], 1):
            await store.heartbeat(room(0), life.incarnation, sequence, PodReport(load=sequence), LEASE, RETENTION)
            clock.advance(5 * CONFIG.refresh)
            store.fail_with(error, "read_pods")
            loads.append((await client.pods("", SERVICE))[0].report.load)

        assert [0, 1, 1] == loads


async def test_slow_look(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """A look that is due is put off by every reading."""
    await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        clock.advance(LEASE / 5)
        early = table.suspicion.next_look(clock())
        await directory_of(client).refresh_all()

        assert 0.0 < (early or 0.0) < 0.3 * LEASE < (table.suspicion.next_look(clock()) or 0.0)


async def test_unheard_death(make_client: MakeClient, store: MemoryStore) -> None:
    """A client that only watches the leases sees a death that another one confirmed, though nothing was announced."""
    await begin(store, 2)
    async with make_client() as client:
        await client.pods("", SERVICE)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        store.mark_dead(NAMESPACE, SERVICE, 1)
        await reader_of(client)._watch(table)

        assert [True, False] == [table.pod(i).usable for i in range(2)]


async def test_unforeseen_error(make_client: MakeClient, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """An error that no store should raise is logged, and ends neither the refresh nor what was spawned for good."""
    await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        read = store.read_pods

        async def broken(*_args: object, **_more: object) -> object:
            raise ZeroDivisionError

        store.read_pods = broken  # type: ignore[method-assign,assignment]  # as a store that keeps no contract
        directory_of(client).peek(NAMESPACE, SERVICE)
        await directory_of(client).refresh_all()
        store.read_pods = read  # type: ignore[method-assign]
        await begin(store, 2)
        await eventually(lambda: [0, 1] == routable(client))

    assert [ZeroDivisionError] == [record.exc_info[0] for record in caplog.records if record.exc_info]
