"""Pods that stand still: a loop that is held up, a machine that was suspended; and pods with leases of their own."""

from __future__ import annotations

import asyncio
import inspect
import signal
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route import ServerDriver, ServerInfo, StatefulRoute
from stateful_route._clock import lease_clock
from tests.faults.pods import UIDS, PodProcess, incarnations, pods, rooms_of, routes, settings, viewed_for_a_lease
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.embedded.server import LocalServer
    from tests.faults.conftest import Measured

LEASE = 2.0
MORE = {"lease": LEASE, "heartbeat": 0.2, "call_deadline": 0.5}


@pytest.mark.scenario(10)
async def test_loop_stalled_for_less(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """A pod whose event loop is held up for a part of its lease keeps its life and its uids, and no link moves."""
    async with (
        pods(shared_server.url, namespace, 2, **MORE) as (stalled, _),
        rooms_of(shared_server.url, namespace, **MORE) as rooms,
    ):
        await stalled.claim(*UIDS)
        before, lives = await routes(rooms), await incarnations(rooms)
        await viewed_for_a_lease(rooms, LEASE)
        for _ in range(3):
            await stalled.tell("stall", str(0.3 * LEASE))
            first_look = (await stalled.hear("stalled"))["stalled"]
            assert UIDS == first_look
        await asyncio.sleep(LEASE)  # in which it would be held for dead
        after, later = await routes(rooms), await incarnations(rooms)

    changed = sum(before[uid].epoch != after[uid].epoch for uid in UIDS)
    measured(f"{changed} of {len(UIDS)} epochs changed")
    assert lives == later
    assert 0 == changed


@pytest.mark.scenario(11)
async def test_loop_stalled_for_more(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """A pod whose event loop was held up for longer than its lease owns nothing at its first look after it."""
    async with (
        pods(shared_server.url, namespace, 2, **MORE) as (stalled, other),
        rooms_of(shared_server.url, namespace, **MORE) as rooms,
    ):
        await stalled.claim(*UIDS)
        before = await routes(rooms)
        await viewed_for_a_lease(rooms, LEASE)
        await stalled.tell("stall", str(2 * LEASE))
        began = time.monotonic()

        async def elsewhere() -> bool:
            return {1} == {link.pod_index for link in (await routes(rooms)).values()}

        await eventually(elsewhere)
        taken_after = time.monotonic() - began
        claimed = await other.claim(*UIDS)
        first_look = (await stalled.hear("stalled"))["stalled"]
        after = await other.owned()

    measured(
        f"{len(first_look)} owned at the first look; taken over after {taken_after:.1f} s at a lease of {LEASE:g} s"
    )
    assert [] == first_look
    assert UIDS == after
    assert all(before[uid].epoch < epoch for uid, (_, epoch, _) in claimed.items())


class Machine:
    """A machine that was suspended: its monotonic clock did not go on meanwhile, that of its boot did."""

    def __init__(self) -> None:
        self.suspended = 0.0

    def monotonic(self) -> float:
        return time.monotonic() - self.suspended

    def since_boot(self) -> float:
        return time.monotonic()

    def suspend(self, seconds: float) -> None:
        time.sleep(seconds)
        self.suspended += seconds


@pytest.mark.scenario(11)
@pytest.mark.parametrize("counts_it", [True, False], ids=["CLOCK_BOOTTIME", "CLOCK_MONOTONIC"])
async def test_suspended(shared_server: LocalServer, namespace: str, measured: Measured, counts_it: bool) -> None:
    """A pod on a machine that was suspended owns nothing at its first look, by a clock that counts that time."""
    machine = Machine()
    clock: Callable[[], float] = machine.since_boot if counts_it else machine.monotonic
    config = settings(namespace, 0, **MORE)
    info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    async with PodProcess(shared_server.url, settings(namespace, 1, **MORE)) as other:
        async with StatefulRoute.from_url(shared_server.url, config) as route:
            async with ServerDriver(route.store, info, config, clock=clock) as pod:
                for uid in UIDS:
                    await pod.claim(uid)
                machine.suspend(LEASE + 0.5)
                first_look = [uid for uid in UIDS if pod.owned(uid)]

                async def begins_again() -> bool:
                    await asyncio.sleep(0.05)
                    return all(pod.owned(uid) for uid in UIDS)

                await eventually(begins_again)
                elsewhere = await other.owned()

    measured(f"{len(first_look)} of {len(UIDS)} owned at the first look")
    assert ([] if counts_it else UIDS) == first_look  # the second is why the default is the first, where there is one
    assert [] == elsewhere


@pytest.mark.scenario(10, 12)
async def test_leases_of_their_own(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Of pods with different leases each is given up after its own: in one stall one loses all, the other nothing."""
    short = {"lease": 1.0, "heartbeat": 0.2, "call_deadline": 0.25}
    long = {"lease": 8.0, "heartbeat": 0.2, "call_deadline": 0.5}
    url = shared_server.url
    halves = UIDS[: len(UIDS) // 2], UIDS[len(UIDS) // 2 :]
    async with (
        PodProcess(url, settings(namespace, 0, **short)) as hasty,
        PodProcess(url, settings(namespace, 1, **long)) as patient,
        PodProcess(url, settings(namespace, 2, **long)),
        rooms_of(url, namespace, **short) as rooms,
    ):
        await hasty.claim(*halves[0])
        await patient.claim(*halves[1])
        before = await routes(rooms)
        await viewed_for_a_lease(rooms, 1.0)
        for pod in (hasty, patient):
            pod.send(signal.SIGSTOP)
        stopped = time.monotonic()

        async def hasty_is_given_up() -> bool:
            links = await routes(rooms)
            return 0 not in {links[uid].pod_index for uid in halves[0]}

        await eventually(hasty_is_given_up)
        took = time.monotonic() - stopped
        for pod in (patient, hasty):
            pod.send(signal.SIGCONT)
        kept = (await patient.hear("woke"))["woke"]
        woke = (await hasty.hear("woke"))["woke"]
        after = await routes(rooms)

    measured(f"the lease of 1 s given up after {took:.1f} s, of 8 s kept {len(kept)} of {len(halves[1])} uids")
    assert [] == woke
    assert halves[1] == kept
    assert took < 6.0  # long before the other one would be
    assert {before[uid].epoch for uid in halves[1]} == {after[uid].epoch for uid in halves[1]}


@pytest.mark.scenario(11)
def test_default_clock() -> None:
    """A server driver that is not told otherwise counts its lease by the clock that goes on in a suspended machine."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("no such clock on this platform")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    told = lease_clock()
    after = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert before <= told <= after
    assert lease_clock is inspect.signature(ServerDriver).parameters["clock"].default
