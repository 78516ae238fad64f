"""How loaded a pod is: the sources of the number that its heartbeats publish.

One scale for all sources, so that they can be weighed with each other: **1000 is a full pod of capacity 1**, and a full
pod of capacity c publishes 1000 c, because clients divide by the capacity. So there are two kinds of sources:

- one that counts an amount (links) says how much of it fills a pod of capacity 1;
- one that measures a share (CPU) says ``facts.load_at(share)``, which multiplies by the capacity: otherwise a
  pod of capacity 2 that is as busy as its neighbours would look half as busy.

Nothing is cut off at full: of two pods that are too full, the fuller one publishes more.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol, Self

import attrs

from stateful_route._background.periodic import PeriodicTask
from stateful_route._log import LogOnce, log
from stateful_route._validation import check_capacity, check_duration
from stateful_route.errors import ConfigError, LifecycleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["CpuUsage", "LiveLinks", "LoadSource", "PodFacts"]

FULL_LOAD = 1000
_MEMORY = 5.0  # seconds: long enough that one burst sends nobody away, short beside the life of a link
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of cgroup v2: "quota period" or "max period", in microseconds


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


class CpuUsage:
    """How much CPU this process and its child processes use: a mean over the last 5 seconds. Needs psutil.

    It is read in a thread of its own: to look for child processes takes milliseconds on a host with many.
    """

    def __init__(
        self,
        cores: float | None = None,
        *,
        period: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[], float] | None = None,
    ) -> None:
        """Let ``cores`` busy cores be a full pod; sample each ``period`` seconds.

        By default that is one core, since an event loop runs on one whatever else the machine has, or the CPU limit
        of the container (cgroup v2) if it is less. Give more if worker processes or threads without the GIL do the
        work. ``read`` says how many seconds of CPU were used so far, by default as psutil sees it.

        Raises:
            ConfigError: if psutil is needed and not installed.

        """
        cores = min(1.0, cpu_limit()) if cores is None else cores
        check_capacity("cores", cores)
        check_duration("period", period)
        self._cores = cores
        self._clock = clock
        self._read = _cpu_seconds_of_process() if read is None else read
        self._share = 0.0
        self._used_at: tuple[float, float] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._failing = LogOnce()
        self._sampling = PeriodicTask(
            "CPU usage",
            self._sample,
            period,
            jitter=0.0,
            random=Random(0),  # noqa: S311 - without jitter nothing is drawn
        )

    def __repr__(self) -> str:
        return f"<CpuUsage: {self.percent:.0f} % of {self._cores:g} cores>"

    @property
    def percent(self) -> float:
        """The mean usage: 100 is all of ``cores``."""
        return 100 * self._share

    async def __aenter__(self) -> Self:
        """Begin to sample, in the running event loop."""
        if self._thread is not None:
            raise LifecycleError(f"{self!r} is sampling already: make one for each driver")
        # Not the loop's own threads: those are busy when the pod is, and just then the samples matter.
        self._thread = ThreadPoolExecutor(1, "stateful_route CPU usage")
        self._used_at = None
        self._sampling.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)
            await self._sampling.stop()

    def __call__(self, facts: PodFacts) -> float:
        """Return the load of the mean usage."""
        return facts.load_at(self._share)

    async def _sample(self) -> None:
        """Take a sample; while none can be taken the last mean stands, and the log says so once."""
        if self._thread is None:
            return
        try:
            seen = await asyncio.get_running_loop().run_in_executor(self._thread, self._look)
        except Exception as error:  # noqa: BLE001 - of the operating system, or of the application's ``read``
            if self._failing.first():
                log.warning("cpu_not_read", "the CPU usage cannot be read; the last mean stands", exc_info=error)
            self._used_at = None
        else:
            self._failing.over()
            self._observe(*seen)

    def _look(self) -> tuple[float, float]:
        return self._read(), self._clock()

    def _observe(self, used: float, at: float) -> None:
        before, self._used_at = self._used_at, (used, at)
        if before is None or at <= before[1]:
            return
        seconds = at - before[1]
        # Used time falls back when a child process is gone and nobody has asked for its end.
        share = max(0.0, used - before[0]) / seconds / self._cores
        self._share += (1 - math.exp(-seconds / _MEMORY)) * (share - self._share)


def cpu_limit(path: Path = _CPU_LIMIT) -> float:
    """Return how many cores the container may use; infinite if there is no limit, or none that can be read."""
    try:
        quota, period = path.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _cpu_seconds_of_process() -> Callable[[], float]:
    """Return a function that says how many seconds of CPU this process and its children have used so far."""
    try:
        import psutil  # noqa: PLC0415 - an extra
    except ImportError as error:
        allowed = 'installed, to measure CPU (cpu_factor, CpuUsage): pip install "stateful-route[cpu]"'
        raise ConfigError("psutil", None, allowed) from error
    process = psutil.Process()

    def used(each: psutil.Process) -> float:
        try:
            times = each.cpu_times()
        except psutil.Error:  # it has ended since it was found
            return 0.0
        # With what its own children used that have ended: the sum does not fall when one does.
        return float(times.user + times.system + times.children_user + times.children_system)

    def used_by_all() -> float:
        return sum(map(used, [process, *process.children(recursive=True)]))

    return used_by_all
