"""The pauses between attempts at something that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """Seconds to pause before the next attempt: doubled with each that fails, and up to half of them random.

    So many processes whose store comes back do not all ask it at the same time.
    """

    def __init__(self, first: float, longest: float, random: Random) -> None:
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
        return pause * (1 - self._random.random() / 2)

    def exhaust(self) -> None:
        """Go on with the longest pause: the attempt failed by a fault that does not pass soon."""
        self._pause = self._longest
