"""Coherence of the cache: what is announced is dropped, and what cannot be heard of is not trusted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from random import Random
from typing import TYPE_CHECKING

import pytest

from stateful_route import LifecycleError, NoRoutablePodError, RoutingState, StoreError, StoreUnavailableError
from stateful_route._listening import attach
from stateful_route.client.cache.links import LinkCache
from stateful_route.client.coherence import InvalidationListener
from stateful_route.client.pods.service import ServicePods
from stateful_route.links import Link, LinkKind
from stateful_route.pods import PodLife, Topic
from stateful_route.store import LinkKey, PodReport
from tests.insides import directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route import ClientDriver
    from stateful_route.links import TopicEvent
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, RunPods

ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
AWAY = StoreUnavailableError("away", operation="any", maybe_applied=False)


@pytest.fixture
async def lives(store: MemoryStore) -> list[PodLife]:
    """Begin the lives of two pods that are only entries of the store, so that nobody but a client listens."""
    began = [await store.register(room(index), PodReport(), CONFIG.lease_seconds, 86400.0) for index in range(2)]
    return [PodLife(index, life.incarnation) for index, life in enumerate(began)]


async def cached(client: ClientDriver, uid: str = "alice") -> int | None:
    return await client.get_linked_in_cache("", uid, SERVICE)


async def dropped(client: ClientDriver) -> None:
    """Return once alice is not cached."""

    async def gone() -> bool:
        return await cached(client) is None

    await eventually(gone)


def state_of(client: ClientDriver) -> str:
    """Return whether the client is listening, deaf or degraded."""
    return repr(directory_of(client).services[NAMESPACE, SERVICE].listener).rpartition(" ")[2].rstrip(">")


async def becomes(client: ClientDriver, state: str) -> None:
    await eventually(lambda: state_of(client) == state)


async def deafen(client: ClientDriver, store: MemoryStore) -> None:
    """Make the client deaf for good, and hold its attempts to hear again."""
    store.hold("listen")
    store.deafen()
    await becomes(client, "deaf")


class TestAnnounced:
    async def test_moved(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A link that another pod got is dropped from the cache, and the next call finds the new owner."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            before = await client.compute_linked_pod("", "alice", SERVICE)
            await store.assign(ALICE, lives[1])
            await dropped(client)

            assert (0, 1) == (before, await client.compute_linked_pod("", "alice", SERVICE))

    @pytest.mark.parametrize("grace", [0.0, 5.0])
    async def test_released(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], grace: float
    ) -> None:
        """A link that was released, with grace or without, is dropped from the cache."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await store.release(ALICE, grace=grace)
            await dropped(client)

    async def test_others(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """What is announced of one uid drops no other one, and none of the same uid in another service."""
        hall = LinkKey(NAMESPACE, "alice", "hall")
        await store.claim(hall, lives[0])
        async with make_client() as client:
            await client.get_linked_pod("", "alice", "hall")
            for uid in ("alice", "bob"):
                await store.claim(LinkKey(NAMESPACE, uid, SERVICE), lives[0])
                await client.compute_linked_pod("", uid, SERVICE)
            await store.assign(ALICE, lives[1])
            await dropped(client)

            assert 0 == await cached(client, "bob")
            assert 0 == await client.get_linked_in_cache("", "alice", "hall")

    async def test_renewed(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """What other clients and its own pod do with a link that stays where it is drops nothing."""
        async with make_client() as client:
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            await store.place(ALICE, lives[1 - pod], 600.0)
            await store.claim(ALICE, lives[pod])
            await store.claim(ALICE, lives[1 - pod])
            bob = LinkKey(NAMESPACE, "bob", SERVICE)
            await store.claim(bob, lives[0])
            await client.get_linked_pod("", "bob", SERVICE)
            await store.release(bob)  # a marker: what was announced before it has been heard

            async def bob_gone() -> bool:
                return await cached(client, "bob") is None

            await eventually(bob_gone)

            assert pod == await cached(client)

    @pytest.mark.parametrize(
        ("method", "operation"),
        [("compute_linked_pod", "place"), ("get_linked_pod", "get_link"), ("batch", "get_links")],
    )
    async def test_reply_in_flight(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], method: str, operation: str
    ) -> None:
        """A reply that was in flight while its uid was announced is returned, and is not cached."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.pods("", SERVICE)
            store.hold(operation, answers=True)
            if method == "batch":
                call = asyncio.ensure_future(client.batch_get_linked_pod("", ["alice"], SERVICE))
            else:
                call = asyncio.ensure_future(getattr(client, method)("", "alice", SERVICE))
            await store.wait_held()
            await store.assign(ALICE, lives[1])
            await eventually(
                lambda: "alice" in directory_of(client).services[NAMESPACE, SERVICE].links._overtaken._heard
            )
            store.release_held()
            await call

            assert await cached(client) is None

    async def test_reply_after_the_move(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]
    ) -> None:
        """A reply that already has the new owner is cached, though the move was announced while it was in flight."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.pods("", SERVICE)
            store.hold("get_link")
            call = asyncio.ensure_future(client.get_linked_pod("", "alice", SERVICE))
            await store.wait_held()
            await store.assign(ALICE, lives[1])
            await eventually(
                lambda: "alice" in directory_of(client).services[NAMESPACE, SERVICE].links._overtaken._heard
            )
            store.release_held()

            assert (1, 1) == (await call, await cached(client))


class TestPodAnnounced:
    async def test_routing_state(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A change of a routing state is in the table at once, with no refresh in between."""
        async with run_pods(2) as (first, _), make_client() as client:
            await client.pods("", SERVICE)
            await first.set_routing_state(RoutingState.DENY_NEW_CALL)

            async def seen() -> bool:
                return (await client.pods("", SERVICE))[0].report.routing_state is RoutingState.DENY_NEW_CALL

            await eventually(seen)

            assert {1} == {await client.compute_linked_pod("", f"user-{i}", SERVICE) for i in range(20)}

    async def test_reading_in_flight(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A change that is announced while an older reading is in flight is read after that."""
        async with run_pods(2) as (first, _), make_client() as client:
            await client.pods("", SERVICE)
            store.hold("read_pods", answers=True)
            refresh = asyncio.create_task(directory_of(client).refresh_all())
            await store.wait_held()
            await first.set_routing_state(RoutingState.DENY_NEW_CALL)
            table = directory_of(client).peek(NAMESPACE, SERVICE)
            await eventually(lambda: bool(reader_of(client)._tasks) and not table.reads.changes.refreshing)
            store.release_held()
            await refresh

            async def seen() -> bool:
                return (await client.pods("", SERVICE))[0].report.routing_state is RoutingState.DENY_NEW_CALL

            await eventually(seen, within=1.0)


class TestDeaf:
    async def test_asks_the_store(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A client that has gone deaf asks the store for each cached uid, and hears again after a while."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            await store.assign(ALICE, lives[1])
            store.operations.clear()
            answers = [await client.compute_linked_pod("", "alice", SERVICE) for _ in range(3)]

            assert ([1, 1, 1], 3) == (answers, store.operations["place"])

    async def test_cannot_listen_while_the_store_answers(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]
    ) -> None:
        """A failed attempt to listen is no proof that the store is away: what is cached stays unused."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            await store.wait_held()  # the first attempt
            store.release_held()
            store.hold("listen")
            await store.wait_held()  # the second: the first has failed
            await store.assign(ALICE, lives[1])

            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_flushed(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], clock: ManualClock
    ) -> None:
        """A client that hears again has dropped all that it had, what was asked while it was deaf included."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            await store.assign(ALICE, lives[1])
            store.hold("get_link", answers=True)
            call = asyncio.ensure_future(client.get_linked_pod("", "alice", SERVICE))
            await store.wait_held(2)  # the call, and the attempt to listen
            clock.advance(0.001)
            hold = store._holds.pop()
            store.hear_again()
            store.release_held()
            await becomes(client, "listening")
            hold.released.set()
            answer = await call

            assert (1, None) == (answer, await cached(client))

    async def test_used_again(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A client that hears again caches again, and a hit costs no call."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.pods("", SERVICE)
            await deafen(client, store)
            store.hear_again()
            store.release_held()
            await becomes(client, "listening")
            await client.compute_linked_pod("", "alice", SERVICE)
            store.operations.clear()
            await client.compute_linked_pod("", "alice", SERVICE)

            assert 0 == store.operations["place"]

    async def test_logged(self, make_client: MakeClient, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
        """That nothing is heard is logged once, and that it is heard again, once too."""
        caplog.set_level(logging.INFO, "stateful_route")
        async with make_client() as client:
            await client.pods("", SERVICE)
            await becomes(client, "listening")
            await deafen(client, store)
            store.hear_again()
            store.release_held()
            await becomes(client, "listening")
        texts = [record.getMessage() for record in caplog.records if "invalidations" in record.getMessage()]

        assert [f"invalidations of {SERVICE!r} are not heard", f"invalidations of {SERVICE!r} are heard again"] == [
            text.partition(":")[0] for text in texts
        ]

    async def test_away_at_the_start(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A client that has never heard anything works by asking the store."""
        await store.claim(ALICE, lives[0])
        store.deafen()
        async with make_client() as client:
            answers = [await client.compute_linked_pod("", "alice", SERVICE) for _ in range(2)]

            assert ([0, 0], 2) == (answers, store.operations["place"])


class TestDegraded:
    async def test_grace(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], clock: ManualClock
    ) -> None:
        """While the store is away, cached uids are served for the grace; then, and new ones always, it is an error."""
        await store.claim(ALICE, lives[0])
        async with make_client(degraded_grace=60.0) as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)
            first = await client.compute_linked_pod("", "alice", SERVICE)
            state = state_of(client)
            store.operations.clear()
            later = [
                await client.compute_linked_pod("", "alice", SERVICE),
                await client.get_linked_pod("", "alice", SERVICE),
                (await client.route("", "alice", SERVICE)).pod_index,
            ]
            asked = dict(store.operations)
            with pytest.raises(StoreUnavailableError):
                await client.compute_linked_pod("", "bob", SERVICE)
            clock.advance(59.9)
            await directory_of(client).refresh_all()
            last = await client.compute_linked_pod("", "alice", SERVICE)
            clock.advance(0.1)
            await directory_of(client).refresh_all()
            with pytest.raises(StoreUnavailableError):
                await client.compute_linked_pod("", "alice", SERVICE)

        assert (0, "degraded", [0, 0, 0], {}, 0) == (first, state, later, asked, last)

    async def test_back(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """Once the store answers again, suspect links are not used, though nothing can be heard yet."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)
            await client.compute_linked_pod("", "alice", SERVICE)
            store.fail_with(None)
            await store.assign(ALICE, lives[1])
            await directory_of(client).refresh_all()

            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_one_answer_is_enough(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]
    ) -> None:
        """Any call that the store answers ends the use of suspect links, not only a reading of the pods."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)
            await client.compute_linked_pod("", "alice", SERVICE)
            store.fail_with(None)
            await client.compute_linked_pod("", "bob", SERVICE)
            await store.assign(ALICE, lives[1])

            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_dead_pod(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """While the store is away, a cached link to a pod that was reported unreachable is not used."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)
            with pytest.raises(StoreUnavailableError):
                await client.report_unreachable("", SERVICE, 0)
            with pytest.raises(StoreUnavailableError):
                await client.compute_linked_pod("", "alice", SERVICE)

    async def test_store_only(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """The method that leaves the cache alone does so while the store is away too."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)
            with pytest.raises(StoreUnavailableError):
                await client.get_linked_pod_not_cache("", "alice", SERVICE)

    async def test_batch(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A batch of cached uids is served while the store is away, from the first call on."""
        await store.claim(ALICE, lives[0])
        async with make_client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await deafen(client, store)
            store.fail_with(AWAY)

            assert {0: ["alice"]} == await client.batch_get_linked_pod("", ["alice"], SERVICE)

    async def test_by_hand(self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
        """A uid that the application put into the cache is served while the store is away, from the first call on."""
        async with make_client() as client:
            await client.pods("", SERVICE)
            await client.set_cache("", "alice", SERVICE, 0)
            await deafen(client, store)
            store.fail_with(AWAY)

            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)


class TestIdle:
    """Services of which nothing is asked, and that have no pod alive."""

    async def test_not_read(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """They are not read again while all that is announced is heard: 300 of them cost nothing."""
        async with make_client(refresh=0.5) as client:
            for number in range(300):
                await client.pods(f"tenant-{number}", SERVICE)
            clock.advance(0.001)
            await directory_of(client).refresh_all()  # for what was looked up just now
            store.operations.clear()
            await directory_of(client).refresh_all()

            assert 0 == store.operations["read_pods"]

    async def test_unwatched(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], clock: ManualClock
    ) -> None:
        """A service with a living pod is read if nothing waits for the end of its lease, as after a failed reading."""
        async with make_client() as client:
            await client.pods("", SERVICE)
            clock.advance(0.001)
            await directory_of(client).refresh_all()
            directory_of(client).services[NAMESPACE, SERVICE].reads.awaited = False
            store.operations.clear()
            await directory_of(client).refresh_all()

            assert 1 == store.operations["read_pods"]

    async def test_announced(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that comes is announced, so they are read then."""
        async with make_client() as client:
            await client.pods("", SERVICE)
            await directory_of(client).refresh_all()
            await store.register(room(0), PodReport(), CONFIG.lease_seconds, 86400.0)
            await eventually(lambda: 1 == len(directory_of(client).peek(NAMESPACE, SERVICE).placements.routable))

    async def test_deaf(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """While nothing is heard they are read each time, and once when it is heard again: a pod may have come."""
        async with make_client() as client:
            await client.pods("", SERVICE)
            await directory_of(client).refresh_all()
            await deafen(client, store)
            store.operations.clear()
            for _ in range(3):
                await directory_of(client).refresh_all()
            deaf = store.operations["read_pods"]
            store.hear_again()
            store.release_held()
            await becomes(client, "listening")
            store.operations.clear()
            clock.advance(0.001)
            for _ in range(3):
                await directory_of(client).refresh_all()

        assert (3, 1) == (deaf, store.operations["read_pods"])


class TestUnexpected:
    async def test_reading(
        self, make_client: MakeClient, store: MemoryStore, lives: list[PodLife], caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error in a reading that nobody waits for is logged."""
        async with make_client(refresh=60.0) as client:
            await client.pods("", SERVICE)
            store.fail_with(ZeroDivisionError("a bug"), "read_pods")  # type: ignore[arg-type]
            await store.register(room(2), PodReport(), CONFIG.lease_seconds, 86400.0)
            await eventually(lambda: bool(caplog.records))
            store.fail_with(None)

        assert [ZeroDivisionError] == [record.exc_info[0] for record in caplog.records if record.exc_info]

    async def test_listener(self, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
        """A listener in a task that raises is logged, loses what it heard, and listens again."""
        told: list[str] = []

        class Listener:
            def begin(self) -> None:
                told.append("begin")

            def take_in(self, event: TopicEvent) -> None:
                raise ZeroDivisionError

            def lose(self, error: StoreError) -> None:
                told.append("lose")

        detach = attach(store, Topic(NAMESPACE, SERVICE), Listener(), patience=10.0, random=Random(1))
        await eventually(lambda: told == ["begin"])
        await store.register(room(0), PodReport(), CONFIG.lease_seconds, 86400.0)
        await eventually(lambda: told == ["begin", "lose", "begin"])
        await detach()

        assert [ZeroDivisionError] == [record.exc_info[0] for record in caplog.records if record.exc_info]


async def test_subscription_that_hangs(make_client: MakeClient, store: MemoryStore, lives: list[PodLife]) -> None:
    """The first call for a service is answered within its deadline, though the subscription never is."""
    await store.claim(ALICE, lives[0])
    store.hold("listen")
    async with make_client(call_deadline=0.5) as client:
        answers = [
            await client.compute_linked_pod("", "alice", SERVICE),
            await client.get_linked_pod("", "alice", SERVICE),
            await client.batch_get_linked_pod("", ["alice"], SERVICE),
        ]
        before = await cached(client)
        store.release_held()
        await becomes(client, "listening")

    assert ([0, 0, {0: ["alice"]}], None) == (answers, before)


class TestEnd:
    def test_told_after_the_end(self, clock: ManualClock) -> None:
        """A listener that was closed serves nothing, whatever it is told later."""
        table = ServicePods("other", SERVICE, settle=1.0)
        table.links = LinkCache(10, 100.0, 1.0, clock).service("other", SERVICE)
        table.links.put("alice", table.pod(0), Link(0, 1, 1, LinkKind.PERSISTENT, None), clock())
        listener = InvalidationListener(table, lambda _: None, grace=60.0, clock=clock)
        listener.close()
        listener.begin()
        begun = listener.serves_cached
        listener.lose(AWAY)
        listener.store_failed()

        assert (False, False, False) == (begun, listener.serves_cached, table.links.has_hints)

    async def test_new_namespaces_meanwhile(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A client that is stopped while calls for new namespaces come in stops, and leaves no task behind."""
        before = asyncio.all_tasks()
        number = itertools.count()
        async with make_client() as client:

            async def ask() -> None:
                while True:
                    with contextlib.suppress(NoRoutablePodError, LifecycleError):
                        await client.compute_linked_pod(f"tenant-{next(number)}", "alice", SERVICE)
                    await asyncio.sleep(0)

            asking = [asyncio.create_task(ask()) for _ in range(3)]
            await eventually(lambda: next(number) > 50)
            await client.stop()
            left = asyncio.all_tasks() - before - set(asking)
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)

        assert set() == left
        assert {} == store._listeners

    async def test_forgotten_while_it_is_stopped(
        self, make_client: MakeClient, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A client that is stopped while it leaves namespaces that are not used any more leaves all of them."""
        before = asyncio.all_tasks()
        async with make_client() as client:
            for number in range(20):
                await client.pods(f"tenant-{number}", SERVICE)
            clock.advance(10 * (CONFIG.cache_ttl + CONFIG.refresh))
            leaving = asyncio.create_task(directory_of(client).refresh_all())
            await asyncio.sleep(0)
            await client.stop()
            leaving.cancel()
            await asyncio.wait([leaving])

        assert {} == store._listeners
        assert before == asyncio.all_tasks()

    async def test_stopped_while_a_call_waits(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A call that waits for the first attempt to listen in a namespace ends when the client is stopped."""
        async with make_client() as client:
            store.hold("listen")
            call = asyncio.ensure_future(client.compute_linked_pod("other", "alice", SERVICE))
            await store.wait_held()
        store.release_held()
        done, _ = await asyncio.wait([call], timeout=1.0)
        call.cancel()
        await asyncio.wait([call])

        assert {call} == done

    async def test_no_listener_after_the_end(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A call in another namespace that is answered after the end of the client leaves no task behind."""
        async with make_client() as client:
            store.hold("get_link", answers=True)
            await store.claim(LinkKey("other", "alice", SERVICE), PodLife(0, 1))
            call = asyncio.ensure_future(client.get_linked_pod("other", "alice", SERVICE))
            await store.wait_held()
        store.release_held()
        await asyncio.wait([call])
        left = asyncio.all_tasks() - {asyncio.current_task()}
        names = [task.get_name() for task in left]
        for task in left:
            task.cancel()

        assert [] == names

    async def test_namespaces(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """A client that has used many namespaces stops listening in those that it does not use any more."""
        async with make_client(refresh=0.5) as client:
            for number in range(20):
                await store.claim(LinkKey(f"tenant-{number}", "alice", SERVICE), PodLife(0, 1))
                await client.get_linked_pod(f"tenant-{number}", "alice", SERVICE)
            await directory_of(client).refresh_all()
            clock.advance(10 * (CONFIG.cache_ttl + CONFIG.refresh))
            await directory_of(client).refresh_all()

            assert {} == store._listeners


async def test_drained_and_back_before_it_was_read(
    make_client: MakeClient, run_pods: RunPods, store: MemoryStore
) -> None:
    """A pod that drained, and takes uids again before anybody read that, has let its links go without a word."""
    async with run_pods(1) as (pod,), make_client() as client:
        await pod.claim("alice")
        await client.compute_linked_pod("", "alice", SERVICE)
        service = directory_of(client).services[NAMESPACE, SERVICE]
        store.hold("read_pods")
        await pod.drain()
        await pod.set_routing_state(RoutingState.READY)
        await eventually(lambda: service.pod(0).suspended)
        store.release_held()
        await eventually(lambda: not service.pod(0).suspended)

        assert await cached(client) is None
        assert await client.compute_linked_pod("", "alice", SERVICE) == await cached(client) == 0
