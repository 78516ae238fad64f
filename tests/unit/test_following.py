"""Who holds a long connection hears that the uid has moved."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    InvalidArgumentError,
    LifecycleError,
    Link,
    LinkKey,
    LinkKind,
    PodReport,
    StoreError,
    StoreUnavailableError,
)
from tests.insides import beat_once, directory_of, followed_by, look_at_followed, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, highest, room
from tests.unit.test_bad_arguments import BAD
from tests.unit.test_recovery import lose, table_of
from tests.unit.test_takeover import beat, link_of, mute, refresh
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route import ClientDriver, Following, ServerDriver
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, RunPods

ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
AWAY = StoreUnavailableError("away", operation="get_link", maybe_applied=False)
LEASE, REFRESH, LINK_TTL = CONFIG.lease_seconds, CONFIG.refresh, CONFIG.link_ttl


@contextlib.asynccontextmanager
async def waiting_for(following: Following) -> AsyncIterator[asyncio.Task[Link | None]]:
    """Wait for a move in a task, which has begun, and is ended with the block."""
    task = asyncio.create_task(following.moved())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def done(task: asyncio.Task[Link | None]) -> Link | None:
    async with asyncio.timeout(5.0):
        return await task


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestAnnounced:
    """What is announced is told within the time of a message."""

    async def test_by_force(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that got another owner by force is told with that; entering and waiting make no link."""
        async with run_pods(2) as (first, second), make_client() as client:
            handle = await first.claim("alice")
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                before = following.link
                await turns()
                waited = not moved.done()
                await second.set_linked_pod("", "alice", SERVICE, 1)
                after = await done(moved)

            assert before is not None
            assert after is not None
            assert waited
            assert (0, handle.epoch, 1) == (before.pod_index, before.epoch, after.pod_index)
            assert after == await link_of(store, "alice")
            assert after is following.link
            assert 0 == store.operations["place"]

    async def test_release(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A uid that was released has no link any more; who waits again hears of the next one."""
        async with run_pods(1) as (pod,), make_client() as client:
            handle = await pod.claim("alice")
            rooms = client.service(SERVICE)
            async with rooms.following("alice") as following:
                async with waiting_for(following) as moved:
                    await handle.release()
                    gone = await done(moved)
                async with waiting_for(following) as moved:
                    placed = await rooms.route("alice")
                    await look_at_followed(client)
                    back = await done(moved)

            assert gone is None
            assert back is not None
            assert placed.epoch == back.epoch

    async def test_before_it_waits(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """What has happened since the block began is told at once."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            async with client.service(SERVICE).following("alice") as following:
                await second.set_linked_pod("", "alice", SERVICE, 1)
                await eventually(lambda: following._followed.link is not following.link)  # type: ignore[union-attr]
                after = await done(asyncio.create_task(following.moved()))

            assert after is not None
            assert 1 == after.pod_index

    async def test_while_it_begins(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A move that is announced while the first answer is in flight is not missed."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            await client.service(SERVICE).find("bob")  # so that it listens
            store.hold("get_link", answers=True)
            following = client.service(SERVICE).following("alice")
            entering = asyncio.create_task(following.__aenter__())
            await store.wait_held()
            await second.set_linked_pod("", "alice", SERVICE, 1)
            await turns()
            store.release_held()
            await entering
            link = following.link
            await following.__aexit__(None, None, None)

            assert link is not None
            assert 1 == link.pod_index

    async def test_many_followers(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """All who follow one uid share one question, and each is told; nothing is left behind."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            async with contextlib.AsyncExitStack() as stack:
                rooms = client.service(SERVICE)
                followers = [await stack.enter_async_context(rooms.following("alice")) for _ in range(100)]
                moves = [await stack.enter_async_context(waiting_for(each)) for each in followers]
                before = client.statistics().misses
                await second.set_linked_pod("", "alice", SERVICE, 1)
                links = [await done(moved) for moved in moves]
                asked = client.statistics().misses - before
                followed = followed_by(client)

            assert 1 == followed
            assert {1} == {link.pod_index for link in links if link is not None}
            assert 1 == asked
            assert 0 == followed_by(client)

    async def test_others_are_left_alone(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """The store is asked for nothing while nothing happens, nor when what nobody follows moves."""
        async with run_pods(2) as (first, second), make_client() as client:
            for uid in ("alice", "bob"):
                await first.claim(uid)
            await client.pods(NAMESPACE, SERVICE)
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                await turns()
                await look_at_followed(client)  # the table was read, and nothing was heard until then
                before = client.statistics().misses
                await second.set_linked_pod("", "bob", SERVICE, 1)
                await turns()
                await look_at_followed(client)

                assert not moved.done()
                assert before == client.statistics().misses


class TestWithoutAWord:
    """What is not announced is told within a refresh."""

    @pytest.mark.parametrize("placed", [True, False])
    async def test_drain(self, make_client: MakeClient, run_pods: RunPods, placed: bool) -> None:
        """A pod that drains announces no single link: its uids are looked at meanwhile."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            rooms = client.service(SERVICE)
            async with rooms.following("alice") as following, waiting_for(following) as moved:
                await first.drain()
                await eventually(lambda: len(table_of(client).placements.routable) == 1)
                if placed:
                    await second.claim("alice")
                await look_at_followed(client)
                link = await done(moved)

            assert (1 if placed else None) == (None if link is None else link.pod_index)

    async def test_drained_and_back(
        self, make_client: MakeClient, run_pods: RunPods, clock: ManualClock, store: MemoryStore
    ) -> None:
        """Who drained, and takes uids again before anybody looked, is looked at once more, and then never."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            rooms = client.service(SERVICE)
            async with rooms.following("alice") as following, waiting_for(following) as moved:
                await look_at_followed(client)
                await first.drain()
                await second.claim("alice")
                await first.set_routing_state("READY")  # type: ignore[arg-type]  # its name will do
                clock.advance(1.0)
                await reader_of(client).read(table_of(client))
                await eventually(lambda: len(table_of(client).placements.routable) == 2)
                await look_at_followed(client)
                link = await done(moved)
                before = client.statistics().misses
                await look_at_followed(client)

            assert link is not None
            assert 1 == link.pod_index
            assert before == client.statistics().misses

    @pytest.mark.parametrize("looks", [True, False])
    async def test_deaf(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, looks: bool) -> None:
        """While nothing is heard links are looked at; and once when it hears again."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                await look_at_followed(client)
                store.deafen()
                await eventually(lambda: not table_of(client).serves_cached)
                await second.set_linked_pod("", "alice", SERVICE, 1)
                if looks:
                    await look_at_followed(client)
                    assert await done(moved) is not None
                store.hear_again()
                await eventually(lambda: table_of(client).serves_cached)
                await look_at_followed(client)
                link = await done(moved)

            assert link is not None
            assert 1 == link.pod_index

    async def test_takeover(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """The uid of a pod that died is told once another one has it, and not before."""
        await mute(store, 1, "alice")
        other = await mute(store, 0)
        async with make_client() as client, make_client() as another:
            await client.pods(NAMESPACE, SERVICE)
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                for sequence in range(1, round(LEASE / REFRESH) + 2):
                    clock.advance(REFRESH)
                    await beat(store, other, sequence)
                    await refresh(client)
                    await look_at_followed(client)
                before = moved.done()
                await another.pods(NAMESPACE, SERVICE)
                await another.compute_linked_pod("", "alice", SERVICE)
                await look_at_followed(client)
                link = await done(moved)

            assert not before
            assert link is not None
            assert 0 == link.pod_index

    async def test_inherited(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that was restarted and inherits the uid has it at another epoch, which is told."""
        await mute(store, 0, "alice")
        async with make_client() as client:
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                newer = await mute(store, 0)
                await refresh(client)
                await look_at_followed(client)
                before = moved.done()
                await store.claim(ALICE, newer)
                await look_at_followed(client)
                link = await done(moved)

            assert not before
            assert link is not None
            assert newer == link.owner

    async def test_no_link(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A uid that nobody has can be followed, and is told once somebody has it."""
        async with run_pods(1) as (pod,), make_client() as client:
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                before = following.link
                await pod.claim("alice")
                await look_at_followed(client)
                link = await done(moved)

            assert before is None
            assert link is not None
            assert 0 == link.pod_index


class TestRenewal:
    async def test_renewed(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """A temporary link lasts for as long as it is followed, at the same epoch, and ends by itself after that."""
        life = await mute(store, 0)
        async with make_client() as client:
            rooms = client.service(SERVICE)
            placed = await rooms.route("alice")
            async with rooms.following("alice") as following, waiting_for(following) as moved:
                for sequence in range(1, 40):
                    clock.advance(LINK_TTL / 8)
                    await beat(store, life, sequence)
                    await refresh(client)
                    await look_at_followed(client)
                kept, renewals = await link_of(store, "alice"), store.operations["place"]
                told = moved.done()
            clock.advance(LINK_TTL + 1.0)

            assert (placed.epoch, LinkKind.TEMPORARY, False) == (kept.epoch, kept.kind, told)
            assert renewals <= 12
            assert await store.get_link(ALICE) is None

    async def test_confirmed(self, make_client: MakeClient, run_pods: RunPods, clock: ManualClock) -> None:
        """A link that its pod has confirmed since is not renewed, and that is no move."""
        async with run_pods(1) as (pod,), make_client() as client:
            rooms = client.service(SERVICE)
            await rooms.route("alice")
            async with rooms.following("alice") as following, waiting_for(following) as moved:
                await pod.claim("alice")
                for _ in range(3):
                    clock.advance(LINK_TTL)
                    await beat_once(pod)
                    await refresh(client)
                    await look_at_followed(client)

                assert not moved.done()
                assert following._followed is not None
                assert following._followed.link is not None
                assert LinkKind.PERSISTENT is following._followed.link.kind

    async def test_removed(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """A temporary link that was removed is not made again by its renewal."""
        await mute(store, 0)
        async with make_client() as client:
            rooms = client.service(SERVICE)
            await rooms.route("alice")
            async with rooms.following("alice") as following, waiting_for(following) as moved:
                store.deafen()
                await eventually(lambda: not table_of(client).serves_cached)
                await store.release(ALICE)
                clock.advance(LINK_TTL * 0.6)
                await look_at_followed(client)

                assert await done(moved) is None
            assert await store.get_link(ALICE) is None

    async def test_of_a_dead_pod(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """A temporary link whose pod is dead is not renewed: it is for a placement to replace."""
        other = await mute(store, 0)
        await mute(store, 1)
        async with make_client(highest, link_ttl=3 * LEASE) as client:
            rooms = client.service(SERVICE)
            placed = await rooms.route("alice")
            async with rooms.following("alice"):
                lasting = []
                for sequence in range(1, 20):
                    clock.advance(REFRESH)
                    await beat(store, other, sequence)
                    await refresh(client)
                    await look_at_followed(client)
                    link = await store.get_link(ALICE)
                    lasting.append(0.0 if link is None or link.ttl is None else link.ttl)
                    assert link is None or (1, placed.epoch) == (link.pod_index, link.epoch)

            assert max(lasting[5:]) <= 3 * LEASE - REFRESH
            assert 0.0 == lasting[-1]

    async def test_the_store_was_away(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """A renewal that failed is tried again the next time."""
        life = await mute(store, 0)
        async with make_client() as client:
            rooms = client.service(SERVICE)
            await rooms.route("alice")
            async with rooms.following("alice"):
                clock.advance(LINK_TTL * 0.6)
                await beat(store, life)
                store.fail_with(AWAY, "place")
                await look_at_followed(client)
                failed = (await link_of(store, "alice")).ttl
                store.fail_with(None)
                await look_at_followed(client)
                renewed = (await link_of(store, "alice")).ttl

            assert failed is not None
            assert failed < LINK_TTL / 2
            assert LINK_TTL == renewed


class TestTheStore:
    async def test_emptied(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A store that comes back empty is no move until the pods have claimed again what they own."""
        async with run_pods(1) as (pod,), make_client() as client:
            handle = await pod.claim("alice")
            await client.pods(NAMESPACE, SERVICE)
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                store.hold("register")
                await lose(store, client)
                for _ in range(3):
                    await reader_of(client).read(table_of(client))
                    await look_at_followed(client)
                before = moved.done()
                store.release_held()
                await eventually(lambda: pod.owned("alice") is not None)
                await reader_of(client).read(table_of(client))
                await look_at_followed(client)
                link = await done(moved)
                newer = pod.owned("alice")

            assert not before
            assert link is not None
            assert newer is not None
            assert (newer.epoch, True) == (link.epoch, newer.resumes(handle))

    async def test_away(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """What cannot be looked at now is looked at later, be it announced or not."""
        async with run_pods(2) as (first, second), make_client() as client:
            await first.claim("alice")
            async with client.service(SERVICE).following("alice") as following, waiting_for(following) as moved:
                store.fail_with(AWAY, "get_links")
                await second.set_linked_pod("", "alice", SERVICE, 1)
                await turns()
                await look_at_followed(client)
                before = moved.done()
                store.fail_with(None)
                await look_at_followed(client)
                link = await done(moved)

            assert not before
            assert link is not None
            assert 1 == link.pod_index

    async def test_away_at_the_beginning(self, make_client: MakeClient, store: MemoryStore) -> None:
        """If the store does not answer when the block begins there is an error, and nothing is followed."""
        async with make_client() as client:
            store.fail_with(AWAY)
            with pytest.raises(StoreError):
                async with client.service(SERVICE).following("alice"):
                    pass

            assert 0 == followed_by(client)

    async def test_many(self, make_client: MakeClient, store: MemoryStore) -> None:
        """Of many links of which nobody says a word some are looked at in each period, all of them by turns."""
        await store.register(room(0), PodReport(), LEASE, 2 * LEASE)
        async with make_client() as client:
            async with contextlib.AsyncExitStack() as stack:
                for number in range(5000):
                    await stack.enter_async_context(client.service(SERVICE).following(f"user-{number}"))
                asked: list[int] = []
                find = store.get_links

                async def count(namespace: str, uids: Any, service_name: str) -> Any:
                    asked.append(len(uids))
                    return await find(namespace, uids, service_name)

                store.get_links = count  # type: ignore[method-assign]  # to count
                totals = []
                for _ in range(3):
                    asked.clear()
                    await look_at_followed(client)
                    totals.append(sum(asked))
                    assert max(asked) <= 256

            assert [2048] * 3 == totals


class TestEnd:
    async def test_stop(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """Who waits is told when the driver stops, and who asks after that, too."""
        async with run_pods(1):
            client = make_client()
            await client.start()
            following = client.service(SERVICE).following("alice")
            await following.__aenter__()
            moved = asyncio.create_task(following.moved())
            await asyncio.sleep(0)
            await client.stop()
            with pytest.raises(LifecycleError):
                await done(moved)
            with pytest.raises(LifecycleError):
                await following.moved()
            await following.__aexit__(None, None, None)
            with pytest.raises(LifecycleError):
                client.service(SERVICE).following("bob")

            assert 0 == followed_by(client)

    async def test_outside_the_block(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """Outside its block nothing is followed, and a block is entered once."""
        async with run_pods(1), make_client() as client:
            following = client.service(SERVICE).following("alice")
            with pytest.raises(LifecycleError):
                await following.moved()
            async with following:
                with pytest.raises(LifecycleError):
                    await following.__aenter__()
            with pytest.raises(LifecycleError):
                await following.moved()
            with pytest.raises(LifecycleError):
                await following.__aenter__()

            assert 0 == followed_by(client)

    async def test_cancelled(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """Who is cancelled, while it begins or while it waits, leaves nothing behind."""
        async with run_pods(1) as (pod,), make_client() as client:
            await pod.claim("alice")
            rooms = client.service(SERVICE)

            async def follow() -> None:
                async with rooms.following("alice") as following:
                    await following.moved()

            store.hold("get_link")
            task = asyncio.create_task(follow())
            await store.wait_held()
            task.cancel()
            await asyncio.wait([task])
            store.release_held()
            early = followed_by(client)
            task = asyncio.create_task(follow())
            await eventually(lambda: followed_by(client) == 1)
            await turns()
            task.cancel()
            await asyncio.wait([task])

            assert (0, 0) == (early, followed_by(client))

    async def test_its_service_stays(self, make_client: MakeClient, run_pods: RunPods, clock: ManualClock) -> None:
        """The table of a service in which something is followed is not dropped, though nobody asks for anything."""
        async with run_pods(1) as (pod,), make_client(cache_ttl=10.0) as client:
            await pod.claim("alice")
            async with client.service(SERVICE).following("alice"):
                service = table_of(client)
                for _ in range(5):
                    clock.advance(REFRESH)
                    await beat_once(pod)
                    await look_at_followed(client)
                    await directory_of(client).refresh_all()

                assert service is directory_of(client).services[NAMESPACE, SERVICE]
            for _ in range(5):
                clock.advance(REFRESH)
                await beat_once(pod)
                await directory_of(client).refresh_all()

            assert {} == directory_of(client).services

    @pytest.mark.parametrize("argument", ["namespace", "uid", "service_name"])
    async def test_bad_arguments(self, make_client: MakeClient, store: MemoryStore, argument: str) -> None:
        """What is no id is refused at once."""
        good: dict[str, Any] = {"namespace": NAMESPACE, "uid": "alice", "service_name": SERVICE}
        async with make_client() as client:
            for value in BAD[argument]:
                with pytest.raises(InvalidArgumentError) as caught:
                    client.following(**(good | {argument: value}))

                assert argument == caught.value.argument

        assert {} == store.operations


class Scene:
    """What may happen to a few uids, by chance."""

    def __init__(self, pods: list[ServerDriver], client: ClientDriver, store: MemoryStore, clock: ManualClock) -> None:
        self.uids = [f"user-{number}" for number in range(6)]
        self.pods = pods
        self.rooms = client.service(SERVICE)
        self.store = store
        self.clock = clock

    async def release(self, pod: ServerDriver, uid: str, random: Random) -> None:
        handle = pod.owned(uid)
        if handle is not None:
            await handle.release(random.choice([0.0, 30.0]))

    async def drain(self, pod: ServerDriver) -> None:
        await pod.drain()
        await pod.set_routing_state("READY")  # type: ignore[arg-type]  # its name will do

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for pod in self.pods:
            await beat_once(pod)

    async def act(self, random: Random) -> None:
        uid, pod = random.choice(self.uids), random.choice(self.pods)
        actions: list[Callable[[], Any]] = [
            lambda: pod.claim(uid),
            lambda: self.release(pod, uid, random),
            lambda: pod.set_linked_pod("", uid, SERVICE, random.randrange(3)),
            lambda: self.rooms.route(uid),
            lambda: self.drain(pod),
            self.store.deafen,
            self.store.hear_again,
            lambda: self.pass_time(random.choice([1.0, 20.0])),
        ]
        acted = random.choice(actions)()
        if asyncio.iscoroutine(acted):
            with contextlib.suppress(StoreError):
                await acted


@pytest.mark.parametrize("seed", range(20))
async def test_it_ends_up_right(
    make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock, seed: int
) -> None:
    """Whatever happens to the links, who follows them knows them as they are once all is quiet."""
    random = Random(seed)
    async with run_pods(3) as pods, make_client() as client, contextlib.AsyncExitStack() as stack:
        scene = Scene(pods, client, store, clock)
        followers = [await stack.enter_async_context(scene.rooms.following(uid)) for uid in scene.uids]
        for _ in range(60):
            await scene.act(random)
            if random.random() < 0.3:
                await look_at_followed(client)
            if random.random() < 0.3:
                await turns()
        store.hear_again()
        await eventually(lambda: table_of(client).serves_cached)
        await reader_of(client).read(table_of(client))
        await turns()
        await look_at_followed(client)
        links = await store.get_links(NAMESPACE, scene.uids, SERVICE)
        known = [each._followed.link if each._followed is not None else None for each in followers]

        assert list(map(owner_of, links)) == list(map(owner_of, known))


def owner_of(link: Link | StoreError | None) -> tuple[int, int] | None:
    return (link.pod_index, link.epoch) if isinstance(link, Link) else None
