"""Where a request for a uid can go now: there, to nobody, or to somebody who cannot be used at the moment."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    InvalidArgumentError,
    LifecycleError,
    NoCapacityError,
    NoRoutablePodError,
    RoutingState,
    StoreUnavailableError,
)
from stateful_route.forwarding import Absent, There, Wait
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from tests.insides import reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, highest
from tests.unit.test_bad_arguments import BAD
from tests.unit.test_recovery import begin, lose, table_of
from tests.unit.test_takeover import beat, calls, link_of, look_on, refresh
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route import ClientDriver
    from stateful_route.forwarding import Target
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer

LEASE, REFRESH, RETENTION = CONFIG.lease_seconds, CONFIG.refresh, CONFIG.retention_seconds
ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
_sequence = itertools.count(1)
AWAY = StoreUnavailableError("away", operation="place", maybe_applied=False)


async def pod_at(store: MemoryStore, pod_index: int, *uids: str, **report: Any) -> PodLife:
    """Begin the life of a pod that beats only when told to, that says where it is, and that owns these uids."""
    life = await begin(store, pod_index, PodReport(address=f"host-{pod_index}", **report))
    for uid in uids:
        await store.claim(LinkKey(NAMESPACE, uid, SERVICE), life)
    return life


async def pass_time(
    client: ClientDriver, store: MemoryStore, clock: ManualClock, seconds: float, alive: PodLife
) -> None:
    """Let time pass, with a heartbeat of one pod and a reading of the table in each refresh."""
    for _ in range(round(seconds / REFRESH)):
        clock.advance(REFRESH)
        await beat(store, alive, next(_sequence))
        await refresh(client)


async def resolve(client: ClientDriver, uid: str = "alice", *, place: bool = True) -> Target:
    return await client.service(SERVICE).resolve(uid, place=place)


class TestThere:
    async def test_from_memory(self, make_client: MakeClient, store: MemoryStore) -> None:
        """The first answer asks the store, those after it come from memory and are the same."""
        life = await pod_at(store, 0)
        async with make_client() as client:
            first = await resolve(client)
            calls(store)
            others = [await resolve(client, place=place) for place in (True, False)]
            link = await link_of(store, "alice")

            assert There(0, life.incarnation, link.epoch, "host-0") == first
            assert [first] * 2 == others
            assert {"get_link": 1} == calls(store)  # that of this test
            assert (2, 1) == (client.statistics().hits, client.statistics().misses)

    @pytest.mark.parametrize("kind", ["persistent", "temporary", "grace"])
    async def test_found(self, make_client: MakeClient, store: MemoryStore, kind: str) -> None:
        """A uid that is not to be placed is found, whatever its link is, and its link stays as it is."""
        life = await pod_at(store, 0)
        if kind == "temporary":
            await store.place(ALICE, life, 60.0)
        else:
            await store.claim(ALICE, life)
            if kind == "grace":
                await store.release(ALICE, pod_index=0, grace=60.0)
        before = await link_of(store, "alice")
        async with make_client() as client:
            target = await resolve(client, place=False)

        assert There(0, life.incarnation, before.epoch, "host-0") == target
        assert before.kind is (await link_of(store, "alice")).kind

    async def test_without_an_address(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that publishes no address is named all the same."""
        life = await begin(store, 0)
        async with make_client() as client:
            target = await resolve(client)

        assert isinstance(target, There)
        assert (0, life.incarnation, None) == (target.pod_index, target.incarnation, target.address)

    async def test_draining(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that drains serves what is linked to it."""
        life = await pod_at(store, 0, "alice")
        async with make_client() as client:
            await resolve(client)
            await beat(store, life, state=RoutingState.DENY_NEW_CALL)
            await refresh(client)

            assert isinstance(await resolve(client), There)

    async def test_one_that_has_just_come_up(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A pod that came after the pods were read is looked up for its address."""
        await pod_at(store, 0)
        async with make_client() as client:
            await resolve(client, "bob")
            store.deafen()  # so nothing else makes it read
            await eventually(lambda: not table_of(client).serves_cached)
            life = await pod_at(store, 1, "alice")
            target = await resolve(client, place=False)

            assert isinstance(target, There)
            assert (1, life.incarnation, "host-1") == (target.pod_index, target.incarnation, target.address)

    @pytest.mark.parametrize("place", [True, False])
    async def test_restarted(self, make_client: MakeClient, store: MemoryStore, place: bool) -> None:
        """The link of an older life leads to the pod that was restarted, which inherits it, and where that is now."""
        older = await pod_at(store, 0, "alice")
        newer = await pod_at(store, 0)
        async with make_client() as client:
            target = await resolve(client, place=place)

            assert older.incarnation < newer.incarnation
            assert isinstance(target, There)
            assert newer.incarnation == target.incarnation

    async def test_restarted_elsewhere(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A cached link whose pod has been restarted with another address is told with that."""
        await pod_at(store, 0, "alice")
        async with make_client() as client:
            await resolve(client)
            life = await begin(store, 0, PodReport(address="new-host"))
            await store.claim(ALICE, life)
            await refresh(client)
            target = await resolve(client)

            assert isinstance(target, There)
            assert (life.incarnation, "new-host") == (target.incarnation, target.address)


class TestAbsent:
    async def test_no_link(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A uid that nobody has is absent if it is not to be placed, and none of them makes a link."""
        await pod_at(store, 0)
        async with make_client() as client:
            targets = {await resolve(client, f"garbage-{number}", place=False) for number in range(100)}

        assert {Absent()} == targets
        assert 0 == len(store._links)

    @pytest.mark.parametrize("goodbye", [True, False])
    async def test_of_a_dead_pod(
        self, make_client: MakeClient, store: MemoryStore, clock: ManualClock, goodbye: bool
    ) -> None:
        """The uid of a pod that is dead, or said goodbye, is absent if it is not to be placed, and else taken over."""
        life = await pod_at(store, 1, "alice")
        other = await pod_at(store, 0)
        async with make_client() as client:
            await resolve(client)
            if goodbye:
                await beat(store, life, state=RoutingState.SHUTDOWN)
                await refresh(client)
            else:
                await pass_time(client, store, clock, LEASE + REFRESH, other)
            before = await link_of(store, "alice")
            found = await resolve(client, place=False)
            target = await resolve(client)

            assert Absent() == found
            assert isinstance(target, There)
            assert 0 == target.pod_index
            assert target.epoch > before.epoch

    async def test_said_goodbye_and_nobody_has_looked(self, make_client: MakeClient, store: MemoryStore) -> None:
        """The death of a pod that said goodbye is confirmed by the call that meets its link."""
        life = await pod_at(store, 1, "alice")
        await beat(store, life, state=RoutingState.SHUTDOWN)
        async with make_client() as client:
            await client.pods(NAMESPACE, SERVICE)

            assert Absent() == await resolve(client, place=False)


class TestWait:
    @pytest.mark.parametrize("place", [True, False])
    async def test_reported(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock, place: bool) -> None:
        """A pod that was reported is waited for until its lease has ended, and is not robbed before, nor much later."""
        await pod_at(store, 1, "alice")
        other = await pod_at(store, 0)
        async with make_client() as client:
            await client.pods(NAMESPACE, SERVICE)
            await look_on(client, clock, 2 * REFRESH)
            await client.service(SERVICE).report_unreachable(1)
            target = await resolve(client, place=place)
            assert isinstance(target, Wait)
            passed = 0.0
            while isinstance(again := await resolve(client, place=place), Wait):
                assert again.seconds <= max(target.seconds - passed, 0.1)
                clock.advance(REFRESH / 4)
                passed += REFRESH / 4
                await beat(store, other, next(_sequence))
                await refresh(client)

            assert LEASE - 2 * REFRESH == target.seconds
            assert target.seconds <= passed <= target.seconds + REFRESH / 2
            assert Absent() == again if not place else isinstance(again, There)

    async def test_reported_and_heard_again(
        self, make_client: MakeClient, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that was reported is used again once it is heard; what is cached of it before is not."""
        life = await pod_at(store, 1, "alice")
        async with make_client() as client:
            there = await resolve(client)
            await client.service(SERVICE).report_unreachable(1)
            waiting = await resolve(client)
            clock.advance(REFRESH)
            await beat(store, life)
            await refresh(client)

            assert isinstance(waiting, Wait)
            assert isinstance(there, There)
            again = await resolve(client)
            assert isinstance(again, There)
            assert there.epoch == again.epoch

    @pytest.mark.parametrize("place", [True, False])
    async def test_lease_has_ended_unseen(
        self, make_client: MakeClient, store: MemoryStore, clock: ManualClock, place: bool
    ) -> None:
        """A pod whose lease ended while this client did not look is waited for until its death can be confirmed."""
        await pod_at(store, 1, "alice")
        other = await pod_at(store, 0)
        clock.advance(LEASE + 1.0)
        await beat(store, other, next(_sequence))
        async with make_client() as client:
            await client.pods(NAMESPACE, SERVICE)
            target = await resolve(client, place=place)
            assert isinstance(target, Wait)
            await pass_time(client, store, clock, target.seconds, other)
            again = await resolve(client, place=place)

            assert LEASE == target.seconds
            assert Absent() == again if not place else isinstance(again, There)

    async def test_unknown(self, make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
        """The link of a pod that nobody knows is waited for, for as long as the lease of a pod, and is taken then."""
        other = await pod_at(store, 0)
        await store.claim(ALICE, PodLife(7, 1))
        async with make_client() as client:
            target = await resolve(client)
            assert isinstance(target, Wait)
            await pass_time(client, store, clock, target.seconds, other)
            again = await resolve(client)

            assert LEASE == target.seconds
            assert isinstance(again, There)
            assert 0 == again.pod_index


class TestEmptiedStore:
    async def test_found_once_it_is_claimed_again(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A uid that the store has lost is not absent while its pod may claim it again: the call waits for that."""
        await pod_at(store, 0, "alice")
        async with make_client() as client:
            await resolve(client, place=False)
            await lose(store, client)
            resolving = asyncio.create_task(resolve(client, place=False))
            life = await begin(store, 0, PodReport(address="host-0", reclaiming=True))
            await eventually(lambda: table_of(client).recovering)
            waited = not resolving.done()
            await store.claim(ALICE, life)
            await beat(store, life)

            assert waited
            assert isinstance(await resolving, There)

    async def test_absent_once_all_is_claimed_again(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A uid that no pod has claimed again is absent then."""
        await pod_at(store, 0, "alice")
        async with make_client() as client:
            await resolve(client, place=False)
            await lose(store, client)
            await begin(store, 0)
            await reader_of(client).read(table_of(client))

            assert Absent() == await resolve(client, place=False)

    @pytest.mark.parametrize("place", [True, False])
    async def test_too_long(self, make_client: MakeClient, store: MemoryStore, place: bool) -> None:
        """If the pods are not done within the deadline of a call, the answer is to wait."""
        for pod_index in range(2):
            await pod_at(store, pod_index, f"user-{pod_index}")
        async with make_client(call_deadline=0.3) as client:
            await resolve(client, "user-1")
            await lose(store, client)
            await begin(store, 0)
            target = await resolve(client, "user-1", place=place)

            assert Wait(LEASE) == target


class TestErrors:
    async def test_no_pod(self, make_client: MakeClient, store: MemoryStore) -> None:
        """A uid that is to be placed, and that no pod takes, is an error that says why."""
        async with make_client() as client:
            with pytest.raises(NoRoutablePodError):
                await resolve(client)
            await pod_at(store, 0, max_links=0)
            with pytest.raises(NoCapacityError):
                await resolve(client)

            assert Absent() == await resolve(client, place=False)

    async def test_the_store_is_away(self, make_client: MakeClient, store: MemoryStore) -> None:
        """While the store is away what is cached is used, and all else is an error."""
        await pod_at(store, 0, "alice")
        async with make_client() as client:
            there = await resolve(client)
            store.deafen()
            store.fail_with(AWAY)
            await eventually(lambda: not table_of(client).listener._listening)
            targets = [await resolve(client, place=place) for place in (True, False)]
            for place in (True, False):
                with pytest.raises(StoreUnavailableError):
                    await resolve(client, "bob", place=place)

            assert [there] * 2 == targets

    @pytest.mark.parametrize("argument", ["namespace", "uid", "service_name", "place"])
    async def test_bad_arguments(self, make_client: MakeClient, store: MemoryStore, argument: str) -> None:
        """What is no id, or no flag, is refused before anything is sent."""
        good: dict[str, Any] = {"namespace": NAMESPACE, "uid": "alice", "service_name": SERVICE, "place": True}
        async with make_client() as client:
            for value in BAD.get(argument, [None, 1, "yes"]):
                with pytest.raises(InvalidArgumentError) as caught:
                    await client.resolve(**(good | {argument: value}))

                assert argument == caught.value.argument

        assert {} == store.operations

    async def test_outside_its_block(self, make_client: MakeClient) -> None:
        """A driver that does not run resolves nothing."""
        with pytest.raises(LifecycleError):
            await resolve(make_client())


async def test_server(make_server: MakeServer, make_client: MakeClient) -> None:
    """The pod that is named is the one that owns the uid, at the epoch of its handle, until it stops."""
    async with make_server(0, address="here"), make_client(highest) as client:
        async with make_server(1, address="there") as pod:
            handle = await pod.claim("alice")
            target = await resolve(client)
        after = await resolve(client)

        assert There(1, handle.incarnation, handle.epoch or 0, "there") == target
        assert isinstance(after, There)
        assert (0, "here") == (after.pod_index, after.address)
