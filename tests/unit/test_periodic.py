"""Periodic tasks, on a clock of the event loop that jumps instead of waiting."""

from __future__ import annotations

import asyncio
import selectors
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route._background.periodic import PeriodicTask, next_tick

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class _Jumping(selectors.DefaultSelector):
    """Moves the clock of the loop to the next timer instead of waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def clock() -> float:
    return asyncio.get_running_loop().time()


def periodic(action: Callable[[], Coroutine[Any, Any, None]], *, jitter: float = 0.0) -> PeriodicTask:
    return PeriodicTask("test", action, 1.0, jitter=jitter, random=Random(1), clock=clock)


@pytest.mark.parametrize(
    ("tick", "elapsed", "expected"), [(0, 0.0, 1), (0, 0.5, 1), (1, 1.0, 2), (1, 1.2, 2), (1, 3.7, 4), (4, 3.9, 5)]
)
def test_next_tick(tick: int, elapsed: float, expected: int) -> None:
    """The next tick is the first one that is not over."""
    assert expected == next_tick(tick, elapsed, 1.0)


@given(st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0.001, 1000))
def test_next_tick_is_ahead(tick: int, elapsed: float, period: float) -> None:
    """The next tick is later than this one and, to rounding, not in the past."""
    following = next_tick(tick, elapsed, period)

    assert following > tick
    assert following * period >= elapsed * (1 - 1e-9)


def test_no_drift() -> None:
    """The n-th call is n periods after the start, however long the calls take."""
    calls: list[float] = []

    async def action() -> None:
        calls.append(clock())
        await asyncio.sleep(0.3)  # in virtual time

    async def main() -> None:
        task = periodic(action)
        task.start()
        await asyncio.sleep(100.5)  # in virtual time
        await task.stop()

    run(main)

    assert [float(n) for n in range(1, 101)] == [pytest.approx(at) for at in calls]


def test_jitter() -> None:
    """Jitter moves each call by half of itself at most, in both directions, and nothing adds up."""
    calls: list[float] = []

    async def action() -> None:
        calls.append(clock())

    async def main() -> None:
        task = periodic(action, jitter=0.5)
        task.start()
        await asyncio.sleep(200.5)  # in virtual time
        await task.stop()

    run(main)
    off = [at - n for n, at in enumerate(calls, start=1)]

    assert 200 == len(calls)
    assert -0.25 <= min(off) < -0.2
    assert 0.2 < max(off) <= 0.25


def test_slow_action() -> None:
    """Calls never overlap, and the ticks that a slow one misses are left out."""
    calls: list[float] = []
    running = 0

    async def action() -> None:
        nonlocal running
        running += 1
        assert 1 == running
        calls.append(clock())
        await asyncio.sleep(3.5 if len(calls) == 2 else 0.1)  # in virtual time
        running -= 1

    async def main() -> None:
        task = periodic(action)
        task.start()
        await asyncio.sleep(8.5)  # in virtual time
        await task.stop()

    run(main)

    assert [1.0, 2.0, 6.0, 7.0, 8.0] == [pytest.approx(at) for at in calls]


def test_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error ends the task and is logged, and stop() does not raise it again."""
    calls: list[float] = []

    async def action() -> None:
        calls.append(clock())
        raise RuntimeError("broken")

    async def main() -> None:
        task = periodic(action)
        task.start()
        await asyncio.sleep(5.0)  # in virtual time
        await task.stop()

    run(main)

    assert [1.0] == calls
    assert ["the periodic task 'test' ended by an error"] == [record.message for record in caplog.records]


def test_stop() -> None:
    """stop() ends a call that is in flight and waits for its end, twice or before start without harm."""
    ended: list[str] = []

    async def action() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("action")

    async def main() -> None:
        task = periodic(action)
        await task.stop()
        task.start()
        await asyncio.sleep(1.5)  # in virtual time
        await task.stop()
        ended.append("stop")
        await task.stop()

        assert {asyncio.current_task()} == asyncio.all_tasks()

    run(main)

    assert ["action", "stop"] == ended


def test_cancelled_stop() -> None:
    """A stop() that is cancelled while it waits is cancelled: it does not swallow that."""
    cancelled: list[bool] = []

    async def action() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.0)  # clean-up, in virtual time

    async def main() -> None:
        task = periodic(action)
        task.start()
        await asyncio.sleep(1.5)  # in virtual time
        stop = asyncio.create_task(task.stop())
        await asyncio.sleep(0)  # so that it begins to wait
        stop.cancel()
        await asyncio.wait([stop])
        cancelled.append(stop.cancelled())

    run(main)

    assert [True] == cancelled
