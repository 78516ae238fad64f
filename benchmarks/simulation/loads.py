"""What the pods publish as their load: the links as they are, or what a source that lags or is noisy makes of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from stateful_route import PodFacts, SmoothedLoad

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


@attrs.frozen(kw_only=True)
class Source:
    """How a pod measures its load.

    Attributes:
        lag: the load is that of so many seconds ago.
        noise: standard deviation of what each measurement is off by, as a share of the load.
        smoothed: whether the source is wrapped in ``SmoothedLoad``, which is told of the lag.

    """

    lag: float = 0.0
    noise: float = 0.0
    smoothed: bool = False


class Meter:
    """Measures the load of one life of a pod."""

    def __init__(self, source: Source, random: Random, clock: Callable[[], float]) -> None:
        self._source = source
        self._random = random
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()
        self._load = 0.0
        self._measured = 0.0
        self._smoothed = SmoothedLoad(lambda _: self._measured, lag=source.lag, clock=clock)

    def read(self, load: float, links: int) -> int:
        """Return what is published, when the pod has so much load and so many links."""
        source, now = self._source, self._clock()
        self._seen.append((now, load))
        while self._seen and self._seen[0][0] <= now - source.lag:
            self._load = self._seen.popleft()[1]
        self._measured = self._load
        if source.noise:
            self._measured *= max(0.0, self._random.gauss(1.0, source.noise))
        return round(self._smoothed(PodFacts(links=links)) if source.smoothed else self._measured)
