"""A task that does the same thing again and again, in time with a grid that does not drift."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait
from stateful_route._log import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random


# The share of its period by which a call may be early or late.
_JITTER = 0.1


def next_tick(tick: int, elapsed: float, period: float) -> int:
    """Return the number of the tick after ``tick``; ticks that passed meanwhile are left out, not caught up with.

    ``elapsed`` is the time since tick 0, in the unit of ``period``.
    """
    return max(tick + 1, math.ceil(elapsed / period))


class PeriodicTask:
    """Calls ``action`` each ``period`` seconds from ``start()`` to ``stop()``, the first time after one period.

    The n-th call is due n periods after the start, give or take half of ``jitter`` (a share of the period): the load
    of many processes spreads, and the mean rate is exact. A call that takes longer than a period makes the next ones
    late or left out; calls never overlap.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], Awaitable[None]],
        period: float,
        *,
        jitter: float = _JITTER,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._action = action
        self._period = period
        self._jitter = jitter
        self._random = random
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def failed(self) -> bool:
        """Whether the task has ended though it was not stopped: ``action`` raised an error."""
        return self._task is not None and self._task.done()

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=f"stateful_route {self._name}")

    async def stop(self) -> None:
        """End the task, and wait until it has ended."""
        task, self._task = self._task, None
        self._stopping = True  # an action that swallows its cancellation is the last one all the same
        if task is not None:
            await cancel_and_wait(task)

    async def _run(self) -> None:
        begin, tick = self._clock(), 0
        try:
            while not self._stopping:
                tick = next_tick(tick, self._clock() - begin, self._period)
                shift = self._jitter * (self._random.random() - 0.5)
                await asyncio.sleep(begin + (tick + shift) * self._period - self._clock())
                await self._action()
        except Exception:
            log.exception("periodic_task_failed", "the periodic task %(task)r ended by an error", task=self._name)
            raise
