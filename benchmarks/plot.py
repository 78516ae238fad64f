"""Pictures. matplotlib is in the ``bench`` extra, and imported only here, when something is drawn."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_COLOURS = ("#c0392b", "#1f6fb2", "#555555")


def is_possible() -> bool:
    """Whether matplotlib is installed."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # it is held back: sys.modules has None for it
        return False


def draw_imbalance(
    series: Mapping[str, Sequence[float]], path: Path, *, title: str, shaded: tuple[float, float]
) -> None:
    """Draw fullest / mean pod, a figure for each second, on a logarithmic scale; ``shaded`` is when it happened."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - nobody else needs it
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415 - the same

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(shaded[0] / 60, shaded[1] / 60, color="#f0f0f0", label="pods are restarted")
    axes.axhline(1.25, color="#888888", linewidth=1, linestyle="--", label="1.25")
    for (name, values), colour in zip(series.items(), _COLOURS, strict=False):
        minutes = [second / 60 for second in range(len(values))]
        axes.plot(minutes, values, color=colour, linewidth=1.6, label=f"{name}, {max(values):.2f} at worst")
    highest = max(max(values) for values in series.values())
    ticks = [tick for tick in (1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16) if tick <= highest * 1.1]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.97, highest * 1.15)
    axes.set_xlim(0, max(len(values) for values in series.values()) / 60)
    axes.set_xlabel("minutes")
    axes.set_ylabel("links: fullest / mean pod")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, framealpha=1, loc="upper right")
    figure.savefig(path, dpi=100, metadata={"Software": None})  # the same picture from the same figures
