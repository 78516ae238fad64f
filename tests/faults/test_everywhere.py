"""What has to work on each deployment of Redis: a service lives, loses a pod, gets it back, and drains another."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, Link, StatefulRoute, StoreError
from stateful_route.store import LinkChange, LinkKey, Outcome, PodLife
from tests.faults.deployments import DEPLOYMENTS
from tests.faults.pods import UIDS, PodProcess, pods, rooms_of, routes, settings, viewed_for_a_lease
from tests.leaks import nothing_left
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Measured
    from tests.faults.deployments import Deployment

pytestmark = pytest.mark.slow

LEASE = 2.0  # the pods have to stay alive on a busy machine
MORE = {"lease": LEASE, "heartbeat": 0.2, "call_deadline": 0.5}


@pytest.fixture(params=list(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with DEPLOYMENTS[request.param]() as standing:
        yield standing


@pytest.mark.scenario(12, 13, 21)
async def test_life_of_a_service(deployment: Deployment, namespace: str, measured: Measured) -> None:
    """A killed pod that is back in time keeps all, one that is not loses them, and one that drains hands them over."""
    url = deployment.url
    async with pods(url, namespace, 3, **MORE) as (first, second, _), rooms_of(url, namespace, **MORE) as rooms:
        await first.claim(*UIDS[:20])
        await second.claim(*UIDS[20:])
        before = await routes(rooms)
        await viewed_for_a_lease(rooms, LEASE)
        first.send(signal.SIGKILL)
        await first.process.wait()
        async with PodProcess(url, settings(namespace, 0, index_is_exclusive=True, **MORE)) as again:
            inherited = await again.claim(*UIDS[:20])
            after_restart = await routes(rooms)
            await viewed_for_a_lease(rooms, LEASE)
            killed = time.monotonic()
            again.send(signal.SIGKILL)
            moved_early = 0

            async def elsewhere() -> bool:
                nonlocal moved_early
                now = await routes(rooms)
                gone = sum(now[uid].pod_index != 0 for uid in UIDS[:20])
                moved_early += (
                    gone and time.monotonic() - killed < LEASE - 0.3
                )  # its last heartbeat was before the kill
                return gone == 20

            await eventually(elsewhere)
            took = time.monotonic() - killed
            after_kill = await routes(rooms)
        second.send(signal.SIGTERM)
        status = await second.ended()
        ended = time.monotonic()
        drained = await routes(rooms)
        while {2} != {link.pod_index for link in drained.values()} and time.monotonic() < ended + 10.0:
            drained = await routes(rooms)
            await asyncio.sleep(0.005)
        heard = time.monotonic() - ended

    measured(
        f"taken over {took:.2f} s after a kill, at a lease of {LEASE:g} s; all elsewhere {heard:.2f} s after a drain"
    )
    assert [0] * 20 + [1] * 20 == [before[uid].pod_index for uid in UIDS]
    assert {(True, True)} == {(owned, inherits) for owned, _, inherits in inherited.values()}
    assert {0} == {after_restart[uid].pod_index for uid in UIDS[:20]}
    assert 0 == moved_early
    assert all(after_restart[uid].epoch < after_kill[uid].epoch for uid in UIDS[:20])
    assert {1} == {after_kill[uid].pod_index for uid in UIDS[20:]}
    assert 0 == status
    assert set(UIDS[20:]) <= set(second.handed_off)
    assert {2} == {link.pod_index for link in drained.values()}


@pytest.mark.scenario(1, 5)
async def test_scripts_forgotten(deployment: Deployment, namespace: str, measured: Measured) -> None:
    """Scripts that the servers forget again and again cause no error in 10,000 calls, a part of them in batches."""
    done = asyncio.Event()
    servers = [server for server in deployment.servers if "sentinel" not in _role(server)]

    async def forget() -> None:
        while not done.is_set():
            for server in servers:
                await asyncio.to_thread(server.ask, "SCRIPT", "FLUSH")

    async with nothing_left():
        async with StatefulRoute.from_url(deployment.url, BaseConfig(call_deadline=20.0)) as route:
            forgetting = asyncio.create_task(forget())
            owner = PodLife(0, 1)
            answers: list[LinkChange | StoreError] = []
            for begin in range(0, 10_000, 1000):
                keys = [LinkKey(namespace, f"user-{begin + i}", "room") for i in range(500)]
                answers += await asyncio.gather(*(route.store.place(key, owner, 60.0) for key in keys))
                many = [(f"user-{begin + 500 + i}", owner) for i in range(500)]
                answers += await route.store.place_links(namespace, many, "room", 60.0)
            done.set()
            await forgetting

    failed = [answer for answer in answers if isinstance(answer, StoreError)]
    measured(f"{len(failed)} errors in {len(answers)} calls")
    assert [] == failed
    assert {Outcome.CREATED} == {answer.outcome for answer in answers if not isinstance(answer, StoreError)}


def _role(server) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001 - a LocalServer
    return str(server.ask("ROLE")).partition("\n")[0]


@pytest.mark.scenario(9)
async def test_stands_still(deployment: Deployment, namespace: str, measured: Measured) -> None:
    """While all servers stand still calls end at their deadline; after it they work at once, and none is crossed."""
    async with nothing_left():
        async with StatefulRoute.from_url(deployment.url, BaseConfig(call_deadline=0.5)) as route:
            keys = [LinkKey(namespace, f"user-{i}", "room") for i in range(30)]
            for number, key in enumerate(keys):
                await _until_done(route, key, PodLife(number, 1))
            for server in deployment.servers:
                server.pause()
            began = time.monotonic()
            answers = await asyncio.gather(*(route.store.get_link(key) for key in keys), return_exceptions=True)
            took = time.monotonic() - began
            for server in deployment.servers:
                server.resume()
            resumed = time.monotonic()
            links: list[Link | None] = []
            while len(links) < len(keys):
                try:
                    links.append(await route.store.get_link(keys[len(links)]))
                except StoreError:
                    continue
                if len(links) == 1:
                    back = time.monotonic() - resumed

    measured(f"back {back * 1e3:.0f} ms after it went on")
    assert all(isinstance(answer, StoreError) for answer in answers)
    assert took < 2.0
    assert list(range(30)) == [link.pod_index for link in links if link]


async def _until_done(route: StatefulRoute, key: LinkKey, owner: PodLife) -> None:
    while True:
        try:
            await route.store.claim(key, owner)
        except StoreError:  # a busy machine; it is set up
            continue
        return
