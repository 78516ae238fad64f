"""Concurrent calls for one key share one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import StoreTimeoutError
from stateful_route._single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable


class Work:
    """A call that is answered when the test says so."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[int]] = []

    async def __call__(self) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.calls.append(future)
        return await future


async def turns() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def flight() -> SingleFlight[str, int]:
    return SingleFlight[str, int]()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def ask(flight: SingleFlight[str, int], work: Work) -> Callable[[int], list[asyncio.Task[int]]]:
    return lambda count: [asyncio.create_task(flight.run("a", work)) for _ in range(count)]


async def test_one_call(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]
) -> None:
    """Callers at the same time share one call and its result."""
    tasks = ask(5)
    await turns()
    work.calls[0].set_result(7)

    assert [7] * 5 == await asyncio.gather(*tasks)
    assert (1, 4, {}) == (len(work.calls), flight.joined, flight._in_flight)


async def test_one_after_the_other(flight: SingleFlight[str, int], work: Work) -> None:
    """A call that comes after the end of another asks again."""
    for result in (1, 2):
        task = asyncio.create_task(flight.run("a", work))
        await turns()
        work.calls[-1].set_result(result)

        assert result == await task


async def test_other_keys(flight: SingleFlight[str, int], work: Work) -> None:
    """Calls for different keys do not wait for each other."""
    tasks = [asyncio.create_task(flight.run(key, work)) for key in "ab"]
    await turns()
    work.calls[1].set_result(2)
    await turns()

    assert [False, True] == [task.done() for task in tasks]
    work.calls[0].set_result(1)
    assert [1, 2] == await asyncio.gather(*tasks)


async def test_error(flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]) -> None:
    """An error is the answer to all, and the next call asks again."""
    tasks = ask(3)
    await turns()
    error = RuntimeError("broken")
    work.calls[0].set_exception(error)

    assert [error] * 3 == await asyncio.gather(*tasks, return_exceptions=True)
    assert ({}, 0) == (flight._in_flight, flight.joined)


async def test_cancelled_leader(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]
) -> None:
    """If the caller that asks is cancelled, one of the others asks, and the rest share its answer."""
    tasks = ask(4)
    await turns()
    tasks[0].cancel()
    await turns()
    work.calls[1].set_result(7)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert [7] * 3 == results[1:]
    assert (2, 2, {}) == (len(work.calls), flight.joined, flight._in_flight)


async def test_cancelled_leaders(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]
) -> None:
    """Leaders may be cancelled one after the other until one is left."""
    tasks = ask(4)
    await turns()
    for number in (0, 3, 2):  # who came last is the next
        tasks[number].cancel()
        await turns()
    work.calls[-1].set_result(7)

    assert 7 == await tasks[1]
    assert (4, {}) == (len(work.calls), flight._in_flight)


async def test_cancelled_followers(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]
) -> None:
    """A caller that is cancelled while it waits harms nobody."""
    tasks = ask(4)
    await turns()
    tasks[1].cancel()
    tasks[3].cancel()
    await turns()
    work.calls[0].set_result(7)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [7, 7] == [results[0], results[2]]
    assert (1, 1, {}) == (len(work.calls), flight.joined, flight._in_flight)


@pytest.mark.parametrize("failing", [False, True])
async def test_all_cancelled(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]], failing: bool
) -> None:
    """If all are cancelled at once, the answer being there or not, nothing is in flight and nothing is reported."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    tasks = ask(4)
    await turns()
    if failing:
        work.calls[0].set_exception(RuntimeError("broken"))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    del tasks
    await turns()

    assert {} == flight._in_flight
    assert [] == reported


DEADLINE = 0.2
LATE = StoreTimeoutError("no answer", operation="place", maybe_applied=True)


async def ends(task: asyncio.Task[int], began: float) -> float:
    """Return how many deadlines after that time of the loop the task ended, in time-out."""
    with pytest.raises(StoreTimeoutError):
        await task
    return (asyncio.get_running_loop().time() - began) / DEADLINE


async def test_late_follower(work: Work) -> None:
    """Who joins late is not cut by the deadline of the first, and gets its answer by a call of its own."""
    flight = SingleFlight[str, int](DEADLINE)
    first = asyncio.create_task(flight.run("a", work))
    await turns()
    tasks = [asyncio.create_task(flight.run("a", work)) for _ in range(3)]
    await turns()
    work.calls[0].set_exception(LATE)
    await turns()
    work.calls[1].set_result(7)

    assert [LATE, 7, 7, 7] == await asyncio.gather(first, *tasks, return_exceptions=True)
    assert (2, 2, {}) == (len(work.calls), flight.joined, flight._in_flight)


async def test_own_deadline(work: Work) -> None:
    """Whoever asks, first or last, waits for its own deadline and not longer, however often the call is run again."""
    flight = SingleFlight[str, int](DEADLINE)
    now = asyncio.get_running_loop().time
    began, tasks = [], []
    for _ in range(5):
        began.append(now())
        tasks.append(asyncio.create_task(flight.run("a", work)))
        await asyncio.sleep(DEADLINE / 10)  # what is tested
    await asyncio.sleep(began[0] + DEADLINE - now())
    work.calls[0].set_exception(LATE)  # as the store does
    took = await asyncio.gather(*map(ends, tasks, began))

    assert all(0.99 <= deadlines < 1.5 for deadlines in took)
    assert len(work.calls) <= 3
    assert {} == flight._in_flight


async def test_no_time_left(work: Work) -> None:
    """Who has no time left when the first one gives up asks no more."""
    flight = SingleFlight[str, int](0.0)
    tasks = [asyncio.create_task(flight.run("a", work)) for _ in range(3)]
    await turns()
    work.calls[0].set_exception(LATE)

    assert [LATE] * 3 == await asyncio.gather(*tasks, return_exceptions=True)
    assert 1 == len(work.calls)
