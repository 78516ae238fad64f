"""How often the same thing is logged: what others do to this process must not fill its log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class Quiet:
    """Allows a line about each thing in some seconds, and no more than so many lines about all of them."""

    def __init__(self, *, every: float = 5.0, most: int = 50) -> None:
        """Have allowed nothing; ``every`` is in seconds. What is remembered is of twice as many things as ``most``."""
        self._every = every
        self._most = most
        self._begun = -math.inf
        self._lines = 0
        self._logged: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._logged)

    def allows(self, about: Hashable, now: float) -> bool:
        """Return whether to log something at this time, in seconds of a clock that does not go back."""
        if now - self._begun >= self._every:
            self._begun, self._lines = now, 0
            self._logged = {thing: at for thing, at in self._logged.items() if now - at < self._every}
        if self._lines >= self._most or now - self._logged.get(about, -math.inf) < self._every:
            return False
        self._lines += 1
        self._logged[about] = now
        return True
