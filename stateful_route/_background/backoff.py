"""The pauses between attempts at something that fails."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol


class Chance(Protocol):
    """A ``Random``, or the module ``random``."""

    def random(self) -> float:
        """Return a number from 0.0 to below 1.0."""
        ...


class Backoff:
    """Seconds to pause before the next attempt: doubled with each that fails.

    With ``random`` up to half of a pause is chance, so that many processes whose store comes back do not all ask it at
    the same time. ``while not await attempt(): await backoff.wait()`` is all of a loop.
    """

    def __init__(self, first: float, longest: float, random: Chance | None = None) -> None:
        """Begin with ``first`` seconds, and rise to ``longest``."""
        self._first = self._pause = first
        self._longest = longest
        self._random = random

    def reset(self) -> None:
        """Begin with the first pause again: an attempt has succeeded."""
        self._pause = self._first

    def next(self) -> float:
        """Return the pause after an attempt that failed."""
        pause, self._pause = self._pause, min(2 * self._pause, self._longest)
        return pause if self._random is None else pause * (1 - self._random.random() / 2)

    async def wait(self, at_most: float = math.inf) -> None:
        """Pause after an attempt that failed, for so many seconds ``at_most``."""
        await asyncio.sleep(min(self.next(), at_most))

    def exhaust(self) -> None:
        """Go on with the longest pause: the attempt failed by a fault that does not pass soon."""
        self._pause = self._longest
