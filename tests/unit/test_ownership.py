"""The handle of a uid: claim, refusal, release, and their races."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import LinkKind, NotOwnerError, StoreTimeoutError, StoreUnavailableError
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey
from stateful_route.web.serve.sticky import NoOwnership, Sticky
from tests.insides import (
    beat_once,
    cut_reclaim_off,
    held_by,
    look_after,
    miss_events,
    reclaim_ended,
    reclaims,
    report_of,
    turns_of,
    unsettled,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from stateful_route import ServerDriver
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeServer, RunPods

ALICE = LinkKey("prod", "alice", "room")
AWAY = StoreUnavailableError("away", operation="any", maybe_applied=False)
TIMEOUT = StoreTimeoutError("no answer", operation="release", maybe_applied=True)


async def test_claim(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim of what nobody holds is owned, at the epoch of a persistent link."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        link = await store.get_link(ALICE)

        assert link is not None
        assert (link.epoch, 0, LinkKind.PERSISTENT) == (handle.epoch, handle.pod_index, link.kind)
        assert (True, False, None) == (handle.is_owned(), handle.inherited, handle.previous)
        assert handle is pod.owned("alice")
        assert f"<Ownership of 'alice' at epoch {link.epoch}: owned>" == repr(handle)
        handle.require()


async def test_confirm(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim of what a client placed on the pod keeps the epoch, and is not inherited."""
    async with run_pods(1) as (pod,):
        placed = await store.place(ALICE, PodLife(0, pod.incarnation), 60.0)
        handle = await pod.claim("alice")

        assert placed.link is not None
        assert (placed.link.epoch, False, True) == (handle.epoch, handle.inherited, handle.is_owned())


async def test_claim_again(run_pods: RunPods) -> None:
    """A second claim of what is owned is the same handle, and counts once."""
    async with run_pods(1) as (pod,):
        first, second = await pod.claim("alice"), await pod.claim("alice")

        assert first is second
        assert (1, 1) == (len(held_by(pod)), pod._owned.placed_total)


async def test_refused(run_pods: RunPods) -> None:
    """A claim of another pod's uid is a value that says whose it is, and require() raises it."""
    async with run_pods(2) as (first, second):
        held = await first.claim("alice")
        refused = await second.claim("alice", steal_temporary=True)
        with pytest.raises(NotOwnerError) as caught:
            refused.require()

        assert (False, 0, held.epoch) == (refused.is_owned(), refused.pod_index, refused.epoch)
        assert ("alice", 0, held.epoch) == (caught.value.uid, caught.value.pod_index, caught.value.epoch)
        assert second.owned("alice") is None
        assert not await refused.release()
        assert held.is_owned()


async def test_steal(run_pods: RunPods, store: MemoryStore) -> None:
    """A temporary link of another pod is taken only with steal_temporary."""
    async with run_pods(2) as (first, second):
        placed = await store.place(ALICE, PodLife(0, first.incarnation), 60.0)
        refused = await second.claim("alice")
        taken = await second.claim("alice", steal_temporary=True)

        assert (False, True, False) == (refused.is_owned(), taken.is_owned(), taken.inherited)
        assert placed.link is not None
        assert taken.previous is not None
        assert (0, placed.link.epoch) == (taken.previous.pod_index, taken.previous.epoch)


