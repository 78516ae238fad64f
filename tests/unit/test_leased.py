"""A pod without an index leases one, and takes another if that goes to another process."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import ServerDriver, ServerInfo, StoreTimeoutError, StoreUnavailableError
from stateful_route.store import LinkKey
from tests.insides import beat_once, directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient

LEASE = CONFIG.lease_seconds
TIMEOUT = StoreTimeoutError("no answer", operation="register", maybe_applied=True)


@pytest.fixture
def make_pod(store: MemoryStore, clock: ManualClock) -> Any:
    def make(name: str = "web", **settings: Any) -> ServerDriver:
        info = ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=name)
        return ServerDriver(store, info, attrs.evolve(CONFIG, **settings), clock=clock, random=Random(1))

    return make


async def end_life(store: MemoryStore, pod_index: int) -> None:
    """Let the death of a pod be confirmed, though it lives: it was cut off for long, say."""
    store.mark_dead(NAMESPACE, SERVICE, pod_index)


async def test_start_and_stop(make_pod: Any, store: MemoryStore) -> None:
    """Pods get 0, 1, 2; who comes when one has left gets its index, and owns at once."""
    pods = [make_pod() for _ in range(3)]
    assert {None} == {pod.pod_index for pod in pods}
    assert "a pod of 'room' (web)" in str(pods[0]._lease.name)
    for pod in pods:
        await pod.start()
    assert [0, 1, 2] == [pod.pod_index for pod in pods]
    assert ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name="web", pod_index=1) == pods[1].server_info

    await pods[1].stop()
    async with make_pod() as next_one:
        handle = await next_one.claim("alice")
        link = await store.get_link(LinkKey(NAMESPACE, "alice", SERVICE))
        assert link is not None
        assert (1, 1, True, 1) == (next_one.pod_index, handle.pod_index, handle.is_owned(), link.pod_index)
    for pod in (pods[0], pods[2]):
        await pod.stop()


async def test_ordinals_stay(make_pod: Any, store: MemoryStore, clock: ManualClock) -> None:
    """A pod with an ordinal keeps it, beside pods that lease theirs."""
    info = ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name="room-1", pod_index=1)
    async with ServerDriver(store, info, CONFIG, clock=clock), make_pod() as first, make_pod() as second:
        assert [0, 2] == [first.pod_index, second.pod_index]


async def test_taken_for_dead(make_pod: Any, store: MemoryStore, clock: ManualClock) -> None:
    """A pod that was taken for dead goes on with its index and its uids, if nobody has it yet."""
    async with make_pod() as pod:
        handle = await pod.claim("alice")
        await end_life(store, 0)
        await beat_once(pod)
        await asyncio.sleep(0)
        again = await pod.claim("alice")

        assert (0, True) == (pod.pod_index, pod.healthy)
        assert again.is_owned()
        assert again.resumes(handle)


async def test_index_went_to_another(
    make_pod: Any, make_client: MakeClient, store: MemoryStore, clock: ManualClock
) -> None:
    """A pod whose index went to another process loses its uids, takes another index, and goes on."""
    lost: list[str] = []
    async with make_pod("old") as old:
        handle = await old.claim("alice")
        handle.on_lost(lambda: lost.append("alice"))
        await end_life(store, 0)
        async with make_pod("new") as new, make_client() as client:
            assert 0 == new.pod_index
            inherited = await new.claim("alice")
            await beat_once(old)

            assert (1, 1, True) == (old.pod_index, old.server_info.pod_index, old.healthy)
            assert (["alice"], None, False) == (lost, old.owned("alice"), handle.is_owned())
            assert inherited.is_owned()
            refused = await old.claim("alice")
            assert (False, 0) == (refused.is_owned(), refused.pod_index)
            assert (await old.claim("bob")).is_owned()
            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)
            assert 1 == await client.compute_linked_pod("", "bob", SERVICE)
            assert [0, 1] == sorted(await client.pods("", SERVICE))
            assert not await handle.release()
            assert 0 == await client.get_linked_pod_not_cache("", "alice", SERVICE)


async def test_store_lost(make_pod: Any, store: MemoryStore) -> None:
    """After the store has lost all, a pod that lives, and hears of a new one, keeps its index and its uids."""
    async with make_pod("old") as old:
        await old.claim("alice")
        store.lose_all()
        async with make_pod("new") as new:
            await eventually(lambda: old.owned("alice"))

            assert (0, 1) == (old.pod_index, new.pod_index)


async def test_store_lost_unheard(make_pod: Any, store: MemoryStore) -> None:
    """If nothing was heard, who comes first has the index; the other one takes the next."""
    async with make_pod("old") as old:
        await old.claim("alice")
        store.deafen()
        store.lose_all()
        async with make_pod("new") as new:
            assert 0 == new.pod_index
            await beat_once(old)

            assert (1, None, True) == (old.pod_index, old.owned("alice"), old.healthy)
            assert (await old.claim("alice")).is_owned()


def fail_to_lease(store: MemoryStore, *, applied: bool) -> Any:
    """Let no question for an index be answered, though it may be carried out; return what ends that."""
    register = store.register

    async def registering(server: ServerInfo, *args: Any, **named: Any) -> Any:
        if server.pod_index is not None:
            return await register(server, *args, **named)
        if applied:
            await register(server, *args, **named)
        raise TIMEOUT

    store.register = registering  # type: ignore[method-assign]
    return lambda: setattr(store, "register", register)


async def test_no_index_for_a_while(make_pod: Any, store: MemoryStore) -> None:
    """A pod that has lost its index, and gets no answer, owns nothing, says so, and tries again with each heartbeat."""
    async with make_pod("old") as old:
        await end_life(store, 0)
        async with make_pod("new"):
            answer = fail_to_lease(store, applied=False)
            await beat_once(old)
            assert (None, 0) == (old.pod_index, old.incarnation)
            with pytest.raises(StoreUnavailableError):
                await old.claim("bob")

            answer()
            await beat_once(old)
            assert 1 == old.pod_index
            assert (await old.claim("bob")).is_owned()


async def test_full_without_an_index(make_pod: Any, store: MemoryStore) -> None:
    """A pod that is full and has no index refuses a uid; to release what it refused ends no link of another pod."""
    async with make_pod("old", max_links=0, max_links_is_hard=True) as old:
        await end_life(store, 0)
        async with make_pod("new") as new:
            owned = await new.claim("alice")
            fail_to_lease(store, applied=False)
            await beat_once(old)
            refused = await old.claim("alice")

            assert (True, False, 0) == (refused.full, refused.is_owned(), refused.pod_index)
            assert not await refused.release()
            assert owned.is_owned()
            assert 0 == (await store.get_services(NAMESPACE, "alice"))[SERVICE]


async def test_stop_without_an_index(make_pod: Any, store: MemoryStore) -> None:
    """A pod that has no index stops as well."""
    old = make_pod("old")
    await old.start()
    await end_life(store, 0)
    async with make_pod("new"):
        fail_to_lease(store, applied=False)
        await beat_once(old)
        await old.stop()

        assert [0] == [pod.pod_index for pod in (await store.read_pods(NAMESPACE, SERVICE)).pods]


async def test_not_answered(make_pod: Any, store: MemoryStore) -> None:
    """A pod whose registration was carried out and not answered gets no second index."""
    async with make_pod("old") as old:
        await end_life(store, 0)
        async with make_pod("new"), make_pod("third") as third:
            answer = fail_to_lease(store, applied=True)
            await beat_once(old)
            await beat_once(old)
            answer()
            await beat_once(old)

            assert (1, 2) == (third.pod_index, old.pod_index)
            table = await store.read_pods(NAMESPACE, SERVICE)
            assert [0, 1, 2] == [pod.pod_index for pod in table.pods]


async def test_old_handle_is_released(make_pod: Any, store: MemoryStore) -> None:
    """A handle of the index before is released under that index; an answer that is lost is not asked for for ever."""
    async with make_pod("old") as old:
        handle = await old.claim("alice")
        other = await old.claim("bob")
        await end_life(store, 0)
        async with make_pod("new"):
            await beat_once(old)
            store.fail_with(TIMEOUT, "release")
            for one in (handle, other):
                with pytest.raises(StoreTimeoutError):
                    await one.release()
            store.fail_with(None)

            refused = await old.claim("alice")
            assert (0, False) == (refused.pod_index, refused.is_owned())
            assert await other.release()
            assert (await old.claim("bob")).is_owned()
            assert {} == old._owned.unsure


async def test_remove_across_a_move(make_pod: Any, store: MemoryStore) -> None:
    """A removal that waits for its turn while the index changes removes what is meant, and no handle outlives it."""
    async with make_pod("old") as old:
        await end_life(store, 0)
        async with make_pod("new") as new:
            store.hold("claim")
            claiming = asyncio.create_task(old.claim("alice"))
            await store.wait_held()
            removing = asyncio.create_task(old.remove_linked_pod_with_id("", "alice", SERVICE, 1))
            await asyncio.sleep(0)
            store.hold_no_more()
            await beat_once(old)
            assert 1 == old.pod_index
            store.release_held()
            handle = await claiming
            removed = await removing

            link = await store.get_link(LinkKey(NAMESPACE, "alice", SERVICE))
            assert removed is (link is None)
            assert not handle.is_owned() or (link is not None and (1, handle.epoch) == (link.pod_index, link.epoch))
            assert new.healthy


async def test_force_across_a_move(make_pod: Any, store: MemoryStore) -> None:
    """A forced link for the index before is not made for the next one."""
    async with make_pod("old") as old:
        await end_life(store, 0)
        async with make_pod("new"):
            store.hold("claim")
            claiming = asyncio.create_task(old.claim("alice"))
            await store.wait_held()
            forcing = asyncio.create_task(old.set_linked_pod("", "alice", SERVICE, 0))
            await asyncio.sleep(0)
            store.hold_no_more()
            await beat_once(old)
            store.release_held()
            await claiming
            with pytest.raises(StoreUnavailableError, match="this is pod 1 now, and not pod 0"):
                await forcing


async def test_superseded_no_more(make_pod: Any, store: MemoryStore, clock: ManualClock) -> None:
    """Neither of two processes is ever out for good, however often they take an index from each other."""
    async with make_pod("a") as one, make_pod("b") as two:
        for _ in range(3):
            for pod, other in ((one, two), (two, one)):
                await end_life(store, pod.pod_index)
                async with make_pod("guest") as guest:
                    taken = guest.pod_index
                    await beat_once(pod)
                    assert len({pod.pod_index, other.pod_index, taken}) == 3
                    assert (await pod.claim(f"uid-{pod.incarnation}")).is_owned()
        assert one.healthy
        assert two.healthy


async def test_drain(make_pod: Any, make_client: MakeClient, store: MemoryStore) -> None:
    """What a pod owns under a second index is handed over as ever."""
    async with make_pod("other"), make_client() as client:
        pod = make_pod("old")
        await pod.start()
        await end_life(store, 1)
        async with make_pod("new"):
            await beat_once(pod)
            assert 2 == pod.pod_index
            await pod.claim("alice")
            await pod.stop()
            await reader_of(client).read(directory_of(client).peek(NAMESPACE, SERVICE))

            assert await client.compute_linked_pod("", "alice", SERVICE) in {0, 1}
