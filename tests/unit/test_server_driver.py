"""The server driver over a store in memory: what it publishes, and the methods of the contract."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import (
    BaseConfig,
    LifecycleError,
    LinkKind,
    PodState,
    RoutingState,
    ServerDriver,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.pods import HeartbeatOutcome, PodLife
from stateful_route.store import LinkKey
from stateful_route.testing import ManualClock
from tests.insides import beat_once, reclaim_ended
from tests.unit.conftest import CONFIG, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.pods import PodTable
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeServer, RunPods

ALICE = LinkKey("prod", "alice", "room")
ALICES_DOC = LinkKey("prod", "alice", "doc")
AWAY = StoreUnavailableError("away", operation="heartbeat", maybe_applied=False)
TIMEOUT = StoreTimeoutError("no answer", operation="register", maybe_applied=True)


async def pod_0(store: MemoryStore) -> PodState:
    return (await store.read_pods("prod", "room")).pods[0]


async def owner_of(store: MemoryStore, key: LinkKey) -> PodLife | None:
    link = await store.get_link(key)
    return None if link is None else link.owner


class TestPublishing:
    async def test_starts_ready(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod is READY and has an incarnation when start() has returned."""
        async with make_server() as server:
            pod = await pod_0(store)

        assert (RoutingState.READY, 0, server.incarnation) == (pod.report.routing_state, pod.pod_index, pod.incarnation)
        assert 0 < pod.incarnation

    async def test_report(self, store: MemoryStore, clock: ManualClock) -> None:
        """A heartbeat carries what the configuration says of the pod, and the lease."""
        config = attrs.evolve(CONFIG, capacity=2.0, address="http://a", zone="z", version="v7", lease=300.0)
        async with ServerDriver(store, room(0), config, clock=clock):
            pod = await pod_0(store)

        assert (2.0, "http://a", "z", "v7") == (
            pod.report.capacity,
            pod.report.address,
            pod.report.zone,
            pod.report.version,
        )
        assert 300.0 == pod.load_state.ttl

    async def test_load_state(self, make_server: MakeServer, store: MemoryStore) -> None:
        """The load is the number of owned uids until it is set, and 0 is a load that can be set."""
        async with make_server() as server:
            await server.claim("alice")
            counted = await server.get_load_state()
            await server.set_load_state(0)
            await beat_once(server)
            pod = await pod_0(store)

            assert (1, 0) == (counted, await server.get_load_state())
            assert (0, 1, 1) == (pod.load_state.value, pod.report.links, pod.report.placed_total)

    @pytest.mark.parametrize("state", [*RoutingState, "DENY_NEW_CALL"])
    async def test_routing_state_is_published(self, make_server: MakeServer, store: MemoryStore, state: Any) -> None:
        """A routing state is in the store when the call that set it has returned."""
        async with make_server() as server:
            await server.set_routing_state(state)

            assert state == await server.get_routing_state()
            assert state == (await pod_0(store)).report.routing_state

    async def test_one_heartbeat_at_a_time(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A heartbeat waits for the one before, so that what was said later arrives later."""
        async with make_server() as server:
            store.hold("heartbeat")
            first = asyncio.create_task(server.set_routing_state(RoutingState.DENY_NEW_CALL))
            await store.wait_held()
            second = asyncio.create_task(server.set_routing_state(RoutingState.READY))
            await asyncio.sleep(0)  # so that it waits for the first
            in_flight = store.operations["heartbeat"]
            store.release_held()
            await asyncio.gather(first, second)

            assert 1 == in_flight
            assert RoutingState.READY is (await pod_0(store)).report.routing_state

    async def test_routing_state_without_a_store(self, make_server: MakeServer, store: MemoryStore) -> None:
        """If the store does not answer that is an error, and the state goes out with the next heartbeat."""
        async with make_server() as server:
            store.fail_with(AWAY)
            with pytest.raises(StoreUnavailableError):
                await server.set_routing_state(RoutingState.DENY_NEW_CALL)
            store.fail_with(None)
            await beat_once(server)

            assert RoutingState.DENY_NEW_CALL is (await pod_0(store)).report.routing_state

    async def test_stop_says_goodbye(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod that stopped is SHUTDOWN in the store."""
        async with make_server():
            pass

        assert RoutingState.SHUTDOWN is (await pod_0(store)).report.routing_state

    async def test_stop_without_a_store(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod stops without an error if the store is away, and owns nothing then."""
        async with make_server() as server:
            handle = await server.claim("alice")
            store.fail_with(AWAY)

        assert not handle.is_owned()

    async def test_stop_is_bounded(self, store: MemoryStore, clock: ManualClock) -> None:
        """A pod stops within its deadline if the store does not answer."""
        config = attrs.evolve(CONFIG, stop_deadline=0.01)
        async with ServerDriver(store, room(0), config, clock=clock) as server:
            handle = await server.claim("alice")
            store.hold("heartbeat")

        assert not handle.is_owned()

    async def test_nothing_after_the_goodbye(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A routing state that is set while the pod stops does not follow its goodbye."""
        server = make_server()
        await server.start()
        store.hold("heartbeat")
        stop = asyncio.create_task(server.stop())
        await store.wait_held()
        late = asyncio.create_task(server.set_routing_state(RoutingState.READY))
        await asyncio.sleep(0)  # so that it waits behind the goodbye
        store.release_held()
        await asyncio.gather(stop, late, return_exceptions=True)

        assert RoutingState.SHUTDOWN is (await pod_0(store)).report.routing_state

    async def test_failed_registration(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod that cannot register does not start, and leaves no task behind."""
        server = make_server()
        store.fail_with(AWAY, "register")
        with pytest.raises(StoreUnavailableError):
            await server.start()

        assert {asyncio.current_task()} == asyncio.all_tasks()
        assert "<ServerDriver of 'room' pod 0: stopped>" == repr(server)


class TestLives:
    async def test_confirmed_dead(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod whose death was confirmed begins another life with its next heartbeat, and owns nothing."""
        async with make_server() as server:
            first, handle = server.incarnation, await server.claim("alice")
            store.mark_dead("prod", "room", 0)
            await beat_once(server)
            pod = await pod_0(store)

            assert server.incarnation == pod.incarnation
            assert first < server.incarnation
            assert not pod.dead
            assert not handle.is_owned()

    async def test_resumed(self, make_server: MakeServer, store: MemoryStore) -> None:
        """The same process claims in another life what nobody held in between: it is not inherited."""
        async with make_server() as server:
            before = await server.claim("alice")
            store.mark_dead("prod", "room", 0)
            await beat_once(server)
            after = await server.claim("alice")

            assert (False, before.epoch) == (after.inherited, after.previous and after.previous.epoch)
            assert after.is_owned()
            assert not before.is_owned()

    async def test_not_resumed(self, make_server: MakeServer, run_pods: RunPods, store: MemoryStore) -> None:
        """What another life of the pod held in between is inherited: the memory of it is old."""
        async with make_server() as server:
            await server.claim("alice")
            await store.claim(ALICE, PodLife(0, server.incarnation + 1))
            store.mark_dead("prod", "room", 0)
            await beat_once(server)
            after = await server.claim("alice")

            assert after.inherited

    async def test_restarted_process(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A process that was started again inherits the links of the one before."""
        first = make_server()
        await first.start()
        before = await first.claim("alice")
        await first._beating.stop()  # as if it were killed
        async with make_server(index_is_exclusive=True) as second:
            after = await second.claim("alice")

            assert (True, True) == (after.inherited, after.is_owned())
            assert after.previous is not None
            assert (before.epoch, first.incarnation) == (after.previous.epoch, after.previous.incarnation)

    async def test_lost_answer_of_a_registration(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that begins another life, and never hears the answer, is not superseded by itself."""
        async with make_server() as server:
            store.mark_dead("prod", "room", 0)
            store.fail_with(TIMEOUT, "register", applied=True)
            await beat_once(server)
            store.fail_with(None)
            await beat_once(server)
            await beat_once(server)
            clock.advance(CONFIG.lease_seconds)  # the life that it never heard of could be another process
            await beat_once(server)

            assert (await server.claim("alice")).is_owned()

    async def test_superseded(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A process that a newer one with its index has superseded owns nothing from its next heartbeat on."""
        async with make_server() as older:
            handle = await older.claim("alice")
            async with make_server() as newer:
                await beat_once(older)
                with pytest.raises(LifecycleError, match="superseded"):
                    await older.set_routing_state(RoutingState.READY)
                await asyncio.gather(older.claim("bob"), return_exceptions=True)

                assert not handle.is_owned()
                assert (None, None) == (older.owned("alice"), older.owned("bob"))
                assert newer.incarnation == (await pod_0(store)).incarnation

    async def test_superseded_takes_nothing(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A process that knows that it is superseded makes no link that nobody owns."""
        async with make_server() as older, make_server() as newer:
            await beat_once(older)
            await asyncio.gather(older.claim("bob"), return_exceptions=True)
            handle = await newer.claim("bob")

            assert not handle.inherited

    async def test_goodbye_gives_up_first(self, make_server: MakeServer, store: MemoryStore) -> None:
        """From its goodbye on a pod owns nothing, whether it has heard the answer or not."""
        older = make_server()
        await older.start()
        handle = await older.claim("alice")
        older._status.routing_state = RoutingState.SHUTDOWN
        store.hold("heartbeat", answers=True)
        goodbye = asyncio.create_task(older._heartbeats.say_goodbye())
        await store.wait_held()
        async with make_server() as newer:
            taken = await newer.claim("alice")
            owners = [handle.is_owned(), taken.is_owned()]
            store.release_held()
            await goodbye
            await older.stop()

        assert [False, True] == owners


class TestLease:
    async def test_own_heartbeats_fail(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """A pod whose heartbeats fail owns its uids until the lease since the last good one has passed."""
        async with make_server() as server:
            handle = await server.claim("alice")
            store.fail_with(AWAY)
            clock.advance(499.0)
            await beat_once(server)
            before = handle.is_owned()
            clock.advance(1.0)
            after = handle.is_owned()
            store.fail_with(None)

            assert (True, False) == (before, after)
            assert server.owned("alice") is None

    async def test_lease_from_the_sending(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock
    ) -> None:
        """The lease counts from the sending of a heartbeat, not from its answer."""
        async with make_server() as server:
            handle = await server.claim("alice")
            store.hold("heartbeat", answers=True)
            beat = asyncio.create_task(beat_once(server))
            await store.wait_held()
            clock.advance(400.0)
            store.release_held()
            await beat
            clock.advance(99.0)
            before = handle.is_owned()
            clock.advance(1.0)

            assert (True, False) == (before, handle.is_owned())

    async def test_heartbeat_renews(self, make_server: MakeServer, clock: ManualClock) -> None:
        """A heartbeat that succeeds renews the lease, and a handle is owned again if nobody confirmed a death."""
        async with make_server() as server:
            handle = await server.claim("alice")
            clock.advance(600.0)
            between = handle.is_owned()
            await beat_once(server)

            assert (False, True) == (between, handle.is_owned())

    async def test_claimed_after_the_lease(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A uid that was claimed while the lease was over, and removed since, is not owned after a good heartbeat."""
        async with make_server() as server:
            clock.advance(600.0)
            handle = await server.claim("alice")
            await beat_once(server)
            await server.remove_linked_pod("", "alice", "room")
            await store.claim(ALICE, PodLife(1, 1))

            assert not handle.is_owned()

    async def test_claimed_twice_around_a_lease(self, make_server: MakeServer, clock: ManualClock) -> None:
        """Two claims of a uid, one while the lease was over, never leave a handle that a release misses."""
        async with make_server() as server:
            clock.advance(600.0)
            first = await server.claim("alice")
            await beat_once(server)
            second = await server.claim("alice")
            await second.release()

            assert (False, False) == (first.is_owned(), second.is_owned())


class TestContract:
    async def test_set_linked_pod(self, run_pods: RunPods, store: MemoryStore) -> None:
        """It makes the link that pod's, persistently, whoever held it, and returns the pod before; pod 0 is a pod."""
        async with run_pods(2) as (first, _second):
            answers = [
                await first.set_linked_pod("", "alice", "room", 0),
                await first.set_linked_pod("", "alice", "room", 0),
                await first.set_linked_pod("", "alice", "room", 1),
                await first.set_linked_pod("", "alice", "room", 0),
            ]
            link = await store.get_link(ALICE)

        assert [None, 0, 0, 1] == answers
        assert link is not None
        assert (first.incarnation, LinkKind.PERSISTENT) == (link.incarnation, link.kind)

    async def test_set_linked_pod_of_another(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A link that is set for another pod names its present life, and life 0 if the pod is not known."""
        async with run_pods(2) as (first, second):
            await first.set_linked_pod("", "alice", "room", 1)
            known = await owner_of(store, ALICE)
            await first.set_linked_pod("", "alice", "room", 9)

            assert PodLife(1, second.incarnation) == known
            assert PodLife(9, 0) == await owner_of(store, ALICE)

    async def test_the_life_of_another(
        self, run_pods: RunPods, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To set a link for another pod that one pod is read, however many there are."""
        read: list[PodTable] = []

        read_pods = store.read_pods

        async def noted(*arguments: Any, **options: Any) -> PodTable:
            read.append(await read_pods(*arguments, **options))
            return read[-1]

        async with run_pods(3) as (first, *_):
            monkeypatch.setattr(store, "read_pods", noted)
            await first.set_linked_pod("", "alice", "room", 1)
            await first.try_set_linked_pod("", "bob", "room", 2)

        assert [[1], [2]] == [[pod.pod_index for pod in table.pods] for table in read]

    async def test_set_linked_pod_and_the_guard(self, run_pods: RunPods) -> None:
        """A pod that gives a uid away with set_linked_pod does not own it; one that takes it so owns it."""
        async with run_pods(2) as (first, second):
            handle = await first.claim("alice")
            await first.set_linked_pod("", "alice", "room", 1)
            await second.set_linked_pod("", "bob", "room", 1)

            assert not handle.is_owned()
            assert second.owned("bob") is not None

    async def test_try_set_linked_pod(self, run_pods: RunPods, store: MemoryStore) -> None:
        """It takes a temporary link and leaves a confirmed one alone, returning who holds it."""
        async with run_pods(2) as (first, second):
            await store.place(ALICE, PodLife(1, second.incarnation), 60.0)
            answers = [
                await first.try_set_linked_pod("", "alice", "room", 0),
                await second.try_set_linked_pod("", "alice", "room", 1),
                await second.try_set_linked_pod("", "alice", "doc", 1),
            ]

            assert [0, 0, 1] == answers
            assert PodLife(0, first.incarnation) == await owner_of(store, ALICE)
            assert PodLife(1, 0) == await owner_of(store, ALICES_DOC)

    async def test_remove_linked_pod(self, run_pods: RunPods) -> None:
        """It removes a link whoever holds it, and says whether there was one."""
        async with run_pods(2) as (first, second):
            handle = await second.claim("alice")
            mine = await first.claim("bob")
            answers = [
                await first.remove_linked_pod("", "alice", "room"),
                await first.remove_linked_pod("", "alice", "room"),
                await first.remove_linked_pod("", "bob", "room"),
            ]

            assert [True, False, True] == answers
            assert not mine.is_owned()
            assert handle.epoch is not None

    async def test_remove_linked_pod_with_id(self, run_pods: RunPods, store: MemoryStore) -> None:
        """It removes a link only if that pod holds it; pod 0 is a pod."""
        async with run_pods(2) as (first, _second):
            await first.claim("alice")
            answers = [
                await first.remove_linked_pod_with_id("", "alice", "room", 1),
                await first.remove_linked_pod_with_id("", "alice", "room", 0),
                await first.remove_linked_pod_with_id("", "alice", "room", 0, 5.0),
            ]

            assert [False, True, False] == answers

    async def test_remove_with_grace(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """With a time the link still resolves for so long, and is not owned."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            done = await pod.remove_linked_pod_with_id("", "alice", "room", 0, 5.0)
            link = await store.get_link(ALICE)
            clock.advance(5.0)

            assert (True, False) == (done, handle.is_owned())
            assert link is not None
            assert (LinkKind.GRACE, 5.0) == (link.kind, link.ttl)
            assert await store.get_link(ALICE) is None

    async def test_empty_namespace(self, run_pods: RunPods, store: MemoryStore) -> None:
        """An empty namespace means that of the pod."""
        async with run_pods(1) as (pod,):
            await pod.set_linked_pod("", "alice", "room", 0)

            assert await pod.remove_linked_pod("prod", "alice", "room")

    async def test_other_service(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A link of another service or namespace is not this pod's to own, even if it names its index."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            await pod.set_linked_pod("", "alice", "doc", 0)
            await pod.set_linked_pod("test", "alice", "room", 0)
            await pod.remove_linked_pod("", "alice", "doc")
            await pod.remove_linked_pod("test", "alice", "room")

            assert handle.is_owned()
            assert 1 == await pod.get_load_state()

    @pytest.mark.parametrize("method", ["remove_linked_pod", "remove_linked_pod_with_id", "set_linked_pod"])
    async def test_lost_answer(self, run_pods: RunPods, store: MemoryStore, method: str) -> None:
        """A pod that may have given a uid away does not own it."""
        async with run_pods(2) as (first, second):
            handle = await first.claim("alice")
            store.fail_with(TIMEOUT, "release", "assign", applied=True)
            more = {"remove_linked_pod": (), "remove_linked_pod_with_id": (0,), "set_linked_pod": (1,)}[method]
            with pytest.raises(StoreTimeoutError):
                await getattr(first, method)("", "alice", "room", *more)
            store.fail_with(None)
            taken = await second.claim("alice")

            assert (False, True) == (handle.is_owned(), taken.is_owned())

    async def test_cancelled_removal(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod whose removal of a uid was cancelled does not own it."""
        async with run_pods(2) as (first, second):
            handle = await first.claim("alice")
            store.hold("release", answers=True)
            removal = asyncio.create_task(first.remove_linked_pod("", "alice", "room"))
            await store.wait_held()
            removal.cancel()
            await asyncio.wait([removal])
            store.release_held()
            taken = await second.claim("alice")

            assert (False, True) == (handle.is_owned(), taken.is_owned())

    async def test_default_configuration(self, store: MemoryStore) -> None:
        """A driver without a configuration has the defaults."""
        async with ServerDriver(store, room(0)):
            pod = await pod_0(store)

        assert BaseConfig().lease_seconds == pod.load_state.ttl


class TestHealth:
    async def test_life_of_a_pod(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod is healthy before its start, while Redis is away, and while it drains and stops; then it is not."""
        server = make_server()
        healthy = [server.healthy]
        await server.start()
        store.fail_with(AWAY)
        await beat_once(server)
        healthy.append(server.healthy)
        store.fail_with(None)
        await server.drain()
        healthy.append(server.healthy)
        store.hold("heartbeat")
        stop = asyncio.create_task(server.stop())
        await store.wait_held()
        healthy.append(server.healthy)
        store.release_held()
        await stop

        assert [True] * 4 == healthy
        assert not server.healthy

    async def test_superseded(self, make_server: MakeServer) -> None:
        """A pod that a newer process with its index has superseded is not healthy, and the newer one is."""
        async with make_server() as older, make_server() as newer:
            await beat_once(older)

            assert (False, True) == (older.healthy, newer.healthy)

    async def test_shut_down_by_hand(self, make_server: MakeServer) -> None:
        """A pod that was set to SHUTDOWN does what it was told, and is healthy."""
        async with make_server() as server:
            await server.set_routing_state(RoutingState.SHUTDOWN)

            assert server.healthy

    async def test_failed_start(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod that could not start is not healthy."""
        server = make_server()
        store.fail_with(AWAY)
        with pytest.raises(StoreUnavailableError):
            await server.start()

        assert not server.healthy

    async def test_no_heartbeats(self, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pod whose heartbeats ended by a fault is not healthy: it would be dead for all others, and for good."""

        async def broken() -> None:
            raise ValueError("a fault")

        server = make_server(heartbeat=0.001, lease=500.0)
        monkeypatch.setattr(server._beating, "_action", broken)
        async with server:
            await eventually(lambda: not server.healthy)


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


class TestWords:
    async def test_registered(self, make_server: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
        """A pod says at INFO that it is registered, in which life and with which lease; its heartbeats say nothing."""
        caplog.set_level(logging.INFO, "stateful_route")
        async with make_server() as server:
            await beat_once(server)

            assert [f"pod 0 of 'room' (room-0) is registered: incarnation {server.incarnation}, lease 500 s"] == lines(
                caplog, logging.INFO
            )

    @pytest.mark.parametrize(
        ("lose", "why"),
        [
            (lambda store: store.lose_all(), "Redis does not know pod 0 of 'room' (room-0) any more"),
            (
                lambda store: store.mark_dead("prod", "room", 0),
                "pod 0 of 'room' (room-0) was taken for dead, as no heartbeat of it came for its lease",
            ),
        ],
        ids=["unknown", "dead"],
    )
    async def test_new_life(
        self,
        make_server: MakeServer,
        store: MemoryStore,
        caplog: pytest.LogCaptureFixture,
        lose: Callable[[MemoryStore], None],
        why: str,
    ) -> None:
        """A pod that begins a new life says what happened, and what follows."""
        async with make_server() as server:
            await server.claim("alice")
            lose(store)
            await beat_once(server)

        assert [f"{why}: a new life begins, and its 1 uids are claimed again"] == lines(caplog, logging.WARNING)

    async def test_superseded(self, make_server: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
        """A superseded pod says once what is the matter and what to do, and its errors say the same."""
        async with make_server(index_is_exclusive=True) as older, make_server(index_is_exclusive=True):
            await beat_once(older)
            with pytest.raises(LifecycleError) as caught:
                await older.claim("alice")

        expected = (
            "pod 0 of 'room' (room-0) was superseded and owns nothing any more: a newer process has this pod index "
            "(uvicorn --workers, or two replicas with one STATEFUL_ROUTE_POD_INDEX? let them lease one): "
            "end this process"
        )
        assert expected == str(caught.value)
        assert [expected] == lines(caplog, logging.WARNING)

    async def test_failing_heartbeats(
        self, make_server: MakeServer, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each time that heartbeats begin to fail is told once, and so is each time that they succeed again."""
        caplog.set_level(logging.INFO, "stateful_route")
        async with make_server() as server:
            for error in (AWAY, AWAY, None, None, AWAY, None):
                store.fail_with(error, "heartbeat")
                await beat_once(server)
            told = [line.partition(":")[0] for line in lines(caplog, logging.INFO)[1:]]

        fail, succeed = (f"heartbeats of pod 0 of 'room' (room-0) {what}" for what in ("fail", "succeed again"))
        assert [fail, succeed] * 2 == told

    async def test_failed_start(
        self, make_server: MakeServer, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pod that never registered says nothing beside its error, and does not register in order to leave."""
        store.fail_with(AWAY, "register")
        with pytest.raises(StoreUnavailableError):
            await make_server().start()

        assert [] == lines(caplog, logging.INFO)
        assert 1 == store.operations["register"]

    async def test_unsure_start(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A start whose registration was not answered leaves no pod behind that is READY, if it can help it."""
        store.fail_with(TIMEOUT, "register", applied=True)
        server = make_server()
        real = server._heartbeats.publish

        async def publish() -> None:
            store.fail_with(None)
            await real()

        server._heartbeats.publish = publish  # type: ignore[method-assign]  # the store answers again
        with pytest.raises(StoreTimeoutError):
            await server.start()

        assert RoutingState.READY is not (await pod_0(store)).report.routing_state

    async def test_drain_without_a_store(
        self, make_server: MakeServer, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pod that cannot announce its drain says so, with the number of uids that are not handed over."""
        async with make_server() as server:
            await server.claim("alice")
            store.fail_with(AWAY)
            await server.drain()

            store.fail_with(None)

        expected = "pod 0 of 'room' (room-0) could not announce that it drains, so its 1 uids are not handed over now"
        assert [f"{expected}: {AWAY}"] == lines(caplog, logging.WARNING)

    async def test_deafness(
        self, make_server: MakeServer, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pod that hears no invalidations warns once, however often it tries, and says when it hears again."""
        caplog.set_level(logging.INFO, "stateful_route")
        async with make_server() as server:
            await eventually(lambda: bool(store._listeners))
            caplog.clear()
            store.deafen()
            await eventually(lambda: bool(lines(caplog, logging.INFO)))
            server._invalidations._lose(AWAY)  # another attempt that fails
            store.hear_again()
            await eventually(lambda: len(lines(caplog, logging.INFO)) > 1)

            levels = [record.levelno for record in caplog.records]
            told = [line.partition(":")[0] for line in lines(caplog, logging.INFO)]
            assert [logging.WARNING, logging.WARNING] == levels
            assert [
                "pod 0 of 'room' (room-0) hears no invalidations",
                "pod 0 of 'room' (room-0) hears invalidations again",
            ] == told


class TestLateAnswers:
    """What is in flight when the state of the pod changes."""

    async def test_goodbye_beside_a_heartbeat(self, make_server: MakeServer, store: MemoryStore) -> None:
        """SHUTDOWN is in the store when the call returns, though a heartbeat was in flight when it was made."""
        async with make_server() as pod:
            store.hold("heartbeat", answers=True)
            beating = asyncio.create_task(beat_once(pod))
            await store.wait_held()
            leaving = asyncio.create_task(pod.set_routing_state(RoutingState.SHUTDOWN))
            await asyncio.sleep(0)
            store.release_held()
            await asyncio.gather(beating, leaving)
            (state,) = (await store.read_pods("prod", "room")).pods

            assert RoutingState.SHUTDOWN is state.report.routing_state

    async def test_goodbye_beside_a_registration(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A life that begins while the pod says goodbye says it too."""
        async with make_server() as pod:
            store.lose_all()
            store.hold("register", answers=True)
            beating = asyncio.create_task(beat_once(pod))
            await store.wait_held()
            leaving = asyncio.create_task(pod.set_routing_state(RoutingState.SHUTDOWN))
            await asyncio.sleep(0)
            store.release_held()
            await asyncio.gather(beating, leaving)
            (state,) = (await store.read_pods("prod", "room")).pods

            assert RoutingState.SHUTDOWN is state.report.routing_state

    async def test_a_registration_that_arrives_late(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A registration without an answer that arrives after a later one supersedes nobody."""
        sent: list[tuple[Any, Any]] = []
        register = store.register

        async def note(*args: Any, **settings: Any) -> Any:
            sent.append((args, settings))
            return await register(*args, **settings)

        store.register = note  # type: ignore[method-assign]  # what was sent arrives again below
        async with make_server() as pod:
            await pod.claim("alice")
            store.lose_all()
            store.fail_with(TIMEOUT, "register")
            await beat_once(pod)
            store.fail_with(None)
            await beat_once(pod)
            late = [await register(*args, **settings) for args, settings in sent[:-1]]
            await beat_once(pod)
            handle = await pod.claim("alice")

            assert [True] * len(sent[:-1]) == [answer.refused for answer in late]
            assert (True, True) == (pod.healthy, handle.is_owned())

    @pytest.mark.parametrize("applied", [False, True])
    async def test_a_registration_without_an_answer(
        self, make_server: MakeServer, store: MemoryStore, applied: bool
    ) -> None:
        """A process waits for no life of its own, be it one of which it never heard."""
        async with make_server() as pod:
            store.lose_all()
            store.fail_with(TIMEOUT, "register", applied=applied)
            await beat_once(pod)
            store.fail_with(None)
            await beat_once(pod)

            assert (await pod.claim("alice")).is_owned()

    async def test_a_newer_process(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A process that was confirmed dead does not come back over a newer process with its index."""
        async with make_server() as older, make_server(index_is_exclusive=True) as newer:
            store.deafen()  # so that the older one does not hear of it
            store.mark_dead("prod", "room", 0)
            await beat_once(newer)
            await beat_once(older)

            assert (False, True) == (older.healthy, newer.healthy)
            assert (await newer.claim("alice")).is_owned()

    async def test_set_routing_state_of_a_life_that_waits(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod that waits for an older life of it may already say that it takes no new uids."""
        older = make_server()
        await older.start()
        async with make_server() as newer:
            await newer.set_routing_state(RoutingState.DENY_NEW_CALL)
            (state,) = (await store.read_pods("prod", "room")).pods

            assert RoutingState.DENY_NEW_CALL is state.report.routing_state
        await older.stop()

    async def test_the_clock_is_put_back(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """A pod that died before the clock of the store was put back is dead a lease after that, at the latest."""
        async with run_pods(2) as (dead, living):
            await dead._beating.stop()
            await dead._invalidations.stop()
            store_clock = ManualClock(clock() - 10_000.0)
            store._clock = store_clock
            for _ in range(6):
                await beat_once(living)
                store_clock.advance(100.0)
            confirmed = await store.confirm_death("prod", "room", PodLife(0, dead.incarnation), 86400.0)

            assert confirmed

    async def test_shutdown_of_a_life_that_waits(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A pod that is shut down while it waits for an older life gets no new uids, and does not say goodbye."""
        older = make_server()
        await older.start()
        async with make_server() as newer:
            await newer.set_routing_state(RoutingState.SHUTDOWN)
            (state,) = (await store.read_pods("prod", "room")).pods

            assert RoutingState.DENY_NEW_CALL is state.report.routing_state
        await older.stop()

    async def test_a_heartbeat_that_arrives_late(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A heartbeat that arrives after a later one changes nothing: what was said last counts."""
        sent: list[tuple[Any, ...]] = []
        heartbeat = store.heartbeat

        async def note(*args: Any) -> Any:
            sent.append(args)
            return await heartbeat(*args)

        store.heartbeat = note  # type: ignore[method-assign,assignment]  # what was sent arrives again below
        async with make_server() as pod:
            await beat_once(pod)
            await pod.set_routing_state(RoutingState.DENY_NEW_CALL)
            late = await heartbeat(*sent[0])
            state = await pod_0(store)

            assert (HeartbeatOutcome.OUTDATED, RoutingState.DENY_NEW_CALL) == (late, state.report.routing_state)

    @pytest.mark.parametrize("how", ["lost", "dead"])
    async def test_one_registration_is_enough(self, make_server: MakeServer, store: MemoryStore, how: str) -> None:
        """A pod whose life is gone names the life that the store has by now at once, and registers once."""
        async with make_server() as pod:
            if how == "lost":
                store.lose_all()
            else:
                store.mark_dead("prod", "room", 0)
            before = store.operations["register"]
            await beat_once(pod)

            assert 1 == store.operations["register"] - before

    async def test_no_life_without_an_answer(self, make_server: MakeServer, store: MemoryStore) -> None:
        """While the store has not answered to a registration nothing is asked in the name of a life."""
        async with make_server() as pod:
            store.mark_dead("prod", "room", 0)
            store.fail_with(TIMEOUT, "register")
            await beat_once(pod)
            store.fail_with(None)
            before = dict(store.operations)
            with pytest.raises(StoreUnavailableError):
                await pod.claim("alice")
            asked = store.operations["claim"] - before.get("claim", 0)
            await beat_once(pod)

            assert (0, before["heartbeat"]) == (asked, store.operations["heartbeat"])
            assert (await pod.claim("alice")).is_owned()

    async def test_its_own_late_registration(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A registration of a process that comes late, to a store that was emptied since, does not end the process."""
        sent: list[tuple[Any, Any]] = []
        register = store.register

        async def note(*args: Any, **settings: Any) -> Any:
            sent.append((args, settings))
            return await register(*args, **settings)

        store.register = note  # type: ignore[method-assign]  # what was sent arrives again below
        async with make_server() as pod:
            await pod.claim("alice")
            store.lose_all()
            before = store.operations["register"]
            await register(*sent[0][0], **sent[0][1])
            ghost = (await pod_0(store)).incarnation
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") is not None)

            assert pod.healthy
            assert pod._lease.is_own(0, ghost)
            assert 3 == store.operations["register"] - before  # the late one, whose it is, and the next life over it

    async def test_a_start_that_failed_spares_a_living_process(
        self, make_server: MakeServer, store: MemoryStore
    ) -> None:
        """A process whose registration was not answered does not take the index from another one as it ends."""
        async with make_server(index_is_exclusive=True) as living:
            store.fail_with(TIMEOUT, "register")
            failing = make_server()
            real = failing._heartbeats.publish

            async def publish() -> None:
                store.fail_with(None)
                await real()

            failing._heartbeats.publish = publish  # type: ignore[method-assign]  # the store answers again
            with pytest.raises(StoreTimeoutError):
                await failing.start()
            await beat_once(living)

            assert (living.healthy, living.incarnation) == (
                True,
                (await store.read_pods("prod", "room")).pods[0].incarnation,
            )

    async def test_incarnations_rise(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """The lives of a process rise, though the store has lost them, and its clock was put back."""
        async with make_server() as pod:
            before = pod.incarnation
            handle = await pod.claim("alice")
            store._pods.clear()
            store._clock = lambda: clock() - 1000.0
            await beat_once(pod)
            await reclaim_ended(pod)

            assert pod.incarnation > before
            assert (await pod.claim("alice")).resumes(handle)

    async def test_a_link_of_a_newer_life(self, make_server: MakeServer, store: MemoryStore) -> None:
        """A link that names a newer life of the pod, which the store does not know, is claimed after a heartbeat."""
        async with make_server() as pod:
            lost = PodLife(0, pod.incarnation + 10_000_000_000)
            await store.claim(LinkKey("prod", "alice", "room"), lost)
            refused = await pod.claim("alice")
            await beat_once(pod)
            claimed = await pod.claim("alice")

            assert [False, True] == [refused.is_owned(), claimed.is_owned()]
            assert pod.incarnation > lost.incarnation

    @pytest.mark.parametrize("first", ["older", "newer"])
    async def test_two_processes_after_a_loss(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock, first: str
    ) -> None:
        """Of two processes with one index it is the newer one that goes on after a loss, whichever registers first."""
        async with make_server() as older, make_server(index_is_exclusive=True) as newer:
            store.deafen()  # the older one has not heard of the newer one
            store.lose_all()
            for process in (older, newer) if first == "older" else (newer, older):
                await beat_once(process)
            await beat_once(older)
            await beat_once(newer)

            assert (False, True) == (older.healthy, newer.healthy)
            assert (await newer.claim("alice")).is_owned()
