"""The manual clock: it makes the calls that are due when it is moved."""

from __future__ import annotations

from stateful_route.testing import ManualClock


def test_due() -> None:
    """A call is made when the clock is moved to its time or beyond, once, and what is due together in order of time."""
    clock = ManualClock(100.0)
    made: list[tuple[str, float]] = []
    for name, when in (("c", 103.0), ("a", 101.0), ("b", 101.0), ("late", 200.0), ("past", 50.0)):
        clock.call_at(when, lambda name=name: made.append((name, clock())))  # type: ignore[misc]
    nothing = list(made)
    clock.advance(0.999999)
    clock.advance(0.000001)
    first = list(made)
    clock.set(110.0)

    assert [] == nothing
    assert [("past", 100.999999), ("a", 101.0), ("b", 101.0)] == first
    assert [("c", 110.0)] == made[3:]


def test_cancelled() -> None:
    """A call that was cancelled is not made."""
    clock = ManualClock(100.0)
    made: list[float] = []
    clock.call_at(101.0, lambda: made.append(clock())).cancel()
    clock.advance(2.0)

    assert [] == made


def test_call_that_asks_for_another() -> None:
    """A call may ask for another one, which is made at once if it is due."""
    clock = ManualClock(100.0)
    made: list[float] = []
    clock.call_at(101.0, lambda: clock.call_at(102.0, lambda: made.append(clock())))
    clock.advance(5.0)

    assert [105.0] == made
