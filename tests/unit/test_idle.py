"""Uids that the application has forgotten: the pod releases them by itself."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stateful_route import (
    BaseConfig,
    InvalidArgumentError,
    NotOwnerError,
    ServerDriver,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.pods import PodLife
from stateful_route.server.owning.idle_queue import IdleQueue
from stateful_route.server.owning.tenure import Tenure
from stateful_route.store import LinkKey
from stateful_route.testing import ManualClock
from tests.insides import beat_once, held_by, look_after, may_be_idle, reclaim_ended, release_idle, unsettled
from tests.unit.conftest import CONFIG, room
from tests.unit.test_bad_arguments import BAD
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route import Ownership
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeServer, RunPods

ALICE = LinkKey("prod", "alice", "room")
AWAY = StoreUnavailableError("away", operation="release", maybe_applied=False)
TIMEOUT = StoreTimeoutError("no answer", operation="release", maybe_applied=True)
TTL = 60.0


async def test_it_is_released(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """A uid that nobody has used for its time is released, not before, and who holds the handle is told."""
    lost: list[str] = []
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        handle.on_lost(lambda: lost.append("alice"))
        clock.advance(TTL - 0.1)
        await release_idle(pod)
        before = handle.is_owned(), list(lost)
        clock.advance(1.1)
        await release_idle(pod)

        assert (True, []) == before
        assert (False, ["alice"], []) == (handle.is_owned(), lost, held_by(pod))
        assert await store.get_link(ALICE) is None
        assert 0 == may_be_idle(pod)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda pod, handle: pod.claim("alice", idle_ttl=TTL), id="claim"),
        pytest.param(lambda pod, handle: pod.try_set_linked_pod("", "alice", "room", 0), id="try_set"),
        pytest.param(lambda pod, handle: pod.owned("alice"), id="owned"),
        pytest.param(lambda pod, handle: handle.touch(), id="touch"),
        pytest.param(lambda pod, handle: enter_and_leave(handle), id="in_use"),
    ],
)
async def test_what_counts(
    run_pods: RunPods, clock: ManualClock, use: Callable[[ServerDriver, Ownership], Any]
) -> None:
    """Each use begins the time anew, however often."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        for _ in range(3):
            clock.advance(TTL - 1.0)
            used = use(pod, handle)
            if asyncio.iscoroutine(used):
                await used
            await release_idle(pod)
        owned = handle.is_owned()
        clock.advance(TTL + 1.0)
        await release_idle(pod)

        assert (True, False) == (owned, handle.is_owned())


def enter_and_leave(handle: Ownership) -> None:
    with handle.in_use():
        pass


async def test_looking_is_no_use(run_pods: RunPods, clock: ManualClock) -> None:
    """To ask a handle whether it is owned, or what its time is, is no use of the uid."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        clock.advance(TTL - 1.0)
        asked = handle.is_owned(), handle.idle_ttl
        clock.advance(2.0)
        await release_idle(pod)

        assert ((True, TTL), False) == (asked, handle.is_owned())


async def test_in_use(run_pods: RunPods, clock: ManualClock) -> None:
    """While somebody uses it, however many and however long, a uid is not idle; its time begins when the last ends."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        with handle.in_use():
            with handle.in_use():
                clock.advance(2 * TTL)
                await release_idle(pod)
            clock.advance(2 * TTL)
            await release_idle(pod)
        clock.advance(TTL - 1.0)
        await release_idle(pod)
        owned = handle.is_owned()
        clock.advance(2.0)
        await release_idle(pod)

        assert (True, False) == (owned, handle.is_owned())


async def test_in_use_until_an_error(run_pods: RunPods) -> None:
    """A use ends with its block also if that raises, and the error goes on."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        with pytest.raises(KeyError), handle.in_use():
            raise KeyError

        assert 0 == handle.tenure.users


async def test_never_by_default(run_pods: RunPods, clock: ManualClock) -> None:
    """A uid without an idle TTL is owned for as long as the pod is."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        clock.advance(499.0)
        await release_idle(pod)

        assert (None, True, 0) == (handle.idle_ttl, handle.is_owned(), may_be_idle(pod))


