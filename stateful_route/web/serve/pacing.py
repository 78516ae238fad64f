"""Ends what has no end of its own, one after the other: the clients come again, and not all in one moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BETWEEN_ENDS = 0.005
"""Seconds between the ends of two streams: 200 clients a second connect again somewhere else."""


class Endless(Protocol):
    """A WebSocket, or an event stream."""

    def end_stream(self) -> None:
        """End it soon."""


async def leave(streams: Callable[[], Sequence[Endless]], stop_after: float, within: float) -> None:
    """Return after ``stop_after`` seconds, with all streams ended by turns that there were.

    They end as late as can be: who comes again then does not find this process. If they are many, that takes longer,
    up to ``within`` seconds.
    """
    loop = asyncio.get_running_loop()
    within = max(stop_after, within)
    until = loop.time() + within
    needed = min(within, len(streams()) * BETWEEN_ENDS)
    await asyncio.sleep(max(0.0, stop_after - needed))
    while (left := streams()) and (now := loop.time()) < until:
        between = min(BETWEEN_ENDS, (until - now) / len(left))
        for number, stream in enumerate(left, 1):
            stream.end_stream()
            await asyncio.sleep(max(0.0, now + number * between - loop.time()))
