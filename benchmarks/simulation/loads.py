"""What the pods publish as their load: the links as they are, or what a source that lags or is noisy makes of them."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


@attrs.frozen(kw_only=True)
class Source:
    """How a pod measures its load.

    Attributes:
        lag: the load is that of so many seconds ago.
        noise: standard deviation of what each measurement is off by, as a share of the load.
        smoothed: whether the source is wrapped in ``Smoothed``, which is told of the lag.

    """

    lag: float = 0.0
    noise: float = 0.0
    smoothed: bool = False


class Smoothed:
    """The links of a pod, times a moving mean of the load of one link: for a load that lags or is noisy.

    A new link shows at once, with the load of the others. While there was no link yet whose load can have been seen,
    the load is published as it is.
    """

    def __init__(self, clock: Callable[[], float], *, seconds: float = 60.0, lag: float = 0.0) -> None:
        """Smooth over so many ``seconds`` a load that is ``lag`` seconds late."""
        self._clock = clock
        self._memory = seconds
        self._lag = lag
        self._links: deque[tuple[float, int]] = deque()
        self._seen_at: float | None = None
        self._seen_for = 0.0
        self._mean_load = self._mean_links = 0.0

    def __call__(self, load: float, links: int) -> float:
        """Take in a load, which is that of the links that there were ``lag`` seconds ago; return what to publish."""
        now = self._clock()
        self._links.append((now, links))
        while len(self._links) > 1 and self._links[1][0] <= now - self._lag:
            self._links.popleft()
        then, before = self._links[0]
        if then <= now - self._lag and before:
            self._observe(load, before, now)
        return links * self._mean_load / self._mean_links if self._mean_links else load

    def _observe(self, load: float, links: int, now: float) -> None:
        # Means of both, and not of the quotients: a few links that came or went just now weigh as little as they are.
        elapsed = 0.0 if self._seen_at is None else now - self._seen_at
        self._seen_at = now
        self._seen_for += elapsed
        share = 1.0
        if self._seen_for:  # until the memory is full all that was seen counts the same, lest the first count for long
            share = max(1 - math.exp(-elapsed / self._memory), elapsed / self._seen_for)
        self._mean_load += share * (load - self._mean_load)
        self._mean_links += share * (links - self._mean_links)


class Meter:
    """Measures the load of one life of a pod."""

    def __init__(self, source: Source, random: Random, clock: Callable[[], float]) -> None:
        self._source = source
        self._random = random
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()
        self._load = 0.0
        self._measured = 0.0
        self._smoothed = Smoothed(lag=source.lag, clock=clock)

    def read(self, load: float, links: int) -> int:
        """Return what is published, when the pod has so much load and so many links."""
        source, now = self._source, self._clock()
        self._seen.append((now, load))
        while self._seen and self._seen[0][0] <= now - source.lag:
            self._load = self._seen.popleft()[1]
        self._measured = self._load
        if source.noise:
            self._measured *= max(0.0, self._random.gauss(1.0, source.noise))
        return round(self._smoothed(self._measured, links) if source.smoothed else self._measured)