@pytest.mark.parametrize(("second", "owned"), [(TTL / 2, False), (2 * TTL, True), (None, True)])
async def test_a_later_claim(run_pods: RunPods, clock: ManualClock, second: float | None, owned: bool) -> None:
    """A later claim sets the idle TTL anew: a shorter one, a longer one, or none."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        await pod.claim("alice", idle_ttl=second)
        clock.advance(TTL + 1.0)
        await release_idle(pod)

        assert (second, owned) == (handle.idle_ttl, handle.is_owned())


async def test_mint(run_pods: RunPods, clock: ManualClock) -> None:
    """A minted uid may have an idle TTL as well."""
    async with run_pods(1) as (pod,):
        handle = await pod.mint("br", idle_ttl=TTL)
        clock.advance(TTL + 1.0)
        await release_idle(pod)

        assert (TTL, False) == (handle.idle_ttl, handle.is_owned())


async def test_minted_for_nobody(run_pods: RunPods, clock: ManualClock) -> None:
    """A minted uid that was claimed and is not owned, of which the caller never heard, is released."""
    async with run_pods(1) as (pod,):
        clock.advance(501.0)
        with pytest.raises(NotOwnerError):
            await pod.mint()
        before = len(held_by(pod))
        clock.advance(1.0)
        await beat_once(pod)
        await release_idle(pod)

        assert (1, []) == (before, held_by(pod))


async def test_refused(run_pods: RunPods) -> None:
    """A claim that is refused leaves nothing to look at, and its handle can be used all the same."""
    async with run_pods(2) as (first, second):
        await first.claim("alice")
        refused = await second.claim("alice", idle_ttl=TTL)
        with refused.in_use():
            refused.touch()

        assert (None, 0) == (refused.idle_ttl, may_be_idle(second))


@pytest.mark.parametrize("how", ["release", "taken", "stop"])
async def test_lost_before(make_server: MakeServer, store: MemoryStore, how: str) -> None:
    """A uid that is lost before its time is not looked at any more."""
    async with make_server() as pod:
        await eventually(lambda: bool(store._listeners))
        handle = await pod.claim("alice", idle_ttl=TTL)
        if how == "release":
            await handle.release()
        elif how == "taken":
            await store.assign(ALICE, PodLife(7, 1))
            await eventually(lambda: not handle.held)
        else:
            await pod.stop()

        assert 0 == may_be_idle(pod)


async def test_claimed_again(run_pods: RunPods, clock: ManualClock) -> None:
    """A uid that was released as it was idle, and comes back, is claimed anew; what is remembered of it is good."""
    async with run_pods(1) as (pod,):
        await eventually(lambda: pod._owned.interruptions > 0)
        older = await pod.claim("alice", idle_ttl=TTL)
        clock.advance(TTL + 1.0)
        await release_idle(pod)
        newer = await pod.claim("alice", idle_ttl=TTL)

        assert older.epoch is not None
        assert newer.epoch is not None
        assert newer.epoch > older.epoch
        assert (True, True) == (newer.is_owned(), newer.resumes(older))


@pytest.mark.parametrize("settings", [{}, {"idle_ttl": TTL}])
async def test_a_claim_at_the_last_moment(
    run_pods: RunPods, store: MemoryStore, clock: ManualClock, settings: dict[str, Any]
) -> None:
    """A uid is not idle once somebody has called claim, also before the store has answered that."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice", idle_ttl=TTL)
        clock.advance(TTL + 1.0)
        store.hold("claim")
        claiming = asyncio.create_task(pod.claim("alice", **settings))
        await store.wait_held()
        await release_idle(pod)
        store.release_held()

        assert await claiming is handle
        assert handle.is_owned()


