"""Each call of a client ends within one deadline, however many steps it takes, on a real server that falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeAlias

import pytest

from stateful_route import BaseConfig, ClientDriver, ServerInfo, StatefulRoute, StoreError, StoreTimeoutError
from stateful_route.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stateful_route.embedded.server import LocalServer

DEADLINE = 0.5
SLACK = 0.2  # a busy machine; a second step would take a whole deadline more

Call: TypeAlias = "Callable[[ClientDriver, str, str, str], Awaitable[object]]"

CALLS: dict[str, Call] = {
    "compute_linked_pod": lambda client, namespace, uid, service: client.compute_linked_pod(namespace, uid, service),
    "route": lambda client, namespace, uid, service: client.route(namespace, uid, service),
    "set_linked_pod_if_absent": lambda client, *key: client.set_linked_pod_if_absent(*key, 0),
    "get_linked_pod": lambda client, *key: client.get_linked_pod(*key),
    "get_linked_pod_not_cache": lambda client, *key: client.get_linked_pod_not_cache(*key),
    "get_linked_pod_in_cache_or_if_persist": lambda client, *key: client.get_linked_pod_in_cache_or_if_persist(*key),
    "get_link_service": lambda client, namespace, uid, _: client.get_link_service(namespace, uid),
    "find": lambda client, *key: client.find(*key),
    "batch_get_linked_pod": lambda client, namespace, uid, service: client.batch_get_linked_pod(
        namespace, [uid, f"{uid}-2"], service
    ),
    "batch_compute_linked_pod": lambda client, namespace, uid, service: client.batch_compute_linked_pod(
        namespace, [uid, f"{uid}-2"], service
    ),
    "pods": lambda client, namespace, _, service: client.pods(namespace, service),
    "pod": lambda client, namespace, _, service: client.pod(namespace, service, 7),
    "report_unreachable": lambda client, namespace, _, service: client.report_unreachable(namespace, service, 0),
}


def settings(namespace: str) -> BaseConfig:
    return BaseConfig(namespace=namespace, call_deadline=DEADLINE, heartbeat=0.2, lease=60.0)


@contextlib.asynccontextmanager
async def gateway(server: LocalServer, url: str, namespace: str) -> AsyncIterator[ClientDriver]:
    """Run a client that has used its namespace, with a pod that reaches the server directly."""
    info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    async with (
        StatefulRoute.from_url(server.url, settings(namespace)) as near,
        near.server(info),
        StatefulRoute.from_url(url, settings(namespace)) as route,
        route.client() as client,
    ):
        await client.compute_linked_pod("", "known", "room")
        yield client


async def took(call: Awaitable[object]) -> tuple[float, BaseException | None]:
    began = time.monotonic()
    try:
        await call
    except StoreError as error:
        return time.monotonic() - began, error
    return time.monotonic() - began, None


@pytest.mark.parametrize("place", ["a new namespace", "a new service", "a known service"])
async def test_black_hole(shared_server: LocalServer, namespace: str, place: str) -> None:
    """A call over a network that swallows everything ends within one deadline, one after the other and together.

    One into a new namespace waited for the listener, for the table and for its own question, with a deadline each.
    """

    def keys(name: str) -> tuple[str, str, str]:
        if place == "a new namespace":
            return f"{namespace}-{name}", "alice", "room"
        return namespace, f"user-of-{name}", "room" if place == "a known service" else f"service-of-{name}"

    async with (
        FaultProxy(shared_server) as proxy,
        gateway(shared_server, proxy.url, namespace) as client,
    ):
        proxy.black_hole()
        calls = [call(client, *keys(name)) for name, call in CALLS.items()]
        together = dict(zip(CALLS, await asyncio.gather(*map(took, calls)), strict=True))
        after = {name: await took(call(client, *keys(f"{name}-again"))) for name, call in CALLS.items()}

    for name, (seconds, error) in [*together.items(), *after.items()]:
        assert seconds < DEADLINE + SLACK, name
        # The pods of a known service are as they were.
        assert place == "a known service" or error is not None, name


@pytest.mark.parametrize("place", ["a new namespace", "a known service"])
async def test_server_stopped(own_server: LocalServer, namespace: str, place: str) -> None:
    """A call to a server that stands still ends within one deadline, and the next one after it is back is answered."""
    other = f"{namespace}-other" if place == "a new namespace" else namespace
    async with gateway(own_server, own_server.url, namespace) as client:
        own_server.pause()
        try:
            calls = [took(call(client, other, f"user-of-{name}", "room")) for name, call in CALLS.items()]
            ended = dict(zip(CALLS, await asyncio.gather(*calls), strict=True))
        finally:
            own_server.resume()
        back = await client.compute_linked_pod(namespace, "bob", "room")

    assert 0 == back
    assert all(seconds < DEADLINE + SLACK for seconds, _ in ended.values()), ended
    assert all(isinstance(error, StoreError | None) for _, error in ended.values())


async def test_late_caller(shared_server: LocalServer, namespace: str) -> None:
    """Callers of one uid that come one after the other each wait for a deadline of their own, no less and no longer."""
    async with FaultProxy(shared_server) as proxy, gateway(shared_server, proxy.url, namespace) as client:
        proxy.black_hole()
        calls = []
        for _ in range(8):
            calls.append(asyncio.create_task(took(client.compute_linked_pod("", "alice", "room"))))
            await asyncio.sleep(DEADLINE / 10)  # what is tested
        ended = await asyncio.gather(*calls)

    assert all(DEADLINE - 0.05 < seconds < DEADLINE + SLACK for seconds, _ in ended), ended
    assert all(isinstance(error, StoreTimeoutError) for _, error in ended)


async def test_late_caller_is_answered(shared_server: LocalServer, namespace: str) -> None:
    """A caller whose call was joined to one that is not answered in time is answered itself once the network is back.

    It got the time-out of the first one, though its own time had hardly begun.
    """
    async with FaultProxy(shared_server) as proxy, gateway(shared_server, proxy.url, namespace) as client:
        proxy.black_hole()
        first = asyncio.create_task(took(client.compute_linked_pod("", "alice", "room")))
        await asyncio.sleep(DEADLINE * 0.8)
        late = asyncio.create_task(took(client.compute_linked_pod("", "alice", "room")))
        proxy.pass_through()  # what was sent is lost
        ended = [await first, await late]

    assert isinstance(ended[0][1], StoreTimeoutError)
    assert ended[1][1] is None
