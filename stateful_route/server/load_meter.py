"""Reads the load of a pod for its heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from typing import TYPE_CHECKING

import anyio

from stateful_route._log import LogOnce, log
from stateful_route._validation import MAX_EXACT_INT
from stateful_route.errors import InvalidArgumentError
from stateful_route.load import CpuUsage, LiveLinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.load import LoadSource, PodFacts

_LEAST_STOP = 0.1
_SLOW = 0.05  # of a heartbeat's second, time that the pod's event loop stands still


class LoadMeter:
    """Reads the load for the heartbeats, and lets no fault of its source get in their way.

    The load is what ``set_load_state`` was given last, or else what the source says. With a ``cpu_factor`` it is
    weighed with CPU. While the source fails, the last load that it gave stands, or the number of links if it never gave
    one. That is logged when it begins, and when it ends.
    """

    def __init__(
        self,
        source: LoadSource | None = None,
        cpu_factor: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        cpu: LoadSource | None = None,
    ) -> None:
        """Make a meter of a source that is not entered, by default the live links; ``cpu`` is ``CpuUsage()``.

        Raises:
            InvalidArgumentError: if ``source`` is no source.
            ConfigError: if CPU has to be measured, and psutil is not installed.

        """
        self._source = LiveLinks() if source is None else _checked("load_source", source)
        self._cpu_factor = cpu_factor
        self._cpu = CpuUsage() if cpu is None and cpu_factor else cpu
        self._clock = clock
        self._entered = contextlib.AsyncExitStack()
        self._last: int | None = None
        self._once = LogOnce()

    async def start(self) -> None:
        """Enter what can be entered; what that raises is raised, and nothing stays entered."""
        async with contextlib.AsyncExitStack() as stack:
            for part in (self._cpu, self._source):
                if isinstance(part, contextlib.AbstractAsyncContextManager):
                    await stack.enter_async_context(part)
            self._entered = stack.pop_all()

    async def stop(self, deadline: float) -> None:
        """Leave the source, until ``anyio.current_time()`` is ``deadline``; an error is logged.

        It has a tenth of a second at least: the store may have used up the time, and the source must end too.
        """
        with anyio.move_on_after(max(_LEAST_STOP, deadline - anyio.current_time())):
            try:
                await self._entered.aclose()
            except Exception:  # noqa: BLE001 - code of the application: the pod has to come to its end all the same
                log.exception(
                    "load_source_not_stopped", "the load source %(source)s could not be stopped", source=self._source
                )

    def last(self, facts: PodFacts) -> int:
        """Return the load that was read last, or the number of links if none was: from any thread."""
        return facts.links if self._last is None else self._last

    def read(self, facts: PodFacts) -> int:
        """Return the load to publish, an int that Lua can carry. Never raises."""
        begin = self._clock()
        try:
            load = min(round(self._load(facts)), MAX_EXACT_INT)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the application's: heartbeats go on
            if self._once.first("failing"):
                log.warning(
                    "load_source_failed",
                    "the load source %(source)s fails; the last load stands",
                    source=self._source,
                    exc_info=error,
                )
            return self.last(facts)
        if self._once.over("failing"):
            log.warning("load_source_recovered", "the load source %(source)s works again", source=self._source)
        self._last = load
        taken = self._clock() - begin
        if taken > _SLOW and self._once.first("slow"):
            log.warning(
                "load_source_slow",
                "the load source %(source)s took %(seconds).3f s, for which the event loop stood still",
                source=self._source,
                seconds=taken,
            )
        return load

    def _load(self, facts: PodFacts) -> float:
        """Return the load as a number. Each part is checked: what is wrong with one must not hide in the sum."""
        other = _as_load(self._source(facts) if facts.load_state is None else facts.load_state)
        return other if self._cpu is None else weigh(_as_load(self._cpu(facts)), other, self._cpu_factor)


def _checked(argument: str, source: LoadSource) -> LoadSource:
    """Return the source; refuse what cannot be called, and what would answer with a coroutine."""
    call = getattr(source, "__call__", None)  # noqa: B004 - to look at it, not to test for it
    if call is None or inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(call):
        raise InvalidArgumentError(argument, source, "a function of PodFacts that returns a number, and no coroutine")
    return source


def weigh(cpu: float, other: float, cpu_factor: float) -> float:
    """Return the weighed mean. Factors are not below 0 and rounding keeps the order: it rises with both parts."""
    return cpu_factor * cpu + (1 - cpu_factor) * other


def _as_load(value: object) -> float:
    """Return what a source said; refuse what is no load: NaN, infinite, below 0, a bool, another type."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidArgumentError("load", value, "a finite number from 0")
    return value
