"""Streams end one after the other, as late as can be, and within their time."""

from __future__ import annotations

import asyncio
import time

import pytest

from stateful_route.web.serve.pacing import BETWEEN_ENDS, leave


class Streams:
    """What notes when each of it was told to end; ``again`` of them come back at once."""

    def __init__(self, count: int, again: int = 0) -> None:
        self.begun = time.monotonic()
        self.ends: list[float] = []
        self.again = again
        self.all = [Stream(self) for _ in range(count)]

    def left(self) -> list[Stream]:
        return [stream for stream in self.all if not stream.ended]


class Stream:
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.ended = False

    def end_stream(self) -> None:
        streams = self.streams
        assert not self.ended
        self.ended = True
        streams.ends.append(time.monotonic() - streams.begun)
        if streams.again:
            streams.again -= 1
            streams.all.append(Stream(streams))


async def test_one_after_the_other() -> None:
    """A few streams end by turns, in the last part of the time that the process goes on to serve."""
    streams = Streams(40)
    await leave(streams.left, 0.5, 10.0)
    took = time.monotonic() - streams.begun

    assert 40 == len(streams.ends)
    assert 0.5 - 40 * BETWEEN_ENDS - 0.01 < streams.ends[0]
    assert streams.ends[-1] - streams.ends[0] > 38 * BETWEEN_ENDS
    assert 0.48 < took < 1.5


@pytest.mark.parametrize(("stop_after", "within"), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.3)])
async def test_many(stop_after: float, within: float) -> None:
    """However many there are, they end within the time, and by turns all the same."""
    streams = Streams(5000)
    await leave(streams.left, stop_after, within)
    took = time.monotonic() - streams.begun

    assert 5000 == len(streams.ends)
    assert 0.25 < took < 1.0
    assert sorted(streams.ends)[2500] - streams.ends[0] > 0.1


async def test_those_that_come_meanwhile() -> None:
    """A client that comes again to the same process has its turn once more."""
    streams = Streams(20, again=30)
    await leave(streams.left, 0.0, 10.0)

    assert 50 == len(streams.ends)


async def test_none() -> None:
    """Without streams the process serves for as long as it should, and no longer."""
    streams = Streams(0)
    await leave(streams.left, 0.2, 10.0)

    assert 0.19 < time.monotonic() - streams.begun < 1.0


async def test_no_time() -> None:
    """Without time nothing is waited for: who calls ends what is left."""
    streams = Streams(10)
    async with asyncio.timeout(1.0):
        await leave(streams.left, 0.0, -5.0)

    assert 10 == len(streams.left())
