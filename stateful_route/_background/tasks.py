"""Tasks: those of an object that ends them, and waiting that a cancellation does not cut short."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from stateful_route._log import log

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Tasks:
    """Tasks that nobody waits for, until they are ended together. What one raises is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait(self, seconds: float) -> None:
        """Return once those that run now have ended, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Run a coroutine in a task, which is returned, unless they were ended."""
        if self._stopped:
            work.close()
            return None
        task = asyncio.create_task(work, name=f"stateful_route {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel them, wait until they have ended, and start no more."""
        self._stopped = True
        await cancel_and_wait(*self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        log_failure(task)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended. What one raises is for whoever started it to log."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def log_failure(task: asyncio.Task[Any]) -> None:
    """Log what a task raised, as its done callback: nobody else looks."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed", "%(task)s ended by an unexpected error", task=task.get_name(), exc_info=error)


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
