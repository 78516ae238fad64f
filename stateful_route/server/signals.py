"""Drains a pod when the process is told to end, before the web server stops to serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from stateful_route.errors import LifecycleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from stateful_route.server.driver import ServerDriver


@contextlib.contextmanager
def drain_on_signal(server: ServerDriver, signum: int = signal.SIGTERM) -> Iterator[None]:
    """Drain the pod at a signal, and only then let the signal through to who handled it before.

    So a web server such as uvicorn, which stops to serve at SIGTERM, goes on serving while the uids are handed over.
    Enter it inside the block of the driver, in the event loop of the main thread; a second signal is let through at
    once. The driver's ``drain_deadline`` bounds the time.

    Raises:
        LifecycleError: if it is not entered in the main thread.

    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signum)
    draining: set[asyncio.Task[None]] = set()

    def let_through(frame: FrameType | None) -> None:
        if callable(before):
            before(signum, frame)
        else:
            signal.signal(signum, before if before is not None else signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    async def drain(frame: FrameType | None) -> None:
        try:
            await server.drain()
        finally:
            let_through(frame)

    def begin(frame: FrameType | None) -> None:
        draining.add(loop.create_task(drain(frame)))

    def handle(_signum: int, frame: FrameType | None) -> None:
        if draining:
            let_through(frame)
        else:
            loop.call_soon_threadsafe(begin, frame)

    try:
        signal.signal(signum, handle)
    except ValueError as error:
        raise LifecycleError("drain_on_signal works in the main thread only") from error
    try:
        yield
    finally:
        if signal.getsignal(signum) is handle:
            signal.signal(signum, before if before is not None else signal.SIG_DFL)
