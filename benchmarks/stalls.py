"""How long the event loop is kept from its other work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Stall:
    """The longest time that one pass of the event loop took: processor time of its thread, in milliseconds.

    Not time on the clock, in which the machine may have run something else.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def _watch(self) -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, (now - before) * 1000)
            before = now


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[Stall]:
    """Watch each pass of the loop until the end of the block."""
    stall = Stall()
    watching = asyncio.create_task(stall._watch())
    await asyncio.sleep(0)
    try:
        yield stall
    finally:
        await asyncio.sleep(0)  # it sees the last pass
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
