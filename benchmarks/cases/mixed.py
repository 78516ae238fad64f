"""What a gateway sees: hits, misses and moves by many callers at once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING

import attrs

from benchmarks import elsewhere
from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling, Goal
from benchmarks.harness import Lab, interleave
from benchmarks.peers import missing_module
from benchmarks.peers.by_hand import WAYS
from benchmarks.rows import Row
from benchmarks.traffic import Traffic, steps
from stateful_route import StatefulRoute
from stateful_route.store import LinkKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from benchmarks.goals import Target
    from benchmarks.rows import Options
    from benchmarks.traffic import Router
    from stateful_route import ClientDriver
    from stateful_route.store import PodLife
    from stateful_route.store.protocol import Store

_CALLERS = 1_000
_PODS = 4
_AT_ONCE = 100
_FIGURES = {
    "throughput": ("kops", "kops/s"),
    "processor time of a call": ("cpu_us", "us"),
    "p50 of a call": ("p50_us", "us"),
    "p99 of a call": ("p99_ms", "ms"),
    "hit rate": ("hit_rate", "%"),
    "the old pod in the 100 ms after a move": ("stale", "of a million"),
    "the old pod after that": ("wrong", "answers"),
}
_FASTER = [Goal(ratio, more_is_better=True, of=way.name) for way, ratio in zip(WAYS, (3.5, 2.0), strict=True)]
GOALS: Mapping[str, Sequence[Target]] = {
    "kops": _FASTER,
    "cpu_us": [goal.of_cost() for goal in _FASTER],
    "wrong": [Ceiling(0.0, quantile=1.0)],
}


@attrs.frozen
class _Ours:
    client: ClientDriver
    store: Store
    lives: Sequence[PodLife]

    async def compute(self, uid: str) -> int:
        return await self.client.compute_linked_pod(NAMESPACE, uid, SERVICE)

    async def move(self, uid: str, pod_index: int) -> None:
        await self.store.assign(LinkKey(NAMESPACE, uid, SERVICE), self.lives[pod_index])

    @property
    def hits(self) -> int:
        return self.client.statistics().hits


async def _run(options: Options) -> AsyncIterator[Row]:
    uids = [f"user-{number:06}" for number in range(options.pick(50_000, 5_000))]
    missing = {way.name: why for way in WAYS if (why := missing_module(way.module)) is not None}
    config = attrs.evolve(CONFIG, call_deadline=10.0)
    with Lab(options) as lab:
        server = lab.server(tcp=True)
        assert server.port is not None
        async with (
            elsewhere.pods(server.url, _PODS),
            StatefulRoute.from_url(server.url, config) as route,
            route.client() as client,
            contextlib.AsyncExitStack() as stack,
        ):
            pods = await client.pods("", SERVICE)
            lives = [pods[index].life for index in range(_PODS)]
            routers: dict[str, Router] = {SUBJECT: _Ours(client, route.store, lives)}
            for way in WAYS:
                if way.name not in missing:
                    opened = way.open(server.port, _PODS, config.cache_size, config.cache_ttl, _CALLERS)
                    routers[way.name] = await stack.enter_async_context(opened)
            for router in routers.values():
                await _fill(router, uids)
            sides = {
                name: functools.partial(
                    Traffic(router, steps(uids, name), _PODS).round, _CALLERS, options.pick(500, 150) / 1000
                )
                for name, router in routers.items()
            }
            rounds = await interleave(sides, options.pick(15, 1))
            for figure, (attribute, unit) in _FIGURES.items():
                yield Row(
                    case=MIXED,
                    variant=figure,
                    unit=unit,
                    figures={name: [getattr(seen, attribute) for seen in each] for name, each in rounds.items()},
                    goals=GOALS.get(attribute, ()),
                    missing=missing if attribute == "kops" else {},
                    server=lab.server_version,
                    is_detail=attribute not in {"kops", "cpu_us", "wrong"},
                )


async def _fill(router: Router, uids: list[str]) -> None:
    rest = iter(uids)

    async def fill() -> None:
        for uid in rest:
            await router.compute(uid)

    await asyncio.gather(*(fill() for _ in range(_AT_ONCE)))


MIXED = Comparison(
    name="mixed",
    title=f"what a gateway sees: {_CALLERS:,} callers, known uids by Zipf's law, 5 % new uids, 1 % moves",
    reference="what a team writes by hand with another client and a TTLCache: see benchmarks/peers/by_hand.py",
    goal="3.5x and 2x the throughput of those over redis.asyncio and valkey-glide; no wrong answer",
    run=_run,
)
