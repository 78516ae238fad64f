"""A case in virtual time: some figures of several who do the same, on the same trace. Nothing is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from benchmarks.statistics import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@attrs.frozen
class Ceiling:
    """What the figure of the subject is to be at most: a number, or so much above the figure of another."""

    most: float
    above: str | None = None

    def is_met(self, subject: float, other: float) -> bool:
        """Whether that is good enough."""
        return subject - other <= self.most if self.above else subject <= self.most

    def __str__(self) -> str:
        return f"<= {self.above} + {self.most:g}" if self.above else f"<= {self.most:g}"


@attrs.frozen(kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        name: as it is called on the command line.
        title: what is compared, in words.
        reference: with what, in words.
        goal: how good it is to be, in words.
        subject: whose figures are judged.
        names: of all whose figures are shown, in the order of the columns.
        run: gives the rows, as they are known; the argument is whether it has to be quick.
        draw: draws a picture of it into a file.

    """

    name: str
    title: str
    reference: str
    goal: str
    subject: str
    names: Sequence[str]
    run: Callable[[bool], Iterator[Row]]
    draw: Callable[[Path], None]


@attrs.frozen(kw_only=True)
class Row:
    """One figure of each, for each seed.

    Attributes:
        case: the case that it belongs to.
        variant: what happened, and which figure of it this is.
        unit: of the figures.
        figures: by name, one for each seed.
        goal: what is to be reached; ``None`` if there is no goal.

    """

    case: Comparison
    variant: str
    unit: str
    figures: Mapping[str, Sequence[float]]
    goal: Ceiling | None

    def median(self, name: str) -> float:
        """Return the figure of that name, in the middle of the seeds."""
        return spread(self.figures[name]).median

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; ``None`` without one."""
        if self.goal is None:
            return None
        return self.goal.is_met(self.median(self.case.subject), self.median(self.goal.above or self.case.subject))
