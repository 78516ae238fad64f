"""How loaded a pod is: the sources of the number that its heartbeats publish.

One scale for all sources, so that they can be weighed with each other: **1000 is a full pod of capacity 1**, and a full
pod of capacity c publishes 1000 c, because clients divide by the capacity. So there are two kinds of sources:

- one that counts an amount (links, waiting tasks) says how much of it fills a pod of capacity 1;
- one that measures a share (CPU, lag) says ``facts.load_at(share)``, which multiplies by the capacity: otherwise a
  pod of capacity 2 that is as busy as its neighbours would look half as busy.

Nothing is cut off at full: of two pods that are too full, the fuller one publishes more.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, Self

import anyio
import attrs

from stateful_route._log import LogOnce, log
from stateful_route._validation import MAX_EXACT_INT, check_capacity, check_duration, check_fraction, check_seconds
from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.server.load.sampling import CpuUsage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

FULL_LOAD = 1000
_LEAST_STOP = 0.1
_SLOW = 0.05  # of a heartbeat's second, time that the pod's event loop stands still


@attrs.frozen(kw_only=True)
class PodFacts:
    """What a load source is told of its pod.

    Attributes:
        links: how many uids the pod owns now.
        capacity: its size in relation to the other pods, above 0.
        load_state: what ``set_load_state`` was given last; ``None`` if it was not called.

    """

    links: int = 0
    capacity: float = 1.0
    load_state: int | None = None

    def load_at(self, share: float) -> float:
        """Return the load of this pod when it is busy to that share: 0 is idle, 1 is full."""
        return FULL_LOAD * self.capacity * share


class LoadSource(Protocol):
    """Says how loaded the pod is: a function of ``PodFacts``, or an object that is called like one.

    It is called for each heartbeat and whenever else the load is asked for, in the event loop: it has to answer from
    memory, within microseconds. What needs time is sampled in the background: a source that is an asynchronous context
    manager as well is entered before the pod registers, and left after its goodbye.
    """

    def __call__(self, facts: PodFacts, /) -> float:
        """Return the load: a finite int or float from 0, 1000 for each unit of capacity when full; less is better."""
        ...


class LiveLinks:
    """The number of uids that the pod owns; what is published if nothing else is chosen."""

    def __init__(self, full: float = FULL_LOAD) -> None:
        """Let ``full`` links fill a pod of capacity 1; by default the load is the number of links as it is."""
        check_capacity("full", full)
        self._full = full

    def __call__(self, facts: PodFacts) -> float:
        """Return the load of the links."""
        return FULL_LOAD * facts.links / self._full


class WaitingTasks:
    """How many tasks of the application are in hand, as it says itself: ``with waiting: ...`` around each.

    The application counts, because nobody else can: asyncio has no public count of what is ready to run, and most
    tasks of a process wait for a socket or a timer, which is no load. One object counts any number of tasks at once,
    at the cost of an addition; it belongs to the thread of the event loop.
    """

    def __init__(self, full: float = 100) -> None:
        """Let ``full`` tasks at once fill a pod of capacity 1."""
        check_capacity("full", full)
        self._full = full
        self.count = 0
        """How many tasks are in hand now."""

    def __repr__(self) -> str:
        return f"<WaitingTasks: {self.count}>"

    def __enter__(self) -> Self:
        """Count a task."""
        self.count += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count it no longer, however it ended."""
        self.count -= 1

    def __call__(self, _facts: PodFacts) -> float:
        """Return the load of the tasks in hand."""
        return FULL_LOAD * self.count / self._full


class _Composed:
    """A source made of others, which are entered and left with it."""

    def __init__(self, *parts: LoadSource) -> None:
        self._parts = parts
        self._entered = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for part in self._parts:
                if isinstance(part, contextlib.AbstractAsyncContextManager):
                    await stack.enter_async_context(part)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._entered.aclose()


class ApplicationLoad(_Composed):
    """What ``set_load_state`` was given last, as it is; until it is called, what another source says.

    The driver puts it around the source that it is given, so ``set_load_state`` always wins.
    """

    def __init__(self, otherwise: LoadSource | None = None) -> None:
        """Ask ``otherwise``, by default the live links, while no load was set."""
        self._otherwise = LiveLinks() if otherwise is None else _checked("otherwise", otherwise)
        super().__init__(self._otherwise)

    def __repr__(self) -> str:
        return f"<ApplicationLoad, or {self._otherwise!r}>"

    def __call__(self, facts: PodFacts) -> float:
        """Return the load that was set, or that of the other source."""
        return self._otherwise(facts) if facts.load_state is None else facts.load_state


class WeighedLoad(_Composed):
    """``cpu_factor * cpu + (1 - cpu_factor) * other``.

    Both parts are on the scale of 1000 for a full pod, so a ``cpu_factor`` of 0.3 means: a pod whose CPU is full
    counts as 30 % full if there is nothing else. Of both parts more never publishes as less.
    """

    def __init__(self, cpu_factor: float, other: LoadSource | None = None, *, cpu: LoadSource | None = None) -> None:
        """Weigh ``cpu``, by default ``CpuUsage()``, with ``other``, by default the live links.

        ``cpu_factor`` is from 0 (only ``other`` counts) to 1 (only ``cpu``). What ``set_load_state`` is given takes
        the place of ``other``.

        Raises:
            InvalidArgumentError: if ``cpu_factor`` is out of range, or a part is no source.
            ConfigError: if there is no ``cpu``, and psutil is not installed.

        """
        check_fraction("cpu_factor", cpu_factor)
        self._cpu_factor = cpu_factor
        self._other = ApplicationLoad(other)
        self._cpu = CpuUsage() if cpu is None else _checked("cpu", cpu)
        super().__init__(self._cpu, self._other)

    def __repr__(self) -> str:
        return f"<WeighedLoad: {self._cpu_factor:g} of {self._cpu!r}, {1 - self._cpu_factor:g} of {self._other!r}>"

    def __call__(self, facts: PodFacts) -> float:
        """Return the weighed load. Each part is checked: what is wrong with one must not hide in the sum."""
        return weigh(_as_load(self._cpu(facts)), _as_load(self._other(facts)), self._cpu_factor)


