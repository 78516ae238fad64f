"""Waiting that a cancellation does not cut short."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import anyio

T = TypeVar("T")


async def outlast(future: asyncio.Future[T]) -> T:
    """Return the result of a task or future once it is done; a cancellation of the caller is raised after its end.

    What must come to its end runs in a task or a thread of its own, and is awaited by this: a shield of anyio holds
    off the cancellations of anyio's scopes, and not those of ``asyncio.Task.cancel``.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()
