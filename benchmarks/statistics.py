"""From the rounds of a benchmark to its figures: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

LOW, HIGH = 0.1, 0.9
"""The quantiles that are the ends of a spread."""


@attrs.frozen
class Spread:
    """The middle of some values, and the range of all but the lowest and the highest tenth."""

    median: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """The width of the range, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies, by linear interpolation between two of them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the range of the values."""
    return Spread(quantile(values, 0.5), quantile(values, LOW), quantile(values, HIGH))


def ratios(subject: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return subject / reference of each round: two that ran side by side, so what slowed the machine hit both."""
    return [s / r for s, r in zip(subject, reference, strict=True)]