async def test_unreadable(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim overwrites a link that cannot be read."""
    store.poison_link(ALICE)
    async with run_pods(1) as (pod,):
        assert (await pod.claim("alice")).is_owned()


async def test_release(run_pods: RunPods, store: MemoryStore) -> None:
    """A release removes the link, once, and require() says that nobody is known to own the uid."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        answers = await handle.release(), await handle.release()
        with pytest.raises(NotOwnerError) as caught:
            handle.require()

        assert (True, False, False) == (*answers, handle.is_owned())
        assert (None, None) == (caught.value.pod_index, caught.value.epoch)
        assert await store.get_link(ALICE) is None
        assert 0 == len(held_by(pod))


async def test_release_with_grace(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """A release with grace leaves the link for so long, and a claim within it is the same epoch in a new handle."""
    async with run_pods(1) as (pod,):
        first = await pod.claim("alice")
        await first.release(grace=5.0)
        second = await pod.claim("alice")
        await second.release(grace=5.0)
        clock.advance(5.0)

        assert first.epoch == second.epoch
        assert first is not second
        assert await store.get_link(ALICE) is None


async def test_release_of_what_was_taken(run_pods: RunPods, store: MemoryStore) -> None:
    """A release of what another pod was given meanwhile leaves that pod's link alone."""
    async with run_pods(2) as (first, second):
        handle = await first.claim("alice")
        await second.set_linked_pod("", "alice", "room", 1)
        done = await handle.release()

        assert not done
        assert second.owned("alice") is not None
        assert await store.get_link(ALICE) is not None


async def test_released_twice_around_a_claim(run_pods: RunPods) -> None:
    """A handle that was given up gives up nothing of a newer one, though the epoch is the same."""
    async with run_pods(1) as (pod,):
        first = await pod.claim("alice")
        await first.release(grace=60.0)
        second = await pod.claim("alice")
        done = await first.release()

        assert (False, True) == (done, second.is_owned())


async def test_older_release_again(run_pods: RunPods, store: MemoryStore) -> None:
    """A release that is tried again gives up nothing of a newer tenure that began meanwhile."""
    async with run_pods(1) as (pod,):
        older = await pod.claim("alice")
        store.fail_with(AWAY, "release")
        with pytest.raises(StoreUnavailableError):
            await older.release()
        store.fail_with(None)
        await store.release(ALICE)
        newer = await pod.claim("alice")
        done = await older.release()

        assert (False, True) == (done, newer.is_owned())
        assert newer is pod.owned("alice")


async def test_release_while_the_store_is_away(run_pods: RunPods, store: MemoryStore) -> None:
    """A release without an answer is not owned all the same, and can be repeated."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        store.fail_with(TIMEOUT, "release")
        with pytest.raises(StoreTimeoutError):
            await handle.release()
        owned = handle.is_owned()
        store.fail_with(None)

        assert not owned
        assert await handle.release()


async def test_release_is_at_once(run_pods: RunPods, store: MemoryStore) -> None:
    """From the call of release() on the uid is not owned, also before the store answers."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        store.hold("release")
        release = asyncio.create_task(handle.release())
        await store.wait_held()
        owned = handle.is_owned(), pod.owned("alice")
        store.release_held()

        assert (False, None) == owned
        assert await release


async def test_release_races_claim(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim that was in flight when the uid was released leaves no handle that believes to own it."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        store.hold("claim", answers=True)
        claim = asyncio.create_task(pod.claim("alice"))
        await store.wait_held()
        release = asyncio.create_task(handle.release())
        await asyncio.sleep(0)  # so that the release waits for its turn
        waiting = handle.is_owned()
        store.release_held()
        late, done = await claim, await release

        assert (False, True, False, False) == (waiting, done, handle.is_owned(), late.is_owned())
        assert pod.owned("alice") is None
        assert await store.get_link(ALICE) is None


async def test_claim_after_release(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim that is called during a release waits for it, and is a new link."""
    async with run_pods(1) as (pod,):
        handle = await pod.claim("alice")
        before = store.operations["claim"]
        store.hold("release")
        release = asyncio.create_task(handle.release())
        await store.wait_held()
        claim = asyncio.create_task(pod.claim("alice"))
        await asyncio.sleep(0)  # so that the claim waits for its turn
        claims = store.operations["claim"] - before
        store.release_held()
        await release
        after = await claim

        assert 0 == claims
        assert after.is_owned()
        assert after.epoch != handle.epoch


async def test_claims_at_once(run_pods: RunPods) -> None:
    """Many claims at once of one uid give one handle."""
    async with run_pods(1) as (pod,):
        handles = await asyncio.gather(*(pod.claim("alice") for _ in range(50)))

        assert 1 == len({id(handle) for handle in handles})
        assert 0 == turns_of(pod)


async def test_two_pods_at_once(run_pods: RunPods) -> None:
    """Of many pods that claim one uid at once exactly one owns it."""
    async with run_pods(8) as pods:
        handles = await asyncio.gather(*(pod.claim("alice") for pod in pods))

        assert [1] == [sum(handle.is_owned() for handle in handles)]
        assert 1 == len({handle.epoch for handle in handles})


@pytest.mark.parametrize("answers", [False, True])
async def test_cancelled_claim(run_pods: RunPods, store: MemoryStore, answers: bool) -> None:
    """A claim that was cancelled owns nothing, leaves no turn behind, and can be repeated."""
    async with run_pods(1) as (pod,):
        store.hold("claim", answers=answers)
        claims = [asyncio.create_task(pod.claim("alice")) for _ in range(3)]
        await store.wait_held()
        for claim in claims:
            claim.cancel()
        await asyncio.wait(claims)
        store.release_held()
        owned, turns = pod.owned("alice"), turns_of(pod)

        assert (None, 0) == (owned, turns)
        assert (await pod.claim("alice")).is_owned()


async def test_life_of_a_late_assignment(run_pods: RunPods, store: MemoryStore) -> None:
    """A forced link that waited for its turn is made for the life that the pod has then."""
    async with run_pods(1) as (pod,):
        store.hold("claim")
        claim = asyncio.create_task(pod.claim("alice"))
        await store.wait_held()
        forced = asyncio.create_task(pod.set_linked_pod("", "alice", "room", 0))
        await asyncio.sleep(0)  # so that it waits for its turn
        store.mark_dead("prod", "room", 0)
        await beat_once(pod)
        store.release_held()
        await asyncio.gather(claim, forced)

        assert pod.owned("alice") is not None


async def test_resumes_over_two_lives(run_pods: RunPods, store: MemoryStore) -> None:
    """A handle goes on with what the same process held two lives ago, if nobody else had the uid in between."""
    async with run_pods(1) as (server,):
        handles = [await server.claim("alice")]
        for _ in range(2):
            store.mark_dead("prod", "room", 0)
            await beat_once(server)
            await eventually(lambda: server.owned("alice") not in {None, handles[-1]})
            handles.append(await server.claim("alice"))
        after = [handles[2].resumes(older) for older in handles[:2]]
        epochs = [handles[2].resumes_epoch(one.epoch) for one in handles]
        older_of_newer = handles[0].resumes_epoch(handles[2].epoch)
        await store.assign(ALICE, PodLife(7, 1))
        await eventually(lambda: server.owned("alice") is None)
        await server.remove_linked_pod("", "alice", "room")
        another = await server.claim("alice")

        assert ([True] * 2, [False] * 3) == (after, [another.resumes(older) for older in handles])
        assert ([True] * 3, [False] * 3) == (epochs, [another.resumes_epoch(older.epoch) for older in handles])
        assert (False, False, True) == (
            older_of_newer,
            another.resumes_epoch(None),
            another.resumes_epoch(another.epoch),
        )


async def test_a_request_that_began_before(run_pods: RunPods, store: MemoryStore) -> None:
    """What a later request has kept is good for one that began before the uid was claimed again, and the reverse."""
    async with run_pods(1) as (server,):
        earlier = Sticky(server, "alice", await server.claim("alice"))
        store.mark_dead("prod", "room", 0)
        await beat_once(server)
        await eventually(lambda: server.owned("alice") not in {None, earlier.ownership})
        later = Sticky(server, "alice", await server.claim("alice"))

        assert earlier.epoch != later.epoch
        assert [True] * 4 == [one.continues(other.epoch) for one in (earlier, later) for other in (earlier, later)]
        assert not later.continues(None)
        assert not Sticky(server, "bob", NoOwnership("bob", "/rooms/bob")).continues(later.epoch)


@pytest.mark.parametrize("how", ["another life", "release"])
async def test_lost_handle_resumes_nothing(run_pods: RunPods, store: MemoryStore, how: str) -> None:
    """A handle that has gone on with an older one does so no more once it is given up itself."""
    async with run_pods(1) as (pod,):
        await eventually(lambda: bool(store._listeners))
        before = await pod.claim("alice")
        if how == "release":
            await before.release()
        else:
            store.mark_dead("prod", "room", 0)
            await beat_once(pod)
            await reclaim_ended(pod)
        after = await pod.claim("alice")
        resumed = after.resumes(before)
        await after.release()

        assert (True, False) == (resumed, after.resumes(before))


async def test_answer_after_the_end(run_pods: RunPods, store: MemoryStore) -> None:
    """A claim that is answered after the pod has said goodbye is lost at once, and whoever asks is told so."""
    async with run_pods(1) as (pod,):
        store.hold("claim", answers=True)
        claiming = asyncio.create_task(pod.claim("alice"))
        await store.wait_held()
        await pod._heartbeats.say_goodbye()
        store.release_held()
        handle = await claiming
        await asyncio.wait_for(handle.lost(), 1.0)

        assert (False, []) == (handle.is_owned(), held_by(pod))


async def test_nothing_to_look_after(run_pods: RunPods, store: MemoryStore) -> None:
    """A pod that owns nothing asks the store for no links."""
    async with run_pods(1) as (pod,):
        await eventually(lambda: bool(store._listeners))
        before = store.operations["get_links"]
        await look_after(pod)

        assert before == store.operations["get_links"]


class TestOvertaken:
    """An answer that is overtaken by an invalidation is looked at again before it counts."""

    @pytest.mark.parametrize("take", ["claim", "set", "try_set"])
    @pytest.mark.parametrize("other", ["forced", "removed"])
    async def test_by_another_pod(self, run_pods: RunPods, store: MemoryStore, take: str, other: str) -> None:
        """What another pod got while the answer was in flight, by force or after a removal, is not the first one's."""
        async with run_pods(2) as (first, second):
            await asyncio.sleep(0.01)  # so that both listen
            store.hold("claim", "assign", answers=True)
            taking = asyncio.create_task(taken(first, take))
            await store.wait_held()
            store.hold_no_more()
            if other == "forced":
                await second.set_linked_pod("", "alice", "room", 1)
            else:
                await second.remove_linked_pod("", "alice", "room")
                await second.claim("alice")
            store.release_held()
            await taking

            assert [False, True] == [first.owned("alice") is not None, second.owned("alice") is not None]

    async def test_while_nothing_was_heard(self, run_pods: RunPods, store: MemoryStore) -> None:
        """An answer that was in flight when the pod began to listen again is looked at too."""
        async with run_pods(2) as (first, second):
            await eventually(lambda: len(store._listeners) == 2)
            store.hold("claim", answers=True)
            claiming = asyncio.create_task(first.claim("alice"))
            await store.wait_held()
            store.hold_no_more()
            store.deafen()
            await second.set_linked_pod("", "alice", "room", 1)
            await eventually(lambda: not store._listeners)
            store.hear_again()
            await eventually(lambda: len(store._listeners) == 2)
            store.release_held()

            assert (False, 1) == ((await claiming).is_owned(), (await claiming).pod_index)

    async def test_its_own_claim_is_kept(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A claim that is looked at again, and found right, tells what the first answer told."""
        async with run_pods(1) as (pod,):
            await store.claim(ALICE, PodLife(0, 1))
            store.hold("claim", answers=True)
            claiming = asyncio.create_task(pod.claim("alice"))
            await store.wait_held()
            miss_events(pod)
            store.release_held()
            handle = await claiming

            assert (True, True) == (handle.is_owned(), handle.inherited)
            assert handle.previous is not None


async def taken(pod: ServerDriver, how: str) -> object:
    if how == "claim":
        return await pod.claim("alice")
    return await (pod.set_linked_pod if how == "set" else pod.try_set_linked_pod)("", "alice", "room", 0)


class TestGivenUp:
    """Whatever gives a uid up drops the handle before it asks; whatever takes one first settles a lost release."""

    @pytest.mark.parametrize("how", ["release", "remove", "remove_with_id", "set"])
    async def test_before_the_question(self, run_pods: RunPods, store: MemoryStore, how: str) -> None:
        """The handle is not owned any more once the call has begun, whenever its answer comes."""
        async with run_pods(2) as (pod, _):
            handle = await pod.claim("alice")
            store.hold()
            ways: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                "release": handle.release,
                "remove": lambda: pod.remove_linked_pod("", "alice", "room"),
                "remove_with_id": lambda: pod.remove_linked_pod_with_id("", "alice", "room", 0),
                "set": lambda: pod.set_linked_pod("", "alice", "room", 1),
            }
            giving = asyncio.create_task(ways[how]())
            await store.wait_held()
            owned = handle.is_owned()
            store.release_held()
            await giving

            assert not owned

    @pytest.mark.parametrize("take", ["claim", "set", "try_set"])
    async def test_a_lost_release_is_settled(self, run_pods: RunPods, store: MemoryStore, take: str) -> None:
        """A release that was not answered, and arrives after the uid was taken again, ends nothing."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.fail_with(TIMEOUT, "release")
            with pytest.raises(StoreTimeoutError):
                await handle.release()
            store.fail_with(None)
            await taken(pod, take)
            late = await store.release(ALICE, pod_index=0, epoch=handle.epoch)

            assert not late.done
            assert pod.owned("alice") is not None

    @pytest.mark.parametrize("second", ["in grace", "not sent"])
    async def test_another_release_settles_it_only_if_it_ended_the_epoch(
        self, run_pods: RunPods, store: MemoryStore, second: str
    ) -> None:
        """A lost release ends no later claim, also if another one left the link in grace, or was not sent at all.

        Found by the simulator, seed 11: the claim revived the epoch that the lost release names.
        """
        away = StoreUnavailableError("away", operation="release", maybe_applied=False)
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.fail_with(TIMEOUT, "release")
            with pytest.raises(StoreTimeoutError):
                await handle.release()
            store.fail_with(away if second == "not sent" else None)
            with contextlib.suppress(StoreUnavailableError):
                await handle.release(grace=60)
            store.fail_with(None)
            await pod.claim("alice")
            late = await store.release(ALICE, pod_index=0, epoch=handle.epoch)

            assert not late.done
            assert pod.owned("alice") is not None

    async def test_a_lost_removal_ends_no_later_claim(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A removal names the epoch of the link, be it without a handle: one that arrives late ends nothing."""
        async with run_pods(1) as (pod,):
            before = await store.assign(ALICE, PodLife(7, 1))
            sent: list[dict[str, object]] = []
            release = store.release

            async def note(key: LinkKey, **settings: Any) -> Any:
                sent.append(settings)
                return await release(key, **settings)

            store.release = note  # type: ignore[method-assign]  # what is sent is the fact
            removed = await pod.remove_linked_pod("", "alice", "room")

            assert before.link is not None
            assert removed
            assert [before.link.epoch] == [settings["epoch"] for settings in sent]

    async def test_removal_for_another_pod(self, run_pods: RunPods) -> None:
        """A removal of the link if another pod has it leaves what this pod owns alone."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            removed = await pod.remove_linked_pod_with_id("", "alice", "room", 7)

            assert (False, True) == (removed, handle.is_owned())

    async def test_removal_of_what_has_moved(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A removal by a pod whose handle is out of date removes the link all the same, whoever holds it."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice")
            store.deafen()
            await store.assign(ALICE, PodLife(7, 1))
            removed = await pod.remove_linked_pod("", "alice", "room")

            assert removed
            assert await store.get_link(ALICE) is None


class TestWaiting:
    """Turns of one uid wait within the deadline of the call, and claims share one."""

    async def test_one_claim(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Claims at the same time are one claim in the store."""
        async with run_pods(1) as (pod,):
            await eventually(lambda: bool(store._listeners))
            before = store.operations["claim"]
            handles = await asyncio.gather(*(pod.claim("alice") for _ in range(50)))

            assert (1, 1) == (store.operations["claim"] - before, len({id(handle) for handle in handles}))

    async def test_not_over_a_release(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A claim that comes after a release joins no claim from before it."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.hold("claim", answers=True)
            older = asyncio.create_task(pod.claim("alice"))
            await store.wait_held()
            releasing = asyncio.create_task(handle.release())
            await asyncio.sleep(0)
            newer = asyncio.create_task(pod.claim("alice"))
            await asyncio.sleep(0)
            store.release_held()
            await releasing

            assert [False, True] == [(await older).is_owned(), (await newer).is_owned()]

    async def test_who_shares_a_claim_that_timed_out_asks_again(
        self, run_pods: RunPods, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim that joined another one, which the store did not answer in time, uses the time that it has left."""
        claim, go_on, asked = store.claim, asyncio.Event(), []

        async def late_once(key: LinkKey, owner: PodLife, **settings: Any) -> Any:
            asked.append(key.uid)
            if len(asked) == 1:
                await go_on.wait()
                raise TIMEOUT
            return await claim(key, owner, **settings)

        async with run_pods(1) as (pod,):
            monkeypatch.setattr(store, "claim", late_once)
            first, second = asyncio.create_task(pod.claim("alice")), asyncio.create_task(pod.claim("alice"))
            await asyncio.sleep(0)  # so that they begin
            go_on.set()

            assert (await second).is_owned()
            with pytest.raises(StoreTimeoutError):
                await first
            assert ["alice"] * 2 == asked

    async def test_forced_write_of_a_lost_life(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A forced write that is answered after the store has lost the life of the pod is claimed again."""
        async with run_pods(1) as (pod,):
            store.hold("assign", answers=True)
            forcing = asyncio.create_task(pod.set_linked_pod("", "alice", "room", 0))
            await store.wait_held()
            store._pods.clear()
            await beat_once(pod)
            store.release_held()
            await forcing
            await beat_once(pod)
            await reclaim_ended(pod)

            assert pod.owned("alice") is not None

    async def test_within_the_deadline(self, make_server: MakeServer, store: MemoryStore) -> None:
        """Calls for one uid that wait for their turns, and get no answer, all end within one deadline."""
        async with make_server(call_deadline=0.05) as pod:
            handle = await pod.claim("alice")
            store.hold("claim", "release", "assign", "get_link")
            calls = [
                pod.set_linked_pod("", "alice", "room", 0),
                pod.claim("alice"),
                handle.release(),
                pod.claim("alice"),
                pod.set_linked_pod("", "alice", "room", 0),
                pod.remove_linked_pod("", "alice", "room"),
                pod.claim("alice"),
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            store.release_held()

            assert [StoreTimeoutError] * 7 == [type(outcome) for outcome in outcomes]
            assert 0 == turns_of(pod)


class TestEmptiedStore:
    """What was owned when the store came back empty is resumed, if nobody can have had it in between."""

    async def test_resumes(self, run_pods: RunPods, store: MemoryStore) -> None:
        """All uids of pods that lived are theirs again, and what the pods remember of them is good."""
        uids = [f"user-{i}" for i in range(100)]
        async with run_pods(1) as (pod,):
            before = [await pod.claim(uid) for uid in uids]
            store.lose_all()
            await beat_once(pod)
            await eventually(lambda: all(pod.owned(uid) for uid in uids))
            after = [await pod.claim(uid) for uid in uids]

            assert [True] * 100 == [new.resumes(old) for new, old in zip(after, before, strict=True)]
            assert [False] * 100 == [handle.inherited for handle in after]

    async def test_a_link_is_missed_first(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod that misses a link before it knows that the store was lost claims it again, and resumes it."""
        async with run_pods(1) as (pod,):
            before = await pod.claim("alice")
            store.lose_all()
            await look_after(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert (await pod.claim("alice")).resumes(before)

    @pytest.mark.parametrize("placed", [False, True])
    async def test_a_link_is_missed_before_it_is_claimed_again(
        self, run_pods: RunPods, store: MemoryStore, placed: bool
    ) -> None:
        """A pod whose next life has begun, and that looks at its links before all are claimed again, loses none."""
        uids = [f"user-{i}" for i in range(50)]
        async with run_pods(1) as (pod,):
            before = [await pod.claim(uid) for uid in uids]
            life = PodLife(0, pod.incarnation)
            store.lose_all()
            if placed:  # by a client that knows the old life
                await store.place_links("prod", [(uid, life) for uid in uids], "room", 60.0)
            store.hold("claim")
            await beat_once(pod)
            await store.wait_held(16)
            left = await pod._checks.look_at(uids)
            held = len(held_by(pod))
            store.release_held()
            await reclaim_ended(pod)
            resumed = [(await pod.claim(uid)).resumes(old) for uid, old in zip(uids, before, strict=True)]

            assert ([], 50) == (left, held)
            assert [True] * 50 == resumed

    async def test_placed_meanwhile(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that a client placed on the old life of its pod is resumed too."""
        async with run_pods(1) as (pod,):
            before = await pod.claim("alice")
            store.lose_all()
            await store.place(ALICE, PodLife(0, pod.incarnation), 60.0)
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert (await pod.claim("alice")).resumes(before)

    @pytest.mark.parametrize("grace", [0.0, 1.0])
    async def test_somebody_had_it(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock, grace: float
    ) -> None:
        """A uid that another pod had in between is not resumed, though nothing but a mark is left of that."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other pod claims
            await eventually(lambda: not store._listeners)
            store.lose_all()
            await (await other.claim("alice")).release(grace)
            clock.advance(2.0)
            await beat_once(pod)
            await reclaim_ended(pod)
            after = await pod.claim("alice")

            assert (True, False) == (after.is_owned(), after.resumes(before))

    async def test_lease_had_ended(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """A uid is not resumed if the pod heard of the loss after its lease: in between it may have been taken over."""
        async with make_server(heartbeat=5.0, lease=20.0) as pod:
            before = await pod.claim("alice")
            clock.advance(21.0)
            store.lose_all()
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert not (await pod.claim("alice")).resumes(before)

    async def test_too_long_ago(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """A uid is not resumed once a mark of another pod's tenure would be gone."""
        async with make_server() as pod:
            before = await pod.claim("alice")
            clock.advance(61.0)
            store.lose_all()
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert not (await pod.claim("alice")).resumes(before)

    @pytest.mark.parametrize("had", [False, True])
    async def test_an_unanswered_claim(self, run_pods: RunPods, store: MemoryStore, had: bool) -> None:
        """A claim after a loss that is repeated, as its answer was lost, is told the same."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other pod claims
            await eventually(lambda: not store._listeners)
            store.lose_all()
            if had:
                await (await other.claim("alice")).release()
            claims = store.operations["claim"]
            store.fail_with(TIMEOUT, "claim", applied=True)
            await beat_once(pod)
            await eventually(lambda: store.operations["claim"] > claims)
            await reclaim_ended(pod)
            store.fail_with(None)
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert (not had) is (await pod.claim("alice")).resumes(before)

    @pytest.mark.parametrize("how", ["timed out", "cancelled"])
    async def test_an_unanswered_claim_that_is_lost(self, run_pods: RunPods, store: MemoryStore, how: str) -> None:
        """A uid is not resumed after a claim without an answer whose link was lost, if somebody had it before that."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other pod claims
            await eventually(lambda: not store._listeners)
            store.lose_all()
            await (await other.claim("alice")).release()
            if how == "cancelled":
                store.hold("claim", answers=True)
                await beat_once(pod)
                await store.wait_held()
                await cut_reclaim_off(pod)
                store.release_held()
            else:
                claims = store.operations["claim"]
                store.fail_with(TIMEOUT, "claim", applied=True)
                await beat_once(pod)
                await eventually(lambda: store.operations["claim"] > claims)
                await reclaim_ended(pod)
                store.fail_with(None)
            store.expire_link(ALICE)
            await beat_once(pod)
            await eventually(lambda: pod.owned("alice") not in {None, before})

            assert not (await pod.claim("alice")).resumes(before)

    async def test_release_and_claim(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that was released and claimed again by the same process is resumed, if nobody had it in between."""
        async with run_pods(2) as (pod, other):
            first = await pod.claim("alice")
            await first.release()
            second = await pod.claim("alice")
            resumed = second.resumes(first)
            await second.release()
            await (await other.claim("alice")).release()
            third = await pod.claim("alice")

            assert (True, False) == (resumed, third.resumes(second))

    async def test_a_death_is_no_loss_of_links(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod that was taken for dead does not say that it reclaims: its links are there."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice")
            store.mark_dead("prod", "room", 0)
            store.hold("claim")
            await beat_once(pod)
            await store.wait_held()
            (during,) = (await store.read_pods("prod", "room")).pods
            store.release_held()

            assert not during.report.reclaiming

    async def test_it_says_that_it_reclaims(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod reports that it claims again from its registration on, until it has."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice")
            store.lose_all()
            store.hold("claim")
            await beat_once(pod)
            await store.wait_held()
            (during,) = (await store.read_pods("prod", "room")).pods
            store.release_held()
            await reclaim_ended(pod)  # it says so itself, and not with the next heartbeat
            (after,) = (await store.read_pods("prod", "room")).pods

            assert (True, False) == (during.report.reclaiming, after.report.reclaiming)

    async def test_nothing_to_reclaim(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A pod that owned nothing does not say that it claims again, as nobody has to wait for it."""
        async with run_pods(1) as (pod,):
            store.lose_all()
            store.hold("register", answers=True)
            beating = asyncio.create_task(beat_once(pod))
            await store.wait_held()
            (state,) = (await store.read_pods("prod", "room")).pods
            store.release_held()
            await beating

            assert not state.report.reclaiming


class TestOneOfMany:
    """What cannot be looked at, claimed or released now holds up nothing else, and is not forgotten."""

    async def test_a_link_that_cannot_be_read(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A link whose part of the store is away keeps the pod from hearing about no other."""
        get_links = store.get_links

        async def without_alice(namespace: str, uids: Sequence[str], service_name: str) -> Any:
            links = await get_links(namespace, uids, service_name)
            return [AWAY if uid == "alice" else link for uid, link in zip(uids, links, strict=True)]

        async with run_pods(2) as (first, second):
            for uid in ("alice", "bob"):
                await first.claim(uid)
            store.get_links = without_alice  # type: ignore[method-assign]  # one part of the store is away
            store.deafen()
            await eventually(lambda: not store._listeners)
            store.hear_again()
            await eventually(lambda: len(store._listeners) == 2)
            beats = store.operations["heartbeat"]
            await second.set_linked_pod("", "bob", "room", 1)
            await eventually(lambda: first.owned("bob") is None)

            assert first.owned("alice") is not None
            assert store.operations["heartbeat"] <= beats + 1

    async def test_uids_that_cannot_be_claimed_again(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Uids that cannot be claimed again keep none of the others from it."""
        good, bad = [f"good-{i}" for i in range(100)], [f"bad-{i}" for i in range(40)]
        claim = store.claim

        async def without_bad(key: LinkKey, owner: PodLife, **settings: Any) -> Any:
            if key.uid in bad:
                raise AWAY
            return await claim(key, owner, **settings)

        async with run_pods(1) as (pod,):
            for uid in bad + good:
                await pod.claim(uid)
            store.claim = without_bad  # type: ignore[method-assign]  # one part of the store is away
            store._pods.clear()
            for _ in range(2):
                await beat_once(pod)
                await reclaim_ended(pod)

            assert all(pod.owned(uid) for uid in good)
            assert (True, True) == (reclaims(pod), report_of(pod).reclaiming)

            store.claim = claim  # type: ignore[method-assign]  # it is back
            await beat_once(pod)
            await reclaim_ended(pod)

            assert all(pod.owned(uid) for uid in bad)
            assert not reclaims(pod)
            assert set() == pod._reclaim._unclaimed

    async def test_reclaiming_is_told_for_a_lease(
        self, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that cannot claim all again says that it reclaims for a lease at most."""
        async with run_pods(1) as (pod,):
            await pod.claim("alice")
            store.fail_with(AWAY, "claim")
            store._pods.clear()
            await beat_once(pod)
            told = report_of(pod).reclaiming
            clock.advance(501.0)

            assert (True, False, True) == (told, report_of(pod).reclaiming, reclaims(pod))

    async def test_a_link_that_is_lost_without_a_word(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Two pods own what the store has lost for as long as it takes to look at all links once."""
        async with run_pods(2) as (first, second):
            for i in range(150):
                await first.claim(f"user-{i}")
            await first.claim("alice")
            store.expire_link(ALICE)
            await second.claim("alice")
            for _ in range(2):
                await look_after(first)

            assert [False, True] == [pod.owned("alice") is not None for pod in (first, second)]
            assert 150 == len(held_by(first))

    async def test_a_life_whose_lease_has_ended_resumes_nothing(
        self, make_server: MakeServer, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that could not claim again what one loss took resumes nothing after a second one that it missed."""
        settings = {"heartbeat": 5.0, "lease": 20.0}
        async with make_server(0, **settings) as pod, make_server(1, **settings) as other:
            older = await pod.claim("alice")
            store.lose_all()
            store.fail_with(AWAY, "claim")
            await beat_once(pod)
            await pod._reclaim.wait(1.0)
            store.fail_with(None)
            clock.advance(21.0)
            await beat_once(other)
            await (await other.claim("alice")).release()
            store.lose_all()
            await pod.claim("alice")
            await beat_once(pod)
            await pod._reclaim.wait(1.0)
            newer = pod.owned("alice")

            assert newer is not None
            assert not newer.resumes(older)

    async def test_what_an_emptied_store_lacks_is_not_lost(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Who looks at a link before the heartbeat tells that the store was emptied keeps it, and claims it again."""
        async with run_pods(1) as (pod,):
            older = {uid: await pod.claim(uid) for uid in ("alice", "bob")}
            store.lose_all()
            await look_after(pod)
            await pod._reclaim.wait(1.0)
            newer = {uid: pod.owned(uid) for uid in older}

            assert [True, True] == [handle is not None and handle.resumes(older[uid]) for uid, handle in newer.items()]

    async def test_what_is_to_be_claimed_again_is_not_lost(self, run_pods: RunPods, store: MemoryStore) -> None:
        """Who looks at a link that could not be claimed again yet keeps it: it is not there because it was lost."""
        async with run_pods(1) as (pod,):
            older = await pod.claim("alice")
            store.lose_all()
            store.fail_with(AWAY, "claim")
            await beat_once(pod)
            await pod._reclaim.wait(1.0)
            store.fail_with(None)
            await look_after(pod)
            await beat_once(pod)
            await pod._reclaim.wait(1.0)
            newer = pod.owned("alice")

            assert newer is not None
            assert newer.resumes(older)

    async def test_a_release_of_a_uid_that_never_comes_back(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A release that was not answered is repeated some day, and not remembered for ever."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.fail_with(TIMEOUT, "release")
            with pytest.raises(StoreTimeoutError):
                await handle.release()
            store.fail_with(None)
            await look_after(pod)

            assert ([], None) == (unsettled(pod), await store.get_link(ALICE))

    async def test_releases_of_a_part_that_is_away(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A release that cannot be repeated now keeps no other from it."""
        release = store.release

        async def without_alice(key: LinkKey, **settings: Any) -> Any:
            if key.uid == "alice":
                raise AWAY
            return await release(key, **settings)

        async with run_pods(1) as (pod,):
            handles = [await pod.claim(uid) for uid in ("alice", "bob")]
            store.fail_with(TIMEOUT, "release")
            for handle in handles:
                with pytest.raises(StoreTimeoutError):
                    await handle.release()
            store.fail_with(None)
            store.release = without_alice  # type: ignore[method-assign]  # one part of the store is away
            for _ in range(2):
                await look_after(pod)

            assert ["alice"] == unsettled(pod)

    async def test_an_older_release_does_not_settle_a_newer_one(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A claim settles the release that may still end it, though an older one was answered in between."""
        async with run_pods(1) as (pod,):
            older = await pod.claim("alice")
            store.fail_with(AWAY, "release")
            with pytest.raises(StoreUnavailableError):
                await older.release()
            store.fail_with(None)
            await store.release(ALICE)
            newer = await pod.claim("alice")
            store.fail_with(TIMEOUT, "release")
            with pytest.raises(StoreTimeoutError):
                await newer.release()
            store.fail_with(None)
            await older.release()
            await pod.claim("alice")
            late = await store.release(ALICE, pod_index=0, epoch=newer.epoch)

            assert not late.done

    async def test_a_release_that_never_had_its_turn(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that was given up is not claimed again by the next life, though its release was never sent."""
        async with run_pods(1) as (pod,):
            handle = await pod.claim("alice")
            store.hold("claim")
            claiming = asyncio.create_task(pod.claim("alice"))
            await store.wait_held()
            releasing = asyncio.create_task(handle.release())
            await asyncio.sleep(0)
            for task in (releasing, claiming):
                task.cancel()
            await asyncio.wait([releasing, claiming])
            store.release_held()
            store.mark_dead("prod", "room", 0)
            await beat_once(pod)
            await reclaim_ended(pod)

            assert ([], None) == (held_by(pod), pod.owned("alice"))


class TestWhatResumes:
    """``resumes`` is true only if nobody can have had the uid in between."""

    async def test_by_force(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A forced link does not tell who had the uid in between, so nothing is resumed by it."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other pod claims
            await eventually(lambda: not store._listeners)
            store.lose_all()
            await (await other.claim("alice")).release()
            store.fail_with(AWAY, "claim")
            await beat_once(pod)
            await reclaim_ended(pod)
            await pod.set_linked_pod("", "alice", "room", 0)
            after = pod.owned("alice")

            assert after is not None
            assert not after.resumes(before)

    @pytest.mark.parametrize("how", ["own mark", "dead", "unreadable"])
    async def test_what_the_store_has(self, run_pods: RunPods, store: MemoryStore, how: str) -> None:
        """A mark of the own tenure tells that nobody had the uid since; no mark after a death does not."""
        async with run_pods(1) as (pod,):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost with the link
            await eventually(lambda: not store._listeners)
            if how == "unreadable":
                store.lose_all()
                store.poison_link(ALICE)
            else:
                store.mark_dead("prod", "room", 0)
                if how == "own mark":
                    await store.release(ALICE)
                else:
                    store.expire_link(ALICE)
            await beat_once(pod)
            await reclaim_ended(pod)
            after = await pod.claim("alice")

            assert (True, how == "own mark") == (after.is_owned(), after.resumes(before))

    async def test_nothing_is_known(self, make_server: MakeServer, store: MemoryStore, clock: ManualClock) -> None:
        """A claim goes on with no handle of which nothing is known, as one has while an older life is waited for."""
        older = make_server()
        await older.start()
        await older._beating.stop()  # as if it were killed
        async with make_server() as pod:
            await eventually(lambda: bool(store._listeners))
            before = await pod.claim("alice")
            clock.advance(501.0)
            await beat_once(pod)
            after = await pod.claim("alice")

            assert (None, True, False) == (before.epoch, after.is_owned(), after.resumes(before))
        await older.stop()

    async def test_another_process_had_it(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A uid that another process with the same index had after the store was lost is inherited, not resumed."""
        async with run_pods(1) as (pod,):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other process claims
            await eventually(lambda: not store._listeners)
            store.lose_all()
            await store.claim(ALICE, PodLife(0, pod.incarnation + 1))
            await beat_once(pod)
            await reclaim_ended(pod)
            after = await pod.claim("alice")

            assert (True, True, False) == (after.is_owned(), after.inherited, after.resumes(before))

    async def test_lost_twice(self, run_pods: RunPods, store: MemoryStore) -> None:
        """What was not claimed again before a second loss of the store is not resumed: a mark was lost with it."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            store.deafen()  # or the handle would be lost as the other pod claims
            await eventually(lambda: not store._listeners)
            store.fail_with(AWAY, "claim")
            store.lose_all()
            await beat_once(pod)
            await reclaim_ended(pod)
            store.fail_with(None)
            await beat_once(other)
            await (await other.claim("alice")).release()
            store.lose_all()
            await beat_once(pod)
            await reclaim_ended(pod)
            after = await pod.claim("alice")

            assert (True, False) == (after.is_owned(), after.resumes(before))

    async def test_a_mark_is_of_the_last_tenure(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A mark of an own tenure says nothing once another pod has claimed the uid since, be its link lost."""
        async with run_pods(2) as (pod, other):
            before = await pod.claim("alice")
            await before.release()
            await other.claim("alice")
            store.expire_link(ALICE)
            after = await pod.claim("alice")

            assert (True, False) == (after.is_owned(), after.resumes(before))

    async def test_the_clock_is_put_back(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """The epoch of a uid that is claimed again rises, though the clock of the store was put back."""
        async with run_pods(1) as (pod,):
            before = await pod.claim("alice")
            await before.release()
            store._clock = lambda: clock() - 10.0
            after = await pod.claim("alice")

            assert before.epoch is not None
            assert after.epoch is not None
            assert before.epoch < after.epoch

    async def test_a_mark_from_before_a_failover(self, run_pods: RunPods, store: MemoryStore) -> None:
        """A release is resumed by its mark only if all was heard since: a store that was rolled back has old marks."""
        async with run_pods(1) as (pod,):
            await eventually(lambda: bool(store._listeners))
            before = await pod.claim("alice")
            await before.release()
            store.deafen()
            await eventually(lambda: not store._listeners)
            store.hear_again()
            after = await pod.claim("alice")

            assert (True, False) == (after.is_owned(), after.resumes(before))
