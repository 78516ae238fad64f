"""Bad days of pods, each of which is a process: killed, frozen, told to leave; and of the server under them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route import StatefulRouteError, StoreError
from tests.faults.pods import (
    LEASE,
    UIDS,
    PodProcess,
    incarnations,
    pods,
    rooms_of,
    routes,
    settings,
    viewed_for_a_lease,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route import ServiceView
    from stateful_route.embedded.server import LocalServer
    from tests.faults.conftest import Measured


@pytest.mark.scenario(12)
async def test_killed(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Each uid of a pod that is killed is routed elsewhere once its lease has ended, at a higher epoch."""
    async with pods(shared_server.url, namespace, 3) as (victim, *_), rooms_of(shared_server.url, namespace) as rooms:
        await victim.claim(*UIDS)
        before = await routes(rooms)
        await viewed_for_a_lease(rooms)
        killed = time.monotonic()
        victim.send(signal.SIGKILL)

        async def elsewhere() -> bool:
            return 0 not in {link.pod_index for link in (await routes(rooms)).values()}

        await eventually(elsewhere)
        took = time.monotonic() - killed
        after = await routes(rooms)

    measured(f"all {len(UIDS)} elsewhere after {took:.2f} s, at a lease of {LEASE:g} s")
    assert {0} == {link.pod_index for link in before.values()}
    assert all(before[uid].epoch < after[uid].epoch for uid in UIDS)


