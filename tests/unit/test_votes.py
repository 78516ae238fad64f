"""How many primaries of a cluster are asked which of them has a key."""

from __future__ import annotations

import asyncio

import pytest

from stateful_route.errors import StoreUnavailableError
from stateful_route.store.transport.primacy import count_votes

DEADLINE = 0.4  # seconds


class Primaries:
    """Others than the one in question: each names it, names another one, or does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = 0

    async def names_it(self, other: str) -> bool:
        self.asked += 1
        self.running += 1
        try:
            if other == "silent":
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)  # as redis-py, which may be about to connect
            raise
        else:
            await asyncio.sleep(0)
            return other == "yes"
        finally:
            self.running -= 1


@pytest.mark.parametrize(
    ("others", "asked"),
    [
        ([], {0}),
        (["yes"], {1}),
        (["yes", "yes"], {1}),
        (["yes"] * 4, {2}),
        (["no", "yes"], {1, 2}),
        (["silent", "yes"], {1, 2}),
        (["silent", "silent", "yes", "yes"], {2, 4}),  # 4: all, once one is late
    ],
)
async def test_majority(others: list[str], asked: set[int]) -> None:
    """No more are asked than are needed, unless one is late; nothing is left behind."""
    primaries = Primaries()
    await count_votes(others, primaries.names_it, DEADLINE)
    assert primaries.asked in asked
    assert 0 == primaries.running


@pytest.mark.parametrize("others", [["no"], ["silent"], ["no", "silent"], ["yes", "no", "no", "silent"]])
async def test_no_majority(others: list[str]) -> None:
    """One that names another primary, or says nothing, is no vote; all were asked, and nothing is left behind."""
    primaries = Primaries()
    with pytest.raises(StoreUnavailableError, match=f"of {len(others) + 1} primaries"):
        await count_votes(others, primaries.names_it, DEADLINE)
    assert len(others) == primaries.asked
    assert 0 == primaries.running
