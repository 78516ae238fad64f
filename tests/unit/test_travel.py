"""States that travel: from pod to pod, in one process, with faults on the way."""

from __future__ import annotations

import asyncio
import logging
import re
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import (
    ConfigError,
    DrainCounts,
    InvalidArgumentError,
    Ownership,
    RoutingState,
    ServerDriver,
    StateRefusedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.store import LinkKey
from stateful_route.testing import LocalCarrier
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route import PodState
    from stateful_route.store import PodLife
    from stateful_route.testing import ManualClock, MemoryStore
    from stateful_route.travel import Parcel, StateReceiver, Verdict

ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
AWAY = StoreUnavailableError("away", operation="move", maybe_applied=False)
UNSURE = StoreTimeoutError("no answer", operation="move", maybe_applied=True)


class Carrier(LocalCarrier):
    """Carries, with the faults that a test wants; and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []
        self.parcels: list[Parcel] = []
        self.verdicts: list[Verdict] = []
        self.down: set[int] = set()
        self.answers_lost = self.words_lost = 0
        self.held: asyncio.Event | None = None
        self.change: Callable[[Parcel], Parcel] = _as_it_is

    async def send(self, pod: PodState, parcel: Parcel) -> PodLife:
        self.parcels.append(parcel)
        if pod.pod_index in self.down:
            raise ConnectionError("down")
        life = await super().send(pod, self.change(parcel))
        if self.held is not None:
            await self.held.wait()
        if self.answers_lost:
            self.answers_lost -= 1
            raise ConnectionError("lost")
        return life

    async def settle(self, pod: PodState, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        if self.words_lost:
            self.words_lost -= 1
            raise ConnectionError("lost")
        await super().settle(pod, verdict)


def _as_it_is(parcel: Parcel) -> Parcel:
    return parcel


class App:
    """A pod with a state for each uid."""

    def __init__(self, world: World, index: int, **settings: Any) -> None:
        self.states: dict[str, bytes] = {}
        self.adopted: list[tuple[str, bytes, int]] = []
        self.calls: list[str] = []
        self.hangs: set[str] = set()
        self.seconds = 0.0
        self.saved: list[str] = []
        self.fails: Exception | None = None
        self.result: Any = None
        self.gate: asyncio.Event | None = None
        given = {name: settings.pop(name) for name in ("max_state",) if name in settings}
        config = attrs.evolve(CONFIG, **settings)
        self.driver = ServerDriver(
            world.store,
            room(index),
            config,
            hand_off=self.save,
            adopt=self.load,
            carrier=world.carrier,
            movable=self.movable,
            clock=world.clock,
            random=Random(index),
            **given,
        )

    async def save(self, uid: str) -> Any:
        self.saved.append(uid)
        if uid in self.hangs:
            await asyncio.Event().wait()
        return self.states[uid] if self.result is None else self.result()

    async def load(self, uid: str, data: bytes, epoch: int) -> None:
        self.calls.append(uid)
        assert self.driver.owned(uid) is None, "adopted before it is owned"
        self.adopted.append((uid, data, epoch))
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        self.states[uid] = data

    def movable(self, count: int) -> list[str]:
        return list(self.states)[:count]

    async def own(self, uid: str, data: bytes = b"state") -> Ownership:
        handle = await self.driver.claim(uid)
        handle.require()
        self.states[uid] = data
        return handle


class World:
    """A store, a carrier and pods."""

    def __init__(self, store: MemoryStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.carrier = Carrier()
        self.apps: list[App] = []

    async def start(self, count: int, **settings: Any) -> list[App]:
        started = [App(self, len(self.apps) + number, **settings) for number in range(count)]
        for app in started:
            await app.driver.start()
        self.apps += started
        return started

    async def receiver(self, index: int) -> StateReceiver:
        """Return where states for a pod are delivered."""
        (pod,) = [pod for pod in (await self.store.read_pods(NAMESPACE, SERVICE)).pods if pod.pod_index == index]
        receiver = self.carrier.receiver(pod)
        assert receiver is not None
        return receiver


@pytest.fixture
async def world(store: MemoryStore, clock: ManualClock) -> Any:
    made = World(store, clock)
    yield made
    store.fail_with(None)
    made.carrier.down.clear()
    made.carrier.change, made.carrier.held = _as_it_is, None
    for app in made.apps:
        await app.driver.stop()


class TestGoing:
    async def test_drain(self, world: World) -> None:
        """A pod that drains sends each uid with its state: it is adopted, and then owned, at the epoch of the link."""
        first, *others = await world.start(3)
        for number in range(20):
            await first.own(f"u{number}", f"state {number}".encode())

        await first.driver.drain()

        states = {uid: data for app in others for uid, data, _ in app.adopted}
        assert {f"u{number}": f"state {number}".encode() for number in range(20)} == states
        for app in others:
            for uid, _, epoch in app.adopted:
                handle = app.driver.owned(uid)
                link = await world.store.get_link(LinkKey(NAMESPACE, uid, SERVICE))
                assert handle is not None
                assert link is not None
                assert epoch == handle.epoch == link.epoch
        assert abs(len(others[0].adopted) - len(others[1].adopted)) <= 4
        assert 20 == len(first.saved)

    async def test_the_old_owner(self, world: World) -> None:
        """Who had the uid is told the loss, and finds out who has it when it claims."""
        first, second = await world.start(2)
        handle = await first.own("alice")

        assert await first.driver.move("alice")

        assert not handle.is_owned()
        await asyncio.wait_for(handle.lost(), 1.0)
        refused = await first.driver.claim("alice")
        assert (1, False) == (refused.pod_index, refused.is_owned())
        assert second.driver.owned("alice") is not None

    async def test_rebalance(self, world: World) -> None:
        """What a rebalancing lets go travels too, and what ``save`` gives ``None`` for is released."""
        first, second = await world.start(2)
        await first.own("alice")
        await first.own("bob")
        first.result = iter([b"packed", None]).__next__

        assert await first.driver.move("alice")
        assert await first.driver.move("bob")

        assert [("alice", b"packed")] == [(uid, data) for uid, data, _ in second.adopted]
        assert await world.store.get_link(LinkKey(NAMESPACE, "bob", SERVICE)) is None

    async def test_to_a_pod(self, world: World) -> None:
        """A uid goes to the pod that is named, or stays."""
        first, *others = await world.start(4)
        await first.own("alice")

        assert not await first.driver.move("alice", 9)
        assert first.driver.owned("alice") is not None
        assert await first.driver.move("alice", 2)
        assert others[1].driver.owned("alice") is not None

    async def test_it_waits_until_it_is_adopted(self, world: World) -> None:
        """A uid is owned by nobody until the state is adopted; claims wait for that, also those that give up."""
        first, second = await world.start(2)
        await first.own("alice")
        second.gate = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: bool(second.adopted))
        impatient = asyncio.create_task(second.driver.claim("alice"))
        await asyncio.sleep(0)
        impatient.cancel()

        assert second.driver.owned("alice") is None
        assert first.driver.owned("alice") is None
        assert 1 == (await asyncio.wait_for(first.driver.claim("alice"), 1.0)).pod_index  # it knows who has it
        second.gate.set()
        assert (await second.driver.claim("alice")).is_owned()
        assert await moving
        assert 1 == len(second.adopted)

    async def test_nothing_is_served_once_it_is_packed(self, world: World) -> None:
        """From the step on in which ``save`` has returned the uid is not owned, and a claim waits."""
        first, _ = await world.start(2)
        handle = await first.own("alice")
        world.carrier.held = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: bool(world.carrier.parcels))
        claim = asyncio.create_task(first.driver.claim("alice"))
        await asyncio.sleep(0.01)

        assert not handle.is_owned()
        assert first.driver.owned("alice") is None
        assert not claim.done()
        world.carrier.held.set()
        assert await moving
        assert 1 == (await claim).pod_index

    async def test_idle_ttl(self, world: World) -> None:
        """The time for which a uid may be idle goes with it."""
        first, second = await world.start(2)
        await first.own("alice")
        await first.driver.claim("alice", idle_ttl=77.0)

        await first.driver.move("alice")

        handle = second.driver.owned("alice")
        assert handle is not None
        assert 77.0 == handle.idle_ttl

    async def test_there_and_back(self, world: World) -> None:
        """A state that comes back is adopted again, at a higher epoch each time."""
        first, second = await world.start(2)
        await first.own("alice", b"1")
        await first.driver.move("alice")
        second.states["alice"] = b"2"
        await second.driver.move("alice")

        assert [("alice", b"2")] == [(uid, data) for uid, data, _ in first.adopted]
        assert first.adopted[0][2] > second.adopted[0][2]


class TestStaying:
    async def test_no_pod_is_reached(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """If no pod takes the state the uid is owned again at once, by the same handle, and no loss is told."""
        first, *_ = await world.start(4)
        handle = await first.own("alice")
        told: list[int] = []
        handle.on_lost(lambda: told.append(1))
        world.carrier.down = {1, 2, 3}

        assert not await first.driver.move("alice")

        assert first.driver.owned("alice") is handle
        assert not told
        assert 3 == len({parcel.move for parcel in world.carrier.parcels})
        assert "the state of 'alice' does not travel" in caplog.text

    async def test_another_pod_takes_it(self, world: World) -> None:
        """A pod that is not reached is passed over."""
        first, *others = await world.start(3)
        await first.own("alice")
        world.carrier.down = {1}

        assert await first.driver.move("alice")

        assert others[1].driver.owned("alice") is not None

    async def test_a_pod_that_leaves_releases(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """A drain releases what does not travel, and says so once."""
        (first,) = await world.start(1)
        for uid in ("alice", "bob"):
            await first.own(uid)
        with caplog.at_level(logging.WARNING, "stateful_route"):
            await first.driver.drain()

        assert await world.store.get_link(ALICE) is None
        assert 1 == caplog.text.count("does not travel")

    async def test_too_large(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """A state of more than ``max_state`` bytes is not sent: the uid is released by a drain, with a warning."""
        first, second = await world.start(2, max_state=10)
        await first.own("alice", b"x" * 11)
        await first.own("bob", b"x" * 10)

        await first.driver.drain()

        assert await world.store.get_link(ALICE) is None
        assert ["bob"] == [uid for uid, _, _ in second.adopted]
        assert "11 bytes are more than max_state, 10" in caplog.text

    @pytest.mark.parametrize("value", ["text", 5, {}], ids=str)
    async def test_what_is_no_state(self, world: World, caplog: pytest.LogCaptureFixture, value: object) -> None:
        """A hand-off that returns something else is a fault: the uid stays, or is released by a drain."""
        first, second = await world.start(2)
        await first.own("alice")
        first.result = lambda: value

        assert not await first.driver.move("alice")
        assert first.driver.owned("alice") is not None
        await first.driver.drain()

        assert await world.store.get_link(ALICE) is None
        assert not second.adopted
        assert "bytes, or None" in caplog.text

    async def test_not_whole(self, world: World) -> None:
        """A state that is not as it was sent is refused."""
        first, second = await world.start(2)
        await first.own("alice")
        world.carrier.change = lambda parcel: attrs.evolve(parcel, data=b"stale")

        assert not await first.driver.move("alice")
        assert first.driver.owned("alice") is not None
        assert not second.adopted

    async def test_a_full_pod(self, world: World) -> None:
        """A pod that is full refuses."""
        first, second = await world.start(2, max_links=1)
        await first.own("alice")
        await second.own("bob")

        assert not await first.driver.move("alice")

    async def test_a_pod_that_drains(self, world: World) -> None:
        """A pod that takes no new uids is not asked, nor does it take what comes late."""
        first, second, _ = await world.start(3)
        await first.own("alice")
        await second.driver.drain()

        assert await first.driver.move("alice")
        assert world.apps[2].driver.owned("alice") is not None
        receiver = world.carrier.receiver((await world.store.read_pods(NAMESPACE, SERVICE)).pods[1])
        assert receiver is not None
        with pytest.raises(StateRefusedError, match="no new uids"):
            await receiver.receive(world.carrier.parcels[0])

    async def test_a_pod_without_adopt(self, world: World) -> None:
        """A pod that adopts nothing, as one of an older release, is not asked."""
        (first,) = await world.start(1)
        async with ServerDriver(world.store, room(5), CONFIG, clock=world.clock, random=Random(5)):
            await first.own("alice")

            assert not await first.driver.move("alice")
        assert not world.carrier.parcels


class TestFaults:
    async def test_the_answer_to_the_move_is_lost(self, world: World) -> None:
        """Who got no answer asks again, and is told that it is done."""
        first, second = await world.start(2)
        await first.own("alice")
        world.store.fail_with(UNSURE, "move", applied=True)
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: world.store.operations["move"] > 1)

        assert first.driver.owned("alice") is None
        world.store.fail_with(None)
        assert await moving
        assert [("alice", b"state")] == [(uid, data) for uid, data, _ in second.adopted]
        assert second.driver.owned("alice") is not None

    async def test_the_move_never_arrived(self, world: World) -> None:
        """Who got no answer to a move that never arrived asks again, and moves it then."""
        first, second = await world.start(2)
        await first.own("alice")
        world.store.fail_with(UNSURE, "move")
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: world.store.operations["move"] > 1)
        world.store.fail_with(None)

        assert await moving
        assert second.driver.owned("alice") is not None

    async def test_the_store_is_away(self, world: World) -> None:
        """If the move was not asked for the uid is owned again."""
        first, second = await world.start(2)
        handle = await first.own("alice")
        world.store.fail_with(AWAY, "move")

        assert not await first.driver.move("alice")

        assert first.driver.owned("alice") is handle
        assert not second.adopted

    async def test_cut_off(self, world: World) -> None:
        """A drain that is cut off before the move leaves the uid with its pod."""
        first, second = await world.start(2)
        handle = await first.own("alice")
        world.carrier.held = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: bool(world.carrier.parcels))
        moving.cancel()
        await asyncio.wait([moving])

        assert first.driver.owned("alice") is handle
        await eventually(lambda: bool(world.carrier.verdicts))
        assert not second.adopted

    async def test_cut_off_while_it_moves(self, world: World) -> None:
        """One that is cut off while the move is in flight owns the uid no more, and whoever has it has the state."""
        first, second = await world.start(2)
        handle = await first.own("alice")
        world.store.hold("move", answers=True)
        moving = asyncio.create_task(first.driver.move("alice"))
        await world.store.wait_held()
        moving.cancel()
        await asyncio.wait([moving])
        world.store.release_held()

        assert not handle.is_owned()
        await asyncio.wait_for(handle.lost(), 1.0)
        await eventually(lambda: second.driver.owned("alice") is not None)
        assert 1 == len(second.adopted)

    async def test_the_word_is_lost(self, world: World) -> None:
        """The first request at the new owner finds the state, though nobody told that it has moved."""
        first, second = await world.start(2)
        await first.own("alice")
        world.carrier.words_lost = 1

        assert await first.driver.move("alice")
        assert second.driver.owned("alice") is None
        handle = await second.driver.claim("alice")

        assert handle.is_owned()
        assert [("alice", b"state", handle.epoch)] == second.adopted

    async def test_nobody_asks(self, world: World) -> None:
        """Without a word and without a request the new owner finds out by itself."""
        first, second = await world.start(2)
        await first.own("alice")
        world.carrier.words_lost = 1
        await first.driver.move("alice")

        await eventually(lambda: second.driver.owned("alice") is not None)
        assert 1 == len(second.adopted)

    async def test_the_sender_is_gone(self, world: World) -> None:
        """Bytes whose link never comes are dropped: nobody adopts them, though the uid comes later."""
        first, second = await world.start(2)
        await first.own("alice")
        world.carrier.answers_lost, world.carrier.words_lost = 1, 1
        assert not await first.driver.move("alice")
        handle = first.driver.owned("alice")
        assert handle is not None
        await handle.release()

        assert (await second.driver.claim("alice")).is_owned()
        assert not second.adopted

    async def test_an_older_attempt(self, world: World) -> None:
        """Of two attempts at one epoch the bytes of the one that moved the link are adopted, in whatever order."""
        first, second = await world.start(2)
        await first.own("alice", b"old")
        world.carrier.answers_lost, world.carrier.words_lost = 1, 9
        assert not await first.driver.move("alice")
        first.states["alice"] = b"new"
        assert await first.driver.move("alice")
        (old, new) = world.carrier.parcels
        receiver = world.carrier.receiver((await world.store.read_pods(NAMESPACE, SERVICE)).pods[1])
        assert receiver is not None
        await receiver.receive(old)  # once more, and late

        await second.driver.claim("alice")

        assert old.epoch == new.epoch
        assert [b"new"] == [data for _, data, _ in second.adopted]

    async def test_adopt_fails(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """If ``adopt`` raises, the uid is owned without the state, and the log says so."""
        first, second = await world.start(2)
        await first.own("alice")
        second.fails = ValueError("unreadable")

        assert await first.driver.move("alice")

        assert second.driver.owned("alice") is not None
        assert "the state of 'alice' could not be adopted" in caplog.text

    async def test_taken_by_force(self, world: World) -> None:
        """If somebody has taken the link meanwhile, the move is refused and the uid is lost."""
        first, second, third = await world.start(3)
        handle = await first.own("alice")
        world.carrier.held = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice", 1))
        await eventually(lambda: bool(world.carrier.parcels))
        await third.driver.set_linked_pod(NAMESPACE, "alice", SERVICE, 2)
        world.carrier.held.set()

        assert not await moving
        await asyncio.wait_for(handle.lost(), 1.0)
        assert not second.adopted
        assert third.driver.owned("alice") is not None

    async def test_the_receiver_leaves(self, world: World) -> None:
        """A pod that drains while a state is on its way hands it on."""
        first, second, third = await world.start(3)
        await first.own("alice")
        world.store.hold("move")
        moving = asyncio.create_task(first.driver.move("alice", 1))
        await world.store.wait_held()
        draining = asyncio.create_task(second.driver.drain())
        await asyncio.sleep(0.01)
        world.store.release_held()

        assert await moving
        await draining
        (there,) = [app for app in (first, third) if app.driver.owned("alice") is not None]
        assert [b"state"] == [data for _, data, _ in there.adopted]


class TestLeaving:
    """A drain loses no state for want of a moment's patience."""

    async def test_there_is_no_room_for_a_moment(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """While a pod has no room the others wait for it, and are owned until then."""
        *senders, receiver = await world.start(4, max_state=10)
        receiver.seconds = 0.02
        for number, app in enumerate(senders):
            for one in range(20):
                await app.own(f"{number}-{one}", b"x" * 10)
            await app.driver.set_routing_state(RoutingState.DENY_NEW_CALL)  # so that there is one receiver

        await asyncio.gather(*(app.driver.drain() for app in senders))

        assert 60 == len(receiver.adopted)
        assert sum(len(app.saved) for app in senders) > 60, "nothing was refused"
        assert "does not travel" not in caplog.text

    async def test_the_store_is_away_for_a_moment(self, world: World) -> None:
        """So they do while the store is away."""
        first, second = await world.start(2)
        for number in range(20):
            await first.own(f"u{number}")
        loop = asyncio.get_running_loop()

        def fail() -> bytes:
            if len(first.saved) == 5:
                world.store.fail_with(AWAY)
                loop.call_later(0.2, world.store.fail_with, None)
            return b"state"

        first.result = fail

        await first.driver.drain()

        assert 20 == len(second.adopted)

    async def test_nobody_takes_them(self, world: World) -> None:
        """If no pod has taken any for a while, all go without their states: a drain comes to its end."""
        first, second = await world.start(2, drain_deadline=2.0)
        for number in range(20):
            await first.own(f"u{number}")
        world.carrier.down = {1}

        began = asyncio.get_running_loop().time()
        await first.driver.drain()

        assert not second.adopted
        assert await world.store.get_link(LinkKey(NAMESPACE, "u19", SERVICE)) is None
        assert asyncio.get_running_loop().time() - began < 1.8

    @pytest.mark.parametrize(("hang", "limit"), [(8, 8.0), (2, 2.0)])
    async def test_some_do_not_end(self, world: World, hang: int, limit: float) -> None:
        """Hand-offs that do not end keep no other state from its way, however few may be on it."""
        first, second = await world.start(2, drain_deadline=3.0, stop_deadline=0.2)
        for number in range(40):
            await first.own(f"u{number}")
        assert first.driver._travel.pace is not None
        first.driver._travel.pace.limit = limit  # as it is after adoptions that took long
        first.hangs = {f"u{number}" for number in range(hang)}

        await first.driver.drain()

        assert 40 - hang == len(second.adopted)

    async def test_a_view_that_is_released(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """Bytes that cannot be read any more are a fault of one hand-off, and the others go."""
        first, second = await world.start(2)
        for uid in ("alice", "bob", "carol"):
            await first.own(uid)
        views = [memoryview(b"1"), memoryview(b"2"), memoryview(bytearray(b"3"))]
        views[0].release()
        first.result = iter(views).__next__

        await first.driver.drain()

        assert {b"2", b"3"} == {data for _, data, _ in second.adopted}
        assert "the hand-off of 'alice' failed" in caplog.text

    async def test_cut_off_while_it_is_adopted(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """A uid that has gone is not among those that are left, though its state is being adopted at the deadline."""
        first, second = await world.start(2, drain_deadline=0.3, stop_deadline=0.2)
        await first.own("alice")
        second.gate = asyncio.Event()
        with caplog.at_level(logging.WARNING, "stateful_route"):
            await first.driver.drain()
        second.gate.set()

        assert "not handed over" not in caplog.text

    async def test_to_a_pod_of_many(self, world: World) -> None:
        """A pod that is named is found among more than are read of a large service."""
        first, *_ = await world.start(130)
        for uid in ("alice", "bob", *(f"u{number}" for number in range(10))):
            await first.own(uid)
        assert await first.driver.move("alice")
        await asyncio.sleep(0.6)  # until what was read is too old: all of them, and a sample the next time
        assert await first.driver.move("bob")

        assert all([await first.driver.move(f"u{number}", 120 + number) for number in range(9)])
        assert not await first.driver.move("u9", 999)
        assert not await first.driver.move("u9", 0)

    async def test_the_store_has_lost_all(self, world: World) -> None:
        """A uid that was on its way when the store lost all is claimed again, as the others are."""
        first, second = await world.start(2)
        handles = [await first.own(uid) for uid in ("alice", "bob")]
        world.carrier.held = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: bool(world.carrier.parcels))
        world.store.lose_all()
        await first.driver.renew()
        await second.driver.renew()
        world.carrier.held.set()

        assert not await moving
        await eventually(lambda: first.driver.owned("alice") is not None and first.driver.owned("bob") is not None)
        assert not [handle for handle in handles if handle.tenure.ended]
        assert not second.adopted


async def drain_as_asked(app: App, *, force: bool = False) -> DrainCounts:
    """Drain a pod as an operator asks; return what it publishes of that."""
    await app.driver._drain_as_asked(force=force)
    (state,) = [one for one in await pods_of(app) if one.pod_index == app.driver.pod_index]
    assert state.report.drained is not None
    return state.report.drained


async def pods_of(app: App) -> tuple[PodState, ...]:
    return (await app.driver._links._store.read_pods(NAMESPACE, SERVICE)).pods


class TestNothingIsLost:
    """A drain that an operator asks for loses no state, unless it is forced; one at the end tells what it loses."""

    async def test_no_pod_takes_it(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """A uid whose state no pod takes stays with the pod, which lives on, by the same handle."""
        (first,) = await world.start(1)
        handles = [await first.own(f"u{number}") for number in range(100)]

        with caplog.at_level(logging.WARNING, "stateful_route"):
            counts = await drain_as_asked(first)

        assert DrainCounts(number=1, left=100) == counts
        assert all(first.driver.owned(handle.uid) is handle for handle in handles)
        assert 0 == first.driver.statistics().states_lost
        assert 1 == caplog.text.count("does not travel")
        assert "has 100 uids that were not handed over" in caplog.text

    async def test_some_do_not_travel(self, world: World) -> None:
        """What travels goes, what has no state is released, and what is too large, or fails, stays."""
        first, second = await world.start(2, max_state=10)
        for uid, data in (("alice", b"a"), ("bob", b"b" * 11), ("carol", b"c"), ("dave", b"")):
            await first.own(uid, data)
        del first.states["carol"]  # so that its hand-off raises

        def save() -> bytes | None:
            data = first.states[first.saved[-1]]
            return data or None

        first.result = save
        counts = await drain_as_asked(first)

        assert DrainCounts(number=1, moved=1, released=1, left=2) == counts
        assert ["alice"] == second.calls
        assert [False, True, True, False] == [
            first.driver.owned(uid) is not None for uid in ("alice", "bob", "carol", "dave")
        ]

    async def test_what_was_kept_goes_later(self, world: World) -> None:
        """What a drain has kept can be moved, and goes with the next drain, and with its state."""
        (first,) = await world.start(1)
        for uid in ("alice", "bob", "carol"):
            await first.own(uid)
        await drain_as_asked(first)
        (second,) = await world.start(1)
        await asyncio.sleep(0.6)  # until what was read of the pods is too old
        moved = await first.driver.move("alice")
        counts = await drain_as_asked(first)

        assert moved
        assert DrainCounts(number=2, moved=2) == counts
        assert {"alice", "bob", "carol"} == set(second.calls)

    async def test_by_force(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """By force all goes; what is lost is counted, and told in one line, with some of the uids."""
        (first,) = await world.start(1)
        for number in range(29):
            await first.own(f"r{number}")

        with caplog.at_level(logging.WARNING, "stateful_route"):
            counts = await drain_as_asked(first, force=True)

        assert DrainCounts(number=1, lost=29) == counts
        assert 29 == first.driver.statistics().states_lost
        assert 0 == first.driver.statistics().links
        assert 1 == len(re.findall(r"has lost the states of 29 uids, among them ('r\d+', ){4}'r\d+'", caplog.text))

    async def test_at_the_end(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """The end of the process gives all up, also what a drain that was asked for has kept, and tells it."""
        (first,) = await world.start(1)
        for number in range(3):
            await first.own(f"r{number}")
        await drain_as_asked(first)

        with caplog.at_level(logging.WARNING, "stateful_route"):
            await first.driver.stop()

        assert await world.store.get_link(LinkKey(NAMESPACE, "r2", SERVICE)) is None
        assert 3 == first.driver.statistics().states_lost
        assert re.search(r"has lost the states of 3 uids, among them ('r\d', ){2}'r\d'", caplog.text)
        (state,) = await pods_of(first)
        assert DrainCounts(number=2, lost=3) == state.report.drained

    async def test_without_the_store(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """At an end without the store no state travels: it is told that they are lost."""
        first, _ = await world.start(2, stop_deadline=0.3, drain_deadline=0.5)
        await first.own("alice")
        world.store.fail_with(AWAY)
        with caplog.at_level(logging.WARNING, "stateful_route"):
            await first.driver.stop()
        world.store.fail_with(None)

        assert 1 == first.driver.statistics().states_lost
        assert "has lost the states of 1 uids, among them 'alice'" in caplog.text

    async def test_undrained(self, world: World) -> None:
        """A drain that an undrain ends counts what the pod has still as left."""
        (first, _) = await world.start(2, drain_deadline=1.0, stop_deadline=0.3)
        await first.own("alice")
        first.hangs = {"alice"}
        draining = asyncio.create_task(drain_as_asked(first))
        await eventually(lambda: bool(first.saved))
        await first.driver._undrain_as_asked()
        await first.own("bob")

        assert DrainCounts(number=1, left=2) == await draining


class TestArriving:
    async def test_once_more_after_it_was_served(self, world: World) -> None:
        """Bytes that a carrier delivers once more are not adopted again: what was served since is newer."""
        first, second = await world.start(2)
        await first.own("alice", b"old")
        assert await first.driver.move("alice")
        handle = second.driver.owned("alice")

        for verdict in (None, *world.carrier.verdicts):  # its word comes again too, or not
            await (await world.receiver(1)).receive(world.carrier.parcels[0])
            if verdict is not None:
                await (await world.receiver(1)).settle(verdict)
            assert await second.driver.claim("alice") is handle

        assert ["alice"] == second.calls

    async def test_once_more_to_another_life(self, world: World) -> None:
        """Nor are they by a later life of the pod, which goes on with what was served."""
        first, second = await world.start(2)
        await first.own("alice", b"old")
        assert await first.driver.move("alice")
        receiver = await world.receiver(1)
        world.store.mark_dead(NAMESPACE, SERVICE, 1)
        world.store.hold("claim")
        await second.driver.renew()
        await world.store.wait_held()
        await receiver.receive(world.carrier.parcels[0])
        settling = asyncio.create_task(receiver.settle(world.carrier.verdicts[0]))
        await asyncio.sleep(0)
        world.store.release_held()
        await settling

        assert second.driver.owned("alice") is not None
        assert ["alice"] == second.calls

    async def test_a_claim_from_before(self, world: World) -> None:
        """A claim that was refused before the link came does not make the pod drop the state."""
        first, second = await world.start(2)
        await first.own("alice")
        world.carrier.words_lost = 1
        world.store.hold("claim", answers=True)
        claim = asyncio.create_task(second.driver.claim("alice"))
        await world.store.wait_held()
        world.store.hold_no_more()
        assert await first.driver.move("alice")
        reads = world.store.operations["get_links"]
        (await world.receiver(1)).lose("alice", world.carrier.parcels[0].move)
        await eventually(lambda: world.store.operations["get_links"] > reads)
        world.store.release_held()

        assert not (await claim).is_owned()
        await eventually(lambda: second.driver.owned("alice") is not None)
        assert [b"state"] == [data for _, data, _ in second.adopted]

    async def test_it_leaves_and_comes_back_while_it_is_adopted(self, world: World) -> None:
        """If the uid comes back with a newer state while the older one is adopted, the newer one is adopted too."""
        first, second, third = await world.start(3)
        await first.own("alice", b"1")
        second.gate = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice", 1))
        await eventually(lambda: bool(second.adopted))
        await third.driver.set_linked_pod(NAMESPACE, "alice", SERVICE, 2)
        third.states["alice"] = b"2"
        world.carrier.words_lost = 1
        assert await third.driver.move("alice", 1)
        second.gate.set()
        await moving

        handle = await second.driver.claim("alice")
        assert [b"1", b"2"] == [data for _, data, _ in second.adopted]
        assert handle.epoch == second.adopted[-1][2]

    @pytest.mark.parametrize("end", ["stop", "end"])
    async def test_the_pod_ends_while_it_adopts(self, world: World, end: str, caplog: pytest.LogCaptureFixture) -> None:
        """A pod that ends cuts an adoption off, leaves no task behind, and serves nothing without its state."""
        first, second = await world.start(2, stop_deadline=0.2, drain_deadline=0.4)
        await first.own("alice")
        second.gate = asyncio.Event()
        moving = asyncio.create_task(first.driver.move("alice"))
        await eventually(lambda: bool(second.adopted))
        claim = asyncio.create_task(second.driver.claim("alice"))
        await asyncio.sleep(0)

        await getattr(second.driver, end)()

        assert not [task for task in asyncio.all_tasks() if "adoption" in task.get_name()]
        assert not (await claim).is_owned()
        assert "the state of 'alice' could not be adopted" in caplog.text
        assert await moving


class TestArguments:
    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({"adopt": lambda uid, data, epoch: None}, "adopt"),
            ({"adopt": lambda uid, data, epoch: None, "hand_off": lambda uid: None}, "carrier"),
            ({"carrier": LocalCarrier()}, "carrier"),
        ],
    )
    def test_what_goes_together(self, store: MemoryStore, given: dict[str, Any], named: str) -> None:
        """What lacks its other part is refused, and the error says what to give."""
        with pytest.raises(ConfigError, match=named):
            ServerDriver(store, room(0), CONFIG, **given)

    @pytest.mark.parametrize(
        "given", [{"adopt": lambda uid: None}, {"adopt": 5}, {"max_state": -1}, {"max_state": "1"}]
    )
    def test_of_a_wrong_type(self, store: MemoryStore, given: dict[str, Any]) -> None:
        """What cannot be called as it will be, or is no size, is refused."""
        right: dict[str, Any] = {
            "adopt": lambda uid, data, epoch: None,
            "hand_off": lambda uid: None,
            "carrier": LocalCarrier(),
        }
        with pytest.raises(InvalidArgumentError):
            ServerDriver(store, room(0), CONFIG, **(right | given))

    async def test_move_without_adopt(self, store: MemoryStore) -> None:
        """A driver that lets no state travel cannot move a uid."""
        async with ServerDriver(store, room(0), CONFIG) as driver:
            with pytest.raises(ConfigError, match="adopt"):
                await driver.move("alice")

    async def test_a_uid_that_is_not_owned(self, world: World) -> None:
        """Nothing is moved that is not owned."""
        first, _ = await world.start(2)

        assert not await first.driver.move("alice")
        assert not first.saved
