"""Moves, drains, claims and releases at once, over a store that loses answers: a uid never has two owners."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, RoutingError, ServerDriver, StoreError, StoreTimeoutError
from stateful_route.links import LinkKey, LinkKind
from stateful_route.ops import Operator
from stateful_route.testing import MemoryStore
from tests.ops.conftest import SERVICE, pod_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route import Ownership

NAMESPACE = "prod"
UIDS = [f"user-{number}" for number in range(6)]
PODS = 3
CONFIG = BaseConfig(namespace=NAMESPACE, heartbeat=0.05, lease=60.0, call_deadline=0.5, drain_deadline=1.0)
LOST = StoreTimeoutError("the answer is lost", operation="move", maybe_applied=True)
REFUSED = StoreTimeoutError("it is refused", operation="move", maybe_applied=False)


@contextlib.asynccontextmanager
async def two_pods(store: MemoryStore) -> AsyncIterator[tuple[ServerDriver, ServerDriver, Ownership, Operator]]:
    """Provide a pod that owns alice, another one, and an operator."""
    first, second = (ServerDriver(store, pod_of(NAMESPACE, index), CONFIG) for index in range(2))
    async with first, second:
        await eventually(lambda: len(store._listeners) == 2)
        yield first, second, await first.claim("alice"), Operator(store, CONFIG)


async def settled(pod: ServerDriver) -> None:
    """Return once nothing is being done any more that was asked of a pod."""
    await eventually(lambda: not len(pod._requests._tasks))


class TestLostAnswers:
    """The link moves in one script, whose answer may be lost."""

    async def test_lost(self) -> None:
        """A move whose answer is lost is asked for again, by the same name, until it is known that it was done."""
        store = MemoryStore()
        async with two_pods(store) as (first, second, owned, operator):
            store.fail_with(LOST, "move", applied=True)
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await eventually(lambda: store.operations["move"] >= 2)
            during = owned.is_owned()
            store.fail_with(None)
            place = await moving
            await settled(first)

            assert (1, False, False) == (place.pod_index, during, owned.is_owned())
            assert (await second.claim("alice")).is_owned()
            assert {} == first._owned.unsure

    async def test_refused(self) -> None:
        """One that was certainly not done leaves the uid where it is, owned as before."""
        store = MemoryStore()
        async with two_pods(store) as (first, _, owned, operator):
            store.fail_with(REFUSED, "move")
            with pytest.raises(RoutingError):
                await operator.move(SERVICE, "alice", 1, timeout=0.3)
            store.fail_with(None)
            await settled(first)

            assert owned.is_owned()
            assert 1 == store.operations["move"]

    async def test_never_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If it cannot be known for long, the uid is owned no more, and what may be in flight ends no later claim."""
        monkeypatch.setattr("stateful_route.server.owning.operations._KNOW_WITHIN", 0.1)
        store = MemoryStore()
        async with two_pods(store) as (first, _, owned, operator):
            store.fail_with(LOST, "move")
            with pytest.raises(RoutingError):
                await operator.move(SERVICE, "alice", 1, timeout=0.5)
            await settled(first)
            store.fail_with(None)
            again = await first.claim("alice")

            assert not owned.is_owned()
            assert again.is_owned()
            assert again.epoch != owned.epoch

    async def test_cancelled(self) -> None:
        """A pod that ends while it is asked owns the uid no more."""
        store = MemoryStore()
        async with two_pods(store) as (first, _, owned, operator):
            store.hold("move")
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await store.wait_held()
            await first._requests.stop()
            store.release_held()

            assert not owned.is_owned()
            moving.cancel()

    async def test_cancelled_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So does one that ends before it asks again: the move whose answer was lost may have been made."""
        monkeypatch.setattr("stateful_route.server.owning.operations._PAUSE", 5.0)
        store = MemoryStore()
        async with two_pods(store) as (first, second, owned, operator):
            store.fail_with(LOST, "move", applied=True)
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await eventually(lambda: store.operations["move"] == 1)
            await first._requests.stop()
            store.fail_with(None)

            assert (await second.claim("alice")).is_owned()
            assert not owned.is_owned()
            moving.cancel()

    async def test_claimed_meanwhile(self) -> None:
        """A uid that is being claimed as it is to move goes once it is owned, by a hand-off."""
        store = MemoryStore()
        async with two_pods(store) as (first, _, owned, operator):
            await owned.release()
            await operator.assign(SERVICE, "alice", 0)
            store.hold("claim")
            claiming = asyncio.create_task(first.claim("alice"))
            await store.wait_held()
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await eventually(lambda: len(first._requests._tasks))
            store.release_held()
            claimed = await claiming
            place = await moving

            assert (1, False) == (place.pod_index, claimed.is_owned())


class World:
    """Pods, and operators who order at random."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.store = MemoryStore()
        self.pods = [
            ServerDriver(self.store, pod_of(NAMESPACE, i), CONFIG, hand_off=self.hand_off) for i in range(PODS)
        ]
        self.operator = Operator(self.store, CONFIG)
        self.two_owners: list[str] = []
        self.twice: list[str] = []
        self.moved = 0
        self._handing_off: set[str] = set()

    async def hand_off(self, uid: str) -> None:
        if uid in self._handing_off:
            self.twice.append(uid)
        self._handing_off.add(uid)
        try:
            await asyncio.sleep(self.random.uniform(0.0, 0.01))
        finally:
            self._handing_off.discard(uid)

    async def watch(self) -> None:
        """Look at each step of the event loop who owns what."""
        while True:
            for uid in UIDS:
                owners = [pod for pod in self.pods if (held := pod._owned.held(uid)) is not None and held.is_owned()]
                if len(owners) > 1:
                    self.two_owners.append(uid)
            await asyncio.sleep(0)

    async def act(self) -> None:
        random, uid, index = self.random, self.random.choice(UIDS), self.random.randrange(PODS)
        what = random.choices(["claim", "release", "move", "drain", "undrain"], [6, 2, 6, 1, 3])[0]
        with contextlib.suppress(RoutingError, StoreError):
            if what == "claim":
                await self.pods[index].claim(uid)
            elif what == "release" and uid not in self._handing_off:  # or another pod could begin one, rightly
                await self.release(index, uid)
            elif what == "move":
                await self.operator.move(SERVICE, uid, index, timeout=0.2)
                self.moved += 1
            elif what == "drain":
                await self.operator.drain(SERVICE, index, timeout=0.3, force=random.random() < 0.5)
            elif what == "undrain":
                await self.operator.undrain(SERVICE, index, timeout=0.3)

    async def release(self, index: int, uid: str) -> None:
        held = self.pods[index].owned(uid)
        if held is not None:
            await held.release()

    async def worker(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            await self.act()
            await asyncio.sleep(self.random.uniform(0.0, 0.005))

    async def faults(self) -> None:
        """Lose answers, and refuse calls, for a moment now and then."""
        while True:
            await asyncio.sleep(self.random.uniform(0.0, 0.1))
            applied = self.random.random() < 0.5
            operation = self.random.choice(["move", "claim", "release", "read_pods", "ask_pod", "get_link"])
            error = StoreTimeoutError("a fault", operation=operation, maybe_applied=applied)
            self.store.fail_with(error, operation, applied=applied)
            await asyncio.sleep(self.random.uniform(0.0, 0.03))
            self.store.fail_with(None)


@pytest.mark.parametrize("seed", range(6))
async def test_at_once(seed: int) -> None:
    """Whatever is ordered at once, and whatever answers are lost, no uid has two owners or is handed off twice at once.

    In the end each uid can be claimed, moved and drained as before.
    """
    world = World(Random(seed))
    async with contextlib.AsyncExitStack() as stack:
        for pod in world.pods:
            await stack.enter_async_context(pod)
        beside = [asyncio.create_task(world.watch()), asyncio.create_task(world.faults())]
        until = asyncio.get_running_loop().time() + 1.0
        await asyncio.gather(*(world.worker(until) for _ in range(8)))
        beside[1].cancel()
        await asyncio.wait([beside[1]])
        world.store.fail_with(None)
        for index in range(PODS):
            await world.operator.undrain(SERVICE, index)
            await settled(world.pods[index])
        for uid in UIDS:
            await eventually(lambda uid=uid: is_there(world, uid))  # type: ignore[misc]
        beside[0].cancel()

    assert ([], []) == (world.two_owners, world.twice)
    assert world.moved  # it is about something


async def is_there(world: World, uid: str) -> bool:
    """Claim a uid at pod 0, or have it moved there, and return whether that owns it."""
    with contextlib.suppress(RoutingError, StoreError):
        claimed = await world.pods[0].claim(uid)
        if not claimed.is_owned():
            await world.operator.move(SERVICE, uid, 0, timeout=1.0)
    link = await world.store.get_link(LinkKey(NAMESPACE, uid, SERVICE))
    return link is not None and (link.pod_index, link.kind) == (0, LinkKind.PERSISTENT)
