"""What a figure is to reach, and whether it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from benchmarks.statistics import Spread, quantile, ratios, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUBJECT = "ours"
REFERENCE = "reference"


@attrs.frozen
class Verdict:
    """A goal, and what was measured.

    Attributes:
        what: whose figure it is, and next to whose.
        goal: in words.
        measured: the ratio, or the figure itself.
        unit: of what was measured.
        met: whether the goal is reached.

    """

    what: str
    goal: str
    measured: Spread
    unit: str
    met: bool


class Target(Protocol):
    """Judges the figures of each side: one for each round."""

    def judge(self, figures: Mapping[str, Sequence[float]], unit: str) -> Verdict | None:
        """Return the verdict; ``None`` if one of the sides was not measured."""
        ...


@attrs.frozen
class Goal:
    """A bound of the ratio of one side to another; those of DESIGN.md, section 10."""

    ratio: float
    more_is_better: bool = False
    of: str = REFERENCE
    subject: str = SUBJECT

    def of_cost(self) -> Goal:
        """Return the same goal for figures that are costs, if these are speeds: twice as fast costs half as much."""
        return attrs.evolve(self, ratio=1 / self.ratio, more_is_better=not self.more_is_better)

    def is_met(self, ratio: float) -> bool:
        """Whether that ratio is good enough."""
        return ratio >= self.ratio if self.more_is_better else ratio <= self.ratio

    def judge(self, figures: Mapping[str, Sequence[float]], unit: str) -> Verdict | None:
        """Judge the median of the ratios of the rounds."""
        if not {self.of, self.subject} <= figures.keys():
            return None
        measured = spread(ratios(figures[self.subject], figures[self.of]))
        return Verdict(f"{self.subject} / {self.of}", str(self), measured, "x", self.is_met(measured.median))

    def __str__(self) -> str:
        return f"{'>=' if self.more_is_better else '<='} {self.ratio:.3g}x"


@attrs.frozen
class Ceiling:
    """What a figure is to be at most: a number, or so much above the figure of another.

    ``quantile`` says which of the rounds counts; the middle one by default.
    """

    most: float
    above: str | None = None
    quantile: float = 0.5
    subject: str = SUBJECT

    def judge(self, figures: Mapping[str, Sequence[float]], unit: str) -> Verdict | None:
        """Judge that quantile of the rounds."""
        if not {self.subject, self.above or self.subject} <= figures.keys():
            return None
        measured = attrs.evolve(spread(figures[self.subject]), median=quantile(figures[self.subject], self.quantile))
        other = quantile(figures[self.above], self.quantile) if self.above else 0.0
        what = self.subject if self.quantile == 0.5 else f"{self.subject}, p{self.quantile * 100:g}"
        return Verdict(what, str(self), measured, unit, measured.median - other <= self.most)

    def __str__(self) -> str:
        return f"<= {self.above} + {self.most:g}" if self.above else f"<= {self.most:g}"
