"""What a gateway sees: most calls are for uids that it knows, some are for new ones, and now and then a uid moves."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs

from benchmarks.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOVES = 0.01
_NEW = 0.05
_ZIPF = 1.1
_SETTLED = 0.1
"""Seconds after a move from which the pod before is a wrong answer."""

Step = tuple[bool, str]
"""Whether it is a move, and the uid."""


class Router(Protocol):
    """Who is measured."""

    async def compute(self, uid: str) -> int:
        """Return the pod of a uid."""
        ...

    async def move(self, uid: str, pod_index: int) -> None:
        """Give a uid to another pod."""
        ...

    @property
    def hits(self) -> int:
        """How many calls were answered from memory."""
        ...


@attrs.frozen
class Seen:
    """One round."""

    kops: float
    cpu_us: float
    p50_us: float
    p99_ms: float
    hit_rate: float
    stale: float
    wrong: float


def steps(uids: list[str], prefix: str) -> Iterator[Step]:
    """Give out what is asked: known uids by Zipf's law, new ones, and moves of any known uid."""
    weights = list(itertools.accumulate(1 / rank**_ZIPF for rank in range(1, len(uids) + 1)))
    numbers = itertools.count()
    while True:
        for uid in random.choices(uids, cum_weights=weights, k=10_000):
            kind = random.random()
            if kind < _MOVES:
                yield True, random.choice(uids)
            elif kind < _MOVES + _NEW:
                yield False, f"{prefix}-new-{next(numbers):08}"
            else:
                yield False, uid


@attrs.define
class Traffic:
    """The calls of one router, and what is known of the uids that have moved."""

    router: Router
    steps: Iterator[Step]
    pods: int
    _moved: dict[str, tuple[int, float]] = attrs.field(factory=dict)
    _moving: set[str] = attrs.field(factory=set)

    async def round(self, callers: int, seconds: float) -> Seen:
        """Let so many callers call for that time, or until no calls are left; each then gives the loop a turn."""
        ready = deque(itertools.islice(self.steps, int(seconds * 400_000)))
        latencies: list[float] = []
        late: list[float] = []
        moves = 0
        clock = time.perf_counter

        async def caller() -> None:
            nonlocal moves
            while ready and clock() < until:
                is_move, uid = ready.popleft()
                if is_move and uid not in self._moving:
                    await self._move(uid)
                    moves += 1
                else:
                    known = None if uid in self._moving else self._moved.get(uid)
                    begun = clock()
                    pod_index = await self.router.compute(uid)
                    latencies.append(clock() - begun)
                    if known is not None and pod_index != known[0] and self._moved[uid] is known:
                        late.append(begun - known[1])
                await asyncio.sleep(0)

        hits = self.router.hits
        used = time.process_time()
        start = clock()
        until = start + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        took = clock() - start
        used = time.process_time() - used
        count = len(latencies)
        wrong = sum(age > _SETTLED for age in late)
        return Seen(
            kops=(count + moves) / took / 1000,
            cpu_us=used / (count + moves) * 1e6,
            p50_us=quantile(latencies, 0.5) * 1e6,
            p99_ms=quantile(latencies, 0.99) * 1e3,
            hit_rate=(self.router.hits - hits) / count * 100,
            stale=(len(late) - wrong) / count * 1e6,
            wrong=float(wrong),
        )

    async def _move(self, uid: str) -> None:
        pod_index = random.randrange(self.pods)
        self._moving.add(uid)
        try:
            await self.router.move(uid, pod_index)
            self._moved[uid] = (pod_index, time.perf_counter())
        finally:
            self._moving.discard(uid)
