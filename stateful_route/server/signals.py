"""Drains a pod when the process is told to end, before the web server stops to serve."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import signal
from typing import TYPE_CHECKING, Any, TypeAlias

from stateful_route.errors import InvalidArgumentError, LifecycleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType
    from typing import Protocol

    class Drainable(Protocol):
        """A server driver, or what has one and more to do."""

        async def drain(self) -> None:
            """Let all uids go."""


ONE_SIGNAL = 1.0
"""Seconds within which a signal that is repeated is the same one."""

_Handler: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"

# Those that no process can handle; Windows does not know them.
_DEAF_TO = {getattr(signal, name, None) for name in ("SIGKILL", "SIGSTOP")}


def drain_on_signal(server: Drainable, signum: int = signal.SIGTERM) -> AbstractContextManager[None]:
    """Drain the pod at a signal, and only then let the signal through to who handled it before.

    So a web server such as uvicorn, which stops to serve at SIGTERM, goes on serving while the uids are handed over.
    Enter it inside the block of the driver, in the event loop of the main thread, after the web server has set its
    handler; a second signal, after a second or later, is let through at once. One that comes before that is the first
    one again: systemd, ``kill`` of a process group and uvicorn's supervisor each tell all workers. The driver's
    ``drain_deadline`` bounds the time.

    Raises:
        InvalidArgumentError: if it is given no server driver, or no signal that can be handled.
        LifecycleError: if it is not entered in the main thread.

    """
    if isinstance(server, type) or not inspect.iscoroutinefunction(getattr(server, "drain", None)):
        raise InvalidArgumentError("server", server, "a ServerDriver")
    known = isinstance(signum, int) and not isinstance(signum, bool) and signum in signal.valid_signals()
    if not known or signum in _DEAF_TO:
        raise InvalidArgumentError("signum", signum, "the number of a signal that a process can handle")
    return _drain_on_signal(server, signum)


@contextlib.contextmanager
def _drain_on_signal(server: Drainable, signum: int) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signum)
    of_loop = handler_of(loop, signum)
    draining: set[asyncio.Task[None]] = set()
    inside, began = True, 0.0

    def let_through() -> None:
        if not inside:
            return
        if of_loop is not None:
            of_loop[0](*of_loop[1])  # as the loop would
        elif callable(before):
            before(signum, None)
        else:
            signal.signal(signum, signal.SIG_DFL if before is None else before)
            os.kill(os.getpid(), signum)

    async def drain() -> None:
        try:
            await server.drain()
        except LifecycleError:
            pass  # it is not running any more: nothing to drain
        finally:
            let_through()

    def begin() -> None:
        nonlocal began
        if draining:
            if loop.time() - began >= ONE_SIGNAL:
                let_through()
        else:
            began = loop.time()
            draining.add(loop.create_task(drain()))

    with _handling(loop, signum, begin, of_loop):
        try:
            yield
        finally:
            inside = False


@contextlib.contextmanager
def _handling(
    loop: asyncio.AbstractEventLoop, signum: int, begin: Callable[[], None], of_loop: _Handler | None
) -> Iterator[None]:
    """Call ``begin`` in the loop at the signal, in the way in which it was handled before."""
    if of_loop is not None:
        loop.add_signal_handler(signum, begin)
        try:
            yield
        finally:
            loop.add_signal_handler(signum, of_loop[0], *of_loop[1])
        return

    def handle(_signum: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)

    try:
        before = signal.signal(signum, handle)
    except ValueError as error:
        raise LifecycleError("drain_on_signal works in the main thread only") from error
    try:
        yield
    finally:
        if signal.getsignal(signum) is handle:
            signal.signal(signum, signal.SIG_DFL if before is None else before)


def handler_of(loop: asyncio.AbstractEventLoop, signum: int) -> _Handler | None:
    """Return what ``loop.add_signal_handler`` was given: no loop has a public way to ask for it.

    hypercorn and granian set theirs so. uvloop calls it whatever ``signal.signal`` says, and shows nothing of it: it is
    found as the garbage collector finds it. ``None`` if there is none, or it is not found.
    """
    handlers = getattr(loop, "_signal_handlers", None)
    if handlers is not None:
        handle = handlers.get(signum)
        return None if handle is None else (handle._callback, handle._args)  # noqa: SLF001
    for handlers in gc.get_referents(loop):
        handle = handlers.get(signum) if isinstance(handlers, dict) else None
        if type(handle).__name__ != "Handle":
            continue
        parts = gc.get_referents(handle)  # the loop, a context, what to call, with what
        callbacks = [part for part in parts if callable(part) and part is not loop]
        if len(callbacks) == 1:
            return callbacks[0], next((part for part in parts if isinstance(part, tuple)), ())
    return None