class TestLives:
    """Another life of the pod goes on with the idle TTL of the one before."""

    async def test_resumed(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """The handle of a resumed life has the idle TTL, and who uses the older handle uses the uid."""
        async with run_pods(1) as (pod,):
            older = await pod.claim("alice", idle_ttl=TTL)
            with older.in_use():
                store.lose_all()
                await beat_once(pod)
                await reclaim_ended(pod)
                newer = pod._owned.held("alice")
                clock.advance(TTL + 1.0)
                await release_idle(pod)
                owned = newer is not None and newer.is_owned()
            clock.advance(TTL + 1.0)
            await release_idle(pod)

            assert newer is not None
            assert newer is not older
            assert (TTL, True, False) == (newer.idle_ttl, owned, newer.is_owned())

    async def test_not_resumed(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """A uid that is claimed again after a loss that is too long ago to be resumed has the idle TTL too."""
        async with run_pods(1) as (pod,):
            older = await pod.claim("alice", idle_ttl=2000.0)
            store.lose_all()
            clock.advance(501.0)
            await beat_once(pod)
            await reclaim_ended(pod)
            newer = pod._owned.held("alice")

            assert newer is not None
            assert not newer.resumes(older)
            assert (2000.0, True, 1) == (newer.idle_ttl, newer.is_owned(), may_be_idle(pod))

    async def test_idle_before_it_is_claimed_again(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A uid whose time is up while the store has lost it is claimed again, and then released."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice", idle_ttl=TTL)
            clock.advance(TTL + 1.0)
            store.mark_dead("prod", "room", 0)
            store.hold("claim")
            await beat_once(pod)
            await store.wait_held()
            await release_idle(pod)
            held = held_by(pod)
            store.release_held()
            await reclaim_ended(pod)
            clock.advance(1.0)
            await release_idle(pod)

            assert (["alice"], []) == (held, held_by(pod))
            assert await store.get_link(ALICE) is None


class TestTheStore:
    """What the store does not answer is asked again, and holds up nothing else."""

    @pytest.mark.parametrize("error", [AWAY, TIMEOUT], ids=["not sent", "not answered"])
    async def test_repeated(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock, error: StoreUnavailableError
    ) -> None:
        """A release that failed is repeated until the store has answered, though nothing is held any more."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice", idle_ttl=TTL)
            clock.advance(TTL + 1.0)
            store.fail_with(error, "release")
            for _ in range(2):
                await release_idle(pod)
            held, linked = held_by(pod), await store.get_link(ALICE)
            store.fail_with(None)
            await release_idle(pod)

            assert [] == held
            assert linked is not None
            assert await store.get_link(ALICE) is None
            assert ([], {}) == (unsettled(pod), pod._idle._unreleased)

    @pytest.mark.parametrize("error", [AWAY, TIMEOUT], ids=["not sent", "not answered"])
    async def test_claimed_in_between(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock, error: StoreUnavailableError
    ) -> None:
        """A release that failed ends no later claim."""
        async with run_pods(1) as (pod,):
            older = await pod.claim("alice", idle_ttl=TTL)
            clock.advance(TTL + 1.0)
            store.fail_with(error, "release")
            await release_idle(pod)
            store.fail_with(None)
            newer = await pod.claim("alice")
            await look_after(pod)
            await release_idle(pod)

            assert newer.is_owned()
            assert newer.epoch != older.epoch
            assert {} == pod._idle._unreleased

    async def test_claimed_meanwhile(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """A release that failed is not repeated while the uid is being claimed."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice", idle_ttl=TTL)
            clock.advance(TTL + 1.0)
            store.fail_with(AWAY, "release")
            await release_idle(pod)
            store.fail_with(None)
            store.hold("claim")
            claiming = asyncio.create_task(pod.claim("alice"))
            await store.wait_held()
            await release_idle(pod)
            store.release_held()
            handle = await claiming
            await release_idle(pod)

            assert handle.is_owned()

    async def test_a_part_is_away(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """Idle uids whose part of the store is away keep no other from being released."""
        release = store.release

        async def without_odd_ones(key: LinkKey, **settings: Any) -> Any:
            if int(key.uid) % 2:
                raise AWAY
            return await release(key, **settings)

        async with run_pods(1) as (pod,):
            for number in range(100):
                await pod.claim(str(number), idle_ttl=TTL)
            store.release = without_odd_ones  # type: ignore[method-assign]  # one part of the store is away
            for _ in range(10):
                clock.advance(TTL)
                await beat_once(pod)
                await release_idle(pod)
            held = held_by(pod)
            left = [await store.get_link(LinkKey("prod", str(number), "room")) for number in range(100)]
            store.release = release  # type: ignore[method-assign]
            await release_idle(pod)

            assert ([], 50) == (held, sum(link is not None for link in left))
            assert {} == pod._idle._unreleased

    async def test_the_lease_has_ended(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """A pod that may own nothing now releases nothing: it is done once its heartbeats are answered again."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice", idle_ttl=TTL)
            clock.advance(501.0)
            await release_idle(pod)
            held = held_by(pod)
            await beat_once(pod)
            await release_idle(pod)

            assert (["alice"], []) == (held, held_by(pod))


async def test_not_during_a_hand_off(store: MemoryStore, clock: ManualClock) -> None:
    """A uid is not released before its hand-off has ended, though its time is up: its state is not there yet."""
    saving, saved = asyncio.Event(), asyncio.Event()

    async def save(uid: str) -> None:
        saving.set()
        await saved.wait()

    async with ServerDriver(store, room(0), CONFIG, hand_off=save, clock=clock, random=Random(0)) as pod:
        handle = await pod.claim("alice", idle_ttl=TTL)
        draining = asyncio.create_task(pod.drain())
        await saving.wait()
        clock.advance(TTL + 1.0)
        await release_idle(pod)
        owned = handle.is_owned()
        saved.set()
        await draining

        assert (True, False) == (owned, handle.is_owned())


async def test_rate(make_server: MakeServer, clock: ManualClock) -> None:
    """A pod releases as many idle uids with each heartbeat as it hands over in that time, and the others later."""
    async with make_server(drain_rate=0.3) as pod:  # with a heartbeat of 100 s
        for number in range(100):
            await pod.claim(str(number), idle_ttl=TTL)
        clock.advance(TTL + 1.0)
        left = []
        for _ in range(4):
            await release_idle(pod)
            left.append(len(held_by(pod)))

        assert [70, 40, 10, 0] == left


async def test_by_itself(store: MemoryStore) -> None:
    """The pod looks after idle uids by itself, with each heartbeat."""
    async with ServerDriver(store, room(0), BaseConfig(namespace="prod", heartbeat=0.02)) as pod:
        await pod.claim("alice", idle_ttl=0.05)
        await eventually(lambda: not held_by(pod))

        assert await store.get_link(ALICE) is None


@pytest.mark.parametrize("idle_ttl", [0, *[value for value in BAD["persist_seconds"] if value is not None]])
@pytest.mark.parametrize("method", ["claim", "mint"])
async def test_bad_argument(make_server: MakeServer, store: MemoryStore, method: str, idle_ttl: Any) -> None:
    """What is no time from a millisecond on is refused before anything is sent."""
    async with make_server() as pod:
        store.operations.clear()
        with pytest.raises(InvalidArgumentError) as caught:
            await getattr(pod, method)("alice", idle_ttl=idle_ttl)

        assert "idle_ttl" == caught.value.argument
        assert {} == store.operations


async def test_many_that_are_used(run_pods: RunPods, clock: ManualClock) -> None:
    """Whatever is used is looked at once in its time, and not with each heartbeat; and never all in one step."""
    async with run_pods(1) as (pod,):
        for number in range(2000):
            await pod.claim(str(number), idle_ttl=TTL)
        looks, steps = 0, 0
        put = pod._owned.idle.put

        def counted(uid: str, tenure: Tenure) -> None:
            nonlocal looks
            looks += 1
            put(uid, tenure)

        async def step() -> None:
            nonlocal steps
            while True:
                await asyncio.sleep(0)
                steps += 1

        pod._owned.idle.put = counted  # type: ignore[method-assign]  # to count
        stepping = asyncio.create_task(step())
        for _ in range(int(2 * TTL)):
            clock.advance(1.0)
            for number in range(2000):
                pod.owned(str(number))
            await release_idle(pod)
        stepping.cancel()

        assert 2000 == len(held_by(pod))
        assert 2000 <= looks <= 4000
        assert steps >= 2000 // 256


class IdleModel(RuleBasedStateMachine):
    """The queue beside a plain list of when each uid was used last."""

    SLOT = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.queue = IdleQueue(self.SLOT)
        self.tenures: dict[str, Tenure] = {}
        self.used: dict[str, float] = {}

    @rule(uid=st.sampled_from("abcdef"), ttl=st.sampled_from([None, 0.001, 0.5, 1.0, 3.3, 20.0]))
    def claim(self, uid: str, ttl: float | None) -> None:
        tenure = self.tenures.setdefault(uid, Tenure(self.clock))
        tenure.touch()
        tenure.idle_ttl = ttl
        self.queue.put(uid, tenure)
        self.used[uid] = self.clock()

    @precondition(lambda self: self.tenures)
    @rule(data=st.data(), how=st.sampled_from(["touch", "enter", "leave", "lose"]))
    def use(self, data: st.DataObject, how: str) -> None:
        uid = data.draw(st.sampled_from(sorted(self.tenures)))
        tenure = self.tenures[uid]
        if how == "touch":
            tenure.touch()
            self.used[uid] = self.clock()
        elif how == "enter":
            tenure.__enter__()
        elif how == "lose":
            self.queue.discard(uid, tenure)
            del self.tenures[uid]
        elif tenure.users:
            tenure.__exit__(None, None, None)
            self.used[uid] = self.clock()

    @rule(seconds=st.sampled_from([0.001, 0.25, 0.5, 0.75, 3.0, 100.0]), most=st.integers(1, 4))
    def pass_time(self, seconds: float, most: int) -> None:
        self.clock.advance(seconds)
        while self.queue.has_due(self.clock()):
            for uid in self.queue.take(self.clock(), most):
                tenure = self.tenures.pop(uid)

                assert tenure.idle_ttl is not None
                assert not tenure.users
                assert self.used[uid] + tenure.idle_ttl <= self.clock()
        for uid, tenure in self.tenures.items():
            in_time = tenure.idle_ttl is None or self.used[uid] + tenure.idle_ttl + self.SLOT >= self.clock()

            assert in_time or tenure.users

    @invariant()
    def nothing_is_missing(self) -> None:
        assert sum(tenure.idle_ttl is not None for tenure in self.tenures.values()) == len(self.queue)


TestIdleModel = IdleModel.TestCase
