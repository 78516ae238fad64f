"""What is left behind: tasks and sockets."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:  # the one by which the folder is read
            continue
    return count


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that no task and no socket of what is done inside outlives it, and no error that nobody took."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    gc.collect()  # a task or a future whose error nobody took says so now
    await eventually(lambda: open_sockets() <= sockets)

    assert tasks | {asyncio.current_task()} >= asyncio.all_tasks()
