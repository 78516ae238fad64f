"""What both drivers share: init, start and stop, once each and in one event loop."""

from __future__ import annotations

import abc
import asyncio
import enum
import os
import weakref
from typing import TYPE_CHECKING, Self

from stateful_route._background.tasks import outlast
from stateful_route.errors import LifecycleError

if TYPE_CHECKING:
    from types import TracebackType


class Phase(enum.StrEnum):
    """Where a driver is between being made and being stopped."""

    NEW = "not started"
    READY = "initialized"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FORKED = "of the process that this one was forked from"


# For each miss: to hash a member of an enum, or to look one up in it, takes longer than all else that is checked.
RUNNING, _STOPPING = Phase.RUNNING, Phase.STOPPING

_FOR_GOOD = "stopped for good: make a new driver"
_START = ": call start(), or use it inside 'async with'"
_ADVICE = {
    Phase.NEW: _START,
    Phase.READY: _START,
    Phase.STARTING: ": wait until start() has returned",
    Phase.FORKED: ": open a route and make a driver in each process",
}

_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()
"""All of this process."""


def _leave_to_the_parent() -> None:
    """In a child: what was started is the parent's, its connections and what it owns."""
    for driver in list(_drivers):
        driver._after_fork()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):  # Windows has none, and does not fork
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class Driver(abc.ABC):
    """A part that runs from ``start()`` to ``stop()``; an async context manager does both."""

    def __init__(self) -> None:
        """Make a driver that is not started."""
        self._phase = Phase.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self.home: asyncio.AbstractEventLoop | None = None
        """The event loop that the store of the driver belongs to, if that is known."""
        self._start_ended = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        _drivers.add(self)

    @property
    def running(self) -> bool:
        """Whether the driver was started, and is not being stopped."""
        return self._phase is RUNNING

    @property
    def stopped(self) -> bool:
        """Whether the driver was stopped, or is about to be."""
        return self._phase in {Phase.STOPPING, Phase.STOPPED}

    async def init(self) -> None:
        """Bind the driver to the running event loop. ``start()`` does it, if nobody did.

        Raises:
            LifecycleError: if the driver was initialized before, or its route was opened in another event loop.

        """
        if self._phase is not Phase.NEW:
            raise LifecycleError(f"{self!r} cannot be initialized: it is {self._state}")
        loop = asyncio.get_running_loop()
        if self.home is not None and self.home is not loop:
            raise LifecycleError(f"{self!r} is of a route of another event loop: open one in each")
        self._loop = loop
        self._phase = Phase.READY

    async def start(self) -> None:
        """Begin to work.

        Raises:
            LifecycleError: if the driver was started before, is stopped meanwhile, or belongs to another event loop.
            StoreError: if a server driver cannot register its pod.

        """
        if self._phase is Phase.NEW:
            await self.init()
        if self._phase is not Phase.READY:
            raise LifecycleError(f"{self!r} cannot be started: it is {self._state}")
        self._check_loop()
        self._phase = Phase.STARTING
        try:
            await self._start()
        except BaseException:
            self._start_ended.set()
            await self.stop()
            raise
        self._start_ended.set()
        if self.stopped:
            await self.stop()
            raise LifecycleError(f"{self!r} was stopped while it was starting")
        self._phase = Phase.RUNNING

    async def stop(self) -> None:
        """Stop working: bounded in time, leaves no task behind. A second call waits for the first, or does nothing.

        It comes to its end even if the caller is cancelled; the cancellation is raised after it.
        """
        if self._phase is Phase.FORKED:
            return
        if self._phase in {Phase.NEW, Phase.STOPPED}:
            self._phase = Phase.STOPPED
            return
        self._check_loop()
        if self._stopping is None:
            started = self._phase is not Phase.READY
            self._phase = Phase.STOPPING
            self._stopping = asyncio.create_task(self._end(started=started), name=f"stateful_route stop of {self!r}")
        await outlast(self._stopping)

    async def _end(self, *, started: bool) -> None:
        try:
            if started:
                await self._start_ended.wait()
                await self._stop()
        finally:
            self._phase = Phase.STOPPED

    def _after_fork(self) -> None:
        """Leave what was started to the process that did; what was not can be started in this one."""
        if self._phase not in {Phase.NEW, Phase.STOPPED}:
            self._phase = Phase.FORKED

    async def __aenter__(self) -> Self:
        """Start the driver."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the driver."""
        await self.stop()

    @abc.abstractmethod
    async def _start(self) -> None:
        """Do the work of ``start``."""

    @abc.abstractmethod
    async def _stop(self) -> None:
        """Do the work of ``stop``, in bounded time. It runs once, in a task of its own that nobody cancels."""

    @property
    def in_its_loop(self) -> bool:
        """Whether it is asked in its event loop, or has none yet; and not, say, in a thread for metrics."""
        try:
            return self._loop is None or self._loop is asyncio.get_running_loop()
        except RuntimeError:
            return False

    def _check_running(self) -> None:
        """Refuse a call outside the block, or from another event loop."""
        if self._phase is not RUNNING and self._phase is not _STOPPING:
            advice = _ADVICE.get(self._phase, "")
            raise LifecycleError(f"{self!r} is {self._state}{advice}")
        if self._loop is not asyncio.get_running_loop():  # here and not by a call, for each miss
            self._check_loop()

    @property
    def _state(self) -> str:
        """The phase for a message; of a driver that was stopped, what is left to do."""
        return _FOR_GOOD if self._phase is Phase.STOPPED else str(self._phase)

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise LifecycleError(f"{self!r} belongs to another event loop: make one driver for each")
