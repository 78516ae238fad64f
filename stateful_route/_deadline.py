"""One deadline for a call of several steps, each of which has the deadline of the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def within(
    seconds: float, operation: str, *, writes: bool = True, since: float | None = None
) -> AsyncIterator[None]:
    """Cancel what runs in the block once ``seconds`` have passed, from now or from ``since``, a time of the loop.

    ``operation`` names the call in the error; ``writes`` says whether it may have changed anything.

    Raises:
        StoreTimeoutError: if the block did not end in time.

    """
    bound = asyncio.timeout(seconds) if since is None else asyncio.timeout_at(since + seconds)
    try:
        async with bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise StoreTimeoutError(f"no answer within {seconds:g} s", operation=operation, maybe_applied=writes) from error
