"""How many uids are handed off at the same time while states travel."""

from __future__ import annotations

import asyncio

from stateful_route.server.departure.pace import Pace
from tests.waiting import eventually


async def enter(pace: Pace, inside: set[int], number: int, leave: asyncio.Event) -> None:
    async with pace:
        inside.add(number)
        await leave.wait()
        inside.discard(number)


async def test_few_at_first() -> None:
    """Eight are let in at first, and the next ones as others leave."""
    pace, inside, leave = Pace(), set[int](), asyncio.Event()
    tasks = [asyncio.create_task(enter(pace, inside, number, leave)) for number in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert 8 == len(inside)
    leave.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 1.0)


async def test_more_while_it_is_quick() -> None:
    """While uids have an owner again soon there may be more at a time, and at most 64."""
    pace = Pace()
    for _ in range(1000):
        pace.note(0.001)

    assert 64 == pace.limit


async def test_fewer_while_it_is_slow() -> None:
    """While uids wait for an owner there are to be fewer, but two; what began before counts as one."""
    pace = Pace()
    pace.note(1.0)
    once = pace.limit
    for _ in range(int(once) - 1):
        pace.note(1.0)

    assert 8 * 0.8 == once == pace.limit
    for _ in range(1000):
        pace.note(1.0)
    assert 2 == pace.limit


async def test_more_as_the_time_runs_out() -> None:
    """As many as are needed are let in if the rest could not be handed off in time, however slow they are."""
    pace = Pace()
    for _ in range(20):
        async with pace:
            await asyncio.sleep(0.002)
    pace.hurry(10, 60.0)
    pace.note(1.0)
    slower = pace.limit
    for _ in range(200):
        pace.hurry(10_000, 1.0)
        pace.note(1.0)

    assert 8 > slower
    assert 64 == pace.limit


async def test_those_that_wait_count() -> None:
    """The last ones are all in the queue or inside: more are let in if these would not be done in time."""
    pace, inside, leave = Pace(), set[int](), asyncio.Event()
    for _ in range(20):
        async with pace:
            await asyncio.sleep(0.005)
    tasks = [asyncio.create_task(enter(pace, inside, number, leave)) for number in range(60)]
    await eventually(lambda: len(inside) == 8)
    pace.hurry(0, 60.0)
    enough = pace.limit
    for _ in range(100):
        pace.hurry(0, 0.1)
    await eventually(lambda: len(inside) == 60)
    leave.set()
    await asyncio.gather(*tasks)

    assert 8 == enough


async def test_a_slow_one_lends_its_place() -> None:
    """Who is slow while its uid is owned lets others in, 64 of both kinds at most; it comes back without waiting."""
    pace, inside, leave, slow = Pace(), set[int](), asyncio.Event(), asyncio.Event()
    lent: list[int] = []

    async def lend(number: int) -> None:
        async with pace:
            with pace.lend():
                lent.append(number)
                await slow.wait()
            await enter_again(number)

    async def enter_again(number: int) -> None:
        inside.add(number)
        await leave.wait()

    tasks = [asyncio.create_task(lend(number)) for number in range(100)]
    await eventually(lambda: len(lent) >= 64)
    quick = asyncio.create_task(enter(pace, inside, 1000, leave))
    await asyncio.sleep(0.2)  # twice as long as a place is kept

    assert 64 == len(lent)
    assert not inside
    slow.set()
    await eventually(lambda: len(inside) == 64)
    leave.set()
    await asyncio.wait_for(asyncio.gather(*tasks, quick), 1.0)
    assert 100 == len(lent)


async def test_a_cancelled_turn_is_anothers() -> None:
    """Who is cancelled while it waits, or when it is let in, takes nobody's turn."""
    pace, inside, leave = Pace(), set[int](), asyncio.Event()
    tasks = [asyncio.create_task(enter(pace, inside, number, leave)) for number in range(12)]
    await asyncio.sleep(0)
    tasks[8].cancel()  # the first that waits
    leave.set()
    tasks[9].cancel()
    await asyncio.wait(tasks, timeout=1.0)

    assert not inside
    assert all(task.done() for task in tasks)
    leave.clear()
    again = [asyncio.create_task(enter(pace, inside, number, leave)) for number in range(8)]
    await eventually(lambda: len(inside) == 8)
    leave.set()
    await asyncio.gather(*again)
