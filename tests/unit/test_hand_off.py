"""What the application gives to be called at a hand-over: each uid once, in time, and faults that are told."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import re
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import pytest

from stateful_route import InvalidArgumentError, RoutingState, ServerDriver, StoreUnavailableError
from stateful_route.store import LinkKey
from tests.insides import beat_once, hand_over_of, held_by, reclaim_ended
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.store import LinkChange
    from stateful_route.testing import ManualClock, MemoryStore

    class MakePod(Protocol):
        def __call__(self, hand_off: Any = None, *, movable: Any = None, **settings: object) -> ServerDriver: ...


AWAY = StoreUnavailableError("away", operation="any", maybe_applied=False)

LOST = "pod 0 of 'room' (room-0) has lost the states of {} uids, among them {}"
LEFT = "pod 0 of 'room' (room-0) has {} uids that were not handed over: they are taken over once it has said goodbye"


@pytest.fixture
def make_pod(store: MemoryStore, clock: ManualClock) -> MakePod:
    def make(hand_off: Any = None, *, movable: Any = None, **settings: object) -> ServerDriver:
        config = attrs.evolve(CONFIG, **settings)  # type: ignore[arg-type]  # names and values are checked at run time
        return ServerDriver(store, room(0), config, clock=clock, random=Random(1), hand_off=hand_off, movable=movable)

    return make


class NeverEnds:
    """A hand-off that notes its uids, and ends when it is cancelled."""

    def __init__(self) -> None:
        self.uids: list[str] = []

    async def __call__(self, uid: str) -> None:
        self.uids.append(uid)
        await asyncio.Event().wait()


async def claim(pod: ServerDriver, count: int) -> list[str]:
    uids = [f"user-{number}" for number in range(count)]
    for uid in uids:
        await pod.claim(uid)
    return uids


async def linked(store: MemoryStore, uid: str) -> bool:
    return await store.get_link(LinkKey(NAMESPACE, uid, SERVICE)) is not None


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


class TestOnce:
    async def test_cut_off(self, make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
        """A hand-off that the deadline cut off is not begun again by stop(), which ends then, and says it once."""
        hand_off = NeverEnds()
        pod = make_pod(hand_off, drain_deadline=0.5, stop_deadline=60.0)
        await pod.start()
        uids = await claim(pod, 5)
        async with asyncio.timeout(20.0):
            await pod.stop()

        assert uids == sorted(hand_off.uids)
        assert [True] * 5 == [await linked(store, uid) for uid in uids]
        lost = ", ".join(map(repr, uids))
        assert [LEFT.format(5), LOST.format(5, lost)] == lines(caplog)
        assert 5 == pod.statistics().states_lost

    async def test_claimed_since(self, make_pod: MakePod, store: MemoryStore) -> None:
        """What was claimed after a drain that left uids is handed over by stop(), and the others are not."""
        hand_off = NeverEnds()
        pod = make_pod(hand_off, drain_deadline=0.5, stop_deadline=1.0)
        await pod.start()
        await pod.claim("alice")
        await pod.drain()
        await pod.claim("bob")
        await pod.stop()

        assert ["alice", "bob"] == hand_off.uids
        assert [True, True] == [await linked(store, uid) for uid in ("alice", "bob")]

    async def test_claimed_anew(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A uid whose hand-off was cut off is handed off again if it was given up and claimed anew since."""
        hand_off = NeverEnds()
        pod = make_pod(hand_off, drain_deadline=0.5, stop_deadline=1.0)
        await pod.start()
        handle = await pod.claim("alice")
        await pod.drain()
        await handle.release()
        await pod.claim("alice")
        await pod.stop()

        assert ["alice", "alice"] == hand_off.uids
        assert await linked(store, "alice")

    async def test_goodbye_after_it(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A late hand-off that does not end leaves stop() the time to say goodbye within stop_deadline."""
        pod = make_pod(NeverEnds(), stop_deadline=1.0)
        await pod.start()
        await pod.drain()
        await pod.claim("alice")
        await pod.stop()
        (state,) = (await store.read_pods(NAMESPACE, SERVICE)).pods

        assert RoutingState.SHUTDOWN is state.report.routing_state

    async def test_claimed_again(self, make_pod: MakePod) -> None:
        """A uid that was handed over, and is claimed again while the pod drains, is handed over again."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            await pod.drain()
            await pod.claim("alice")

        assert ["alice", "alice"] == handed

    async def test_another_life(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A uid whose hand-off was cut off, and which is claimed again for a new life by itself, is no new claim."""
        hand_off = NeverEnds()
        async with make_pod(hand_off, drain_deadline=0.5) as pod:
            await pod.claim("alice")
            await pod.drain()
            store.mark_dead(NAMESPACE, SERVICE, 0)
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") is not None)

        assert ["alice"] == hand_off.uids

    async def test_another_life_during_it(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A uid whose tenure goes on in another life of the pod while it is handed off is released after it."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            store.mark_dead("prod", "room", 0)
            await beat_once(pod)
            await reclaim_ended(pod)
            assert pod.owned(uid) is not None

        async with make_pod(hand_off) as pod:
            await claim(pod, 1)
            await pod.drain()
            left = await linked(store, "user-0")

        assert (["user-0"], False) == (handed, left)

    async def test_swallowed_cancellation(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off that ends without an error when it is cut off has not done its work: its uid is left."""

        async def hand_off(_uid: str) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async with make_pod(hand_off, drain_deadline=0.5) as pod:
            await pod.claim("alice")
            await pod.drain()

            assert pod.owned("alice") is not None
        assert await linked(store, "alice")

    async def test_lost_before_its_turn(self, make_pod: MakePod) -> None:
        """A uid that is released, or lost, before its turn comes is not handed off: it may be another pod's by then."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            for other in handles:
                if other.uid != uid:
                    await other.release()

        async with make_pod(hand_off, drain_rate=50.0) as pod:
            handles = [await pod.claim(uid) for uid in ("alice", "bob")]
            await pod.drain()

        assert ["alice"] == handed

    async def test_released_by_its_hand_off(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off may release its uid itself: the drain goes on with the others, and all are gone."""

        async def hand_off(uid: str) -> None:
            handle = pod.owned(uid)
            assert handle is not None
            await handle.release()

        async with make_pod(hand_off) as pod:
            uids = await claim(pod, 3)
            await pod.drain()

            assert [False] * 3 == [await linked(store, uid) for uid in uids]
            assert [] == held_by(pod)

    async def test_slow_one(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off that takes long keeps 63 others at a time from nothing, and no more than 64 run at once."""
        running, most = 0, 0
        others_done = asyncio.Event()

        async def hand_off(uid: str) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if uid == "user-0":
                await others_done.wait()
            else:
                await asyncio.sleep(0)  # so that the others begin
            running -= 1
            if uid == "user-299":
                others_done.set()

        async with make_pod(hand_off, drain_rate=1e9) as pod:
            uids = await claim(pod, 300)
            async with asyncio.timeout(20.0):
                await pod.drain()

        assert 64 == most
        assert [False] * 300 == [await linked(store, uid) for uid in uids]

    async def test_ready_again(self, make_pod: MakePod) -> None:
        """A pod that was set to READY after a drain drains anew, with what the first one left."""
        hand_off = NeverEnds()
        async with make_pod(hand_off, drain_deadline=0.5) as pod:
            await pod.claim("alice")
            await pod.drain()
            await pod.set_routing_state(RoutingState.READY)
            await pod.drain()
            state = await pod.get_routing_state()

        assert ["alice", "alice"] == hand_off.uids
        assert RoutingState.DENY_NEW_CALL is state

    async def test_rebalancing(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A drain ends the hand-off that a rebalancing has begun and does it itself: never two of one uid at once."""
        running: list[str] = []
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            assert uid not in running
            running.append(uid)
            try:
                if uid == "user-0" and not draining:
                    await asyncio.Event().wait()
                handed.append(uid)
            finally:
                running.remove(uid)

        draining = False
        config = {"rebalance": True, "rebalance_period": 0.001}
        second = ServerDriver(store, room(1), CONFIG)
        async with second, make_pod(hand_off, movable=lambda _: ["user-0"], **config) as pod:
            uids = await claim(pod, 20)
            await beat_once(pod)
            await eventually(lambda: running == ["user-0"])
            draining = True
            async with asyncio.timeout(20.0):
                await pod.drain()

        assert sorted(uids) == sorted(handed)

    async def test_two_at_once(self, make_pod: MakePod) -> None:
        """A uid that is being handed off is not handed off by another rebalancing beside it."""
        handed: list[str] = []
        go_on = asyncio.Event()

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            await go_on.wait()

        async with make_pod(hand_off) as pod:
            await claim(pod, 1)
            first = asyncio.create_task(hand_over_of(pod).let_go("user-0"))
            await eventually(lambda: bool(handed))
            second = asyncio.create_task(hand_over_of(pod).let_go("user-0"))
            await asyncio.sleep(0)  # so that it begins
            go_on.set()
            released = await asyncio.gather(first, second)

        assert (["user-0"], [True, False]) == (handed, list(released))

    async def test_failed_once(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A uid that stays, as its hand-off failed, can be handed off by the next rebalancing."""
        handed: list[str] = []

        async def hand_off(uid: str) -> None:
            handed.append(uid)
            if len(handed) == 1:
                raise ValueError(uid)

        async with make_pod(hand_off) as pod:
            await claim(pod, 1)
            released = [await hand_over_of(pod).let_go("user-0") for _ in range(2)]
            left = await linked(store, "user-0")

        assert ([False, True], False) == (released, left)

    @pytest.mark.parametrize("ends", ["returns", "raises"])
    async def test_rebalancing_that_keeps_its_cancellation(
        self, make_pod: MakePod, store: MemoryStore, ends: str
    ) -> None:
        """A hand-off of a rebalancing that was cut off, and does not say so, is done again by the drain, at once."""
        begun = asyncio.Event()
        saved: list[str] = []

        async def hand_off(uid: str) -> None:
            begun.set()
            try:
                while not draining:  # noqa: ASYNC110 - nothing else is to wake it
                    await asyncio.sleep(0.001)  # which ends by its cancellation only
            except asyncio.CancelledError:
                if ends == "returns":
                    return
                raise RuntimeError("the driver of the database makes it an error of its own") from None
            saved.append(uid)

        draining = False
        config = {"rebalance": True, "rebalance_period": 0.001}
        second = ServerDriver(store, room(1), CONFIG)
        pod = make_pod(hand_off, movable=lambda count: [f"user-{number}" for number in range(count)], **config)
        async with second, pod:
            uids = await claim(pod, 20)
            await beat_once(pod)
            await begun.wait()
            stopping = asyncio.create_task(pod._rebalancing.stop()) if pod._rebalancing else None
            await asyncio.sleep(0)
            draining = True
            assert stopping is not None
            await stopping
            left = [uid for uid in uids if pod.owned(uid) is not None]
            await pod.drain()

        assert uids == left
        assert sorted(uids) == sorted(saved)

    async def test_claimed_while_it_is_handed_off(self, make_pod: MakePod) -> None:
        """A uid that is lost while it is handed off, and claimed again, is handed off again before it is released."""
        memory: dict[str, list[str]] = {}
        saved: dict[str, list[str]] = {}
        copied, go_on = asyncio.Event(), asyncio.Event()

        async def hand_off(uid: str) -> None:
            saved[uid] = list(memory[uid])
            copied.set()
            await go_on.wait()

        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            memory["alice"] = ["old"]
            draining = asyncio.create_task(pod.drain())
            await copied.wait()
            await pod.remove_linked_pod("", "alice", SERVICE)
            await pod.claim("alice")
            memory["alice"] = [*saved["alice"], "new"]
            go_on.set()
            await draining

            assert ["old", "new"] == saved["alice"]
            assert pod.owned("alice") is None

    async def test_release_without_an_answer(
        self, make_pod: MakePod, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was not released as the store was away for a moment is released at the end, and not handed off again."""
        handed: list[str] = []
        release, calls = store.release, itertools.count(1)

        async def away_at_first(*arguments: Any, **options: Any) -> LinkChange:
            if next(calls) <= 3:
                raise AWAY
            return await release(*arguments, **options)

        async with make_pod(handed.append) as pod:
            monkeypatch.setattr(store, "release", away_at_first)
            uids = await claim(pod, 8)
            await pod.drain()

            assert uids == sorted(handed)  # in this order only as long as the loop is not late
            assert [False] * 8 == [await linked(store, uid) for uid in uids]

    async def test_two_that_failed(self, make_pod: MakePod, store: MemoryStore) -> None:
        """Who waited for a drain that could not be announced waits for the next one then, and begins none beside it."""
        hand_off = NeverEnds()
        async with make_pod(hand_off, drain_deadline=0.5) as pod:
            await pod.claim("alice")
            store.fail_with(AWAY, "heartbeat")

            async def twice() -> None:
                await pod.drain()
                store.fail_with(None)
                await pod.drain()

            async def once_more() -> None:
                await pod.drain()
                await eventually(lambda: bool(hand_off.uids))
                await pod.drain()

            await asyncio.gather(twice(), once_more())

            assert ["alice"] == hand_off.uids

    async def test_drain_while_it_stops(
        self, make_pod: MakePod, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A drain that is asked for while stop() goes on begins nothing that would outlive it."""
        handed: list[str] = []
        leaving, go_on = asyncio.Event(), asyncio.Event()
        pod = make_pod(handed.append)
        save = pod._draining._save

        async def save_later(within: float) -> None:
            leaving.set()
            await go_on.wait()
            await save(within)

        monkeypatch.setattr(pod._draining, "_save", save_later)
        await pod.start()
        await pod.claim("alice")
        store.fail_with(AWAY, "heartbeat")
        stopping = asyncio.create_task(pod.stop())
        await leaving.wait()
        store.fail_with(None)
        await pod.drain()
        go_on.set()
        await stopping

        assert ["alice"] == handed
        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_store_away_at_the_end(
        self, make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the store does not answer at the end, each uid is handed off all the same, once, and stays linked."""
        handed: list[str] = []
        async with make_pod(handed.append) as pod:
            uids = await claim(pod, 100)
            handle = pod.owned("user-7")
            store.fail_with(AWAY)
            await pod.drain()
            before = list(handed)
        store.fail_with(None)

        # In the order of the uids only as long as the loop is not late.
        assert ([], sorted(uids)) == (before, sorted(handed))
        assert handle is not None
        assert not handle.is_owned()
        assert [True] * 100 == [await linked(store, uid) for uid in uids]
        assert (
            "pod 0 of 'room' (room-0) handed 100 uids off and could not release them; 0 were not handed off in time"
            in lines(caplog)
        )

    async def test_lease_over_at_the_end(self, make_pod: MakePod, store: MemoryStore, clock: ManualClock) -> None:
        """Once the lease of the pod has ended its uids may be another's: they are not handed off."""
        handed: list[str] = []
        async with make_pod(handed.append) as pod:
            await claim(pod, 3)
            store.fail_with(AWAY)
            clock.advance(600.0)
        store.fail_with(None)

        assert [] == handed

    async def test_more_than_an_error(self, make_pod: MakePod) -> None:
        """A hand-off that raises what is no Exception ends stop() with that, and leaves no task behind."""

        class OddError(BaseException):
            pass

        async def hand_off(_uid: str) -> None:
            raise OddError

        pod = make_pod(hand_off)
        await pod.start()
        await pod.claim("alice")
        with pytest.raises(BaseException):  # noqa: B017, PT011 - in a group
            await pod.stop()

        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_rebalancing_that_does_not_end(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off of a rebalancing that swallows its cancellation does not keep stop() from its end."""
        begun = asyncio.Event()

        async def hand_off(_uid: str) -> None:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        config = {"rebalance": True, "rebalance_period": 0.001, "drain_deadline": 0.5}
        pod = make_pod(hand_off, movable=lambda _: ["user-0"], **config)
        async with ServerDriver(store, room(1), CONFIG):
            await pod.start()
            await claim(pod, 20)
            await beat_once(pod)
            await begun.wait()
            async with asyncio.timeout(20.0):
                await pod.stop()

        assert {asyncio.current_task()} == asyncio.all_tasks()


class TestKinds:
    @pytest.mark.parametrize("kind", ["def", "object", "partial", "lambda", "method", "built-in", "decorated"])
    async def test_supported(self, make_pod: MakePod, store: MemoryStore, kind: str) -> None:
        """Whatever can be called with a uid is a hand-off, and what it returns is awaited if it can be."""
        handed: list[str] = []

        async def coroutine(handed: list[str], uid: str) -> None:
            await asyncio.sleep(0)  # so that it does not end at once
            handed.append(uid)

        def plain(uid: str) -> bool:
            handed.append(uid)
            return True

        class Saver:
            async def __call__(self, uid: str) -> None:
                await coroutine(handed, uid)

            async def save(self, uid: str, *, deep: bool = True) -> None:
                await coroutine(handed, uid)

        @functools.wraps(coroutine)
        async def decorated(uid: str) -> None:
            await coroutine(handed, uid)

        hand_off = {
            "decorated": decorated,
            "def": plain,
            "object": Saver(),
            "partial": functools.partial(coroutine, handed),
            "lambda": lambda uid: coroutine(handed, uid),
            "method": Saver().save,
            "built-in": handed.append,
        }[kind]
        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            await pod.drain()

            assert ["alice"] == handed
            assert not await linked(store, "alice")

    def test_refused_hand_off(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A hand-off that cannot be called with a uid, or of which nothing would run, is refused at construction."""

        async def generator(uid: str) -> AsyncIterator[str]:
            yield uid

        def old_coroutine(uid: str) -> Iterator[str]:
            yield uid

        async def nothing() -> None: ...

        async def two(uid: str, service_name: str) -> None: ...

        for hand_off in (5, "save", [print], generator, old_coroutine, functools.partial(generator), nothing, two):
            with pytest.raises(InvalidArgumentError, match="allowed is a function of a uid") as caught:
                make_pod(hand_off)
            assert ("hand_off", hand_off) == (caught.value.argument, caught.value.value)
        assert {} == store.operations

    def test_refused_movable(self, make_pod: MakePod) -> None:
        """What may move is named by a function of a count that is no coroutine, else it is refused at construction."""

        async def coroutine(_count: int) -> list[str]:
            return []

        async def generator(_count: int) -> AsyncIterator[str]:
            yield "alice"

        def nothing() -> list[str]:
            return []

        for movable in (5, ["alice"], coroutine, generator, nothing):
            for rebalance in (False, True):
                with pytest.raises(InvalidArgumentError, match="allowed is a def of a count") as caught:
                    make_pod(movable=movable, rebalance=rebalance)
                assert ("movable", movable) == (caught.value.argument, caught.value.value)

    async def test_refused_on_lost(self, make_pod: MakePod) -> None:
        """A callback for a loss that would have to be awaited, or cannot be called so, is refused when it is given."""

        async def coroutine() -> None: ...

        def generator() -> Iterator[None]:
            yield

        def one(handle: object) -> None: ...

        async with make_pod() as pod:
            held = await pod.claim("alice")
            lost = await pod.claim("bob")
            await lost.release()
            for callback in (None, 5, coroutine, functools.partial(coroutine), generator, one):
                for handle in (held, lost):
                    with pytest.raises(InvalidArgumentError, match="nobody awaits it") as caught:
                        handle.on_lost(callback)  # type: ignore[arg-type]  # that is the point
                    assert ("callback", callback) == (caught.value.argument, caught.value.value)
            assert () == held.tenure.callbacks


class TestFaults:
    async def test_many_hand_offs(self, make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
        """Of hand-offs that fail the first is logged with its traceback, and the others are counted."""

        async def hand_off(uid: str) -> None:
            raise ValueError(uid)

        async with make_pod(hand_off) as pod:
            await claim(pod, 300)
        told = [record for record in caplog.records if record.levelno >= logging.WARNING]

        assert [
            "the hand-off of 'user-0' failed",
            "the hand-off of 299 more uids failed",
            LOST.format(300, "'user-0', 'user-1', 'user-2', 'user-3', 'user-4'"),
        ] == [record.getMessage() for record in told]
        assert [True, False, False] == [record.exc_info is not None for record in told]

    async def test_many_callbacks(self, make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
        """The same holds for callbacks of losses, in a drain."""

        def careless() -> None:
            raise ValueError("careless")

        async with make_pod() as pod:
            for number in range(300):
                (await pod.claim(f"user-{number}")).on_lost(careless)
            await pod.drain()

        assert [
            "a callback for the loss of 'user-0' failed",
            "the callbacks for 299 more losses failed",
        ] == lines(caplog)

    async def test_many_callbacks_at_once(self, make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
        """The same holds when all is lost at once."""

        def careless() -> None:
            raise ValueError("careless")

        async with make_pod() as pod:
            for number in range(300):
                (await pod.claim(f"user-{number}")).on_lost(careless)
            await pod.set_routing_state(RoutingState.SHUTDOWN)

        assert ["a callback for the loss of 'user-0' failed", "the callbacks for 299 more losses failed"] == lines(
            caplog
        )

    async def test_one_by_one(self, make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
        """Faults of calls that have nothing to do with each other are logged each."""

        def careless() -> None:
            raise ValueError("careless")

        async with make_pod() as pod:
            for uid in ("alice", "bob"):
                handle = await pod.claim(uid)
                handle.on_lost(careless)
                await handle.release()

        assert [f"a callback for the loss of {uid!r} failed" for uid in ("alice", "bob")] == lines(caplog)

    async def test_releases(self, make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
        """Of releases that fail the first is logged, and the others are counted with what is left."""
        async with make_pod() as pod:
            await claim(pod, 300)
            store.fail_with(AWAY, "release")
            await pod.drain()
            store.fail_with(None)

        assert [
            "'user-0' could not be released: any: away (nothing was changed)",
            LEFT.format(300),
        ] == lines(caplog)

    async def test_stray_cancellation(
        self, make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A hand-off that raises the cancellation of something that it awaited has failed: the others go on."""

        async def hand_off(uid: str) -> None:
            if uid == "user-3":
                gone = asyncio.get_running_loop().create_future()
                gone.cancel()
                await gone

        async with make_pod(hand_off) as pod:
            uids = await claim(pod, 200)
            async with asyncio.timeout(20.0):
                await pod.drain()
            links = [await linked(store, uid) for uid in uids]

        assert [False] * 200 == links
        assert ["the hand-off of 'user-3' failed", LOST.format(1, "'user-3'")] == lines(caplog)


async def test_drain_is_told(make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
    """A drain says at INFO how many uids it hands over when it begins, and how many it did, in which time."""
    caplog.set_level(logging.INFO, "stateful_route")
    async with make_pod() as pod:
        await claim(pod, 17)
        caplog.clear()
        await pod.drain()
        told = lines(caplog, logging.INFO)

    assert [
        "pod 0 of 'room' (room-0) drains: it hands 17 uids over",
        "pod 0 of 'room' (room-0) has drained: it handed 17 uids over in T s",
    ] == [re.sub(r"in [\d.]+ s", "in T s", line) for line in told]


async def test_what_is_not_owned(make_pod: MakePod, store: MemoryStore) -> None:
    """A uid that the pod cannot serve when it drains is released and not handed off: another pod may have it."""
    saved: list[str] = []

    async def hand_off(uid: str) -> None:
        saved.append(uid)

    async with make_pod(hand_off) as pod:
        await pod.claim("alice")
        pod._lease.suspend()  # its lease has ended
        await hand_over_of(pod).run(10.0)

        assert ([], None) == (saved, await store.get_link(LinkKey(NAMESPACE, "alice", SERVICE)))
