"""Many callers at once: their uids are placed together, and what happens to one is its own affair."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    ClientDriver,
    InvalidArgumentError,
    NoCapacityError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.client.placer import GATHER_FROM
from stateful_route.store import LinkKey
from tests.insides import directory_of, publish
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE
from tests.unit.test_takeover import look_on, mute

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from stateful_route.links import LinkChange
    from stateful_route.pods import PodLife
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer, RunPods

UIDS = [f"user-{number}" for number in range(200)]
AWAY = StoreUnavailableError("away", operation="place", maybe_applied=False)
TIMEOUT = StoreTimeoutError("no answer", operation="place", maybe_applied=True)


class Watched:
    """A store that notes how many uids each question is about, and answers some of them with an error."""

    places_together = True

    def __init__(self, store: MemoryStore, failing: dict[str, StoreError] | None = None) -> None:
        self._store = store
        self._failing = failing or {}
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def place(self, key: LinkKey, *args: Any, **lives: Any) -> LinkChange:
        self.sizes.append(1)
        return await self._store.place(key, *args, **lives)

    async def place_links(
        self, namespace: str, candidates: Sequence[tuple[str, PodLife]], *args: Any, **lives: Any
    ) -> list[LinkChange | StoreError]:
        self.sizes.append(len(candidates))
        answers = await self._store.place_links(namespace, candidates, *args, **lives)
        return [self._failing.get(uid, answer) for (uid, _), answer in zip(candidates, answers, strict=True)]


def at_once(client: ClientDriver, uids: Sequence[str] = UIDS) -> list[asyncio.Task[int]]:
    """Ask for all uids in one turn of the event loop."""
    return [asyncio.create_task(client.compute_linked_pod("", uid, SERVICE)) for uid in uids]


async def ready(client: ClientDriver) -> None:
    """Let a client read the pods."""
    await client.compute_linked_pod("", "first", SERVICE)


def nothing_left(client: ClientDriver) -> bool:
    """Whether nothing is gathered, asked for, or counted as being placed."""
    placer, service = client._resolver.placer, directory_of(client).peek(NAMESPACE, SERVICE)
    left = (placer._gathered, placer._asking, client._resolver._placing._in_flight, service.placements.placing)
    return not any(left) and not any(pod.pending for pod in service._pods.values())


async def test_questions(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """The first few go by themselves, and the others 64 to a question; each gets the pod that the store has for it."""
    watched = Watched(store)
    async with run_pods(4), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        watched.sizes.clear()
        answers = dict(zip(UIDS, await asyncio.gather(*at_once(client)), strict=True))

        assert [1] * GATHER_FROM + [64, 64, 64] == watched.sizes
        for uid, pod in answers.items():
            link = await store.get_link(LinkKey(NAMESPACE, uid, SERVICE))
            assert link is not None
            assert (pod, pod) == (link.pod_index, client.peek("", uid, SERVICE))
        placed = Counter([*answers.values(), client.peek("", "first", SERVICE)])
        assert max(placed.values()) - min(placed.values()) <= 2  # chance decides between pods that are as loaded
        assert nothing_left(client)


async def test_not_on_a_cluster(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """Where uids lie on many servers, one that is away must not hold up the uids of the others."""
    watched = Watched(store)
    watched.places_together = False
    async with run_pods(2), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        await asyncio.gather(*at_once(client))

        assert {1} == set(watched.sizes)


async def test_few(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """A few callers do not wait for others."""
    watched = Watched(store)
    async with run_pods(2), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        await asyncio.gather(*at_once(client, UIDS[:GATHER_FROM]))

        assert [1] * (GATHER_FROM + 1) == watched.sizes


async def test_cancelled(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """A caller that is cancelled, be it before the question or during it, leaves the others alone; its uid is kept."""
    async with run_pods(2), make_client() as client:
        await ready(client)
        store.hold("place", "place_links")
        tasks = at_once(client)
        await asyncio.sleep(0)
        tasks[20].cancel()
        await store.wait_held(GATHER_FROM + 3)
        tasks[30].cancel()
        store.release_held()
        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert [20, 30] == [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
        assert client.peek("", UIDS[30], SERVICE) in {0, 1}
        assert nothing_left(client)


async def test_cancelled_before(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """A uid whose caller is gone before the question goes out is not asked for, and gets no link."""
    watched = Watched(store)
    async with run_pods(2), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        watched.sizes.clear()
        tasks = at_once(client, UIDS[:20])
        asyncio.get_running_loop().call_soon(lambda: [task.cancel() for task in tasks[10:15]])
        await asyncio.gather(*tasks, return_exceptions=True)

        assert [1] * GATHER_FROM + [20 - GATHER_FROM - 5] == watched.sizes
        assert [None] * 5 == await store.get_links(NAMESPACE, UIDS[10:15], SERVICE)
        assert nothing_left(client)


async def test_stopped(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """A client that stops waits for its questions for a deadline, and leaves no task behind; who waits is told so."""
    async with run_pods(2):
        client = make_client(call_deadline=0.05)
        await client.start()
        await ready(client)
        store.hold("place_links")
        tasks = at_once(client, UIDS[:40])
        await store.wait_held()
        await client.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert {int: GATHER_FROM, StoreUnavailableError: 40 - GATHER_FROM} == Counter(map(type, answers))
        assert [] == [task for task in asyncio.all_tasks() if "places uids" in task.get_name()]
        store.release_held()


async def test_context(make_client: MakeClient, run_pods: RunPods) -> None:
    """A question of many callers is asked in the context of none of them: what one traces is not what others do."""
    seen: set[object] = set()
    request: ContextVar[str] = ContextVar("request")

    def choose(candidates: Any, random: Random) -> Any:
        seen.add(request.get(None))
        return candidates[0]

    async def call(uid: str) -> int:
        request.set(uid)
        return await client.compute_linked_pod("", uid, SERVICE)

    async with run_pods(2), make_client(choose) as client:
        await ready(client)
        await asyncio.gather(*map(call, UIDS))

    assert {None, *UIDS[:GATHER_FROM]} == seen


async def test_joined(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """Who asks for a uid that is being placed with others gets the same answer, also if the first caller is gone."""
    async with run_pods(2), make_client() as client:
        await ready(client)
        store.hold("place", "place_links")
        first = at_once(client)
        await store.wait_held(GATHER_FROM + 3)
        second = at_once(client)
        await asyncio.sleep(0)
        first[100].cancel()
        store.hold_no_more()
        store.release_held()
        answers = await asyncio.gather(*first, return_exceptions=True)
        others = await asyncio.gather(*second)

        assert len(UIDS) - 1 == client.statistics().joined
        assert [(100, True)] == [
            (number, isinstance(one, asyncio.CancelledError))
            for number, (one, other) in enumerate(zip(answers, others, strict=True))
            if one != other
        ]
        assert nothing_left(client)


async def test_error_of_one(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """An error for one uid is raised to its caller, and to no other."""
    broken = StoreError("broken", operation="place", maybe_applied=False)
    watched = Watched(store, {UIDS[50]: broken})
    async with run_pods(2), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        answers = await asyncio.gather(*at_once(client), return_exceptions=True)

        assert [(50, broken)] == [
            (number, answer) for number, answer in enumerate(answers) if isinstance(answer, Exception)
        ]
        assert nothing_left(client)


@pytest.mark.parametrize("error", [AWAY, TIMEOUT])
async def test_store_away(make_client: MakeClient, run_pods: RunPods, store: MemoryStore, error: StoreError) -> None:
    """If the store does not answer, each caller is told so, and nothing is left behind; then it goes on."""
    async with run_pods(2), make_client() as client:
        await ready(client)
        store.fail_with(error, "place", "place_links")
        answers = await asyncio.gather(*at_once(client), return_exceptions=True)
        assert [error] * len(UIDS) == answers
        assert nothing_left(client)

        store.fail_with(None, "place", "place_links")
        assert {0, 1} == set(await asyncio.gather(*at_once(client)))


async def test_doubt(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """Uids that are gathered when the store turns out to be another one, maybe, are placed after the pods are read."""
    async with run_pods(2), make_client() as client:
        await ready(client)
        store.hold("place", "place_links")
        early = at_once(client, UIDS[:GATHER_FROM])
        await store.wait_held(GATHER_FROM)
        store.hold_no_more()
        late = at_once(client, UIDS[GATHER_FROM:])
        await asyncio.sleep(0)
        directory_of(client).peek(NAMESPACE, SERVICE).doubt()
        store.operations.clear()
        await asyncio.gather(*late)
        assert 0 < store.operations["read_pods"]
        assert 0 == store.operations["place_links"]

        store.release_held()
        await asyncio.gather(*early)


async def test_no_room(make_server: MakeServer, make_client: MakeClient) -> None:
    """Pods with a limit get as many as they have room for; the other callers are told that there is none."""
    async with make_server(0, max_links=30) as one, make_server(1, max_links=40) as two, make_client() as client:
        for pod in (one, two):
            await publish(pod)
        await ready(client)
        answers = await asyncio.gather(*at_once(client), return_exceptions=True)

        placed = Counter(answer for answer in answers if isinstance(answer, int))
        assert 70 - 1 == placed.total()
        assert placed[0] <= 30
        assert placed[1] <= 40
        assert {NoCapacityError} == {type(answer) for answer in answers if not isinstance(answer, int)}
        assert nothing_left(client)


async def test_dead_owner(make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """Uids whose owner turns out to be dead are taken over, though they were asked for with others."""
    async with run_pods(1) as (alive,), make_client() as client:
        await mute(store, 1, *UIDS[::2])
        await ready(client)
        await look_on(client, clock, CONFIG.lease_seconds - CONFIG.refresh, alive)
        await client.report_unreachable("", SERVICE, 1)
        clock.advance(CONFIG.refresh)

        assert {0} == set(await asyncio.gather(*at_once(client)))
        assert 3 <= store.operations["place_links"]
        assert nothing_left(client)


async def test_strategy_that_fails(make_client: MakeClient, run_pods: RunPods) -> None:
    """What a strategy raises reaches those whose uids were asked for together, and the pods are not held for fuller."""
    calls = 0

    def choose(candidates: Any, random: Random) -> Any:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise ZeroDivisionError
        return candidates[0] if calls != 100 else "a pod"

    async with run_pods(2), make_client(choose) as client:
        await ready(client)
        answers = await asyncio.gather(*at_once(client), return_exceptions=True)

        kinds = Counter(type(answer) for answer in answers)
        assert {ZeroDivisionError: 64, InvalidArgumentError: 64} == {
            kind: count for kind, count in kinds.items() if kind is not int
        }
        assert nothing_left(client)


async def test_two_services(run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
    """Each service has its own questions."""
    watched = Watched(store)
    async with run_pods(2), ClientDriver(watched, CONFIG, clock=clock) as client:
        await ready(client)
        other = [asyncio.create_task(client.compute_linked_pod("", uid, "game")) for uid in UIDS[:50]]
        answers = await asyncio.gather(*at_once(client, UIDS[:50]))
        errors = await asyncio.gather(*other, return_exceptions=True)

        assert {0, 1} == set(answers)
        assert all(isinstance(error, Exception) for error in errors)
        assert nothing_left(client)
