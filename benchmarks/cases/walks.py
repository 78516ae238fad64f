"""The walk of one uid through the package: nothing is timed, and the figures are the same on every machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks import elsewhere
from benchmarks.cases.pods import NAMESPACE, SERVICE, info
from benchmarks.comparison import Comparison
from benchmarks.deaths import QUIET, client_after_a_death
from benchmarks.goals import Ceiling
from benchmarks.harness import Lab
from benchmarks.roads import Walk, most_common, recorded
from benchmarks.rows import Row
from benchmarks.web.apps import bare
from stateful_route import StatefulRoute
from stateful_route.web import Path, StickyMiddleware

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Awaitable

    from benchmarks.rows import Options
    from stateful_route import ClientDriver, ServerDriver
    from stateful_route.store.protocol import Store

HIT = "hit"
INVALIDATION = "invalidation"
CLAIM = "claim"
MISS = "miss"
KNOWN = "known"
CROWD = "crowd"
TAKEOVER = "takeover"
HEARTBEAT = "heartbeat"
RELEASE = "release"
SERVED = "served"
CARRIED = "carried"

TRIPS = {
    HIT: "a cached hit",
    INVALIDATION: "an invalidation to the dropped entry",
    CLAIM: "a claim of a new uid",
    MISS: "a miss of a new uid",
    KNOWN: "a miss of a uid with a persistent link",
    CROWD: "a miss of a new uid, one of 100 at once",
    TAKEOVER: "a takeover of a confirmed death",
    HEARTBEAT: "a heartbeat, timer to Redis",
    RELEASE: "a release",
    SERVED: "a GET at the owner of its uid",
    CARRIED: "a GET at another process, there and at the owner",
}

_COLUMNS = ("calls", "modules", "moves", "functions", "coroutines")
_MISS = (Ceiling(40, subject="calls"), Ceiling(14, subject="modules"))
GOALS = {
    MISS: _MISS,
    KNOWN: _MISS,
    CROWD: _MISS,
    HEARTBEAT: (Ceiling(60, subject="calls"),),
    SERVED: (Ceiling(24, subject="calls"),),
    CARRIED: (Ceiling(90, subject="calls"), Ceiling(16, subject="modules"), Ceiling(4, subject="coroutines")),
}

_AT_ONCE = 100
_PODS = 4
_WARM = 100
_DEAD, _HERE = 10, 11
_PERIOD = 0.25
_PAUSE = 0.02
"""Between a heartbeat and what else a pod does; a reply comes sooner."""

_BEATING = attrs.evolve(QUIET, heartbeat=_PERIOD)
_ARRIVED = 0.05
_FINISHED = 0.01
"""In which an owner has ended what it was asked for, and no timer of a connection has come."""

_route = StatefulRoute.from_url


async def walks(options: Options) -> dict[str, Walk]:
    """Return the walk of each trip: of several, the most common one."""
    times = options.pick(25, 7)
    taken: dict[str, list[Walk]] = defaultdict(list)
    with Lab(options) as lab:
        url = lab.server().url
        async with elsewhere.pods(url, _PODS):
            async with elsewhere.pod_on_demand(url) as pod, _route(url, QUIET) as route, route.client() as client:
                for number in range(_WARM):  # each pod was chosen, and what is made once for it is there
                    await client.compute_linked_pod(NAMESPACE, f"warm-{number}", SERVICE)
                for number in range(times):
                    await _of_client(client, pod, number, taken)
                    uids = [f"crowd-{number}-{caller}" for caller in range(_AT_ONCE)]
                    taken[CROWD].append(await _walked(_at_once(client, uids)))
            async with _route(url, QUIET) as route:
                await _takeovers(url, route.store, times, taken)
            async with _route(url, QUIET) as route, route.server(info(_HERE)) as server:
                for number in range(times):
                    await _of_server(server, number, taken)
            async with _route(url, _BEATING) as route, route.server(info(_HERE)):
                await asyncio.sleep(2 * _PERIOD)
                with recorded() as recorder:
                    await asyncio.sleep(times * _PERIOD)
                # A pod has another chore with the same period; it does not ask the store.
                taken[HEARTBEAT] = [part for part in recorder.parts(_PAUSE) if _asks_the_store(part)]
        await _of_web(url, times, taken)
    return {trip: most_common(taken[trip]) for trip in TRIPS}


async def _of_client(client: ClientDriver, pod: Process, number: int, taken: dict[str, list[Walk]]) -> None:
    new, known = f"new-{number}", f"known-{number}"
    await _ordered(pod, "claim", known)
    taken[MISS].append(await _walked(client.compute_linked_pod(NAMESPACE, new, SERVICE)))
    taken[KNOWN].append(await _walked(client.compute_linked_pod(NAMESPACE, known, SERVICE)))
    for _ in range(3):
        await client.compute_linked_pod(NAMESPACE, known, SERVICE)
    taken[HIT].append(await _walked(client.compute_linked_pod(NAMESPACE, known, SERVICE)))
    with recorded() as recorder:
        await _ordered(pod, "release", known)
        await asyncio.sleep(_ARRIVED)
    assert await client.get_linked_in_cache(NAMESPACE, known, SERVICE) is None
    taken[INVALIDATION].append(recorder.walk)


async def _at_once(client: ClientDriver, uids: list[str]) -> None:
    await asyncio.gather(*(client.compute_linked_pod(NAMESPACE, uid, SERVICE) for uid in uids))


async def _takeovers(url: str, store: Store, times: int, taken: dict[str, list[Walk]]) -> None:
    uids = [f"takeover-{number}" for number in range(_WARM + times)]
    async with client_after_a_death(url, store, uids, pod_index=_DEAD) as client:
        for uid in uids[:_WARM]:
            await client.compute_linked_pod(NAMESPACE, uid, SERVICE)
        for uid in uids[_WARM:]:
            call = client.compute_linked_pod(NAMESPACE, uid, SERVICE)
            taken[TAKEOVER].append(await _walked(call))
            assert await client.get_linked_in_cache(NAMESPACE, uid, SERVICE) != _DEAD


async def _of_server(server: ServerDriver, number: int, taken: dict[str, list[Walk]]) -> None:
    uid = f"here-{number}"
    taken[CLAIM].append(await _walked(server.claim(uid)))
    ownership = server.owned(uid)
    assert ownership is not None
    taken[RELEASE].append(await _walked(ownership.release()))
    assert not ownership.is_owned()


async def _of_web(url: str, times: int, taken: dict[str, list[Walk]]) -> None:
    """Ask for a uid at its owner, and at another process, which is in this one too: the walk is over both."""
    owner, other = (_sticky(url) for _ in range(2))
    async with contextlib.AsyncExitStack() as stack:
        for app in (owner, other):
            await app.start()
            stack.push_async_callback(app.stop)
        await _get(owner)
        if owner.statistics().forwarded:  # the uid was placed in the other one
            owner, other = other, owner
        for _ in range(_WARM):
            await _get(other)
        for _ in range(times):
            taken[SERVED].append(await _walked(_get(owner)))
            taken[CARRIED].append(await _walked(_carried(other)))


def _sticky(url: str) -> StickyMiddleware:
    return StickyMiddleware(
        bare, service=SERVICE, uid=Path("/{uid}"), redis=url, config=QUIET, host="127.0.0.1", on_signal=False
    )


async def _carried(app: StickyMiddleware) -> None:
    await _get(app)
    await asyncio.sleep(_FINISHED)


async def _get(app: StickyMiddleware) -> None:
    """Ask an app as a web server does."""
    requests: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not requests:
            await asyncio.get_running_loop().create_future()  # the client stays
        return requests.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/room",
            "raw_path": b"/room",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"accept", b"*/*")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        },
        receive,
        send,
    )
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 200


async def _walked(call: Awaitable[object]) -> Walk:
    await asyncio.sleep(_ARRIVED)  # what the call before has left to do is done
    with recorded() as recorder:
        await call
    return recorder.walk


async def _ordered(pod: Process, order: str, uid: str) -> None:
    assert pod.stdin is not None
    assert pod.stdout is not None
    pod.stdin.write(f"{order} {uid}\n".encode())
    assert await pod.stdout.readline()


def _asks_the_store(walk: Walk) -> bool:
    return any(step.module.partition(".")[0] == "store" for step in walk.steps)


def shown(trip: str, options: Options) -> list[str]:
    """Return the walk of that trip, call by call."""
    walk = asyncio.run(walks(options))[trip]
    calls, modules, moves = walk.figures
    more = f"{walk.functions} functions, coroutines {walk.coroutines} deep"
    return [
        f"{TRIPS[trip]}: {calls} calls, {modules} modules, {moves} moves between modules, {more}",
        "",
        *walk.lines(),
    ]


async def _run(options: Options) -> AsyncIterator[Row]:
    for trip, walk in (await walks(options)).items():
        calls, modules, moves = walk.figures
        trips = _AT_ONCE if trip == CROWD else 1
        figures = (calls / trips, float(modules), moves / trips, float(walk.functions), float(walk.coroutines))
        yield Row(
            case=WALKS,
            variant=TRIPS[trip],
            unit="in one trip",
            figures={name: [figure] for name, figure in zip(_COLUMNS, figures, strict=True)},
            goals=GOALS.get(trip, ()),
        )


WALKS = Comparison(
    name="walks",
    title="the walk of one uid through the package: calls of its functions, their modules, and moves between modules",
    reference="the goal",
    goal="a miss in 40 calls and 14 modules, a heartbeat in 60 calls, a carried GET in 90 calls and 16 modules",
    run=_run,
    columns=_COLUMNS,
    decimals=0,
)
