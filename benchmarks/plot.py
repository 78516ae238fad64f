"""Pictures. matplotlib is in the ``bench`` extra, and imported only here, when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers import missing_module
from benchmarks.report import rounded
from benchmarks.rows import SUBJECT, is_ours
from benchmarks.statistics import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.rows import Row

_OURS = "#1f6fb2"
_OTHER = "#c0392b"
_COLOURS = ("#c0392b", "#1f6fb2", "#555555")
_LINES = ("#c0392b", "#e08e0b", "#7f4fa3", "#2e8b57", "#555555", "#888888")
_GRID = "#dddddd"
_WIDE = 100
_NARROW = 9


def is_possible() -> bool:
    """Whether matplotlib is installed."""
    return missing_module("matplotlib") is None


def draw_imbalance(
    series: Mapping[str, Sequence[float]], path: Path, *, title: str, shaded: tuple[float, float]
) -> None:
    """Draw fullest / mean pod, a figure for each second, on a logarithmic scale; ``shaded`` is when it happened."""
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415 - nobody else needs it

    figure = _figure(3.6)
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
    _finish(axes, title)
    axes.legend(fontsize=9, framealpha=1, loc="upper right")
    _save(figure, path)


def draw_bars(rows: Sequence[Row], path: Path, *, title: str, label: str) -> None:
    """Draw the figures of each side as bars, with their spread; a panel for each row."""
    figure, panels, names = _panels(rows[0], len(rows))
    for axes, row in zip(panels, rows, strict=True):
        medians = [row.median(name) for name in names]
        bars = axes.barh(names, medians, color=list(map(_colour, names)), height=0.65)
        axes.bar_label(bars, labels=list(map(rounded, medians)), fontsize=9, padding=4)
        axes.set_xlim(0, max(medians) * 1.15)
        axes.set_xlabel(label, fontsize=9)
        _finish(axes, row.variant, axis="x")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_points(rows: Sequence[Row], path: Path, *, title: str, label: str) -> None:
    """Draw the figures of each side as points on a logarithmic scale, with their spread; a panel for each row."""
    figure, panels, names = _panels(rows[0], len(rows))
    for axes, row in zip(panels, rows, strict=True):
        for place, name in enumerate(names):
            figures = spread(row.figures[name])
            axes.plot([figures.low, figures.high], [place, place], color=_colour(name), linewidth=5, alpha=0.35)
            axes.plot([figures.median], [place], "o", color=_colour(name), markersize=7)
            _write_beside(axes, rounded(figures.median), max(figures.high, figures.median), place)
        medians = [row.median(name) for name in names]
        axes.set_xlim(min(medians) / 1.8, max(medians) * 4.5)
        axes.set_xscale("log")
        _label_powers(axes.xaxis)
        axes.set_xlabel(label, fontsize=9)
        _finish(axes, row.variant, axis="x")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_throughput(by_callers: Mapping[int, Row], path: Path, *, title: str) -> None:
    """Draw thousands of calls in a second over the number of callers, a line for each side."""
    from matplotlib.ticker import NullLocator  # noqa: PLC0415 - only who draws needs it

    figure = _figure(3.8)
    axes = figure.add_subplot()
    callers = list(by_callers)
    for name, style in _styles(next(iter(by_callers.values()))).items():
        spreads = [spread(by_callers[count].figures[name]) for count in callers]
        axes.fill_between(
            callers, [one.low for one in spreads], [one.high for one in spreads], color=style["color"], alpha=0.12
        )
        axes.plot(callers, [one.median for one in spreads], marker="o", markersize=3.5, label=name, **style)
    axes.set_xscale("log")
    axes.set_xticks(callers, [f"{count:,}" for count in callers])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.9 * min(row.median(name) for row in by_callers.values() for name in row.figures))
    _label_powers(axes.yaxis)
    axes.set_xlabel("concurrent callers")
    axes.set_ylabel("thousand calls/s")
    _finish(axes, title)
    _legend_beside(axes)
    _save(figure, path)


def draw_latency(by_callers: Mapping[int, tuple[Row, Row]], path: Path, *, title: str) -> None:
    """Draw p50 to p99 of one call for each side, a panel for each number of callers."""
    figure, panels, names = _panels(next(iter(by_callers.values()))[0], len(by_callers))
    for axes, (callers, (p50, p99)) in zip(panels, by_callers.items(), strict=True):
        for place, name in enumerate(names):
            colour, middle, high = _colour(name), p50.median(name), p99.median(name)
            axes.plot([middle, high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot([middle], [place], "o", color=colour, markersize=6)
            axes.plot([high], [place], "|", color=colour, markersize=11, markeredgewidth=2.5)
            _write_beside(axes, f"{rounded(middle)} to {rounded(high)}", high, place)
        axes.set_xlim(min(map(p50.median, names)) / 1.6, max(map(p99.median, names)) * 9)
        axes.set_xscale("log")
        _label_powers(axes.xaxis)
        axes.set_xlabel("ms", fontsize=9)
        _finish(axes, f"{callers:,} callers", axis="x")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_matrix(panels: Mapping[str, Mapping[str, Row]], names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw tables of numbers that should be 0: a panel for each figure, a line for each side, a column for each row.

    The numbers are those of the worst round; the darker, the further from 0.
    """
    rows = [row for of_figure in panels.values() for row in of_figure.values()]
    sides = [name for name in names if any(name in row.figures for row in rows)]
    figure = _figure(1.5 + 0.34 * len(sides))
    places = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (what, columns) in zip(places, panels.items(), strict=True):
        worst = [[max(row.figures[side]) for row in columns.values()] for side in sides]
        most = max(1.0, *(number for line in worst for number in line))
        axes.imshow(worst, cmap="Reds", vmin=0, vmax=1.3 * most, aspect="auto")
        for place, line in enumerate(worst):
            weight = "bold" if is_ours(sides[place]) else "normal"
            for column, number in enumerate(line):
                axes.text(column, place, f"{number:,.0f}", ha="center", va="center", fontsize=9, fontweight=weight)
        _finish(axes, what)
        axes.set_xticks(range(len(columns)), [_broken(name) for name in columns])
        axes.set_yticks(range(len(sides)), sides)
        axes.grid(visible=False)
        axes.tick_params(length=0, labelsize=8.5)
        axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _broken(name: str) -> str:
    """Return a name on several lines, for a narrow column."""
    return name.replace(", ", "\n") if ", " in name else name.replace(" ", "\n", 1) if len(name) > _NARROW else name


