"""The result of a case: the figures of several who do the same, by turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from benchmarks.goals import REFERENCE, SUBJECT
from benchmarks.statistics import ratios, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.goals import Target, Verdict
    from benchmarks.statistics import Spread


@attrs.frozen
class Options:
    """How to run.

    Attributes:
        quick: few rounds and small sizes, to see that it works.
        loop: the event loop: ``asyncio`` or ``uvloop``.
        alone: only ours and the reference, and none of the others.

    """

    quick: bool = False
    loop: str = "asyncio"
    alone: bool = False

    def pick(self, full: int, quick: int) -> int:
        """Return the size for this kind of run."""
        return quick if self.quick else full


class Named(Protocol):
    """What a row has to know of its case."""

    @property
    def name(self) -> str:
        """As it is called on the command line."""
        ...

    @property
    def title(self) -> str:
        """What is measured."""
        ...

    @property
    def reference(self) -> str:
        """Against what."""
        ...


@attrs.frozen(kw_only=True)
class Row:
    """One figure of each side, for each round.

    Attributes:
        case: the case that it belongs to.
        variant: what was done, and which figure of it this is.
        unit: of the figures.
        figures: by the name of the side, one for each round; the rounds of all sides ran by turns.
        goals: what is to be reached.
        missing: the sides that could not be measured, and why.
        server: product and version of the server; ``None`` without one.
        is_detail: whether it is said in one line.

    """

    case: Named
    variant: str
    unit: str
    figures: Mapping[str, Sequence[float]]
    goals: Sequence[Target] = ()
    missing: Mapping[str, str] = attrs.field(factory=dict)
    server: str | None = None
    is_detail: bool = False

    def median(self, name: str) -> float:
        """Return the figure of that side, in the middle of the rounds."""
        return spread(self.figures[name]).median

    def ratio(self, name: str) -> Spread | None:
        """Return ours / that side; ``None`` for ours itself, and where there is nothing to divide by."""
        if is_ours(name) or SUBJECT not in self.figures or 0 in self.figures[name]:
            return None
        return spread(ratios(self.figures[SUBJECT], self.figures[name]))

    @property
    def verdicts(self) -> list[Verdict]:
        """What is said of each goal whose sides were measured."""
        verdicts = (goal.judge(self.figures, self.unit) for goal in self.goals)
        return [verdict for verdict in verdicts if verdict is not None]

    @property
    def is_met(self) -> bool | None:
        """Whether all goals are met; ``None`` without one."""
        verdicts = self.verdicts
        return all(verdict.met for verdict in verdicts) if verdicts else None

    @property
    def noise(self) -> float:
        """How far the reference was from itself: the width of its spread, as a share of its median.

        The reference is the first side that is not ours; 0 if there is none.
        """
        others = [name for name in self.figures if not is_ours(name)]
        return spread(self.figures[others[0]]).relative if others else 0.0


def is_ours(name: str) -> bool:
    """Whether a side is this package, in one of its ways."""
    return name.partition(",")[0] == SUBJECT


__all__ = ["REFERENCE", "SUBJECT", "Named", "Options", "Row", "is_ours"]
