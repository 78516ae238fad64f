"""A driver ends its life at once, and a route any life that is named: without a lease, a drain or a goodbye."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import LifecycleError, StoreTimeoutError, StoreUnavailableError
from stateful_route.lives import Life
from stateful_route.store import LinkKey
from tests.insides import beat_once
from tests.leaks import nothing_left
from tests.unit.conftest import NAMESPACE, SERVICE
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer

AWAY = StoreUnavailableError("away", operation="end_life", maybe_applied=False)
LOST = StoreTimeoutError("no answer", operation="end_life", maybe_applied=True)


async def states(store: MemoryStore) -> dict[int, bool]:
    """Return whether each pod is dead."""
    return {pod.pod_index: pod.dead for pod in (await store.read_pods(NAMESPACE, SERVICE)).pods}


async def test_life(make_server: MakeServer, store: MemoryStore) -> None:
    """The name of the life is there from the start on, and is another one once the store has lost the pod."""
    server = make_server()
    assert None is server.life
    async with server:
        first = server.life
        assert Life(NAMESPACE, SERVICE, 0, server.incarnation) == first
        store.lose_all()
        await beat_once(server)

        assert server.life is not None
        assert first is not None
        assert server.life.incarnation == server.incarnation > first.incarnation


async def test_end(make_server: MakeServer, make_client: MakeClient, store: MemoryStore) -> None:
    """The uids are lost at once, and nothing is handed off; a client places them elsewhere as soon as it hears."""
    async with make_server(1), make_client() as client:
        server = make_server(0)
        await server.start()
        lost: list[str] = []
        handle = await server.claim("alice")
        handle.on_lost(lambda: lost.append("alice"))
        assert 0 == await client.compute_linked_pod("", "alice", SERVICE)
        ending = asyncio.ensure_future(server.end())
        await asyncio.sleep(0)
        assert (False, ["alice"], None) == (handle.is_owned(), lost, server.owned("alice"))

        assert await ending
        assert {0: True, 1: False} == await states(store)
        assert not server.healthy
        await asyncio.sleep(0.01)  # the client reads what it has heard
        assert 1 == await client.compute_linked_pod("", "alice", SERVICE)
        with pytest.raises(LifecycleError):
            await server.claim("bob")


async def test_the_next_driver(make_server: MakeServer) -> None:
    """Another driver of the same pod owns at once, though the lease of the one before had not ended."""
    first = make_server()
    await first.start()
    await first.claim("alice")
    assert await first.end()
    async with make_server() as second:
        handle = await second.claim("alice")

        assert (True, True) == (handle.is_owned(), handle.inherited)


@pytest.mark.parametrize("how", ["end", "stop", "cancelled"])
async def test_again(make_server: MakeServer, store: MemoryStore, how: str) -> None:
    """A second call waits for the first, a stop meanwhile too, and a caller that is cancelled leaves no task."""
    server = make_server()
    await server.start()
    async with nothing_left():
        store.hold("end_life")
        first = asyncio.ensure_future(server.end())
        await store.wait_held()
        second = asyncio.ensure_future(server.stop() if how == "stop" else server.end())
        await asyncio.sleep(0)
        if how == "cancelled":
            first.cancel()
        store.hold_no_more()
        store.release_held()
        answers = await asyncio.gather(first, second, return_exceptions=True)

    assert {0: True} == await states(store)
    assert (how == "cancelled") == isinstance(answers[0], asyncio.CancelledError)
    assert await server.end()
    assert 1 == store.operations["end_life"]


async def test_cuts_a_drain_off(make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
    """A drain that runs, by itself or in a stop, is cut off, with the hand-offs that run."""
    for stops in (False, True):
        server = make_server()
        cut = asyncio.Event()

        async def save(uid: str, cut: asyncio.Event = cut) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                cut.set()

        server._draining._hand_over._hand_off = save
        await server.start()
        await server.claim("alice")
        draining = asyncio.ensure_future(server.stop() if stops else server.drain())
        await asyncio.sleep(0.01)  # the hand-off runs
        async with asyncio.timeout(5.0):
            assert await server.end()
            await draining

        assert cut.is_set()
        assert {0: True} == await states(store)
        link = await store.get_link(LinkKey(NAMESPACE, "alice", SERVICE))
        assert link is not None  # it was not released: who takes it over has no state of it


@pytest.mark.parametrize("error", [AWAY, LOST])
async def test_the_store_is_away(make_server: MakeServer, store: MemoryStore, error: StoreTimeoutError) -> None:
    """It is tried again until the store has answered, or ``stop_deadline`` has passed; then it is False."""
    server = make_server()
    await server.start()
    store.fail_with(error, "end_life", applied=error.maybe_applied)
    ending = asyncio.ensure_future(server.end())
    await eventually(lambda: store.operations["end_life"] >= 2)
    store.fail_with(None)
    assert await ending
    assert {0: True} == await states(store)

    server = make_server(1, stop_deadline=0.1)
    await server.start()
    store.fail_with(AWAY, "end_life")
    assert not await server.end()
    assert server.stopped
    assert {0: True, 1: False} == await states(store)


async def test_a_heartbeat_in_flight(make_server: MakeServer, store: MemoryStore) -> None:
    """A heartbeat that arrives after the end is refused, and begins no other life."""
    server = make_server()
    await server.start()
    store.hold("heartbeat")
    beating = asyncio.ensure_future(beat_once(server))
    await store.wait_held()
    ending = asyncio.ensure_future(server.end())
    await eventually(lambda: store.operations["end_life"] == 1)
    store.hold_no_more()
    store.release_held()

    assert await ending
    await beating
    assert {0: True} == await states(store)
    assert 1 == store.operations["register"]


async def test_a_registration_in_flight(make_server: MakeServer, store: MemoryStore) -> None:
    """A life that begins while the one before is ended is ended too."""
    server = make_server()
    await server.start()
    store.lose_all()
    store.hold("register")
    beating = asyncio.ensure_future(beat_once(server))
    await store.wait_held()
    ending = asyncio.ensure_future(server.end())
    await asyncio.sleep(0.01)  # nothing is known of it yet
    store.hold_no_more()
    store.release_held()

    assert await ending
    await beating
    assert {0: True} == await states(store)


async def test_beside_an_older_life(make_server: MakeServer, store: MemoryStore) -> None:
    """A life that waits for an older one is not ended before that may own nothing more: it is False, in time."""
    older = make_server()
    await older.start()
    waiting = make_server(stop_deadline=0.1)
    await waiting.start()

    assert not await waiting.end()
    assert {0: False} == await states(store)
    await older.stop()


@pytest.mark.parametrize("when", ["before the start", "after a stop"])
async def test_not_running(make_server: MakeServer, when: str) -> None:
    """A driver that does not run has no life to end."""
    server = make_server()
    if when == "after a stop":
        await server.start()
        await server.stop()
    with pytest.raises(LifecycleError):
        await server.end()
