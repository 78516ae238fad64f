"""Background chores: back-off, and tasks that somebody ends."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import TYPE_CHECKING

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import Tasks, cancel_and_wait

if TYPE_CHECKING:
    import pytest


class _NoChance(Random):
    def random(self) -> float:
        return 0.0


def test_backoff_doubles_up_to_the_longest() -> None:
    """Pauses double with each failure up to the longest, and begin anew after a success."""
    backoff = Backoff(0.5, 3.0, _NoChance())
    pauses = [backoff.next() for _ in range(5)]
    backoff.reset()

    assert ([0.5, 1.0, 2.0, 3.0, 3.0], 0.5) == (pauses, backoff.next())


def test_backoff_goes_on_with_the_longest() -> None:
    """After a fault that does not pass soon the next pause is the longest."""
    backoff = Backoff(0.5, 3.0, _NoChance())
    backoff.exhaust()

    assert 3.0 == backoff.next()


async def test_backoff_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chance a pause is exactly as long as said, and no longer than the caller has time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("stateful_route._background.backoff.asyncio.sleep", sleep)
    backoff = Backoff(0.5, 3.0)
    for at_most in (math.inf, 0.25, 10.0, 10.0):
        await backoff.wait(at_most)

    assert [0.5, 0.25, 2.0, 3.0] == slept


def test_backoff_is_spread() -> None:
    """Up to half of a pause is random, so that many processes do not ask at the same time."""
    backoff = Backoff(1.0, 1.0, Random(1))
    pauses = [backoff.next() for _ in range(100)]

    assert all(0.5 < pause <= 1.0 for pause in pauses)
    assert 100 == len(set(pauses))


async def test_cancel_and_wait() -> None:
    """Tasks have ended, whatever they do when they are cancelled, and what they raise is not raised here."""
    ended = []

    async def work(name: str, error: Exception | None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
            if error is not None:
                raise error

    tasks = [asyncio.create_task(work("well", None)), asyncio.create_task(work("badly", ValueError()))]
    await asyncio.sleep(0)  # so that they begin
    await cancel_and_wait(*tasks)

    assert (["badly", "well"], [True, True]) == (sorted(ended), [task.done() for task in tasks])


async def test_wait_for_tasks() -> None:
    """To wait for tasks returns once they have ended, or after the time that is given."""
    go_on = asyncio.Event()
    tasks = Tasks()
    tasks.start(_until(go_on), "test")
    await tasks.wait(0.01)
    running = len(tasks)
    go_on.set()
    await tasks.wait(10.0)
    await asyncio.sleep(0)  # what is done once a task has ended is done a turn later
    await tasks.wait(10.0)  # of none

    assert (1, 0) == (running, len(tasks))


async def _until(event: asyncio.Event) -> None:
    await event.wait()
