"""Concurrent calls for one key share one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route._flights import SingleFlight

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
    assert (1, 4, {}) == (len(work.calls), flight.joined, flight._under_way)


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
    assert ({}, 0) == (flight._under_way, flight.joined)


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
    assert (2, 2, {}) == (len(work.calls), flight.joined, flight._under_way)


async def test_cancelled_leaders(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]]
) -> None:
    """Leaders may be cancelled one after the other until one is left."""
    tasks = ask(4)
    await turns()
    for task in tasks[:3]:
        task.cancel()
        await turns()
    work.calls[-1].set_result(7)

    assert 7 == await tasks[3]
    assert (4, {}) == (len(work.calls), flight._under_way)


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
    assert (1, 1, {}) == (len(work.calls), flight.joined, flight._under_way)


@pytest.mark.parametrize("failing", [False, True])
async def test_all_cancelled(
    flight: SingleFlight[str, int], work: Work, ask: Callable[[int], list[asyncio.Task[int]]], failing: bool
) -> None:
    """If all are cancelled at once, the answer being there or not, nothing is under way and nothing is reported."""
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

    assert {} == flight._under_way
    assert [] == reported
