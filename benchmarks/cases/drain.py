"""A pod drains, and links move: how long until every client knows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE
from benchmarks.harness import Case, Goal, Variant
from stateful_route import ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.harness import Lab, Round
    from stateful_route import ClientDriver, ServerDriver

_CLIENTS = 20
_MOST_MS = 100.0
_MOST_MOVE_MS = 5.0


def _info(pod_index: int) -> ServerInfo:
    return ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=f"pod-{pod_index}", pod_index=pod_index)


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    async with StatefulRoute.from_url(lab.server().url, CONFIG) as route, contextlib.AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(route.server(_info(0)))
        clients = [await stack.enter_async_context(route.client()) for _ in range(_CLIENTS)]
        for client in clients:
            await client.compute_linked_pod("", "warm", SERVICE)
        yield [
            Variant("no new uids", _drained(route, clients), _bound(_MOST_MS)),
            Variant("moved link", _moved(keeper, clients), _bound(_MOST_MOVE_MS)),
        ]


def _bound(ms: float) -> Round:
    async def bound() -> float:
        return ms

    return bound


def _drained(route: StatefulRoute, clients: list[ClientDriver]) -> Round:
    """Return the milliseconds from the call of drain() until no client would place a new uid on the pod."""
    numbers = itertools.count(1)

    async def measure() -> float:
        pod_index = next(numbers)
        server = route.server(_info(pod_index))
        await server.start()
        await _until(lambda: all(_offers(client, pod_index) for client in clients))
        begun = time.perf_counter()
        drain = asyncio.create_task(server.drain())
        await _until(lambda: not any(_offers(client, pod_index) for client in clients))
        took = time.perf_counter() - begun
        await drain
        await server.stop()
        return took * 1000

    return measure


def _moved(keeper: ServerDriver, clients: list[ClientDriver]) -> Round:
    """Return the milliseconds from the call of release() until every client has dropped the link."""
    numbers = itertools.count()

    async def measure() -> float:
        uid = f"moved-{next(numbers)}"
        ownership = await keeper.claim(uid)
        for client in clients:
            await client.get_linked_pod("", uid, SERVICE)
        key = (NAMESPACE, uid, SERVICE)
        assert all(client._cache.get(key) is not None for client in clients)
        begun = time.perf_counter()
        release = asyncio.create_task(ownership.release())
        await _until(lambda: all(client._cache.get(key) is None for client in clients))
        took = time.perf_counter() - begun
        await release
        return took * 1000

    return measure


def _offers(client: ClientDriver, pod_index: int) -> bool:
    """Whether a client would place a new uid on that pod."""
    return any(pod.pod_index == pod_index for pod in client._table.peek(NAMESPACE, SERVICE).routable)


async def _until(fact: object) -> None:
    assert callable(fact)
    while not fact():  # noqa: ASYNC110 - the moment is what is measured
        await asyncio.sleep(0)


DRAIN = Case(
    name="drain",
    title=f"what {_CLIENTS} clients hear of a pod that drains, and of a link that moves",
    reference=f"the goals: {_MOST_MS:g} ms until no new uid goes to it, {_MOST_MOVE_MS:g} ms until the link is dropped",
    unit="ms",
    goal=Goal(1.0),
    rounds=100,
    open=_open,
)
