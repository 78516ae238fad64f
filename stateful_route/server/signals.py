"""Drains a pod when the process is told to end, before the web server stops to serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
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
    If nobody handled the signal, as in a worker that consumes a queue, the task that entered the block is cancelled
    then, and ``SystemExit(0)`` leaves the block: each ``async with`` around it ends, so the pod says goodbye. It is
    cancelled again each second until it leaves the block, as a library may swallow a cancellation (``asyncio.wait_for``
    does before Python 3.12): what takes long to clean up belongs around the block.

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


class _Drain:
    """The drain that a signal begins, and what becomes of the signal after it."""

    def __init__(self, server: Drainable, signum: int, pass_on: Callable[[], object] | None) -> None:
        """Wait for the signal; ``pass_on`` passes it on to who handled it before, if anybody did."""
        self.inside = True
        self.cancelled = 0
        """How often the signal has cancelled the task that entered the block."""
        self._server = server
        self._signum = signum
        self._pass_on = pass_on
        self._loop = asyncio.get_running_loop()
        self._inner = asyncio.current_task()
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take the signal."""
        if self._task is None:
            self._began = self._loop.time()
            self._task = self._loop.create_task(self._drain())
        elif self._loop.time() - self._began >= ONE_SIGNAL:
            self._let_through()

    async def _drain(self) -> None:
        try:
            await self._server.drain()
        except LifecycleError:
            pass  # it is not running any more: nothing to drain
        finally:
            if not self.cancelled:
                self._let_through()

    def _let_through(self) -> None:
        if self.cancelled:
            _die(self._signum)
        elif self.inside and self._pass_on is not None:
            self._pass_on()
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self.inside and self._inner is not None and self._inner.cancel():
            self.cancelled += 1
            self._loop.call_later(ONE_SIGNAL, self._cancel)

    def has_ended(self) -> bool:
        """Take our cancellations back; return whether there were some, and nobody else has cancelled the task."""
        if self._inner is None or not self.cancelled:
            return False
        for _ in range(self.cancelled):
            left = self._inner.uncancel()
        return not left


@contextlib.contextmanager
def _drain_on_signal(server: Drainable, signum: int) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    of_loop = handler_of(loop, signum)
    drain = _Drain(server, signum, _passing_on(of_loop, signum))
    with _handling(loop, signum, drain, of_loop):
        try:
            yield
        except asyncio.CancelledError:
            if drain.has_ended():
                raise SystemExit(0) from None
            raise
        finally:
            drain.inside = False


def _passing_on(of_loop: _Handler | None, signum: int) -> Callable[[], object] | None:
    """Return what passes a signal on to who handles it now; ``None`` if nobody does."""
    if of_loop is not None:
        call, args = of_loop
        return lambda: call(*args)  # as the loop would
    handler = signal.getsignal(signum)
    if callable(handler):
        return functools.partial(handler, signum, None)
    return bool if handler is signal.SIG_IGN else None


def _die(signum: int) -> None:
    """Have the signal end the process, as it does where nobody handles it."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


@contextlib.contextmanager
def _handling(loop: asyncio.AbstractEventLoop, signum: int, drain: _Drain, of_loop: _Handler | None) -> Iterator[None]:
    """Have the drain begin in the loop at the signal, in the way in which it was handled before.

    If the signal ends the process the handler stays: the same signal may come again while the pod says goodbye.
    """
    if of_loop is not None:
        loop.add_signal_handler(signum, drain.begin)
        try:
            yield
        finally:
            loop.add_signal_handler(signum, of_loop[0], *of_loop[1])
        return

    def handle(_signum: int, _frame: FrameType | None) -> None:
        try:
            loop.call_soon_threadsafe(drain.begin)
        except RuntimeError:  # the loop is closed: the process is about to end
            _die(signum)

    try:
        before = signal.signal(signum, handle)
    except ValueError as error:
        raise LifecycleError("drain_on_signal works in the main thread only") from error
    try:
        yield
    finally:
        if signal.getsignal(signum) is handle and not drain.cancelled:
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