class SmoothedLoad(_Composed):
    """The links of the pod, times a moving mean of the load of one link as another source says it.

    For a source that lags, or that is noisy, and whose load the links make. A new link shows at once, with the load of
    the others; what one link weighs is a mean over some seconds. While there was no link yet whose load the source can
    have seen, its load is published as it is.
    """

    def __init__(
        self,
        source: LoadSource,
        *,
        seconds: float = 60.0,
        lag: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Smooth ``source`` over so many ``seconds``, above 0: more smooths more, and shows a change later.

        ``lag`` is by how many seconds, from 0, the source is late: its load is that of the links of then. Of a mean
        over 5 seconds, as ``CpuUsage`` is, that is half of them or a bit more.

        Raises:
            InvalidArgumentError: if a number is out of range, or ``source`` is no source.

        """
        check_duration("seconds", seconds)
        check_seconds("lag", lag)
        self._source = _checked("source", source)
        self._memory = seconds
        self._lag = lag
        self._clock = clock
        self._links: deque[tuple[float, int]] = deque()
        self._seen_at: float | None = None
        self._seen_for = 0.0
        self._mean_load = self._mean_links = 0.0
        super().__init__(self._source)

    def __repr__(self) -> str:
        return f"<SmoothedLoad of {self._source!r}>"

    def __call__(self, facts: PodFacts) -> float:
        """Return the smoothed load. What the source says is checked: a mean would keep what is wrong."""
        load = _as_load(self._source(facts))
        self._observe(load, facts.links)
        return facts.links * self._mean_load / self._mean_links if self._mean_links else load

    def _observe(self, load: float, links: int) -> None:
        """Take in a load, which is that of the links that there were ``lag`` seconds ago."""
        now = self._clock()
        self._links.append((now, links))
        while len(self._links) > 1 and self._links[1][0] <= now - self._lag:
            self._links.popleft()
        then, links = self._links[0]
        if then > now - self._lag or not links:
            return
        # Means of both, and not of the quotients: a few links that came or went just now weigh as little as they are.
        elapsed = 0.0 if self._seen_at is None else now - self._seen_at
        self._seen_at = now
        self._seen_for += elapsed
        share = 1.0
        if self._seen_for:  # until the memory is full all that was seen counts the same, lest the first count for long
            share = max(1 - math.exp(-elapsed / self._memory), elapsed / self._seen_for)
        self._mean_load += share * (load - self._mean_load)
        self._mean_links += share * (links - self._mean_links)


def weigh(cpu: float, other: float, cpu_factor: float) -> float:
    """Return the weighed mean. Factors are not below 0 and rounding keeps the order: it rises with both parts."""
    return cpu_factor * cpu + (1 - cpu_factor) * other


def source_of(load_source: LoadSource | None, cpu_factor: float) -> LoadSource:
    """Return the source that a driver reads: the one it was given, weighed with CPU, after ``set_load_state``.

    Raises:
        InvalidArgumentError: if ``load_source`` is no source.
        ConfigError: if CPU would be weighed twice, or psutil is needed and not installed.

    """
    if not isinstance(load_source, WeighedLoad):
        given = load_source if load_source is None else _checked("load_source", load_source)
        return WeighedLoad(cpu_factor, given) if cpu_factor else ApplicationLoad(given)
    if cpu_factor:
        raise ConfigError("cpu_factor", cpu_factor, "0 together with a WeighedLoad, which has a factor of its own")
    return load_source


def _checked(argument: str, source: LoadSource) -> LoadSource:
    """Return the source; refuse what cannot be called, and what would answer with a coroutine."""
    call = getattr(source, "__call__", None)  # noqa: B004 - to look at it, not to test for it
    if call is None or inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(call):
        raise InvalidArgumentError(argument, source, "a function of PodFacts that returns a number, and no coroutine")
    return source


def _as_load(value: object) -> float:
    """Return what a source said; refuse what is no load: NaN, infinite, below 0, a bool, another type."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidArgumentError("load", value, "a finite number from 0")
    return value


class LoadMeter:
    """Reads a source for the heartbeats, and lets no fault of it get in their way.

    While the source fails, the last load that it gave stands, or the number of links if it never gave one. That is
    logged when it begins, and when it ends.
    """

    def __init__(self, source: LoadSource, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a meter of a source that is not entered."""
        self._source = source
        self._clock = clock
        self._entered = contextlib.AsyncExitStack()
        self._last: int | None = None
        self._once = LogOnce()

    async def start(self) -> None:
        """Enter the source, if it can be; what that raises is raised."""
        if isinstance(self._source, contextlib.AbstractAsyncContextManager):
            await self._entered.enter_async_context(self._source)

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
            load = min(round(_as_load(self._source(facts))), MAX_EXACT_INT)
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
