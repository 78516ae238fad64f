"""The client driver over a store in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from stateful_route import (
    BatchError,
    ClientDriver,
    InvalidArgumentError,
    LifecycleError,
    LinkKind,
    NoRoutablePodError,
    RoutingState,
    StoreError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey
from tests.insides import directory_of
from tests.unit.conftest import CONFIG
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from stateful_route import Link
    from stateful_route.links import LinkChange
    from stateful_route.placement import Candidate
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, RunPods

    C = TypeVar("C", bound=Candidate)

ALICE = LinkKey("prod", "alice", "room")
AWAY = StoreUnavailableError("away", operation="place", maybe_applied=False)
BROKEN = StoreError("broken", operation="place", maybe_applied=False)
TIMEOUT = StoreTimeoutError("no answer", operation="place", maybe_applied=True)


class _SomeFail:
    """A store that does not answer for some uids of a batch."""

    def __init__(self, store: MemoryStore, failing: dict[str, StoreError]) -> None:
        self._store = store
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        answers = await self._store.get_links(namespace, uids, service_name)
        return [self._failing.get(uid, answer) for uid, answer in zip(uids, answers, strict=True)]

    async def place_links(
        self, namespace: str, candidates: Sequence[tuple[str, PodLife]], *args: Any, **lives: Any
    ) -> list[LinkChange | StoreError]:
        answers = await self._store.place_links(namespace, candidates, *args, **lives)
        return [self._failing.get(uid, answer) for (uid, _), answer in zip(candidates, answers, strict=True)]


def asked(store: MemoryStore) -> dict[str, int]:
    """Return what the store was asked since the last time, heartbeats apart."""
    counted = {name: n for name, n in store.operations.items() if name not in {"heartbeat", "register"}}
    store.operations.clear()
    return counted


class TestComputeLinkedPod:
    async def test_pod_0(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """Pod 0 is a pod: it is chosen, returned, cached and found."""
        async with run_pods(1), make_client() as client:
            first = await client.compute_linked_pod("prod", "alice", "room")
            asked(store)
            second = await client.compute_linked_pod("prod", "alice", "room")
            cached = await client.get_linked_in_cache("prod", "alice", "room")

            assert (0, 0, 0) == (first, second, cached)
            assert {} == asked(store)

    async def test_first_call_of_a_service(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore
    ) -> None:
        """The first miss of a service reads its pods once, and each later miss is one call."""
        async with run_pods(2), make_client() as client:
            await client.compute_linked_pod("prod", "alice", "room")
            first = asked(store)
            await client.compute_linked_pod("prod", "bob", "room")
            second = asked(store)

        assert {"read_pods": 1, "place": 1} == first
        assert {"place": 1} == second

    async def test_hits_cost_no_call(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A cached uid costs no call, whatever method asks for it."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("prod", "alice", "room")
            asked(store)
            answers = [
                await client.compute_linked_pod("prod", "alice", "room"),
                await client.get_linked_pod("prod", "alice", "room"),
                await client.get_linked_in_cache("prod", "alice", "room"),
                await client.get_linked_pod_in_cache_or_if_persist("prod", "alice", "room"),
                (await client.route("prod", "alice", "room")).pod_index,
                (await client.service("room").route("alice")).pod_index,
            ]
            batches = [
                await client.batch_get_linked_pod("prod", ["alice"], "room"),
                await client.batch_compute_linked_pod("prod", ["alice"], "room"),
            ]

            assert [0] * 6 == answers
            assert [{0: ["alice"]}] * 2 == batches
            assert {} == asked(store)

    async def test_empty_namespace(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """An empty namespace means the driver's own, in the cache too."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("", "alice", "room")
            asked(store)

            assert await client.get_linked_in_cache("prod", "alice", "room") == 0
            assert await client.compute_linked_pod("prod", "alice", "room") == 0
            assert {} == asked(store)
            assert await store.get_link(ALICE) is not None

    async def test_other_namespace(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A uid of another namespace or service is another uid."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("prod", "alice", "room")

            assert await client.get_linked_in_cache("test", "alice", "room") is None
            assert await client.get_linked_in_cache("prod", "alice", "doc") is None
            assert await client.get_linked_pod("test", "alice", "room") is None

    async def test_1000_at_once(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """1000 calls at once for one uid make one call of the store, and agree."""
        async with run_pods(3), make_client() as client:
            calls = [client.compute_linked_pod("prod", "alice", "room") for _ in range(1000)]
            pods = await asyncio.gather(*calls)
            statistics = client.statistics()

            assert 1 == len(set(pods))
            assert {"read_pods": 1, "place": 1} == asked(store)
            assert (1000, 999, 1) == (statistics.misses, statistics.joined, statistics.placed)

    async def test_error_reaches_all(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """If the one call fails, each of the callers gets its error, and the next call asks again."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("prod", "bob", "room")
            store.fail_with(AWAY, "place")
            calls = [client.compute_linked_pod("prod", "alice", "room") for _ in range(10)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            store.fail_with(None)

            assert [AWAY] * 10 == errors
            assert await client.compute_linked_pod("prod", "alice", "room") == 0

    async def test_no_pods(self, make_client: MakeClient) -> None:
        """Without any pod the error says so."""
        async with make_client() as client:
            with pytest.raises(NoRoutablePodError, match="none was ever seen") as caught:
                await client.compute_linked_pod("", "alice", "room")

        assert ("prod", "room", ()) == (caught.value.namespace, caught.value.service_name, caught.value.pods)

    async def test_no_routable_pod(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """If all pods deny new calls the error says what is known of them, and linked uids are still found."""
        async with run_pods(2) as pods, make_client() as client, make_client() as other:
            linked = await client.compute_linked_pod("prod", "alice", "room")
            for pod in pods:
                await pod.set_routing_state(RoutingState.DENY_NEW_CALL)
            with pytest.raises(NoRoutablePodError, match=r"0: DENY_NEW_CALL, last heartbeat 0\.0 s ago") as caught:
                await other.compute_linked_pod("prod", "bob", "room")

            assert [0, 1] == [pod.pod_index for pod in caught.value.pods]
            assert linked == await other.compute_linked_pod("prod", "alice", "room")

    async def test_pod_that_came(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A pod that came after the table was read is found before a call fails for want of pods."""
        async with make_client() as client:
            with pytest.raises(NoRoutablePodError):
                await client.compute_linked_pod("prod", "alice", "room")
            async with run_pods(1):
                assert await client.compute_linked_pod("prod", "alice", "room") == 0

    async def test_renewal(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A miss renews a temporary link with the same epoch; when it has ended there is another one."""
        async with run_pods(1), make_client(cache_ttl=1.0, link_ttl=50.0) as client:
            first = await client.route("prod", "alice", "room")
            clock.advance(30.0)
            second = await client.route("prod", "alice", "room")
            clock.advance(50.0)
            gone = await client.find("prod", "alice", "room")
            third = await client.route("prod", "alice", "room")

        assert (first.epoch, 50.0) == (second.epoch, second.ttl)
        assert gone is None
        assert third.epoch > first.epoch

    async def test_unreadable_link(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """An unreadable link is replaced, and counted."""
        store.poison_link(ALICE)
        async with run_pods(1), make_client() as client:
            assert await client.compute_linked_pod("prod", "alice", "room") == 0
            assert (1, 1) == (client.statistics().unreadable, client.statistics().placed)

    async def test_draining_owner_of_grace(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A link in grace goes to another pod if its own is leaving."""
        async with run_pods(2) as pods, make_client() as client:
            handle = await pods[0].claim("alice")
            await handle.release(grace=60.0)
            await pods[0].set_routing_state(RoutingState.DENY_NEW_CALL)

            assert await client.compute_linked_pod("prod", "alice", "room") == 1

    async def test_unusable_pod_is_no_hit(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A cached link whose pod shut down is no hit once the table knows."""
        async with run_pods(2) as pods, make_client() as client:
            pod_index = await client.compute_linked_pod("prod", "alice", "room")
            await pods[pod_index].set_routing_state(RoutingState.SHUTDOWN)
            await directory_of(client).refresh_all()

            assert await client.get_linked_in_cache("prod", "alice", "room") is None

    async def test_failing_strategy(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A strategy that fails for one uid of a batch leaves no placement pending on the pods of the others."""
        calls = []

        def strategy(candidates: Sequence[C], random: Random) -> C:
            calls.append(len(candidates))
            if len(calls) == 3:
                raise RuntimeError("no idea")
            return candidates[0]

        async with run_pods(1), make_client(strategy) as client:
            with pytest.raises(RuntimeError, match="no idea"):
                await client.batch_compute_linked_pod("prod", ["a", "b", "c"], "room")

            assert 0 == directory_of(client).peek("prod", "room").pod(0).own.count


class TestOtherMethods:
    async def test_misses(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """Each call that has to ask the store is one miss."""
        async with run_pods(1), make_client() as client:
            await client.set_linked_pod_if_absent("", "alice", "room", 0)
            one = client.statistics().misses
            await client.get_linked_pod_not_cache("", "alice", "room")

            assert (1, 2) == (one, client.statistics().misses)

    async def test_store_away_is_noted(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A question that the store did not answer lets the pods be read anew before the next placement."""
        async with make_client() as client:
            table = directory_of(client).peek("prod", "room")
            before = table.doubts
            store.fail_with(AWAY, "get_link")
            with pytest.raises(StoreUnavailableError):
                await client.find("prod", "alice", "room")

            assert before < table.doubts

    async def test_set_linked_pod_if_absent(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """It links a uid that has no link, and otherwise says who has it."""
        async with run_pods(2), make_client() as client:
            assert await client.set_linked_pod_if_absent("prod", "alice", "room", 0) == 0
            assert await client.set_linked_pod_if_absent("prod", "alice", "room", 1) == 0
            assert await client.get_linked_pod_not_cache("prod", "alice", "room") == 0

    async def test_never_seen_pods(self, make_client: MakeClient) -> None:
        """Placements on a pod that says nothing of itself are not kept for a heartbeat that never comes."""
        async with make_client() as client:
            for i in range(100):
                await client.set_linked_pod_if_absent("prod", f"u{i}", "room", 7)

            assert 0 == directory_of(client).peek("prod", "room").pod(7).own.count

    @pytest.mark.parametrize(
        "method", ["get_linked_pod", "get_linked_pod_not_cache", "get_linked_pod_in_cache_or_if_persist"]
    )
    async def test_absent(self, make_client: MakeClient, store: MemoryStore, method: str) -> None:
        """A uid without a link is None, for one call of the store, and no pods are read."""
        async with make_client() as client:
            assert await getattr(client, method)("prod", "alice", "room") is None
        assert {"get_link": 1} == asked(store)

    async def test_get_linked_pod_caches(self, make_client: MakeClient, store: MemoryStore) -> None:
        """What get_linked_pod found is cached; what get_linked_pod_not_cache found is not."""
        await store.claim(ALICE, PodLife(0, 1))
        async with make_client() as client:
            assert await client.get_linked_pod_not_cache("prod", "alice", "room") == 0
            assert await client.get_linked_in_cache("prod", "alice", "room") is None
            assert await client.get_linked_pod("prod", "alice", "room") == 0
            assert await client.get_linked_in_cache("prod", "alice", "room") == 0

    @pytest.mark.parametrize("method", ["get_linked_pod", "get_linked_pod_not_cache", "find"])
    async def test_unreadable(self, make_client: MakeClient, store: MemoryStore, method: str) -> None:
        """A link that cannot be read is a typed error, and counted."""
        store.poison_link(ALICE)
        async with make_client() as client:
            with pytest.raises(StoreProtocolError):
                await getattr(client, method)("prod", "alice", "room")

            assert 1 == client.statistics().unreadable

    async def test_in_cache_or_if_persist(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A persistent link is returned and cached."""
        await store.claim(ALICE, PodLife(0, 1))
        async with make_client() as client:
            first = await client.get_linked_pod_in_cache_or_if_persist("prod", "alice", "room")
            second = await client.get_linked_pod_in_cache_or_if_persist("prod", "alice", "room")

        assert (0, 0) == (first, second)
        assert 1 == asked(store)["get_link"]

    async def test_in_cache_or_if_persist_repeated(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A temporary link that is not cached is None, also when the same is asked again."""
        await store.place(ALICE, PodLife(0, 1), 600.0)
        async with make_client() as client:
            first = await client.get_linked_pod_in_cache_or_if_persist("prod", "alice", "room")
            second = await client.get_linked_pod_in_cache_or_if_persist("prod", "alice", "room")

        assert (None, None) == (first, second)

    async def test_grace_is_not_cached(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A link in grace resolves, is not cached, and the next placement revives it."""
        async with run_pods(1) as (pod,), make_client() as client:
            handle = await pod.claim("alice")
            await handle.release(grace=60.0)
            found = await client.get_linked_pod("prod", "alice", "room")
            cached = await client.get_linked_in_cache("prod", "alice", "room")
            batch = await client.batch_get_linked_pod("prod", ["alice"], "room")
            cached_by_batch = await client.get_linked_in_cache("prod", "alice", "room")
            revived = await client.route("prod", "alice", "room")

        assert (0, None) == (found, cached)
        assert ({0: ["alice"]}, None) == (batch, cached_by_batch)
        assert (handle.epoch, LinkKind.TEMPORARY) == (revived.epoch, revived.kind)

    async def test_set_cache(self, make_client: MakeClient, store: MemoryStore) -> None:
        """set_cache and cache_expired return what was cached before, and ask nobody."""
        async with make_client() as client:
            answers = [
                await client.set_cache("prod", "alice", "room", 0),
                await client.set_cache("prod", "alice", "room", 3),
                await client.get_linked_pod("prod", "alice", "room"),
                await client.cache_expired("prod", "alice", "room"),
                await client.cache_expired("prod", "alice", "room"),
                await client.get_linked_in_cache("prod", "alice", "room"),
            ]

        assert [None, 0, 3, 3, None, None] == answers
        assert {} == store.operations

    async def test_cached_by_hand(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A pod that was cached by hand has no link: route asks the store, which is one miss and no hit."""
        async with run_pods(1), make_client() as client:
            await client.set_cache("prod", "alice", "room", 0)
            link = await client.route("prod", "alice", "room")

            assert link.epoch > 0
            assert (0, 1) == (client.statistics().hits, client.statistics().misses)

    async def test_get_link_service(self, make_client: MakeClient, store: MemoryStore) -> None:
        """All services of a uid are listed, temporary links and pod 0 included, those of others not."""
        await store.place(ALICE, PodLife(0, 1), 60.0)
        await store.claim(LinkKey("prod", "alice", "doc"), PodLife(2, 1))
        await store.claim(LinkKey("prod", "bob", "doc"), PodLife(3, 1))
        await store.claim(LinkKey("test", "alice", "mail"), PodLife(4, 1))
        async with make_client() as client:
            assert {"room": 0, "doc": 2} == await client.get_link_service("", "alice")
            assert {} == await client.get_link_service("", "carol")

    async def test_pods(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """The pods of a service are by index, as they last reported."""
        async with run_pods(2) as pods, make_client() as client:
            await pods[1].set_load_state(7)
            await pods[1].set_routing_state(RoutingState.DENY_NEW_CALL)
            found = await client.service("room").pods()

        assert {0: (0, "READY"), 1: (7, "DENY_NEW_CALL")} == {
            i: (pod.load_state.value, pod.report.routing_state.value) for i, pod in found.items()
        }


class TestBatch:
    async def test_duplicates_and_absent(self, make_client: MakeClient, store: MemoryStore) -> None:
        """Each uid is there once however often it was asked for, those without a link are left out."""
        await store.claim(ALICE, PodLife(0, 1))
        await store.claim(LinkKey("prod", "bob", "room"), PodLife(1, 1))
        async with make_client() as client:
            asked(store)
            found = await client.batch_get_linked_pod("", ["alice", "bob", "alice", "carol"], "room")

        assert {0: ["alice"], 1: ["bob"]} == found
        assert 1 == asked(store)["get_links"]

    async def test_pods_are_read(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A batch that finds a link has the pods read, so that what it cached of a dead pod is dropped soon."""
        await store.claim(ALICE, PodLife(0, 1))
        async with make_client() as client:
            asked(store)
            await client.batch_get_linked_pod("", ["alice"], "room")
            await eventually(lambda: "read_pods" in asked(store))

    async def test_cached_are_not_asked(self, make_client: MakeClient, store: MemoryStore) -> None:
        """If all uids are cached the store is not asked, and an empty batch asks nothing."""
        async with make_client() as client:
            await client.set_cache("", "alice", "room", 2)
            found = await client.batch_get_linked_pod("", iter(["alice"]), "room")
            nothing = await client.batch_compute_linked_pod("", [], "room")

        assert {2: ["alice"]} == found
        assert {} == nothing
        assert {} == store.operations

    async def test_unreadable(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A link that cannot be read is left out, and counted."""
        store.poison_link(ALICE)
        await store.claim(LinkKey("prod", "bob", "room"), PodLife(1, 1))
        async with make_client() as client:
            found = await client.batch_get_linked_pod("", ["alice", "bob"], "room")

            assert {1: ["bob"]} == found
            assert 1 == client.statistics().unreadable

    async def test_store_away(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A store that does not answer is an error, not a uid without a link; it is not asked for what is left."""
        async with make_client() as client:
            store.fail_with(AWAY)
            with pytest.raises(StoreUnavailableError, match="away"):
                await client.batch_get_linked_pod("", [f"u{i}" for i in range(5000)], "room")

        assert 1 == asked(store)["get_links"]

    async def test_store_that_raises(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A store that answers for none of the uids leaves each of them with the error."""

        async def get_links(*_: Any, **_settings: Any) -> Any:
            raise AWAY

        store.get_links = get_links  # type: ignore[method-assign]  # the memory store has an answer for each
        async with make_client() as client:
            await client.set_cache("", "carol", "room", 3)
            with pytest.raises(BatchError) as caught:
                await client.batch_get_linked_pod("", ["alice", "bob", "carol"], "room")

        assert {"alice": AWAY, "bob": AWAY} == caught.value.errors

    async def test_store_away_and_cached(self, make_client: MakeClient, store: MemoryStore) -> None:
        """While the store does not answer, what is cached is in the error, wherever it is in the batch."""
        async with make_client() as client:
            await client.set_cache("", "u4999", "room", 3)
            store.fail_with(AWAY)
            with pytest.raises(BatchError) as caught:
                await client.batch_get_linked_pod("", [f"u{i}" for i in range(5000)], "room")

        assert {3: ["u4999"]} == caught.value.links
        assert 4999 == len(caught.value.errors)
        assert "not sent" in str(caught.value.errors["u4998"])

    async def test_compute(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """Each uid without a link gets a pod, all in one call, spread over the pods, and cached."""
        uids = [f"u{i}" for i in range(300)]
        async with run_pods(3), make_client() as client:
            found = await client.batch_compute_linked_pod("", [*uids, *uids], "room")
            calls = asked(store)
            again = await client.batch_compute_linked_pod("", uids, "room")

            assert sorted(uids) == sorted(uid for group in found.values() for uid in group)
            assert [100, 100, 100] == [len(found[pod_index]) for pod_index in range(3)]
            assert {"read_pods": 1, "place_links": 1} == calls
            assert {i: sorted(group) for i, group in found.items()} == {i: sorted(group) for i, group in again.items()}
            assert {} == asked(store)

    async def test_compute_without_pods(self, make_client: MakeClient, store: MemoryStore) -> None:
        """Without a routable pod those that have links are found, and one that has none is an error."""
        await store.claim(ALICE, PodLife(0, 1))
        async with make_client() as client:
            found = await client.batch_compute_linked_pod("", ["alice"], "room")
            with pytest.raises(NoRoutablePodError):
                await client.batch_compute_linked_pod("", ["alice", "bob"], "room")

        assert {0: ["alice"]} == found

    async def test_some_fail(self, run_pods: RunPods, clock: ManualClock, store: MemoryStore) -> None:
        """A uid for which the store does not answer spoils no other one, be it in the same slice or in a later one."""
        uids = [f"u{i}" for i in range(1200)]
        failing = {"u7": TIMEOUT, "u8": BROKEN, "u900": TIMEOUT}
        async with run_pods(2), ClientDriver(_SomeFail(store, failing), CONFIG, clock=clock) as client:
            for method in (client.batch_compute_linked_pod, client.batch_get_linked_pod):
                with pytest.raises(
                    BatchError, match="for 3 of the uids, the first of them 'u7': StoreTimeoutError"
                ) as caught:
                    await method("", uids, "room")

                assert failing == caught.value.errors
                assert set(uids) - failing.keys() == {uid for group in caught.value.links.values() for uid in group}
                assert TIMEOUT is caught.value.__cause__
                assert caught.value.maybe_applied


class TestPeek:
    async def test_only_the_cache(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """It finds what is cached, at the first time and after that, and asks nobody."""
        async with run_pods(1), make_client() as client:
            before = client.peek("prod", "alice", "room")
            placed = await client.service("room").pod_of("alice")
            asked(store)
            found = [client.peek("prod", "alice", "room"), client.peek("", "alice", "room")]
            viewed = client.service("room").peek("alice")

            assert (None, 0, [0, 0], 0) == (before, placed, found, viewed)
            assert {} == asked(store)
            assert 3 == client.statistics().hits

    @pytest.mark.parametrize("wrong", [None, 0, b"alice", ["alice"], ""])
    async def test_no_id(self, make_client: MakeClient, wrong: str) -> None:
        """What is not an id is not cached: that is no error here."""
        async with make_client() as client:
            await client.set_cache("prod", "0", "room", 0)
            found = [
                client.peek("prod", wrong, "room"),
                client.peek("prod", "0", wrong),
                client.peek("x", wrong, wrong),
            ]

            assert [None] * 3 == found

    async def test_after_the_end(self, make_client: MakeClient) -> None:
        """Outside its block a driver knows nothing any more."""
        async with make_client() as client:
            await client.set_cache("prod", "alice", "room", 0)
            cached = client.peek("prod", "alice", "room"), client.peek("prod", "alice", "room")

        assert (0, 0) == cached
        assert client.peek("prod", "alice", "room") is None


class TestCancellation:
    async def test_cancelled_leader(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """If the caller that asks the store is cancelled, the others still get an answer."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("", "bob", "room")
            store.hold("place")
            calls = [asyncio.create_task(client.compute_linked_pod("", "alice", "room")) for _ in range(5)]
            await store.wait_held()
            calls[0].cancel()
            store.release_held()
            answers = await asyncio.gather(*calls, return_exceptions=True)

            assert isinstance(answers[0], asyncio.CancelledError)
            assert [0] * 4 == answers[1:]
            assert 0 == directory_of(client).peek("prod", "room").pod(0).pending

    @pytest.mark.parametrize("answers", [False, True])
    async def test_nothing_stays_pending(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, answers: bool
    ) -> None:
        """A call that is cancelled leaves nothing in flight, whether it was applied or not."""
        async with run_pods(1), make_client() as client:
            await client.compute_linked_pod("", "bob", "room")
            store.hold("place", answers=answers)
            call = asyncio.create_task(client.compute_linked_pod("", "alice", "room"))
            await store.wait_held()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            store.release_held()

            assert 0 == directory_of(client).peek("prod", "room").pod(0).pending
            assert await client.compute_linked_pod("", "alice", "room") == 0

    async def test_answer_after_the_end(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """Outside its block a driver refuses every call, also one whose answer came while it stopped."""
        async with run_pods(1):
            async with make_client() as client:
                await client.compute_linked_pod("", "bob", "room")
                store.hold("place", answers=True)
                call = asyncio.create_task(client.compute_linked_pod("", "alice", "room"))
                await store.wait_held()
            store.release_held()
            await asyncio.wait([call])
            with pytest.raises(LifecycleError):
                await client.compute_linked_pod("", "alice", "room")

    async def test_lost_answer(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A placement whose answer was lost is an error that says so, and the next call finds it."""
        async with run_pods(2), make_client() as client:
            store.fail_with(TIMEOUT, "place", applied=True)
            with pytest.raises(StoreTimeoutError) as caught:
                await client.compute_linked_pod("", "alice", "room")
            store.fail_with(None)
            placed = await store.get_link(ALICE)
            link = await client.route("", "alice", "room")

        assert caught.value.maybe_applied
        assert placed is not None
        assert (placed.epoch, placed.pod_index) == (link.epoch, link.pod_index)


class TestPod:
    async def test_checked_when_known(self, run_pods: RunPods, make_client: MakeClient) -> None:
        """What is no pod index, or no id, is refused, though a pod that equals it is known; and all after the end."""
        async with run_pods(2), make_client() as client:
            known = await client.pod("", "room", 1)
            for wrong in (("", "room", True), ("", "room", 1.0), ("", ["room"], 1), (["prod"], "room", 1)):
                with pytest.raises(InvalidArgumentError):
                    await client.pod(*wrong)

        assert known is not None
        assert 1 == known.pod_index
        with pytest.raises(LifecycleError):
            await client.pod("", "room", 1)
