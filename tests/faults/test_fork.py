"""A process that forks, and more than one event loop: typed errors, and never two that own or share their replies."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, LifecycleError, StatefulRoute

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from stateful_route import ClientDriver, Ownership, ServerDriver
    from stateful_route.embedded.server import LocalServer
    from tests.faults.conftest import Measured

pytestmark = [
    pytest.mark.scenario(29),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of (fork|forkpty).*:DeprecationWarning"),
]


def settings(namespace: str) -> BaseConfig:
    return BaseConfig(
        namespace=namespace, service_name="room", pod_name="room-0", pod_index=0, heartbeat=0.2, lease=30.0
    )


def look(pod: ServerDriver, handle: Ownership, client: ClientDriver) -> dict[str, Any]:
    """Return what a child finds of its parent's drivers."""

    async def call() -> list[str]:
        kinds = []
        for use in (
            lambda: pod.claim("alice"),
            lambda: pod.set_load_state(1),
            lambda: client.compute_linked_pod("", "alice", "room"),
            pod.start,
            client.start,
        ):
            try:
                await use()
                kinds.append("nothing")
            except Exception as error:  # noqa: BLE001 - it is looked at
                kinds.append(type(error).__name__)
        await pod.stop()
        await client.stop()
        return kinds

    first_look = {
        "owns": handle.is_owned(),
        "holds": handle.held,
        "owned": pod.owned("alice") is not None,
        "cached": client.peek("", "alice", "room"),
        "healthy": pod.healthy,
    }
    return {**first_look, "errors": asyncio.run(call())}


def _report(end: Connection, *parts: Any) -> None:
    end.send(look(*parts))
    end.close()


NOTHING = {"owns": False, "holds": False, "owned": False, "cached": None, "healthy": False}


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
async def test_child_owns_nothing(shared_server: LocalServer, namespace: str, measured: Measured, way: str) -> None:
    """A child of a pod's process owns nothing and has typed errors only; the parent goes on as if nothing had been."""
    async with StatefulRoute.from_url(shared_server.url, settings(namespace)) as route:
        async with route.server() as pod, route.client() as client:
            handle = await pod.claim("alice")
            assert 0 == await client.compute_linked_pod("", "alice", "room")
            assert 0 == client.peek("", "alice", "room")
            found = await (_by_os_fork if way == "os.fork" else _by_multiprocessing)(pod, handle, client)
            crossed = 0
            for number in range(200):
                claimed = await pod.claim(f"user-{number}")
                crossed += claimed.uid != f"user-{number}" or not claimed.is_owned()
            still = (handle.is_owned(), pod.healthy, client.peek("", "alice", "room"))

    measured(
        f"{sum(found[name] != value for name, value in NOTHING.items())} silent misuses, {crossed} crossed replies"
    )
    assert NOTHING | {"errors": ["LifecycleError"] * 5} == found
    assert 0 == crossed
    assert (True, True, 0) == still


async def _by_os_fork(*parts: Any) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(look(*parts)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found: dict[str, Any] = json.loads(await asyncio.to_thread(answer.read))
    os.waitpid(child, 0)
    return found


async def _by_multiprocessing(*parts: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(writing, *parts))
    child.start()
    found: dict[str, Any] = await asyncio.to_thread(reading.recv)
    await asyncio.to_thread(child.join)
    return found


async def test_made_before_a_fork(shared_server: LocalServer, namespace: str) -> None:
    """What was made before a fork and not started, as by a server that loads its application first, works."""
    route = StatefulRoute.from_url(shared_server.url, settings(namespace))

    async def use() -> bool:
        async with route, route.server() as pod:
            return (await pod.claim("alice")).is_owned()

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(asyncio.run(use())).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = await asyncio.to_thread(answer.read)
    os.waitpid(child, 0)

    assert "True" == said


async def test_two_loops(shared_server: LocalServer, namespace: str, measured: Measured) -> None:
    """Drivers that run, and such as were not started, are refused in another event loop by a typed error."""
    async with StatefulRoute.from_url(shared_server.url, settings(namespace)) as route:
        async with route.server() as pod, route.client() as client:
            fresh = route.client(), route.server()

            async def use() -> list[str]:
                kinds = []
                for call in (
                    lambda: pod.claim("alice"),
                    lambda: client.compute_linked_pod("", "alice", "room"),
                    client.stop,
                    *(each.start for each in fresh),
                ):
                    try:
                        async with asyncio.timeout(5.0):
                            await call()
                        kinds.append("nothing")
                    except Exception as error:  # noqa: BLE001 - it is looked at
                        kinds.append(type(error).__name__)
                return kinds

            errors = await asyncio.to_thread(lambda: asyncio.run(use()))
            owned = (await pod.claim("alice")).is_owned()

    measured(f"{sum(name != 'LifecycleError' for name in errors)} calls without a typed error")
    assert ["LifecycleError"] * 5 == errors
    assert owned


async def test_stopped_in_the_child(shared_server: LocalServer, namespace: str) -> None:
    """A LifecycleError of a forked driver says what to do."""
    async with StatefulRoute.from_url(shared_server.url, settings(namespace)) as route, route.client() as client:
        client._after_fork()
        with pytest.raises(LifecycleError, match="forked from: open a route and make a driver in each process"):
            await client.compute_linked_pod("", "alice", "room")
        client._phase = type(client._phase).RUNNING  # it is stopped by the block
