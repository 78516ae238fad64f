"""How even the pods are, by who chooses: in virtual time, with the table and the strategies of the package."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import attrs

from benchmarks import plot
from benchmarks.comparison import Comparison
from benchmarks.goals import Ceiling
from benchmarks.rows import Options, Row
from benchmarks.simulation.choosers import ALL_KNOWING, ARGMIN, NEW_FIRST, OF_THREE, OURS, RANDOM, TWO_CHOICES
from benchmarks.simulation.cluster import Fault, History, Joining, Model, simulate
from benchmarks.simulation.loads import Source
from benchmarks.simulation.trace import Traffic
from benchmarks.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_NAMES = (ARGMIN, RANDOM, TWO_CHOICES, OURS, ALL_KNOWING)
_EVEN = "fullest/mean"
_TENTHS = 10
_BATCH, _AWAY = 60.0, 20.0
_BEGIN = 60.0
_BACK = int(_BEGIN + (_TENTHS - 1) * _BATCH + _AWAY)
_AFTER = 300
_REPEATED = 3
"""Seeds of what is judged."""
_JOINED_AT = 60
_FILLED = 0.9
_MAX_LINKS = 330


@attrs.frozen(kw_only=True)
class Figure:
    """A figure of a history."""

    name: str
    of: Callable[[History], float]
    unit: str = _EVEN
    goal: Ceiling | None = None


@attrs.frozen(kw_only=True)
class Scenario:
    """What happens, who chooses, and what is looked at."""

    name: str
    model: Model
    figures: tuple[Figure, ...]
    names: tuple[str, ...] = _NAMES

    def seeds(self, *, quick: bool) -> range:
        """Return the seeds: one, or some if a figure is judged."""
        return range(1, 1 + (_REPEATED if any(figure.goal for figure in self.figures) and not quick else 1))


def steady(pods: int, period: float, name: str, traffic: Traffic, *, warm_up: int, seconds: int) -> Scenario:
    """Nothing but links that come and go."""

    def p99(history: History) -> float:
        return quantile(history.imbalance[warm_up:], 0.99)

    model = Model(pods=pods, period=period, seconds=warm_up + seconds, traffic=traffic)
    judged = traffic == Traffic() and period == 1
    goal = Ceiling(0.02, above=ALL_KNOWING) if judged else None
    return Scenario(name=_name(name, model), model=model, figures=(Figure(name="p99", of=p99, goal=goal),))


def restart(pods: int, period: float) -> Scenario:
    """A tenth of the pods each minute says goodbye, and is back after 20 s, empty; all users come back in 2 s."""
    batches = [range(i * pods // _TENTHS, (i + 1) * pods // _TENTHS) for i in range(_TENTHS)]
    faults = tuple(
        Fault(at=_BEGIN + number * _BATCH, pods=tuple(batch), back_after=_AWAY) for number, batch in enumerate(batches)
    )
    model = Model(pods=pods, period=period, seconds=_BACK + _AFTER + 1, faults=faults)

    def worst(history: History) -> float:
        return max(history.imbalance[int(_BEGIN) :])

    def later(history: History) -> float:
        return max(history.imbalance[-10:])

    def moves(history: History) -> float:
        return history.moved / model.traffic.links

    worst_goal, later_goal = (Ceiling(1.20), Ceiling(1.01)) if period == 1 else (None, None)
    return Scenario(
        name=_name("rolling restart", model),
        model=model,
        figures=(
            Figure(name="worst", of=worst, goal=worst_goal),
            Figure(name="5 min later", of=later, goal=later_goal),
            Figure(name="moves of a link", of=moves, unit="moves"),
        ),
        names=(*_NAMES, OF_THREE, NEW_FIRST),
    )


def scale_out(pods: int, more: int) -> Scenario:
    """More pods come, empty."""
    joining = Joining(at=_JOINED_AT, pods=tuple(range(pods, pods + more)))
    model = Model(pods=pods + more, period=1, seconds=_JOINED_AT + 2 * _AFTER, joining=joining)

    def filled(history: History) -> float:
        seconds = (second for second, joined in enumerate(history.joined) if joined >= _FILLED)
        return next(seconds, model.seconds) - _JOINED_AT

    def fullest(history: History) -> float:
        return max(history.fullest_joined)

    def later(history: History) -> float:
        return max(history.imbalance[-_AFTER:])

    return Scenario(
        name=f"scale-out, {pods} pods and {more} more",
        model=model,
        figures=(
            Figure(name=f"to {_FILLED:g} of the mean", of=filled, unit="s", goal=Ceiling(150)),
            Figure(name="fullest new pod", of=fullest, goal=Ceiling(1.05)),
            Figure(name="worst, from 5 min later on", of=later, goal=Ceiling(0.02, above=ALL_KNOWING)),
        ),
        names=(ALL_KNOWING, OURS, OF_THREE),
    )


def limited(gone: int) -> Scenario:
    """Pods have a limit, and so many of a hundred go that the others have less room than is needed."""
    fault = Fault(at=30, pods=tuple(range(gone)))
    model = Model(pods=100, period=1, seconds=90, max_links=_MAX_LINKS, faults=(fault,))
    return Scenario(
        name=f"limit of {_MAX_LINKS} links, {gone} of 100 pods go",
        model=model,
        figures=(
            Figure(name="above it", of=lambda history: history.over, unit="links", goal=Ceiling(40)),
            Figure(name="refused though a pod had room", of=lambda history: history.refused, unit="refusals"),
        ),
        names=(RANDOM, OURS),
    )


def measured(name: str, source: Source, most: float | None) -> Scenario:
    """Loads come from a source that is not the number of links; pods are told by the rule of the scripts."""
    model = Model(pods=100, period=1, seconds=600, source=source, by_rule=True)

    def p99(history: History) -> float:
        return quantile(history.imbalance[_AFTER:], 0.99)

    return Scenario(
        name=name,
        model=model,
        figures=(
            Figure(name="p99", of=p99, goal=None if most is None else Ceiling(most)),
            Figure(name="entries read by a client", of=lambda history: history.read, unit="entries/s"),
        ),
        names=(OURS,),
    )


def large(pods: int, links: int) -> Scenario:
    """So many pods that a change is told seldom."""
    traffic = Traffic(clients=16, links=pods * links)
    model = Model(pods=pods, period=1, seconds=150, traffic=traffic, by_rule=True)

    def p99(history: History) -> float:
        return quantile(history.imbalance[60:], 0.99)

    return Scenario(
        name=f"steady, {pods:,} pods, told by the rule",
        model=model,
        figures=(Figure(name="p99", of=p99, goal=Ceiling(1.025)),),
        names=(OURS,),
    )


def crash(pods: int, period: float) -> Scenario:
    """A tenth of the pods dies, and stays away; its users come back within 2 s of the end of the lease."""
    fault = Fault(at=_BEGIN, pods=tuple(range(pods // _TENTHS)), announced=False)
    reconnected = int(_BEGIN + 5 * period + 2)

    def after(history: History) -> float:
        return max(history.imbalance[reconnected:])

    model = Model(pods=pods, period=period, seconds=reconnected + 60, faults=(fault,))
    return Scenario(name=_name("crash", model), model=model, figures=(Figure(name="worst after", of=after),))


def _name(what: str, model: Model) -> str:
    return f"{what}, {model.pods} pods, {model.period:g} s"


_FULL = tuple(
    scenario
    for pods in (100, 10)
    for scenario in (
        *(steady(pods, period, "steady", Traffic(), warm_up=300, seconds=600) for period in (1, 5, 30)),
        *(
            steady(pods, period, "uneven clients", Traffic(uneven_clients=True), warm_up=300, seconds=600)
            for period in (1, 5, 30)
        ),
        *(
            steady(pods, period, "uneven links", Traffic(uneven_links=True), warm_up=300, seconds=600)
            for period in (1, 5, 30)
        ),
        *(restart(pods, period) for period in (1, 5, 30)),
        *(crash(pods, period) for period in (1, 5, 30)),
    )
)
_SOURCES = (
    measured("load of the links", Source(), None),
    measured("load 5 s late", Source(lag=5), None),
    measured("load 5 s late, smoothed", Source(lag=5, smoothed=True), 1.025),
    measured("load with 20 % noise", Source(noise=0.2), None),
    measured("load with 20 % noise, smoothed", Source(noise=0.2, smoothed=True), None),
)
_FULL = (*_FULL, scale_out(100, 20), limited(20), *_SOURCES, large(1000, 286))
_QUICK = (
    steady(100, 1, "steady", Traffic(), warm_up=40, seconds=60),
    restart(10, 1),
    crash(10, 5),
)


def _run(options: Options) -> Iterator[Row]:
    """Run the scenarios, each of the choosers in a process of its own, as many at a time as there are processors."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        started = [
            (
                scenario,
                {
                    name: [
                        processes.submit(simulate, scenario.model, name, seed)
                        for seed in scenario.seeds(quick=options.quick)
                    ]
                    for name in scenario.names
                },
            )
            for scenario in (_QUICK if options.quick else _FULL)
        ]
        for scenario, futures in started:
            histories = {name: [future.result() for future in each] for name, each in futures.items()}
            for figure in scenario.figures:
                yield Row(
                    case=PLACEMENT,
                    variant=f"{scenario.name}: {figure.name}",
                    unit=figure.unit,
                    figures={name: [figure.of(history) for history in each] for name, each in histories.items()},
                    goals=() if figure.goal is None else (figure.goal,),
                )


def _draw(_rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw what a rolling restart of 100 pods does: it is simulated again, with each second kept."""
    model = restart(100, 1).model
    path = folder / "rolling-restart.png"
    plot.draw_imbalance(
        {name: simulate(model, name, 1).imbalance for name in (ARGMIN, OURS)},
        path,
        title="Rolling restart of 100 pods, a tenth each minute; 32 clients, loads 1 s old in the mean",
        shaded=(_BEGIN, float(_BACK)),
    )
    return [path]


PLACEMENT = Comparison(
    name="placement",
    title="fullest / mean pod, in virtual time; 32 clients, 28,600 links that live 600 s in the mean",
    reference="others who choose on the same trace; one of them knows all loads at each moment",
    goal="p99 <= all-knowing + 0.02; rolling restart <= 1.20, and <= 1.01 five minutes later; new pods full in 150 s",
    run=_run,
    columns=(*_NAMES, OF_THREE, NEW_FIRST),
    draw=_draw,
)