@pytest.mark.scenario(13)
async def test_killed_and_restarted(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """A killed pod that is back before its lease has ended keeps its uids, and is told that it inherits each."""
    async with pods(shared_server.url, namespace, 2) as (victim, _), rooms_of(shared_server.url, namespace) as rooms:
        await victim.claim(*UIDS)
        await viewed_for_a_lease(rooms)
        victim.send(signal.SIGKILL)
        await victim.process.wait()
        async with PodProcess(shared_server.url, settings(namespace, 0, index_is_exclusive=True)) as again:
            claimed = await again.claim(*UIDS)
            after = await routes(rooms)

    measured(f"{sum(inherited for _, _, inherited in claimed.values())} of {len(UIDS)} inherited")
    assert victim.incarnation < again.incarnation
    assert {(True, True)} == {(owned, inherited) for owned, _, inherited in claimed.values()}
    assert {0} == {link.pod_index for link in after.values()}


@pytest.mark.scenario(10)
async def test_frozen_for_less_than_the_lease(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """A pod that is frozen for a part of its lease loses nothing, and no link moves."""
    lease = 4 * LEASE  # a busy machine freezes it for some time more
    async with (
        pods(shared_server.url, namespace, 2, lease=lease) as (frozen, _),
        rooms_of(shared_server.url, namespace) as rooms,
    ):
        await frozen.claim(*UIDS)
        before = await routes(rooms)
        await viewed_for_a_lease(rooms, lease)
        frozen.send(signal.SIGSTOP)
        await asyncio.sleep(lease / 4)  # what is tested
        frozen.send(signal.SIGCONT)
        woke = (await frozen.hear("woke"))["woke"]
        await asyncio.sleep(lease)  # in which it would be held for dead
        after = await routes(rooms)
        owned = await frozen.owned()

    changed = sum(before[uid].epoch != after[uid].epoch for uid in UIDS)
    measured(f"{changed} of {len(UIDS)} epochs changed")
    assert UIDS == woke
    assert UIDS == owned
    assert {uid: link.epoch for uid, link in before.items()} == {uid: link.epoch for uid, link in after.items()}


@pytest.mark.scenario(11)
@pytest.mark.parametrize("watched", [True, False])
async def test_frozen_for_longer_than_the_lease(
    shared_server: LocalServer, namespace: str, watched: bool, measured: Measured
) -> None:
    """A pod that was frozen for twice its lease owns nothing at its first look, be its uids taken over or not."""
    async with pods(shared_server.url, namespace, 2) as (frozen, other):
        await frozen.claim(*UIDS)
        async with contextlib.AsyncExitStack() as stack:
            if watched:
                rooms = await stack.enter_async_context(rooms_of(shared_server.url, namespace))
                await viewed_for_a_lease(rooms)
            frozen.send(signal.SIGSTOP)
            await asyncio.sleep(2 * LEASE)  # what is tested
            if watched:
                taken = await routes(rooms)
                assert {1} == {link.pod_index for link in taken.values()}
                await other.claim(*UIDS)
            frozen.send(signal.SIGCONT)
            woke = (await frozen.hear("woke"))["woke"]

            async def settled() -> bool:
                return len(await frozen.owned()) == (0 if watched else len(UIDS))

            await eventually(settled)
            owned = await other.owned()

    measured(f"{len(woke)} owned at the first look")
    assert [] == woke
    assert (UIDS if watched else []) == owned


@pytest.mark.scenario(9)
@pytest.mark.parametrize("refresh", [0.1, 1.0])
async def test_server_stopped(own_server: LocalServer, namespace: str, refresh: float) -> None:
    """A server that stands still for twice the lease and comes back costs no living pod a uid or its life."""
    more = {"refresh": refresh} if refresh < 1.0 else {"refresh": 1.0, "call_deadline": 1.0}
    async with pods(own_server.url, namespace, 4) as running, rooms_of(own_server.url, namespace, **more) as rooms:
        for number, pod in enumerate(running):
            await pod.claim(*UIDS[number::4])
        before = await routes(rooms)
        lives = await incarnations(rooms)
        await viewed_for_a_lease(rooms)
        own_server.pause()
        await asyncio.sleep(2 * LEASE)  # what is tested
        own_server.resume()
        await eventually(lambda: answers(rooms))
        await asyncio.sleep(3 * LEASE)  # in which a pod would be held for dead
        after = await routes(rooms)
        owned = [len(await pod.owned()) for pod in running]
        later = await incarnations(rooms)

    assert lives == later
    assert [10, 10, 10, 10] == owned
    assert {uid: link.epoch for uid, link in before.items()} == {uid: link.epoch for uid, link in after.items()}


async def answers(rooms: ServiceView) -> bool:
    try:
        await rooms.driver._store.read_pods(rooms.namespace, rooms.service_name)
    except StoreError:
        return False
    return True


@pytest.mark.scenario(2)
@pytest.mark.parametrize("down", [0.0, 2 * LEASE])
async def test_server_restarted_empty(own_server: LocalServer, namespace: str, down: float, measured: Measured) -> None:
    """After a server came back empty, at once or later, the pods register, claim what they serve again, and serve."""
    async with pods(own_server.url, namespace, 2) as running, rooms_of(own_server.url, namespace) as rooms:
        for number, pod in enumerate(running):
            await pod.claim(*UIDS[number::2])
        own_server.kill()
        await asyncio.sleep(down)  # what is tested
        own_server.restart()
        up = time.monotonic()

        async def registered() -> bool:
            return await answers(rooms) and len(await incarnations(rooms)) == 2

        await eventually(registered)
        ready: set[int] = set()

        async def placed() -> bool:  # a client that knew no pods before waits for a lease
            with contextlib.suppress(StatefulRouteError):
                ready.update(link.pod_index for link in (await routes(rooms, [f"new-{i}" for i in range(20)])).values())
            return bool(ready)

        await eventually(placed)
        counts = [0, 0]

        async def claimed_again() -> bool:
            counts[:] = [len(await pod.owned()) for pod in running]
            return counts == [20, 20]

        with contextlib.suppress(AssertionError):  # what it has come to says more
            await eventually(claimed_again)
        took = time.monotonic() - up
        wrong = sum(link.pod_index != number % 2 for number, link in enumerate((await routes(rooms)).values()))

    measured(f"{sum(counts)} of {len(UIDS)} claimed again {took:.1f} s after it is up; {wrong} at a wrong pod")
    assert 0 == wrong
    assert ready <= {0, 1}
    assert [20, 20] == counts


@pytest.mark.scenario(21)
async def test_told_to_leave(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """At SIGTERM a pod hands each uid over and leaves; no call fails meanwhile, and no new uid goes to it."""
    async with pods(shared_server.url, namespace, 3) as (leaving, *_), rooms_of(shared_server.url, namespace) as rooms:
        await leaving.claim(*UIDS)
        await routes(rooms)
        done = asyncio.Event()
        failures: list[StoreError] = []

        async def call() -> None:
            while not done.is_set():
                try:
                    await routes(rooms)
                except StoreError as error:
                    failures.append(error)
                await asyncio.sleep(0)

        calling = asyncio.create_task(call())
        leaving.send(signal.SIGTERM)
        code = await leaving.ended()
        done.set()
        await calling

        async def elsewhere() -> bool:
            return 0 not in {link.pod_index for link in (await routes(rooms)).values()}

        await eventually(elsewhere)
        fresh = await routes(rooms, [f"new-{i}" for i in range(20)])
        lives = await rooms.pods()

    to_it = sum(link.pod_index == 0 for link in fresh.values())
    measured(f"{len(failures)} failed calls, {len(set(leaving.handed_off))} uids handed off, {to_it} new ones to it")
    assert (0, []) == (code, failures)
    assert set(UIDS) <= set(leaving.handed_off)
    assert 0 not in {link.pod_index for link in fresh.values()}
    assert "READY" != lives[0].report.routing_state


@pytest.mark.scenario(14)
async def test_two_processes_of_one_index(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Of two processes with one index the newer one wins, and the older owns nothing before the newer owns anything."""
    async with pods(shared_server.url, namespace, 1) as (older,):
        await older.claim(*UIDS)
        async with PodProcess(shared_server.url, settings(namespace, 0)) as newer:
            await newer.claim(*UIDS)
            overlaps = 0

            async def owns() -> bool:
                nonlocal overlaps
                mine, theirs = await newer.owned(), await older.owned()
                overlaps += len({*mine} & {*theirs})
                await newer.claim(*UIDS)
                return {*mine} == {*UIDS}

            await eventually(owns)

            measured(f"{overlaps} owned by both")
            assert 0 == overlaps
            assert [] == await older.owned()
