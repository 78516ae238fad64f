"""Many clients with data a second old, in virtual time, on the shipped pieces."""

from __future__ import annotations

import heapq
from random import Random
from typing import TYPE_CHECKING

from stateful_route.client.strategies import BestOfRandom
from stateful_route.client.routing import ServiceTable
from stateful_route.models import PodReport, PodState, PodTable, RoutingState, StateObj

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.client.routing import Pod

PODS, CLIENTS, RATE, LIFE, SECONDS = 10, 32, 1000, 3.0, 16
START = 1_800_000_000.0


def peak(choose: Callable[[list[Pod], Random], Pod], seed: int) -> float:
    """Return the mean over time of fullest / mean pod, after a warm-up.

    Each second each pod publishes, and each client reads, both at a phase of its own; ``RATE`` uids come each second,
    to any client, and stay ``LIFE`` seconds on average.
    """
    random = Random(seed)
    links, placed = [0] * PODS, [0] * PODS
    published = [_state(i, START, 0, 0) for i in range(PODS)]
    tables = [ServiceTable("prod", "room", settle=0.0) for _ in range(CLIENTS)]
    for table in tables:
        table.apply(PodTable(START, tuple(published)), START)
    phases = sorted(
        [(random.random(), "publish", i) for i in range(PODS)] + [(random.random(), "read", i) for i in range(CLIENTS)]
    )
    events = [(START + second + at, what, i) for second in range(SECONDS) for at, what, i in phases]
    events += [(START + random.random() * SECONDS, "place", random.randrange(CLIENTS)) for _ in range(RATE * SECONDS)]
    heapq.heapify(events)
    ratios = []
    while events:
        now, what, i = heapq.heappop(events)
        if what == "publish":
            published[i] = _state(i, now, links[i], placed[i])
        elif what == "read":
            tables[i].apply(PodTable(now, tuple(published)), now)
        elif what == "place":
            pod = choose(tables[i].routable, random)
            tables[i].placed(pod, now)
            links[pod.pod_index] += 1
            placed[pod.pod_index] += 1
            heapq.heappush(events, (now + random.expovariate(1 / LIFE), "end", pod.pod_index))
        else:
            links[i] -= 1
        if START + SECONDS / 2 < now < START + SECONDS:
            ratios.append(max(links) * PODS / sum(links))
    return sum(ratios) / len(ratios)


def _state(pod_index: int, at: float, load: int, placed: int) -> PodState:
    report = PodReport(load=load, links=load, placed_total=placed, routing_state=RoutingState.READY)
    return PodState(pod_index=pod_index, incarnation=1, report=report, load_state=StateObj(load, at, 5.0))


def plain_least_load(pods: list[Pod], random: Random) -> Pod:
    return min(pods, key=lambda pod: (pod.load, random.random()))


def test_herd() -> None:
    """32 clients with data a second old keep 10 pods level, while plain least load makes them run to one."""
    shipped = [peak(BestOfRandom(3), seed) for seed in (1, 2)]
    naive = peak(plain_least_load, 1)

    assert max(shipped) < 1.1
    assert naive > 2.0