def _panels(row: Row, count: int) -> tuple[Any, Any, list[str]]:
    """Return a figure with panels side by side, and the names of the sides from the bottom up: ours are on top."""
    names = sorted(row.figures, key=is_ours)
    others = [name for name in names if not is_ours(name)][::-1]
    names = [*others, *[name for name in names if is_ours(name)][::-1]]
    figure = _figure(1.1 + 0.27 * len(names))
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    return figure, panels, names


def _write_beside(axes: Any, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), (7, 0), textcoords="offset points", va="center", fontsize=8.5)


def _label_powers(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: at 1, 2 and 5 of each power of ten, if there is room for them."""
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415 - only who draws needs it

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _WIDE else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:,g}")


def _colour(name: str) -> str:
    return _OURS if is_ours(name) else _OTHER


def _styles(row: Row) -> dict[str, dict[str, Any]]:
    """Return how the line of each side looks: ours is broad and blue."""
    colours = iter(_LINES)
    return {
        name: {"color": _OURS, "linewidth": 2.4, "linestyle": "-" if name == SUBJECT else "--"}
        if is_ours(name)
        else {"color": next(colours), "linewidth": 1.4}
        for name in row.figures
    }


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it

    return Figure(figsize=(8, height), layout="constrained")


def _finish(axes: Any, title: str, *, axis: str = "y") -> None:
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(axis=axis, color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_beside(axes: Any) -> None:
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=100, metadata={"Software": None})  # the same picture from the same figures
