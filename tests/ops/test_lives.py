"""Orders to pods that end, or whose index has a new life by the time they are heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from stateful_route import BaseConfig, RoutingState, ServerDriver, StatefulRoute
from tests.ops.conftest import SERVICE, pod_of, refused
from tests.ops.test_requests import Gate, kill

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.embedded.server import LocalServer


async def test_drained_and_then_ends(route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
    """A pod that an operator has drained, and that now drains as its process ends, is not undrained."""
    gate = Gate()
    operator = route.operator()
    async with make_pod(0, hand_off=gate) as pod:
        await operator.drain(SERVICE, 0, timeout=3.0, force=True)
        await pod.claim("alice")
        ending = asyncio.create_task(pod.drain())
        await asyncio.sleep(0.3)
        with refused("not_answering", match="to undrain"):
            await operator.undrain(SERVICE, 0, timeout=1.5)
        state = await pod.get_routing_state()
        gate.open.set()
        await ending

        assert RoutingState.DENY_NEW_CALL is state


async def test_has_drained_and_ends(route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
    """So it is once the drain of its end is over, and the process still serves what it has begun."""
    operator = route.operator()
    async with make_pod(0) as pod:
        await pod.drain()
        with refused("not_answering", match="to undrain"):
            await operator.undrain(SERVICE, 0, timeout=1.5)

        assert RoutingState.DENY_NEW_CALL is await pod.get_routing_state()


async def test_ready_again(route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
    """Once the application has set its pod to READY, the pod can be drained and undrained by operators again."""
    operator = route.operator()
    async with make_pod(0) as pod:
        await pod.drain()
        await pod.set_routing_state(RoutingState.READY)
        await operator.drain(SERVICE, 0, force=True)
        await operator.undrain(SERVICE, 0)

        assert RoutingState.READY is await pod.get_routing_state()


async def test_the_end_has_its_time(shared_server: LocalServer, namespace: str, config: BaseConfig) -> None:
    """What a pod claims after the drain of an operator is handed off at its end, which has the time of a drain."""
    saved: list[str] = []

    async def save(uid: str) -> None:
        await asyncio.sleep(0.6)  # longer than what a stop has for what comes after a drain of its own
        saved.append(uid)

    config = attrs.evolve(config, stop_deadline=0.5)
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        async with route.server(pod_of(namespace, 0), hand_off=save) as pod:
            await route.operator().drain(SERVICE, 0, force=True)
            await pod.claim("alice")

    assert ["alice"] == saved


async def test_it_ends_while_it_drains(shared_server: LocalServer, namespace: str, config: BaseConfig) -> None:
    """A pod that ends while an operator has it drained has its own time for what is left of that."""
    called: list[str] = []
    began = asyncio.Event()

    async def save(uid: str) -> None:
        called.append(uid)
        began.set()
        if len(called) == 1:
            await asyncio.Event().wait()  # until the drain of the operator cuts it off

    config = attrs.evolve(config, drain_deadline=1.0, stop_deadline=0.5)
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        async with route.server(pod_of(namespace, 0), hand_off=save) as pod:
            await pod.claim("alice")
            drained = asyncio.create_task(route.operator().drain(SERVICE, 0, timeout=5.0, force=True))
            await began.wait()
            await asyncio.sleep(0.5)  # half of the time of that drain is over
        drained.cancel()
        left = await route.operator().where("alice")

    assert (["alice", "alice"], []) == (called, left)


async def test_another_life_is_not_drained(route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
    """A drain is of the life that was asked; that its process was replaced meanwhile is said, and its heir goes on."""
    gate = Gate()
    operator = route.operator()
    old = make_pod(0, hand_off=gate)
    await old.start()
    await old.claim("alice")
    draining = asyncio.create_task(operator.drain(SERVICE, 0, timeout=3.0, force=True))
    await gate.began.wait()
    await kill(old)
    async with make_pod(0) as heir:
        with refused("not_alive"):
            await draining
        await asyncio.sleep(0.2)

        assert RoutingState.READY is await heir.get_routing_state()
    gate.open.set()
    await old.stop()
