"""What a web server asks of the drivers, on a real server: nobody makes time pass, or looks for them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs
import pytest
from redis.asyncio import Redis

from stateful_route import BaseConfig, RoutingState, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.forwarding import Absent, There, Wait
from stateful_route.store import LinkKey
from stateful_route.store.redis.keys import KeySpace
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route import ServiceView
    from stateful_route.embedded.server import LocalServer

SERVICE = "room"
CONFIG = BaseConfig(heartbeat=0.1, lease=2.0, refresh=0.1, call_deadline=1.0, link_ttl=2.0)


def pod(namespace: str, pod_index: int) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)


@pytest.fixture
async def route(shared_server: LocalServer, namespace: str) -> AsyncIterator[StatefulRoute]:
    async with StatefulRoute.from_url(shared_server.url, attrs.evolve(CONFIG, namespace=namespace)) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(route: StatefulRoute, namespace: str) -> AsyncIterator[tuple[list[ServerDriver], ServiceView]]:
    """Run two pods that say where they are, and a client."""
    async with contextlib.AsyncExitStack() as stack:
        pods = []
        for pod_index in range(2):
            config = attrs.evolve(CONFIG, namespace=namespace, address=f"host-{pod_index}")
            pods.append(await stack.enter_async_context(ServerDriver(route.store, pod(namespace, pod_index), config)))
        client = await stack.enter_async_context(route.client())
        yield pods, client.service(SERVICE)


async def test_idle(route: StatefulRoute, namespace: str) -> None:
    """A minted uid is found where it was made, kept while it is used, and gone once nobody uses it."""
    async with running(route, namespace) as (pods, rooms):
        handle = await pods[1].mint("br", idle_ttl=1.0)
        with handle.in_use():
            await asyncio.sleep(2.0)  # time itself is what counts
            target = await rooms.resolve(handle.uid, place=False)
        await eventually(lambda: not handle.held)
        assert There(1, handle.incarnation, handle.epoch or 0, "host-1") == target

        async def is_gone() -> bool:
            return await rooms.resolve(handle.uid, place=False) == Absent()

        await eventually(is_gone)  # once the client has heard of it: its cache may know the link for a moment more
        assert await rooms.find(handle.uid) is None


async def test_lingers(route: StatefulRoute, namespace: str) -> None:
    """A pod that lingers gets no new uids, is found for those that it has, and hands them over once they are idle."""
    async with running(route, namespace) as (pods, rooms):
        handle = await pods[0].claim("alice")
        await rooms.choose()
        with handle.in_use():
            draining = asyncio.create_task(pods[0].drain(keep_until_idle=0.2))
            table = rooms.driver._directory.peek(namespace, SERVICE)
            await eventually(lambda: len(table.placements.routable) == 1)
            chosen = {await rooms.choose() for _ in range(10)}
            target = await rooms.resolve("alice")
            done = draining.done()
        async with asyncio.timeout(10.0):
            await draining
        after = await rooms.resolve("alice")

        assert ({1}, False) == (chosen, done)
        assert isinstance(target, There)
        assert isinstance(after, There)
        assert (0, 1) == (target.pod_index, after.pod_index)
        assert RoutingState.DENY_NEW_CALL is await pods[0].get_routing_state()


async def test_a_pod_that_cannot_be_reached(route: StatefulRoute, namespace: str) -> None:
    """A pod that is reported is waited for until it is heard again, which takes less than was said."""
    async with running(route, namespace) as (pods, rooms):
        await pods[0].claim("alice")
        await rooms.resolve("alice")
        await rooms.report_unreachable(0)
        target = await rooms.resolve("alice")

        async def there() -> bool:
            return isinstance(await rooms.resolve("alice"), There)

        await eventually(there)

        assert isinstance(target, Wait | There)  # it may have been heard by then
        assert not isinstance(target, Wait) or target.seconds <= CONFIG.lease_seconds


async def test_another_life(route: StatefulRoute, shared_server: LocalServer, namespace: str) -> None:
    """A pod that the store has lost resumes what it has, which is no loss; a uid whose link was removed is one."""
    lost: list[str] = []
    async with running(route, namespace) as (pods, _):
        handles = {uid: await pods[0].claim(uid) for uid in ("alice", "bob")}
        for uid, handle in handles.items():
            handle.on_lost(lambda uid=uid: lost.append(uid))  # type: ignore[misc]  # a default binds it
        await route.store.release(LinkKey(namespace, "bob", SERVICE))
        await eventually(lambda: lost == ["bob"])
        before = pods[0].incarnation
        async with Redis.from_url(shared_server.url) as redis:
            await redis.delete(KeySpace().pods(namespace, SERVICE))  # as a server loses what was not written yet
        await eventually(lambda: pods[0].incarnation not in {0, before} and pods[0].owned("alice") is not None)
        newer = pods[0].owned("alice")

        assert newer is not None
        assert (True, ["bob"]) == (newer.resumes(handles["alice"]), lost)
    assert ["bob", "alice"] == lost
