"""The invariants, checked on what the processes say; lines of different processes come in any order."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import Final

import attrs

_KEPT = 4
"""Tenures of a uid that are looked at: older ones ended long before what is in flight."""


@attrs.define
class Tenure:
    """One process serving one uid at one epoch, by what it said: it owned at a moment after each ``begin``."""

    epoch: int
    process: str
    pod: int
    first_end: float
    last_begin: float


@attrs.frozen
class Overlap:
    """An older tenure that was certainly served after a newer one had begun."""

    uid: str
    older: Tenure
    newer: Tenure

    def __str__(self) -> str:
        older, newer = self.older, self.newer
        return (
            f"{self.uid}: {older.process} at epoch {older.epoch} still served at {older.last_begin:.3f}, though "
            f"{newer.process} at epoch {newer.epoch} did at {newer.first_end:.3f}"
        )


@attrs.define
class Window:
    """A time in which something is expected; open until it is known when it ends."""

    begin: float
    end: float = float("inf")

    def covers(self, begin: float, end: float) -> bool:
        return self.begin <= begin and end <= self.end

    def touches(self, begin: float, end: float) -> bool:
        return begin <= self.end and end >= self.begin


@attrs.define
class Tenures:
    """Who served what when."""

    losses: list[Window] = attrs.field(factory=list)
    """When Redis may have lost what it had acknowledged: two may own then, at different epochs."""
    count: int = 0
    moves: int = 0
    serves: int = 0
    violations: list[str] = attrs.field(factory=list)
    _of: Final[defaultdict[str, deque[Tenure]]] = attrs.field(factory=lambda: defaultdict(lambda: deque(maxlen=_KEPT)))
    _overlaps: Final[dict[tuple[str, int, int], Overlap]] = attrs.field(factory=dict)

    def served(self, uid: str, epoch: int, process: str, pod: int, begin: float, end: float) -> None:
        """Take in that a process owned a uid at some moment between ``begin`` and ``end``."""
        self.serves += 1
        tenures = self._of[uid]
        mine = next((tenure for tenure in tenures if tenure.epoch == epoch), None)
        if mine is None:
            self.count += 1
            self.moves += bool(tenures) and tenures[-1].pod != pod
            mine = Tenure(epoch, process, pod, end, begin)
            tenures.append(mine)
        elif mine.process != process:
            self.violations.append(f"{uid}: epoch {epoch} is that of {mine.process} and of {process}")
            return
        mine.first_end = min(mine.first_end, end)
        mine.last_begin = max(mine.last_begin, begin)
        for other in tenures:
            older, newer = (other, mine) if other.epoch < epoch else (mine, other)
            if older is not newer and older.last_begin > newer.first_end:
                self._overlaps[uid, older.epoch, newer.epoch] = Overlap(uid, older, newer)

    def overlaps(self, *, excused: bool) -> list[Overlap]:
        """Return the overlaps within, or outside of, the times in which Redis may have lost something."""
        return [
            overlap
            for overlap in self._overlaps.values()
            if excused == any(loss.covers(overlap.newer.first_end, overlap.older.last_begin) for loss in self.losses)
        ]

    def all_violations(self) -> list[str]:
        return self.violations + [f"two owners: {overlap}" for overlap in self.overlaps(excused=False)]


@attrs.define
class Database:
    """Keeps a count for each uid, and refuses an epoch that is older than the newest it has seen.

    A writer says the count that it comes to: one who went on with a memory that is out of date is found out.
    """

    violations: list[str] = attrs.field(factory=list)
    refused: int = 0
    writes: int = 0
    _rows: Final[dict[str, tuple[int, int]]] = attrs.field(factory=dict)

    def answer(self, line: str) -> str:
        verb, uid, *numbers = line.split()
        epoch = int(numbers[0])
        fence, count = self._rows.get(uid, (0, 0))
        if epoch < fence:
            self.refused += 1
            return "stale -1"
        if verb == "open":
            self._rows[uid] = (epoch, count)
            return f"ok {count}"
        new = int(numbers[1])
        if new != count + 1:
            self.violations.append(
                f"{uid}: process {numbers[2]} at epoch {epoch} (before: {fence}) wrote {new} after {count}: "
                "its memory was out of date"
            )
        self.writes += 1
        self._rows[uid] = (epoch, new)
        return "ok"


def by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "none"
