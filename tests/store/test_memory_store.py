"""The store in memory passes what every store has to, and does what a test asks of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import stateful_route.testing
from stateful_route.errors import InvalidArgumentError, StoreTimeoutError, StoreUnavailableError
from stateful_route.links import LinkKey, LinkKind, Outcome
from stateful_route.pods import HeartbeatOutcome, PodLife, PodReport, ServerInfo
from stateful_route.testing import ManualClock, MemoryStore, StoreConformance, StoreKit, link_machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = LinkKey("ns", "alice", "room")
HISTORY = 5
SERVER = ServerInfo(namespace="ns", service_name="room", pod_name="room-0", pod_index=0)
TIMEOUT = StoreTimeoutError("no answer", operation="claim", maybe_applied=True)


@asynccontextmanager
async def memory_kit() -> AsyncIterator[StoreKit]:
    """Provide a store in memory whose time the test moves."""
    clock = ManualClock()
    store = MemoryStore(clock, history=HISTORY)

    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    async def poison_link(key: LinkKey) -> None:
        store.poison_link(key)

    async def poison_pod(namespace: str, service_name: str, pod_index: int) -> None:
        store.poison_pod(namespace, service_name, pod_index)

    async def expire(key: LinkKey) -> None:
        store.expire_link(key)

    yield StoreKit(
        store=store,
        advance=advance,
        poison_link=poison_link,
        poison_pod=poison_pod,
        expire=expire,
        history=HISTORY,
    )


class TestConformance(StoreConformance):
    """The store in memory does what every store has to."""

    @pytest.fixture
    async def store_kit(self) -> AsyncIterator[StoreKit]:
        """Provide the store in memory."""
        async with memory_kit() as kit:
            yield kit


TestModel = link_machine(memory_kit).TestCase


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


class TestTime:
    async def test_epoch_is_the_clock(self, store: MemoryStore, clock: ManualClock) -> None:
        """The first epoch at a moment is that moment in microseconds."""
        clock.advance(1.5)
        change = await store.claim(KEY, PodLife(0, 1))

        assert change.link is not None
        assert 1_800_000_001_500_000 == change.link.epoch

    async def test_a_clock_that_stands_still(self, store: MemoryStore) -> None:
        """Two owners never share an epoch, even if the clock does not move between a release and a claim."""
        changes = []
        for incarnation in (1, 2, 3):
            changes.append(await store.claim(KEY, PodLife(0, incarnation)))
            await store.release(KEY)

        assert 3 == len({change.link.epoch for change in changes if change.link})

    async def test_a_clock_that_goes_back(self, store: MemoryStore, clock: ManualClock) -> None:
        """The epoch of a link and the incarnation of a pod rise if the clock went back."""
        link = (await store.claim(KEY, PodLife(0, 1))).link
        first = await store.register(SERVER, PodReport(), 5.0, 100.0)
        clock.set(clock() - 3600.0)
        taken = (await store.claim(KEY, PodLife(0, 2))).link
        second = await store.register(SERVER, PodReport(), 5.0, 100.0)

        assert link is not None
        assert taken is not None
        assert link.epoch < taken.epoch
        assert first.incarnation + 1 == second.incarnation

    async def test_a_link_ends_to_the_millisecond(self, store: MemoryStore, clock: ManualClock) -> None:
        """A link is there until its last millisecond, and gone when its time is over."""
        await store.place(KEY, PodLife(0, 1), 0.3)
        clock.advance(0.1)
        clock.advance(0.199)
        last = await store.get_link(KEY)
        clock.advance(0.001)

        assert last is not None
        assert 0.001 == last.ttl
        assert await store.get_link(KEY) is None


class TestDeath:
    async def test_dead_life(self, store: MemoryStore) -> None:
        """A life whose death was confirmed is not alive, is refused, and leaves nothing to wait for."""
        life = await store.register(SERVER, PodReport(), 5.0, 100.0)
        store.mark_dead("ns", "room", 0)
        outcome = await store.heartbeat(SERVER, life.incarnation, 1, PodReport(), 5.0, 100.0)
        table = await store.read_pods("ns", "room")
        again = await store.register(SERVER, PodReport(), 5.0, 100.0)

        assert HeartbeatOutcome.DEAD is outcome
        (pod,) = table.pods
        assert pod.dead
        assert not pod.is_alive(table.now)
        assert (life.incarnation, 0.0) == (again.previous_incarnation, again.previous_left)
        (pod,) = (await store.read_pods("ns", "room")).pods
        assert not pod.dead

    def test_dead_pod_that_is_not_there(self, store: MemoryStore) -> None:
        """A pod that is not there cannot be marked."""
        with pytest.raises(KeyError):
            store.mark_dead("ns", "room", 7)


class TestFaults:
    async def test_operations_are_counted(self, store: MemoryStore) -> None:
        """Each call counts once, one for many uids too."""
        await store.get_link(KEY)
        await store.place_links("ns", [("a", PodLife(0, 1)), ("b", PodLife(0, 1))], "room", 10.0)
        await store.get_link(KEY)

        assert {"get_link": 2, "place_links": 1} == store.operations

    async def test_failure(self, store: MemoryStore) -> None:
        """A call that fails changes nothing, until failing is over."""
        store.fail_with(StoreUnavailableError("away", operation="claim", maybe_applied=False))
        with pytest.raises(StoreUnavailableError):
            await store.claim(KEY, PodLife(0, 1))
        store.fail_with(None)

        assert await store.get_link(KEY) is None

    async def test_lost_answer(self, store: MemoryStore) -> None:
        """A call whose answer is lost has happened."""
        store.fail_with(TIMEOUT, "claim", applied=True)
        with pytest.raises(StoreTimeoutError):
            await store.claim(KEY, PodLife(0, 1))

        link = await store.get_link(KEY)
        assert link is not None
        assert LinkKind.PERSISTENT is link.kind

    async def test_failure_of_many(self, store: MemoryStore) -> None:
        """A call for many uids that fails has the error for each."""
        store.fail_with(TIMEOUT)

        assert [TIMEOUT, TIMEOUT] == await store.get_links("ns", ["a", "b"], "room")
        assert [TIMEOUT] == await store.place_links("ns", [("a", PodLife(0, 1))], "room", 10.0)

    async def test_held_call(self, store: MemoryStore) -> None:
        """A call that is held has not happened, and happens once it is let go."""
        store.hold("claim")
        claim = asyncio.create_task(store.claim(KEY, PodLife(0, 1)))
        await store.wait_held()
        meanwhile = await store.get_link(KEY)
        store.release_held()

        assert meanwhile is None
        assert Outcome.CREATED is (await claim).outcome

    async def test_held_answer(self, store: MemoryStore) -> None:
        """A call whose answer is held has happened."""
        store.hold("claim", answers=True)
        claims = [asyncio.create_task(store.claim(KEY, PodLife(i, 1))) for i in range(3)]
        await store.wait_held(3)
        meanwhile = await store.get_link(KEY)
        store.release_held()
        changes = await asyncio.gather(*claims)

        assert meanwhile is not None
        assert {meanwhile} == {change.link for change in changes}

    @pytest.mark.parametrize("answers", [False, True])
    async def test_cancelled_while_held(self, store: MemoryStore, answers: bool) -> None:
        """A call that is cancelled has happened if only its answer was held."""
        store.hold("claim", answers=answers)
        claim = asyncio.create_task(store.claim(KEY, PodLife(0, 1)))
        await store.wait_held()
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim

        assert answers is (await store.get_link(KEY) is not None)

    async def test_repr(self, store: MemoryStore) -> None:
        """What is in it shows."""
        await store.claim(KEY, PodLife(0, 1))
        await store.register(SERVER, PodReport(), 5.0, 100.0)

        assert "<MemoryStore links=1 pods=1 held=0>" == repr(store)


class TestManualClock:
    def test_advances_add_up(self, clock: ManualClock) -> None:
        """A thousand advances of a tenth of a second are a hundred seconds."""
        for _ in range(1000):
            clock.advance(0.1)

        assert 1_800_000_100.0 == clock()

    def test_sets_back(self, clock: ManualClock) -> None:
        """It can be set back, as a clock that is corrected."""
        clock.set(1_700_000_000.25)

        assert 1_700_000_000.25 == clock()
        assert "<ManualClock at 1700000000.25>" == repr(clock)

    @pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
    def test_never_advances_backwards(self, clock: ManualClock, seconds: float) -> None:
        """An advance is a finite number of seconds, 0 or more."""
        with pytest.raises(InvalidArgumentError):
            clock.advance(seconds)


class TestNames:
    def test_all_names(self) -> None:
        """Every name of the package is there, in order."""
        names = stateful_route.testing.__all__

        assert sorted(names) == names
        assert all(hasattr(stateful_route.testing, name) for name in names)

    def test_without_test_frameworks(self) -> None:
        """The store and the clock work where neither pytest nor Hypothesis is installed."""
        program = (
            "import sys; sys.modules.update(pytest=None, pytest_asyncio=None, hypothesis=None)\n"
            "from stateful_route.testing import FaultProxy, ManualClock, MemoryStore, local_server\n"
            "MemoryStore(ManualClock())\n"
        )

        assert 0 == subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode

    def test_unknown_name(self) -> None:
        """A name that the package has not is an AttributeError, as everywhere."""
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            stateful_route.testing.nothing  # noqa: B018 - looking it up is the test
