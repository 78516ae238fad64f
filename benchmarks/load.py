"""Many callers at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers import Call


@attrs.frozen
class Load:
    """What many callers saw in one round.

    Attributes:
        kops: thousands of calls in a second.
        p50: milliseconds that half of the calls took at most.
        p99: the same of all but one in a hundred.
        cpu_us: microseconds of processor time for one call, those of all threads of this process; ``None`` for calls
            that another process makes.

    """

    kops: float
    p50: float
    p99: float
    cpu_us: float | None = None


async def under_load(calls: Iterator[Call], callers: int, seconds: float, *, is_right: Callable[[Any], bool]) -> Load:
    """Let so many callers make calls, each the next after the answer, for that time or until there are no more.

    The last answer to each caller is looked at when the clock has stopped.
    """
    latencies: list[float] = []
    answers: list[Any] = []
    clock = time.perf_counter
    note = latencies.append

    async def caller() -> None:
        answer = None
        begun = clock()
        for call in calls:
            answer = await call()
            now = clock()
            note(now - begun)
            begun = now
            if now >= until:
                break
        answers.append(answer)

    used = time.process_time()
    start = clock()
    until = start + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    took = clock() - start
    used = time.process_time() - used
    wrong = [answer for answer in answers if not is_right(answer)]
    assert not wrong, f"{len(wrong)} of {callers} callers got a wrong answer, such as {wrong[0]!r}"
    assert len(latencies) >= callers
    return Load(
        kops=len(latencies) / took / 1000,
        p50=quantile(latencies, 0.5) * 1000,
        p99=quantile(latencies, 0.99) * 1000,
        cpu_us=used / len(latencies) * 1e6,
    )
