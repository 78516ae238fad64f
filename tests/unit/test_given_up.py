"""A store that was rolled back has links again that their pods had given up: nobody goes on with what is that old."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from stateful_route.pods import PodLife
from stateful_route.server.owning import given_up
from stateful_route.server.owning.given_up import GivenUp
from stateful_route.store import LinkKey
from tests.insides import forget, miss_events, publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import RunPods

ALICE = LinkKey("prod", "alice", "room")


def snapshot(store: MemoryStore) -> Callable[[], None]:
    """Return what makes the store be again as it is now: a failover that loses what was written since."""
    kept = copy.deepcopy({name: vars(store)[name] for name in ("_links", "_pods")})
    return lambda: vars(store).update(copy.deepcopy(kept))


async def test_link_that_came_back(run_pods: RunPods, store: MemoryStore) -> None:
    """The claim of a link that was given up, and is there again, has an epoch of its own, and resumes nothing."""
    async with run_pods(2) as (first, second):
        older = await first.claim("alice")
        roll_back = snapshot(store)
        await older.release()
        other = await second.claim("alice")
        await other.release()
        roll_back()
        newer = await first.claim("alice")
        link = await store.get_link(ALICE)

        assert newer.is_owned()
        assert link is not None
        assert other.epoch is not None
        assert newer.epoch is not None
        assert newer.epoch > other.epoch
        assert link.epoch == newer.epoch
        assert not newer.resumes(older)


async def test_link_before_the_one_that_is_held(run_pods: RunPods, store: MemoryStore) -> None:
    """So is that of a link that was this pod's before the one that it holds."""
    async with run_pods(2) as (first, second):
        older = await first.claim("alice")
        roll_back = snapshot(store)
        await older.release()
        await (await second.claim("alice")).release()
        held = await first.claim("alice")
        roll_back()
        forget(first, "alice")
        newer = await first.claim("alice")

        assert newer.is_owned()
        assert held.epoch is not None
        assert newer.epoch is not None
        assert newer.epoch > held.epoch
        assert not newer.resumes(older)


@pytest.mark.parametrize("grace", [0.0, 5.0])
async def test_forced_write(run_pods: RunPods, store: MemoryStore, grace: float) -> None:
    """A forced write makes another epoch too."""
    async with run_pods(2) as (first, second):
        older = await first.claim("alice")
        roll_back = snapshot(store)
        await older.release(grace)
        await second.set_linked_pod("", "alice", "room", 1)
        miss_events(first)  # as when the connection to the store is another one
        roll_back()
        await first.set_linked_pod("", "alice", "room", 0)
        newer = first.owned("alice")

        assert newer is not None
        assert newer.epoch != older.epoch
        assert not newer.resumes(older)


async def test_older_life(run_pods: RunPods, store: MemoryStore) -> None:
    """A link of an older life that came back is inherited, and nothing that this process remembers is that old."""
    async with run_pods(2) as (first, second):
        older = await first.claim("alice")
        roll_back = snapshot(store)
        await older.release()
        await (await second.claim("alice")).release()
        roll_back()
        store._pods.clear()
        await publish(first)
        newer = await first.claim("alice")

        assert newer.is_owned()
        assert newer.incarnation > older.incarnation
        assert not newer.resumes(older)


async def test_grace(run_pods: RunPods) -> None:
    """Within its grace a link goes on at its epoch, unless something may have been missed since."""
    async with run_pods(1) as (pod,):
        first = await pod.claim("alice")
        await first.release(grace=5.0)
        second = await pod.claim("alice")
        await second.release(grace=5.0)
        miss_events(pod)
        third = await pod.claim("alice")

        assert first.epoch == second.epoch
        assert second.epoch != third.epoch
        assert not third.resumes(second)


async def test_placed_before(run_pods: RunPods, store: MemoryStore) -> None:
    """What a client placed before another uid was given up keeps its epoch: it is known by its uid."""
    async with run_pods(1) as (pod,):
        placed = await store.place(ALICE, PodLife(0, pod.incarnation), 60.0)
        await (await pod.claim("bob")).release()
        handle = await pod.claim("alice")

        assert placed.link is not None
        assert placed.link.epoch == handle.epoch


def test_many() -> None:
    """Of many uids the oldest are known by their highest epoch."""
    epochs = GivenUp()
    for number in range(given_up._MOST + 10):
        epochs.add(f"user-{number}", 100 + number)
    epochs.add("user-5", 50)

    assert len(epochs._epochs) == given_up._MOST
    assert epochs.has("user-3", 103, 0)
    assert epochs.has("never", 109, 0)
    assert not epochs.has("never", 112, 0)
    assert epochs.has("user-11", 111, 0)
    assert not epochs.has("user-11", 112, 0)


def test_highest() -> None:
    """A uid is known by the highest epoch at which it was given up; only that one is spared."""
    epochs = GivenUp()
    epochs.add("alice", 5)
    epochs.spare("alice", 5, 1)
    spared = epochs.has("alice", 5, 1), epochs.has("alice", 5, 2), epochs.has("alice", 4, 1)
    epochs.add("alice", 3)
    epochs.spare("alice", 3, 1)

    assert (False, True, True) == spared
    assert epochs.has("alice", 5, 1)
    assert not epochs.has("alice", 6, 1)
