"""Many clients with old data, in virtual time, on the shipped placement: the simulation of the benchmarks, small."""

from __future__ import annotations

import attrs
import pytest

from benchmarks.simulation.choosers import ALL_KNOWING, ARGMIN, NEW_FIRST, OF_THREE, OURS
from benchmarks.simulation.cluster import Fault, Joining, Model, simulate
from benchmarks.simulation.loads import Source
from benchmarks.simulation.trace import Traffic
from benchmarks.statistics import quantile

TRAFFIC = Traffic(clients=16, links=10_000, life=200.0)


def p99(name: str, period: float) -> float:
    """Return the 99th percentile over time of fullest / mean pod."""
    model = Model(pods=40, period=period, seconds=120, traffic=TRAFFIC)
    return quantile(simulate(model, name, seed=1).imbalance[60:], 0.99)


def test_herd() -> None:
    """With data a second old ours is as even as one who knows all; argmin is not, and with older data much less."""
    ours, all_knowing = p99(OURS, 1.0), p99(ALL_KNOWING, 1.0)

    assert ours <= all_knowing + 0.025
    assert p99(ARGMIN, 1.0) > all_knowing + 0.1
    assert p99(ARGMIN, 10.0) > 2.0
    assert p99(OURS, 10.0) < 1.1


@pytest.mark.slow
def test_rolling_restart() -> None:
    """While pods are restarted in fifths the fullest has little more than its share; who fills new pods moves less."""
    pods = 20
    batches = [tuple(range(first, first + pods // 5)) for first in range(0, pods, pods // 5)]
    faults = tuple(Fault(at=10.0 + 20 * i, pods=batch, back_after=5.0) for i, batch in enumerate(batches))
    model = Model(pods=pods, period=1.0, seconds=180, traffic=TRAFFIC, faults=faults)
    histories = {name: simulate(model, name, seed=1) for name in (ARGMIN, OURS, OF_THREE, NEW_FIRST)}
    # While a fifth of them is empty, the others have 1.25 times the mean of all.
    worst = {name: max(history.imbalance) for name, history in histories.items()}

    assert max(worst[OURS], worst[NEW_FIRST]) < 1.25 * 1.2
    assert worst[ARGMIN] > 1.25 * 1.5
    assert histories[OURS].imbalance[-1] < 1.05
    assert histories[NEW_FIRST].moved < histories[OURS].moved < 0.97 * histories[OF_THREE].moved


def test_scale_out() -> None:
    """New pods fill in little more time than with one who knows all, and much sooner than by a few random pods."""
    joining = Joining(at=10.0, pods=tuple(range(20, 24)))
    model = Model(pods=24, period=1.0, seconds=150, traffic=TRAFFIC, joining=joining)
    histories = {name: simulate(model, name, seed=1) for name in (OURS, OF_THREE, ALL_KNOWING)}
    filled = {
        name: next(second for second, joined in enumerate([*history.joined, 1.0]) if joined >= 0.9) - 10
        for name, history in histories.items()
    }

    assert filled[ALL_KNOWING] <= filled[OURS] < min(1.6 * filled[ALL_KNOWING], 0.6 * filled[OF_THREE])
    assert max(histories[OURS].fullest_joined) < 1.05


@pytest.mark.slow
def test_limit() -> None:
    """In a burst that finds too little room no pod gets many links more than it may have."""
    fault = Fault(at=10.0, pods=(0, 1, 2, 3, 4, 5, 6, 7))
    model = Model(pods=40, period=1.0, seconds=40, traffic=TRAFFIC, faults=(fault,), max_links=290)

    assert simulate(model, OURS, seed=1).over <= 45


@pytest.mark.parametrize(("source", "more"), [(Source(lag=5.0), 0.03), (Source(noise=0.2), 0.06)])
def test_smoothed_load(source: Source, more: float) -> None:
    """Smoothed, a load that is late or noisy is less uneven, and noise is told less often."""
    plain, smoothed = (
        simulate(Model(pods=20, period=1.0, seconds=120, traffic=TRAFFIC, by_rule=True, source=each), OURS, seed=1)
        for each in (source, attrs.evolve(source, smoothed=True))
    )

    assert quantile(smoothed.imbalance[60:], 0.99) < quantile(plain.imbalance[60:], 0.99) - more / 2
    assert smoothed.read < plain.read


def test_crash() -> None:
    """The users of pods that died are spread over the others when the lease has ended."""
    model = Model(
        pods=20, period=1.0, seconds=60, traffic=TRAFFIC, faults=(Fault(at=20.0, pods=(3, 7), announced=False),)
    )
    history = simulate(model, OURS, seed=1)

    assert max(history.imbalance[:25]) < 1.1
    assert max(history.imbalance[28:]) < 1.1


@pytest.mark.parametrize("name", [ARGMIN, OURS, ALL_KNOWING])
def test_same_again(name: str) -> None:
    """The same arguments give the same history, and another seed another one."""
    faults = (Fault(at=3.0, pods=(0,), back_after=3.0), Fault(at=5.0, pods=(1,), announced=False))
    traffic = Traffic(clients=4, links=200, life=10.0, uneven_clients=True, uneven_links=True)
    model = Model(pods=5, period=1.0, seconds=15, traffic=traffic, faults=faults)

    assert simulate(model, name, seed=1) == simulate(model, name, seed=1)
    assert simulate(model, name, seed=1) != simulate(model, name, seed=2)
