"""Clocks that are wrong: those of machines do not matter, that of Redis costs time and never an epoch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ServerInfo, StatefulRoute, StoreError
from stateful_route.store import LinkKey, PodLife, PodReport
from stateful_route.testing import FaultProxy
from tests.faults.faketime import faked, stepping_server
from tests.faults.pods import UIDS, PodProcess, rooms_of, routes, settings, viewed_for_a_lease
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route import ClientDriver, ServerDriver
    from stateful_route.embedded.server import LocalServer
    from tests.faults.conftest import Measured

GATEWAY = Path(__file__).with_name("gateway_process.py")
LEASE = 2.0
MORE: dict[str, Any] = {"lease": LEASE, "heartbeat": 0.2, "call_deadline": 0.5}


def info(namespace: str, index: int) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)


async def routed_from_elsewhere(url: str, config: BaseConfig, offset: str) -> list[list[int]]:
    """Return where a gateway on a machine with such a clock routes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(GATEWAY),
        url,
        config.to_json(),
        *UIDS,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | faked(offset),
    )
    said, _ = await process.communicate()
    return json.loads(said)  # type: ignore[no-any-return]  # what the gateway says


@pytest.mark.scenario(15)
async def test_machines_differ(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Pods and gateways whose clocks are an hour ahead and behind live, own and route as the others do."""
    url = shared_server.url
    async with contextlib.AsyncExitStack() as stack:
        pods = [
            await stack.enter_async_context(PodProcess(url, settings(namespace, index, **MORE), faked(offset)))
            for index, offset in enumerate(("+3600", "-3600", "+0"))
        ]
        rooms = await stack.enter_async_context(rooms_of(url, namespace, **MORE))
        lives = [pod.incarnation for pod in pods]
        for index, pod in enumerate(pods):
            await pod.claim(*UIDS[index::3])
        await viewed_for_a_lease(rooms, LEASE)
        here = [[link.pod_index, link.epoch] for link in (await routes(rooms)).values()]
        config = settings(namespace, **MORE)
        ahead, behind = await asyncio.gather(
            routed_from_elsewhere(url, config, "+3600"), routed_from_elsewhere(url, config, "-3600")
        )
        owned = [len(await pod.owned()) for pod in pods]
        later = [pod.incarnation for pod in pods]

    measured(f"{sum(a == b == c for a, b, c in zip(here, ahead, behind, strict=True))} of {len(UIDS)} routed alike")
    assert here == ahead == behind
    assert lives == later
    assert [14, 13, 13] == owned


@pytest.mark.scenario(16)
async def test_epochs_rise(namespace: str, measured: Measured) -> None:
    """Epochs and incarnations rise while the clock of Redis steps back an hour at a time."""
    with stepping_server() as (server, step):
        async with StatefulRoute.from_url(server.url, BaseConfig(call_deadline=5.0)) as route:
            keys = [LinkKey(namespace, uid, "room") for uid in UIDS]
            epochs: list[list[int]] = []
            lives: list[int] = []
            for hour in range(10):
                step(-3600.0 * hour)
                pod = info(namespace, 0)
                lives.append((await route.store.register(pod, PodReport(), 60.0, 3600.0)).incarnation)
                answers = [await route.store.assign(key, PodLife(hour % 2, hour)) for key in keys]
                epochs.append([answer.link.epoch for answer in answers if answer.link])

    fell = sum(new <= old for before, after in zip(epochs, epochs[1:], strict=False) for old, new in zip(before, after))  # noqa: B905, RUF007 - as many
    measured(f"{fell} of {9 * len(UIDS)} epochs fell")
    assert 0 == fell
    assert sorted(set(lives)) == lives


@pytest.mark.scenario(16)
async def test_epochs_of_released_uids_rise(namespace: str, measured: Measured) -> None:
    """The clock of Redis was ahead for more than a minute and is put right: released uids go on above, at every pod.

    Who would have claimed one before had an epoch 7,000 s below the one that the database has seen.
    """
    with stepping_server() as (server, step):
        step(7200.0)
        async with two_pods(server.url, server.url, namespace) as (first, second):
            before = {}
            for uid in UIDS:
                handle = await first.claim(uid)
                before[uid] = handle.epoch or 0
                await handle.release()
            step(7261.0)
            await eventually(lambda: not server.ask("KEYS", "sr2:ended:*"))  # the tombstones are gone
            await asyncio.gather(first.renew(), second.renew())
            step(0.0)
            after = {uid: (await second.claim(uid)).epoch or 0 for uid in UIDS}
            async with routed(server.url, namespace) as client:
                placed = (await client.service("room").route("new")).epoch

    fell = sum(after[uid] <= epoch for uid, epoch in before.items())
    measured(f"{fell} of {len(UIDS)} epochs of released uids fell")
    assert 0 == fell
    assert max(before.values()) < placed


@contextlib.asynccontextmanager
async def routed(url: str, namespace: str) -> AsyncIterator[ClientDriver]:
    """Run a client."""
    async with StatefulRoute.from_url(url, settings(namespace, **MORE)) as route, route.client() as client:
        yield client


@contextlib.asynccontextmanager
async def two_pods(direct: str, through: str, namespace: str) -> AsyncIterator[tuple[ServerDriver, ServerDriver]]:
    """Run two pods in this process, the first of which reaches Redis by a way of its own."""
    config = settings(namespace, **MORE)
    async with StatefulRoute.from_url(through, config) as one, StatefulRoute.from_url(direct, config) as other:
        async with one.server(info(namespace, 0)) as first, other.server(info(namespace, 1)) as second:
            yield first, second


async def overlap(first: ServerDriver, second: ServerDriver, seconds: float, also: Callable[[], object]) -> float:
    """Return for how long both owned a uid; ``second`` claims whenever it may."""
    both, looked = 0.0, time.monotonic()
    ends = looked + seconds

    async def claim_all() -> None:
        while True:
            for uid in UIDS:
                with contextlib.suppress(StoreError):
                    await second.claim(uid)
            await asyncio.sleep(0.02)

    claiming = asyncio.create_task(claim_all())
    also()
    while (now := time.monotonic()) < ends:
        if any(first.owned(uid) and second.owned(uid) for uid in UIDS):
            both += now - looked
        looked = now
        await asyncio.sleep(0.005)
    claiming.cancel()
    await asyncio.wait([claiming])
    return both


@pytest.mark.scenario(16)
async def test_step_ahead_while_a_pod_is_cut_off(namespace: str, measured: Measured) -> None:
    """If the clock of Redis steps ahead while a pod is cut off, no other owns beside it."""
    ahead = 0.8  # seconds
    with stepping_server() as (server, step):
        async with FaultProxy(server) as proxy, two_pods(server.url, proxy.url, namespace) as (first, second):
            async with rooms_of(server.url, namespace, **MORE) as rooms:
                for uid in UIDS:
                    await first.claim(uid)
                await routes(rooms)
                await viewed_for_a_lease(rooms, LEASE)

                async def ask() -> None:
                    while True:
                        with contextlib.suppress(Exception):
                            await routes(rooms)
                        await asyncio.sleep(0.02)

                asking = asyncio.create_task(ask())
                proxy.black_hole()
                both = await overlap(first, second, LEASE + 1.5, lambda: step(ahead))
                asking.cancel()
                await asyncio.wait([asking])
                owned = sum(second.owned(uid) is not None for uid in UIDS)
                proxy.refuse()
                proxy.pass_through()

    measured(f"both owned for {both:.2f} s, at a step of {ahead:g} s")
    assert both < 0.1
    assert owned > 0


@pytest.mark.scenario(16)
async def test_step_far_ahead(namespace: str, measured: Measured) -> None:
    """If the clock of Redis steps ahead by an hour, living pods go on, or begin again, and each uid has one owner."""
    with stepping_server() as (server, step):
        async with two_pods(server.url, server.url, namespace) as (first, second):
            async with rooms_of(server.url, namespace, **MORE) as rooms:
                before = {uid: handle.epoch for uid in UIDS if (handle := await first.claim(uid)).epoch}
                await routes(rooms)
                await viewed_for_a_lease(rooms, LEASE)
                both = await overlap(first, second, 2 * LEASE, lambda: step(3600.0))

                async def one_owner() -> bool:
                    with contextlib.suppress(StoreError):
                        links = await routes(rooms)
                        pods = (first, second)
                        owners = [[pod.owned(uid) for pod in pods] for uid in UIDS]
                        return all(
                            (handle := mine[links[uid].pod_index]) is not None
                            and handle.epoch == links[uid].epoch
                            and mine[1 - links[uid].pod_index] is None
                            for uid, mine in zip(UIDS, owners, strict=True)
                        )
                    return False

                await eventually(one_owner)
                after = {uid: link.epoch for uid, link in (await routes(rooms)).items()}

    measured(f"both owned for {both:.2f} s, at a heartbeat of {MORE['heartbeat']:g} s")
    assert both <= LEASE
    assert all(before[uid] <= after[uid] for uid in UIDS)


@pytest.mark.scenario(16)
async def test_step_back_after_a_kill(namespace: str, measured: Measured) -> None:
    """If the clock of Redis steps back right after a pod was killed, its uids wait for its lease, not for the step."""
    back = 30.0
    with stepping_server() as (server, step):
        async with (
            PodProcess(server.url, settings(namespace, 0, **MORE)) as victim,
            PodProcess(server.url, settings(namespace, 1, **MORE)),
            rooms_of(server.url, namespace, **MORE) as rooms,
        ):
            await victim.claim(*UIDS)
            before = await routes(rooms)
            await viewed_for_a_lease(rooms, LEASE)
            victim.process.kill()
            await victim.process.wait()
            killed = time.monotonic()
            step(-back)

            async def elsewhere() -> bool:
                return 0 not in {link.pod_index for link in (await routes(rooms)).values()}

            await eventually(elsewhere, within=20.0)
            took = time.monotonic() - killed
            after = await routes(rooms)

    measured(f"routed elsewhere after {took:.1f} s, at a step back of {back:g} s and a lease of {LEASE:g} s")
    assert took < LEASE + 3.0
    assert all(before[uid].epoch < after[uid].epoch for uid in UIDS)
