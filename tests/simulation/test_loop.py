"""The loop of the simulator: virtual time, machines, and what asyncio and anyio do on it."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tools.simulation import Machine, SimulationError, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(Random(1))
    yield loop
    loop.bury()


def run_on(loop: VirtualLoop, *works: tuple[Machine, Coroutine[Any, Any, Any]]) -> list[Any]:
    async def main() -> list[Any]:
        tasks = [machine.spawn(work) for machine, work in works]
        await asyncio.wait(tasks)
        return [task.result() for task in tasks]

    return loop.run(main())


def test_virtual_time(loop: VirtualLoop) -> None:
    """An hour passes at once, and takes an hour by the clock of the loop."""

    async def sleep() -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - began

    began = time.monotonic()
    (took,) = run_on(loop, (Machine(loop, "a"), sleep()))

    assert 3600 == pytest.approx(took)
    assert time.monotonic() - began < 5


def test_fifo_within_a_machine(loop: VirtualLoop) -> None:
    """Calls of one machine run in the order in which they were made, whatever the others do."""
    ran: list[tuple[str, int]] = []

    async def schedule(name: str) -> None:
        for number in range(20):
            asyncio.get_running_loop().call_soon(ran.append, (name, number))
        await asyncio.sleep(1)

    run_on(loop, *((Machine(loop, name), schedule(name)) for name in "ab"))

    for name in "ab":
        assert list(range(20)) == [number for machine, number in ran if machine == name]
    assert sorted(ran) != ran  # the machines took turns


def test_clocks_differ(loop: VirtualLoop) -> None:
    """Each machine has a clock of its own, ahead and fast as it is told."""

    async def measure() -> float:
        began = anyio.current_time()
        await asyncio.sleep(1000)
        return anyio.current_time() - began

    fast = Machine(loop, "fast", offset=5000, drift=0.001)
    took_fast, took = run_on(loop, (fast, measure()), (Machine(loop, "exact"), measure()))

    assert [1000, 1000] == [round(took_fast), round(took)]
    assert fast.time() > 5000 + 1000


@pytest.mark.parametrize("timers_first", [False, True])
def test_stall(loop: VirtualLoop, timers_first: bool) -> None:
    """Nothing runs on a machine that stands still; after it what came in is first, or what was due."""
    machine = Machine(loop, "a")
    ran: list[str] = []
    during: list[str] = []

    async def work() -> None:
        asyncio.get_running_loop().call_later(1, ran.append, "due")
        loop.after(2, machine.call, ran.append, "came in")
        loop.after(9, lambda: during.extend(ran))
        machine.stall(10, timers_first=timers_first)
        await asyncio.sleep(0)

    began = loop.now
    run_on(loop, (machine, work()))
    run_on(loop, (machine, asyncio.sleep(1)))

    assert [] == during
    assert (["due", "came in"] if timers_first else ["came in", "due"]) == ran
    assert loop.now - began > 10
    assert 10 == pytest.approx(machine.stalled_for)


def test_kill(loop: VirtualLoop) -> None:
    """Of a machine that was killed nothing runs any more, no clean-up either; and none is left to warn about."""
    machine = Machine(loop, "a")
    ran: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            ran.append("clean-up")

    async def main() -> None:
        machine.spawn(work())
        await asyncio.sleep(1)
        machine.kill()
        await asyncio.sleep(10)

    loop.run(main())

    assert [] == ran


def test_timeouts(loop: VirtualLoop) -> None:
    """The time limits, scopes and task groups of asyncio and anyio work in virtual time."""

    async def work() -> list[object]:
        seen: list[object] = []
        with anyio.move_on_after(2) as scope:
            await anyio.sleep(10)
        seen.append(scope.cancelled_caught)
        try:
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("late")
        async with anyio.create_task_group() as group:
            for seconds in range(3):
                group.start_soon(anyio.sleep, seconds)
        with anyio.move_on_after(1), anyio.CancelScope(shield=True):  # the scope asks again in each turn
            await anyio.sleep(3)
        seen.append(round(anyio.current_time()) - 1000)
        return seen

    assert [[True, "late", 8]] == run_on(loop, (Machine(loop, "a"), work()))


def test_deadlock(loop: VirtualLoop) -> None:
    """If nothing will ever happen again, the run ends with an error."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match="deadlock"):
        loop.run(main())


def test_circles() -> None:
    """Too many steps are an error."""
    loop = VirtualLoop(Random(1), most_steps=1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - the circle is the point
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="circles"):
        loop.run(main())
    loop.bury()


def test_unhandled_errors_are_kept(loop: VirtualLoop) -> None:
    """What a callback raises is found in ``errors``."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop.run(main())

    assert [ZeroDivisionError] == [type(context["exception"]) for context in loop.errors]


def test_executor_is_here_and_now(loop: VirtualLoop) -> None:
    """What is meant for a thread runs at once, as threads cannot be repeated."""

    async def main() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: 42)

    assert 42 == loop.run(main())
