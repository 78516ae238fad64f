"""What a client knows of placements that no load shows yet."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route.client.placement.expected_load import OwnPlacements, PlacementRates


def test_own_placements() -> None:
    """A placement is unseen until a heartbeat came that is later than it by the time to settle."""
    own = OwnPlacements()
    own.add(10.0)
    own.add(11.0)
    unseen = [own.count]
    for stamp in (10.9, 11.0, 12.0, 12.0):
        own.published(stamp, 1.0)
        unseen.append(own.count)

    assert [2, 2, 1, 0, 0] == unseen


def test_rates_unknown() -> None:
    """While nothing is known the scale is 1."""
    rates = PlacementRates()
    rates.observe(0, 0, 1.0)
    rates.observe(100, 1, 0.0)

    assert 1.0 == rates.scale


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(-1, 0) | st.floats(0.001, 1e6)), max_size=20
    )
)
def test_scale_bounds(readings: list[tuple[int, int, float]]) -> None:
    """The scale is from 1 to 1024, whatever is observed."""
    rates = PlacementRates()
    for placed_by_all, placed_here, seconds in readings:
        rates.observe(placed_by_all, placed_here, seconds)

    assert 1.0 <= rates.scale <= 1024.0


def test_scale() -> None:
    """One of 32 clients learns that it is one of 32, however long its readings take."""
    rates = PlacementRates()
    for seconds in (0.5, 1.0, 2.0) * 20:
        rates.observe(round(64 * seconds), round(2 * seconds), seconds)

    assert 32.0 == pytest.approx(rates.scale)


def test_rates_decay() -> None:
    """A burst of others counts for half a minute: after 30 s without it 1/e of it is left."""
    rates = PlacementRates()
    rates.observe(100, 1, 1.0)
    for _ in range(30):
        rates.observe(0, 0, 1.0)
    both = rates.scale
    for _ in range(30):
        rates.observe(1, 1, 1.0)

    assert 100.0 == pytest.approx(both)
    share = (1 - math.exp(-1 / 30)) * math.exp(-2)
    assert 1 < rates.scale < 1 + 100 * share / (1 - math.exp(-1))
