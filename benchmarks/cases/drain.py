"""A pod drains, and links move: how long until every client knows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

from benchmarks import elsewhere
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info
from benchmarks.goals import Ceiling
from benchmarks.harness import Case, Goal, Variant
from stateful_route import StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.harness import Lab, Round
    from stateful_route import ClientDriver, ServerDriver

_CLIENTS = 20
_MOST_MS = 100.0
_MOST_MOVE_MS = 3.0
_CALLERS = 50
_PAUSE = 0.01
_PER_SECOND = round(_CALLERS / _PAUSE)
_IN_FLIGHT = 300
_LOADED = 0.05
# Seconds without a change of a pod: of several in a row clients read those after the first together, after a pause.
_QUIET = 0.6


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    server = lab.server()
    async with StatefulRoute.from_url(server.url, CONFIG) as route, contextlib.AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(route.server(info(0)))
        clients = [await stack.enter_async_context(route.client()) for _ in range(_CLIENTS)]
        for client in clients:
            await client.compute_linked_pod("", "warm", SERVICE)
        pod = await stack.enter_async_context(elsewhere.pod_on_demand(server.url))
        judged = (Ceiling(_MOST_MOVE_MS, quantile=0.99),)
        yield [
            Variant("no new uids", _drained(route, clients), _bound(_MOST_MS)),
            Variant("moved link", _moved(keeper, clients), _bound(_MOST_MOVE_MS), goals=judged),
            Variant(
                f"moved link, {_PER_SECOND:,} misses a second in this process",
                _under_load(_moved_elsewhere(pod, clients), clients),
                _bound(_MOST_MOVE_MS),
                goals=judged,
            ),
            Variant(
                f"moved link, {_IN_FLIGHT} misses in flight in another process, more than the machine can do",
                _with_load_from(server.url, _moved_elsewhere(pod, clients), stack),
                _bound(_MOST_MOVE_MS),
                goals=(),
            ),
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
        server = route.server(info(pod_index))
        await server.start()
        await _until(lambda: all(_offers(client, pod_index) for client in clients))
        await asyncio.sleep(_QUIET)
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
        assert await _holders(clients, uid) == len(clients)
        begun = time.perf_counter()
        release = asyncio.create_task(ownership.release())
        await _until_dropped(clients, uid)
        took = time.perf_counter() - begun
        await release
        return took * 1000

    return measure


def _moved_elsewhere(pod: asyncio.subprocess.Process, clients: list[ClientDriver]) -> Round:
    """Return the same for a link that a pod in another process releases: it tells when it began."""
    numbers = itertools.count()
    assert pod.stdin is not None
    assert pod.stdout is not None
    orders, answers = pod.stdin, pod.stdout

    async def measure() -> float:
        uid = f"elsewhere-{next(numbers)}"
        orders.write(f"claim {uid}\n".encode())
        assert await answers.readline() == b"claimed\n"
        for client in clients:
            await client.get_linked_pod("", uid, SERVICE)
        assert await _holders(clients, uid) == len(clients)
        orders.write(f"release {uid}\n".encode())
        await _until_dropped(clients, uid)
        dropped = time.perf_counter()
        return (dropped - float(await answers.readline())) * 1000

    return measure


def _with_load_from(url: str, measure: Round, stack: contextlib.AsyncExitStack) -> Round:
    """Measure while another process has so many calls in flight, from the first round to the end of the case."""
    loading: list[asyncio.subprocess.Process] = []

    async def measure_under_load() -> float:
        if not loading:
            loading.append(await stack.enter_async_context(elsewhere.load(url, _IN_FLIGHT)))
        took = await measure()
        assert loading[0].returncode is None
        return took

    return measure_under_load


async def _until_dropped(clients: list[ClientDriver], uid: str) -> None:
    while await _holders(clients, uid):  # noqa: ASYNC110 - the moment is what is measured
        await asyncio.sleep(0)


async def _holders(clients: list[ClientDriver], uid: str) -> int:
    """Return how many of the clients have the link in their cache; it waits for nothing."""
    cached = [await client.get_linked_in_cache(NAMESPACE, uid, SERVICE) for client in clients]
    return sum(pod_index is not None for pod_index in cached)


def _under_load(measure: Round, clients: list[ClientDriver]) -> Round:
    """Measure while callers place a new uid each, and one more after each pause; all have begun before."""
    numbers = itertools.count()

    async def measure_under_load() -> float:
        over = False

        async def place(client: ClientDriver) -> None:
            while not over:
                await client.compute_linked_pod(NAMESPACE, f"load-{next(numbers)}", SERVICE)
                await asyncio.sleep(_PAUSE)

        async with asyncio.TaskGroup() as group:
            for number in range(_CALLERS):
                group.create_task(place(clients[number % len(clients)]))
            await asyncio.sleep(_LOADED)
            took = await measure()
            over = True
        return took

    return measure_under_load


def _offers(client: ClientDriver, pod_index: int) -> bool:
    """Whether a client would place a new uid on that pod."""
    return any(pod.pod_index == pod_index for pod in client._directory.peek(NAMESPACE, SERVICE).placements.routable)


async def _until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110 - the moment is what is measured
        await asyncio.sleep(0)


DRAIN = Case(
    name="drain",
    title=f"what {_CLIENTS} clients hear of a pod that drains, and of a link that moves",
    reference=f"the goals: {_MOST_MS:g} ms until no new uid goes to it, {_MOST_MOVE_MS:g} ms until the link is dropped",
    versus="goal",
    unit="ms",
    goal=Goal(1.0),
    rounds=100,
    quick_rounds=5,
    open=_open,
)
