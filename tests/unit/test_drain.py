"""How a pod leaves, and every way in which it loses a uid."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import (
    ClientDriver,
    InvalidArgumentError,
    NotOwnerError,
    RoutingState,
    ServerDriver,
    StoreTimeoutError,
    StoreUnavailableError,
    drain_on_signal,
)
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodChange, PodLife, Topic
from stateful_route.server.departure.hand_over import HandedOver, HandOver
from stateful_route.server.tally import Tally
from stateful_route.store import LinkKey, PodReport
from tests.insides import beat_once, held_by, reclaim_ended
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol

    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer, RunPods

    class MakePod(Protocol):
        def __call__(
            self, hand_off: Callable[[str], Awaitable[None]] | None = None, **settings: object
        ) -> ServerDriver: ...


ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
AWAY = StoreUnavailableError("away", operation="any", maybe_applied=False)
AWAY_UNSURE = StoreTimeoutError("no answer", operation="release", maybe_applied=True)


@pytest.fixture
def make_pod(store: MemoryStore, clock: ManualClock) -> MakePod:
    def make(hand_off: Callable[[str], Awaitable[None]] | None = None, **settings: object) -> ServerDriver:
        config = attrs.evolve(CONFIG, **settings)  # type: ignore[arg-type]  # names and values are checked at run time
        return ServerDriver(store, room(0), config, clock=clock, random=Random(1), hand_off=hand_off)

    return make


async def routing_state(store: MemoryStore) -> RoutingState:
    """Return the routing state of pod 0 as the store has it."""
    table = await store.read_pods(NAMESPACE, SERVICE)
    return table.pods[0].report.routing_state


class TestDrain:
    async def test_order(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A pod that stops announces DENY_NEW_CALL, hands off and then releases each uid, and leaves as SHUTDOWN."""
        events: list[str] = []

        async def hand_off(uid: str) -> None:
            link = await store.get_link(LinkKey(NAMESPACE, uid, SERVICE))
            owned = pod.owned(uid) is not None
            events.append(f"hand off {uid}, {await routing_state(store)}, linked {link is not None}, owned {owned}")

        pod = make_pod(hand_off)
        async with store.listen(Topic(NAMESPACE, SERVICE), 10.0) as topic:
            async with pod:
                handles = [await pod.claim(uid) for uid in ("alice", "bob")]
            said: list[str] = []
            async for event in topic:
                if isinstance(event, PodChange):
                    said.append(event.state)
                elif isinstance(event, LinkInvalidation):
                    said.append(event.key.uid)
                if said[-1] == "SHUTDOWN":
                    break
        links = [await store.get_link(LinkKey(NAMESPACE, uid, SERVICE)) for uid in ("alice", "bob")]

        expected = [f"hand off {uid}, DENY_NEW_CALL, linked True, owned True" for uid in ("alice", "bob")]
        assert expected == sorted(events)
        assert ["READY", "DENY_NEW_CALL", "SHUTDOWN"] == said  # nothing for each uid
        assert [None, None] == links
        assert [False, False] == [handle.is_owned() for handle in handles]

    async def test_later_word(self, make_pod: MakePod, store: MemoryStore) -> None:
        """Of a drain and a routing state that are asked for at once, the later one counts."""
        async with make_pod() as pod:
            await asyncio.gather(pod.drain(), pod.set_routing_state(RoutingState.READY))
            ready = await pod.get_routing_state(), await routing_state(store)
            await asyncio.gather(pod.set_routing_state(RoutingState.READY), pod.drain())
            denies = await pod.get_routing_state(), await routing_state(store)

        assert (RoutingState.READY, "READY") == ready
        assert (RoutingState.DENY_NEW_CALL, "DENY_NEW_CALL") == denies

    async def test_next_call(self, make_pod: MakePod, make_server: MakeServer, make_client: MakeClient) -> None:
        """The next call for a uid that was handed over is placed on another pod, while the old one still stands."""
        async with make_server(1), make_client() as client, make_pod() as pod:
            await pod.claim("alice")
            before = await client.compute_linked_pod("", "alice", SERVICE)
            await pod.drain()

            async def moved() -> bool:
                return await client.compute_linked_pod("", "alice", SERVICE) == 1

            await eventually(moved)

            assert 0 == before

    async def test_deadline(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off that does not end is cut at the deadline; its uid is still linked, and can be taken over."""
        cut = asyncio.Event()

        async def hand_off(uid: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cut.set()

        async with make_pod(hand_off, drain_deadline=0.5) as pod:
            handle = await pod.claim("alice")
            async with asyncio.timeout(5.0):
                await pod.drain()
            owned = handle.is_owned()
        taken = await store.confirm_death(NAMESPACE, SERVICE, PodLife(0, pod.incarnation), 60.0)

        assert cut.is_set()
        assert (True, True) == (owned, taken)
        assert await store.get_link(ALICE) is not None
        assert not handle.is_owned()

    async def test_rate(self, make_pod: MakePod) -> None:
        """No more uids are handed over in a second than the rate allows."""
        async with make_pod(drain_rate=100.0) as pod:
            for number in range(21):
                await pod.claim(f"user-{number}")
            began = time.monotonic()
            await pod.drain()
            took = time.monotonic() - began

        assert took >= 0.2

    async def test_first_is_at_once(self, make_pod: MakePod) -> None:
        """The first uid waits for nothing, however low the rate is."""
        async with make_pod(drain_rate=0.1) as pod:
            await pod.claim("alice")
            async with asyncio.timeout(5.0):
                await pod.drain()

            assert [] == held_by(pod)

    async def test_failing_hand_off(
        self, make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A hand-off that fails is logged; its uid and all others are released."""

        async def hand_off(uid: str) -> None:
            if uid == "user-3":
                raise ValueError(uid)

        async with make_pod(hand_off) as pod:
            for number in range(20):
                await pod.claim(f"user-{number}")
            await pod.drain()
            links = await store.get_links(NAMESPACE, [f"user-{number}" for number in range(20)], SERVICE)

        assert [None] * 20 == links
        assert "the hand-off of 'user-3' failed" in caplog.text

    @pytest.mark.parametrize("back", [True, False])
    async def test_failing_release(self, make_pod: MakePod, store: MemoryStore, back: bool) -> None:
        """A release that fails ends no drain: stop() tries once more, and else it is left to a takeover."""
        async with make_pod() as pod:
            handle = await pod.claim("alice")
            store.fail_with(AWAY, "release")
            async with asyncio.timeout(5.0):
                await pod.drain()
            after_drain = await store.get_link(ALICE)
            if back:
                store.fail_with(None)

            assert not handle.is_owned()
        store.fail_with(None)
        assert after_drain is not None
        assert back is (await store.get_link(ALICE) is None)

    async def test_claimed_meanwhile(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A uid that is claimed while the pod drains is handed over too."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            if uid == "alice":
                await pod.claim("bob")

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            await pod.drain()

            assert ["alice", "bob"] == handed
            assert [] == held_by(pod)

    async def test_claimed_after_it(self, make_pod: MakePod) -> None:
        """A uid that is claimed between the end of drain() and stop() is handed over by stop()."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)

        async with make_pod(hand_off) as pod:
            await pod.drain()
            await pod.claim("alice")

        assert ["alice"] == handed

    async def test_twice(self, make_pod: MakePod) -> None:
        """A second drain waits for the first, and no uid is handed off twice, not by stop() either."""
        handed: list[str] = []
        go_on = asyncio.Event()

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            await go_on.wait()

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            drains = [asyncio.create_task(pod.drain()) for _ in range(2)]
            await eventually(lambda: handed == ["alice"])
            waiting = [drain.done() for drain in drains]
            go_on.set()
            await asyncio.gather(*drains)
            await pod.drain()

        assert [False, False] == waiting
        assert ["alice"] == handed

    async def test_cancelled(self, make_pod: MakePod) -> None:
        """A caller of drain() that is cancelled does not cut it short."""
        go_on = asyncio.Event()
        ended: list[str] = []

        async def hand_off(uid: str) -> None:
            await go_on.wait()
            ended.append(uid)

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            drain = asyncio.create_task(pod.drain())
            await asyncio.sleep(0)
            drain.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await drain

            assert ["alice"] == ended

    async def test_state_while_draining(self, make_pod: MakePod, store: MemoryStore) -> None:
        """After drain() the pod stays DENY_NEW_CALL, whatever its next heartbeats say, until it stops."""
        async with make_pod() as pod:
            await pod.drain()
            await beat_once(pod)
            denied = await routing_state(store), await pod.get_routing_state()

        assert (RoutingState.DENY_NEW_CALL, RoutingState.DENY_NEW_CALL) == denied
        assert RoutingState.SHUTDOWN is await routing_state(store)

    async def test_store_away(self, make_pod: MakePod, store: MemoryStore) -> None:
        """With the store away, drain() and stop() end in bounded time, and leave no task behind."""
        pod = make_pod(stop_deadline=0.1)
        await pod.start()
        handle = await pod.claim("alice")
        store.fail_with(AWAY)
        async with asyncio.timeout(5.0):
            await pod.drain()
            await pod.stop()

        assert not handle.is_owned()
        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_silent_store(self, make_pod: MakePod, store: MemoryStore) -> None:
        """With a store that does not answer, stop() ends within its deadlines."""
        pod = make_pod(stop_deadline=0.1, drain_deadline=0.1)
        await pod.start()
        await pod.claim("alice")
        store.hold()
        async with asyncio.timeout(5.0):
            await pod.stop()
        store.release_held()

        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_store_back(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A drain that the store did not let begin is made up for by stop(), once the store is back."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            store.fail_with(AWAY)
            await pod.drain()
            store.fail_with(None)

        assert ["alice"] == handed

    async def test_life_lost(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A pod that is drained while the store has lost its life does not come back as READY."""
        async with make_pod() as pod:
            store.mark_dead(NAMESPACE, SERVICE, 0)
            store.fail_with(AWAY, "register")
            await beat_once(pod)
            await pod.drain()
            store.fail_with(None)
            await beat_once(pod)

            assert RoutingState.DENY_NEW_CALL is await routing_state(store)

    @pytest.mark.parametrize("error", [ValueError("careless"), asyncio.CancelledError()])
    async def test_raising_callback(self, make_pod: MakePod, error: BaseException) -> None:
        """A callback of on_lost that raises, against its contract, keeps stop() from nothing."""

        def careless() -> None:
            raise error

        pod = make_pod()
        await pod.start()
        (await pod.claim("alice")).on_lost(careless)
        await asyncio.wait([asyncio.create_task(pod.stop())])
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()

        assert [] == [task.get_name() for task in left]


class TestShutdownByHand:
    async def test_owns_nothing(self, make_pod: MakePod) -> None:
        """A pod that is set to SHUTDOWN owns nothing any more: its uids are free to be taken over at once."""
        async with make_pod() as pod:
            handle = await pod.claim("alice")
            await pod.set_routing_state(RoutingState.SHUTDOWN)

            assert not handle.is_owned()

    async def test_is_left_alone(self, make_pod: MakePod, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that is set to SHUTDOWN and stays up does not begin life after life, each of which is buried."""
        async with make_pod() as pod, make_client() as client:
            await client.pods("", SERVICE)
            store.operations.clear()
            await pod.set_routing_state(RoutingState.SHUTDOWN)
            for _ in range(200):
                await asyncio.sleep(0)  # give everybody a turn

            assert 2 >= store.operations["register"]
            assert 2 >= store.operations["confirm_death"]


class TestLost:
    async def test_released(self, run_pods: RunPods) -> None:
        """A uid that is released is lost."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            lost = asyncio.create_task(handle.lost())
            await handle.release()
            async with asyncio.timeout(5.0):
                await lost

    async def test_assigned(self, run_pods: RunPods) -> None:
        """A uid that another pod got by force is lost within the time of a message."""
        async with run_pods(2) as (first, second):
            handle = await first.claim("alice")
            await second.set_linked_pod("", "alice", SERVICE, 1)
            async with asyncio.timeout(5.0):
                await handle.lost()

            assert (False, None) == (handle.is_owned(), first.owned("alice"))
            with pytest.raises(NotOwnerError):
                handle.require()

    async def test_removed(self, run_pods: RunPods) -> None:
        """A uid whose link another pod removed is lost."""
        async with run_pods(2) as (first, second):
            handle = await first.claim("alice")
            await second.remove_linked_pod("", "alice", SERVICE)
            async with asyncio.timeout(5.0):
                await handle.lost()

            assert first.owned("alice") is None

    async def test_unheard(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that was taken by force while nothing could be heard is lost once the pod hears again."""
        async with run_pods(2) as (first, second):
            handles = [await first.claim(uid) for uid in ("alice", "bob")]
            store.deafen()
            await eventually(lambda: not store._listeners)
            await second.set_linked_pod("", "alice", SERVICE, 1)
            store.hear_again()
            async with asyncio.timeout(5.0):
                await handles[0].lost()

            assert [False, True] == [handle.is_owned() for handle in handles]

    async def test_superseded(self, run_pods: RunPods, make_server: MakeServer) -> None:
        """A pod whose index a newer process has taken loses all, at once, by the word of it."""
        async with run_pods(1) as (older,):
            handle = await older.claim("alice")
            newer = make_server(0)
            await newer.start()
            async with asyncio.timeout(5.0):
                await handle.lost()
            owned = handle.is_owned()
            await newer.stop()

        assert not owned

    async def test_stopped(self, run_pods: RunPods) -> None:
        """A pod that stops loses all."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
        async with asyncio.timeout(5.0):
            await handle.lost()

    async def test_another_life(self, run_pods: RunPods, store: MemoryStore) -> None:
        """What another life of the pod resumes is not lost: a newer handle has it, whose loss is that of the older."""
        called: list[str] = []
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            handle.on_lost(lambda: called.append("before"))
            waiting = asyncio.create_task(handle.lost())
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await beat_once(pod)
            await reclaim_ended(pod)
            again = pod.owned("alice")
            handle.on_lost(lambda: called.append("after"))
            before = list(called), waiting.done(), handle.is_owned()

            assert again is not None
            assert again is await pod.claim("alice")
            assert ([], False, False) == before
            assert (True, False, True) == (again.is_owned(), again.inherited, again.resumes(handle))
            again.on_lost(lambda: called.append("newer"))
            await again.release()
            async with asyncio.timeout(5.0):
                await waiting

        assert ["before", "after", "newer"] == called

    async def test_another_life_after_another(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Who waits for the loss of a uid waits through any number of lives, and is told of it once."""
        called: list[str] = []
        async with run_pods(2) as (pod, other):
            handle = await pod.claim("alice")
            handle.on_lost(lambda: called.append("lost"))
            for _ in range(3):
                store.mark_dead(NAMESPACE, SERVICE, 0)
                await beat_once(pod)
                await reclaim_ended(pod)
            before = list(called)
            await eventually(lambda: len(store._listeners) >= 2)
            await other.set_linked_pod("", "alice", SERVICE, 1)
            await eventually(lambda: pod.owned("alice") is None)

            assert ([], ["lost"]) == (before, called)

    @pytest.mark.parametrize("how", ["taken over", "another had it", "too late"])
    async def test_another_life_that_resumes_nothing(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock, how: str
    ) -> None:
        """What another life of the pod does not resume is lost, also if it has the uid again."""
        called: list[str] = []
        key = LinkKey(NAMESPACE, "alice", SERVICE)
        async with run_pods(2) as (pod, other):
            handle = await pod.claim("alice")
            handle.on_lost(lambda: called.append("lost"))
            if how == "too late":
                store.lose_all()
                clock.advance(501.0)
            else:
                life = PodLife(0, pod.incarnation)
                store.mark_dead(NAMESPACE, SERVICE, 0)
                await store.place(key, PodLife(1, other.incarnation), 60.0, dead=(life,))
                taken = await other.claim("alice")
                if how == "another had it":
                    await taken.release()
            await beat_once(pod)
            await reclaim_ended(pod)

            assert ["lost"] == called
            assert (how != "taken over") is (pod.owned("alice") is not None)

    async def test_an_older_handle_is_released(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Who releases the handle of an older life, with which the present one goes on, loses the uid."""
        called: list[bool] = []
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await beat_once(pod)
            await reclaim_ended(pod)
            again = await pod.claim("alice")
            again.on_lost(lambda: called.append(again.is_owned() or pod.owned("alice") is not None))
            released = await handle.release()

            assert (True, [False]) == (released, called)

    async def test_not_claimed_again_by_the_end(self, run_pods: RunPods, store: MemoryStore) -> None:
        """What a new life could not claim again is lost when the pod stops."""
        called: list[str] = []
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            handle.on_lost(lambda: called.append("lost"))
            store.fail_with(StoreUnavailableError("away", operation="claim", maybe_applied=False), "claim")
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await beat_once(pod)
            await reclaim_ended(pod)
            before = list(called), handle.is_owned()

        assert (([], False), ["lost"]) == (before, called)

    async def test_callbacks(self, run_pods: RunPods) -> None:
        """Callbacks run once each, in their order, and at once if the handle is lost already."""
        called: list[int] = []
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            for number in range(3):
                handle.on_lost(lambda number=number: called.append(number))  # type: ignore[misc]  # a default binds it
            await handle.release()
            handle.on_lost(lambda: called.append(3))

        assert [0, 1, 2, 3] == called

    async def test_waiting_is_given_up(self, run_pods: RunPods) -> None:
        """Waiting for a loss, and giving the waiting up, as each request may, leaves nothing in the handle."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            for _ in range(100):
                waiting = asyncio.create_task(handle.lost())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])

            assert () == handle.tenure.callbacks

    async def test_lease_without_heartbeat(self, run_pods: RunPods, clock: ManualClock, store: MemoryStore) -> None:
        """A pod that has not reached the store for a lease owns nothing, and owns again after its next heartbeat."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.fail_with(AWAY, "heartbeat")
            clock.advance(CONFIG.lease_seconds - 0.003)  # the store counts whole milliseconds: the pod ends 2 ms before
            await beat_once(pod)
            before = handle.is_owned()
            clock.advance(0.001)
            fenced = handle.is_owned(), pod.owned("alice")
            store.fail_with(None)
            await beat_once(pod)

            assert (True, (False, None), True) == (before, fenced, handle.is_owned())


class TestOlderLife:
    @pytest.mark.parametrize("exclusive", [False, True])
    async def test_lease_is_waited_for(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock, exclusive: bool
    ) -> None:
        """A pod owns nothing until the lease of an older life has ended, unless its index is its own by promise."""
        await store.register(room(0), PodReport(), CONFIG.lease_seconds, 86400.0)
        clock.advance(100.0)
        async with make_server(0, index_is_exclusive=exclusive) as pod:
            at_once = (await pod.claim("alice")).is_owned()
            clock.advance(CONFIG.lease_seconds - 100.001)
            await beat_once(pod)
            early = (await pod.claim("alice")).is_owned()
            clock.advance(0.001)

            assert (exclusive, exclusive, True) == (at_once, early, (await pod.claim("alice")).is_owned())

    async def test_nothing_is_touched(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """A pod that waits for an older life neither takes its link nor gives it away."""
        older = make_server(0)
        await older.start()
        handle = await older.claim("alice")
        async with make_server(0) as newer:
            refused = await newer.claim("alice")
            released = await refused.release()
            for take in (newer.try_set_linked_pod, newer.set_linked_pod):
                with pytest.raises(NotOwnerError):
                    await take("", "alice", SERVICE, 0)
            link = await store.get_link(ALICE)

            assert (None, False) == (refused.pod_index, released)
            assert link is not None
            assert (older.incarnation, handle.epoch) == (link.incarnation, link.epoch)

    async def test_goodbye_of_a_life_that_waits(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A life that goes while it waits for an older one leaves the wait to the next."""
        oldest = make_server(0)
        await oldest.start()
        await oldest.claim("alice")
        async with make_server(0):
            pass
        async with make_server(0) as third:
            assert not (await third.claim("alice")).is_owned()

    async def test_release_that_runs_late(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A release that was not answered, and runs after the uid was claimed again, ends nothing."""
        async with run_pods(2) as (pod, other):
            handle = await pod.claim("alice")
            store.fail_with(AWAY_UNSURE, "release")  # it is still on its way
            with pytest.raises(StoreTimeoutError):
                await handle.release()
            store.fail_with(None)
            again = await pod.claim("alice")
            await store.release(ALICE, pod_index=0, epoch=handle.epoch)  # now it runs
            taken = await other.claim("alice")

            assert [True, False] == [again.is_owned(), taken.is_owned()]
            assert again.epoch != handle.epoch

    @pytest.mark.parametrize("ended", ["SHUTDOWN", "DEAD", "lease"])
    async def test_nothing_to_wait_for(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock, ended: str
    ) -> None:
        """A pod owns at once if the older life said goodbye, was confirmed dead, or let its lease end."""
        began = await store.register(room(0), PodReport(), CONFIG.lease_seconds, 86400.0)
        if ended == "SHUTDOWN":
            report = PodReport(routing_state=RoutingState.SHUTDOWN)
            await store.heartbeat(room(0), began.incarnation, 1, report, CONFIG.lease_seconds, 86400.0)
        else:
            clock.advance(CONFIG.lease_seconds)
        if ended == "DEAD":
            assert not await store.confirm_death(NAMESPACE, SERVICE, PodLife(0, began.incarnation), 86400.0)
            clock.advance(CONFIG.lease_seconds / 2)  # no pod was heard at all: they might come yet
            assert await store.confirm_death(NAMESPACE, SERVICE, PodLife(0, began.incarnation), 86400.0)
        async with make_server(0) as pod:
            assert (await pod.claim("alice")).is_owned()


class TestReclaim:
    async def test_lost_life(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod whose life the store has lost owns its uids again by itself, and its memory of them is good."""
        uids = [f"user-{number}" for number in range(20)]
        async with run_pods(1) as (pod,):
            for uid in uids:
                await pod.claim(uid)
            store._pods.clear()
            await beat_once(pod)
            await eventually(lambda: all(pod.owned(uid) for uid in uids))

            assert [False] * 20 == [(await pod.claim(uid)).inherited for uid in uids]

    async def test_taken_meanwhile(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that another pod took while this one was dead stays with it."""
        async with run_pods(2) as (first, second):
            await first.claim("alice")
            await first.claim("bob")
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await store.assign(ALICE, PodLife(1, second.incarnation))
            await beat_once(first)
            await eventually(lambda: first.owned("bob") is not None)

            assert first.owned("alice") is None

    async def test_empty_store(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod that hears again before it beats, with an empty store, claims its uids again all the same."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice")
            store.deafen()
            await eventually(lambda: not store._listeners)
            store.lose_all()
            store.hear_again()
            await eventually(lambda: bool(store._listeners))
            await asyncio.sleep(0.1)  # nothing tells that it has looked at its links
            await beat_once(pod)

            await eventually(lambda: pod.owned("alice") is not None, within=2.0)

    async def test_store_away_during_it(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A reclaim that the store interrupts goes on once the store is back."""
        async with run_pods(1) as (pod,):
            for uid in ("alice", "bob"):
                await pod.claim(uid)
            store._pods.clear()
            store.fail_with(AWAY, "claim")
            await beat_once(pod)
            await eventually(lambda: not pod._reclaim._tasks)
            store.fail_with(None)
            await beat_once(pod)

            await eventually(lambda: all(pod.owned(uid) for uid in ("alice", "bob")), within=2.0)

    async def test_released_during_it(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that is released while it is claimed again is not held any more in the end."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.mark_dead(NAMESPACE, SERVICE, 0)
            store.hold("claim", answers=True)
            await beat_once(pod)
            await store.wait_held()
            release = asyncio.create_task(handle.release())
            await asyncio.sleep(0)  # so that it waits for its turn
            store.release_held()
            await release

            assert (None, None) == (pod.owned("alice"), await store.get_link(ALICE))

    async def test_released_before_its_turn(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Uids that are released while others are claimed again are not claimed again."""
        async with run_pods(1) as (pod,):
            handles = [await pod.claim(f"user-{number}") for number in range(20)]
            store.mark_dead(NAMESPACE, SERVICE, 0)
            store.hold("claim")
            await beat_once(pod)
            await store.wait_held(16)
            releases = [asyncio.create_task(handle.release()) for handle in handles]
            await asyncio.sleep(0)  # so that each waits for its turn, or is sent
            store.release_held()
            await asyncio.gather(*releases)
            await reclaim_ended(pod)

            assert [] == held_by(pod)
            assert [None] * 20 == [await store.get_link(LinkKey(NAMESPACE, h.uid, SERVICE)) for h in handles]

    async def test_left_behind(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid whose claim was answered to a life that is lost, and to the next one not, is claimed again."""
        async with run_pods(1) as (pod,):
            await eventually(lambda: bool(store._listeners))
            store.hold("claim", answers=True)
            claiming = asyncio.create_task(pod.claim("alice"))
            await store.wait_held()
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await beat_once(pod)
            await reclaim_ended(pod)  # of nothing
            store.fail_with(AWAY, "claim")
            store.release_held()
            with pytest.raises(StoreUnavailableError):
                await claiming
            store.fail_with(None)
            await beat_once(pod)
            await reclaim_ended(pod)

            assert pod.owned("alice") is not None

    async def test_failed_ones_come_last(self, store: MemoryStore, clock: ManualClock) -> None:
        """What could not be claimed again comes last the next time, so that it does not keep the others from it."""

        class InOrder(Random):
            def shuffle(self, x: object) -> None:
                """Leave all as it is."""

        claim = store.claim

        async def without_bad(key: LinkKey, owner: PodLife, **settings: Any) -> Any:
            if key.uid != "good":
                raise AWAY
            return await claim(key, owner, **settings)

        async with ServerDriver(store, room(0), CONFIG, clock=clock, random=InOrder()) as pod:
            for uid in [*(f"bad-{number}" for number in range(20)), "good"]:
                await pod.claim(uid)
            store.claim = without_bad  # type: ignore[method-assign]  # one part of the store is away
            store.mark_dead(NAMESPACE, SERVICE, 0)
            for _ in range(2):
                await beat_once(pod)
                await reclaim_ended(pod)

            assert pod.owned("good") is not None

    async def test_life_lost_during_it(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A life that is lost while the uids are claimed again costs none of them."""
        async with run_pods(1) as (pod,):
            for uid in ("alice", "bob"):
                await pod.claim(uid)
            store._pods.clear()
            real, seen = store.claim, 0

            async def claim(*args: object, **settings: object) -> object:
                nonlocal seen
                seen += 1
                if seen == 2:  # alice is claimed already
                    store._pods.clear()
                    await beat_once(pod)
                return await real(*args, **settings)  # type: ignore[arg-type]  # as they came

            store.claim = claim  # type: ignore[assignment]  # a life is lost in the middle
            await beat_once(pod)

            await eventually(lambda: all(pod.owned(uid) for uid in ("alice", "bob")), within=2.0)


PROCESS = """
import asyncio, contextlib, signal, sys
from stateful_route import BaseConfig, ServerDriver, ServerInfo
from stateful_route.server.signals import drain_on_signal
from stateful_route.testing import MemoryStore

def say(*words):
    print(*words, flush=True)

async def beside():
    try:
        await asyncio.sleep(60)
    finally:
        say("the other task ends")

async def grouped(main):
    async with asyncio.TaskGroup() as group:
        group.create_task(main)
        group.create_task(beside())

def run_beside_others(main):
    asyncio.run(grouped(main))

async def signalled_again(times, go_on):
    await asyncio.sleep(1.1)
    signal.raise_signal(signal.SIGTERM)
    try:
        await asyncio.sleep(5)
    finally:
        if times == 2:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(5)
        go_on.set()

async def main():
    go_on = asyncio.Event()
    ended = asyncio.Event()

    async def hand_off(uid):
        say("hand off", uid)
        await go_on.wait()

    {before}
    info = ServerInfo(namespace="n", service_name="room", pod_name="room-0", pod_index=0)
    store = MemoryStore()
    try:
        async with ServerDriver(store, info, BaseConfig(namespace="n"), hand_off=hand_off) as pod:
            await pod.claim("alice")
            with drain_on_signal(pod):
                signal.raise_signal(signal.SIGTERM)
                while await pod.get_routing_state() == "READY" and not ended.is_set():
                    await asyncio.sleep(0)
                for _ in range(20):
                    await asyncio.sleep(0)
                say("serving", pod.owned("alice") is not None)
                {during}
                go_on.set()
                await asyncio.wait_for(ended.wait(), 5)
                say("owned at the end", pod.owned("alice") is not None)
    except SystemExit:
        say("goodbye", (await store.read_pods("n", "room")).pods[0].report.routing_state)
        raise
    say("left")

{runner}(main())
"""


def run_process(before: str, during: str = "pass", runner: str = "asyncio.run") -> tuple[int, list[str]]:
    """Run a pod that gets SIGTERM while it holds one uid; return its code and its lines."""
    source = textwrap.dedent(PROCESS)
    for name, text in {"before": before, "during": during, "runner": runner}.items():
        source = source.replace(f"{{{name}}}", text)
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, ended.stdout.splitlines()


HANDLER = "signal.signal(signal.SIGTERM, lambda *_: (say('handler'), ended.set()))"
ALL_IN_ORDER = ["hand off alice", "serving True", "handler", "owned at the end False", "left"]


class TestDrainOnSignal:
    def test_handler(self) -> None:
        """The handler that was there before is called once the uids are handed over; until then they are served."""
        assert (0, ALL_IN_ORDER) == run_process(HANDLER)

    def test_handler_of_the_loop(self) -> None:
        """The same holds for a handler that was set by loop.add_signal_handler, as asyncio's servers do."""
        handler = "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: (say('handler'), ended.set()))"

        assert (0, ALL_IN_ORDER) == run_process(handler)

    @pytest.mark.parametrize("arguments", ["", ", 7"])
    def test_handler_of_uvloop(self, arguments: str) -> None:
        """And on uvloop, which calls such a handler whatever else is set."""
        pytest.importorskip("uvloop")
        handle = "lambda *given: (say('handler', *given), ended.set())"
        handler = f"asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, {handle}{arguments})"
        said = [line.replace("handler", "handler 7") if arguments else line for line in ALL_IN_ORDER]

        assert (0, said) == run_process(handler, runner="__import__('uvloop').run")

    @pytest.mark.parametrize("runner", ["asyncio.run", "__import__('uvloop').run"])
    def test_default(self, runner: str) -> None:
        """Without a handler the block ends once the uids are handed over, and the pod says goodbye."""
        pytest.importorskip("uvloop")
        code, lines = run_process("pass", runner=runner)

        assert (0, ["hand off alice", "serving True", "goodbye SHUTDOWN"]) == (code, lines)

    def test_default_in_a_task(self) -> None:
        """The same holds where the block is in a task beside others: the whole program ends."""
        code, lines = run_process("pass", runner="run_beside_others")

        assert (0, ["hand off alice", "serving True", "goodbye SHUTDOWN", "the other task ends"]) == (code, lines)

    @pytest.mark.parametrize(("signals", "expected"), [(1, 0), (2, -15)])
    def test_default_again(self, signals: int, expected: int) -> None:
        """A second signal, a second later, ends the block before the uids are handed over; a third one kills."""
        code, lines = run_process("pass", f"await signalled_again({signals}, go_on)")

        assert expected == code
        assert (signals == 1) == ("goodbye SHUTDOWN" in lines)

    def test_ignored(self) -> None:
        """A signal that was ignored drains the pod, and ends nothing."""
        code, lines = run_process(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "asyncio.get_running_loop().call_later(0.1, ended.set)"
        )

        assert (0, ["hand off alice", "serving True", "owned at the end False", "left"]) == (code, lines)

    def test_second_signal(self) -> None:
        """A second signal is let through at once."""
        again = "await asyncio.sleep(1.1); signal.raise_signal(signal.SIGTERM); await asyncio.sleep(0.1); say('on')"
        code, lines = run_process(HANDLER, again)

        assert (0, ["hand off alice", "serving True", "handler", "on"]) == (code, lines[:4])

    def test_one_signal_twice(self) -> None:
        """A signal that is repeated at once, by who tells a whole process group, does not cut the drain."""
        again = "signal.raise_signal(signal.SIGTERM); await asyncio.sleep(0.1); say('on')"
        code, lines = run_process(HANDLER, again)

        assert (0, ["hand off alice", "serving True", "on", *ALL_IN_ORDER[2:]]) == (code, lines)

    def test_leaving_while_draining(self) -> None:
        """A process that leaves by itself while it drains says goodbye, and is not killed by the late signal."""
        code, lines = run_process("pass", "ended.set()")

        assert "left" in lines
        assert 0 == code


async def test_what_is_left_is_counted(run_pods: RunPods, store: MemoryStore) -> None:
    """A uid whose release failed counts as left, though the pod does not own it any more."""
    async with run_pods(1) as (pod,):
        await pod.claim("alice")
        store.fail_with(AWAY, "release")
        hand_over = HandOver(pod._owned, None, Tally(pod._lease), rate=1000.0, travel=pod._travel)
        handed = await hand_over.run(5.0)
        store.fail_with(None)

        assert HandedOver(done=0, left=1) == handed


@pytest.mark.parametrize("server", [None, 5, "room", ServerDriver, ClientDriver], ids=repr)
def test_signal_for_no_driver(server: Any) -> None:
    """drain_on_signal refuses what is no server driver when it is called, and sets no handler."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InvalidArgumentError) as caught:
        drain_on_signal(server)

    assert ("server", server) == (caught.value.argument, caught.value.value)
    assert before is signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("signum", [None, True, 0, -1, 9999, "SIGTERM", 15.0, signal.SIGKILL, signal.SIGSTOP], ids=repr)
def test_no_signal(make_pod: MakePod, signum: Any) -> None:
    """drain_on_signal refuses what is no signal that can be handled, when it is called."""
    with pytest.raises(InvalidArgumentError) as caught:
        drain_on_signal(make_pod(), signum)

    assert ("signum", signum) == (caught.value.argument, caught.value.value)
