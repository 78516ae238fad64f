"""An event loop with virtual time that several simulated machines share, with a seeded scheduler.

Nothing real is read: time jumps to the next timer when nothing is ready. Each machine has its own first-in, first-out
queue, as one process with asyncio has: orders that asyncio forbids within a process do not occur, and which machine
runs next is the scheduler's choice. All choices come from a seed, so that a run can be repeated exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

T = TypeVar("T")

_START = 1_000.0
_STEP = 2e-6
# A loop that spins (anyio asks again in each turn until a scope has ended) must not hold up time.
_MOST_STEPS_AT_ONCE = 150

_machine: contextvars.ContextVar[Machine | None] = contextvars.ContextVar("simulated machine", default=None)


class SimulationError(Exception):
    """The simulation itself cannot go on: a deadlock, an endless loop, or a call that waits for something real."""


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address, so that runs can be repeated exactly."""

    def __init__(self, coro: Coroutine[Any, Any, Any], **settings: Any) -> None:
        """Make a task of the loop ``settings["loop"]``."""
        loop: VirtualLoop = settings["loop"]
        self.number = loop.next_number()
        self.machine = loop.current
        super().__init__(coro, **settings)

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, *, loop: VirtualLoop) -> None:
        """Make a future of that loop."""
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Machine:
    """A simulated process: a queue of its own, a monotonic clock of its own, and tasks that die with it.

    ``clock`` is what its drivers get: it has ``call_at``, as ``testing.ManualClock`` has.
    """

    def __init__(self, loop: VirtualLoop, name: str, *, offset: float = 0.0, drift: float = 0.0) -> None:
        """Make a machine whose clock is ahead by ``offset`` seconds and fast by ``drift``, a share."""
        self.loop = loop
        self.name = name
        self.alive = True
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[SimulatedTask] = []
        self.listed = False
        self.stalled_until = 0.0
        self.stalled_for = 0.0
        """For how many seconds in all it has been stalled, up to the last stall that has ended."""
        self.timers_first = False
        self.slowness = 0.0
        """The chance that it stalls for a moment after a step."""
        self.mean_pause = 0.001
        self._late_timers: list[asyncio.Handle] = []
        self._offset = offset
        self._rate = 1.0 + drift
        self.context = contextvars.copy_context()
        self.context.run(_machine.set, self)

    def __repr__(self) -> str:
        return f"<Machine {self.name}>"

    def time(self) -> float:
        """Return its monotonic time, in seconds."""
        return self._offset + self.loop.now * self._rate

    __call__ = time

    def when(self, time: float) -> float:
        """Return when by the time of the simulation its clock shows ``time``."""
        return (time - self._offset) / self._rate

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call back when its clock shows ``when``."""
        return self.loop.call_at(when, callback)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back on this machine, as something that comes in from outside does."""
        if self.alive:
            self.loop.call_soon(callback, *args, context=self.context)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str | None = None) -> SimulatedTask:
        """Run a coroutine as a task of this machine."""
        task = self.run_now(lambda: self.loop.create_task(coro, name=name, context=self.context.copy()))
        return cast("SimulatedTask", task)

    def run_now(self, callback: Callable[[], T]) -> T:
        """Call back at once, as this machine, and return the result."""
        loop = self.loop
        before, loop.current = loop.current, self
        try:
            return callback()
        finally:
            loop.current = before

    def stall(self, seconds: float, *, timers_first: bool = False) -> None:
        """Run nothing on it for so many seconds, though time goes on; timers that are due meanwhile are late.

        After it what came in is handled first and then what was due, or with ``timers_first`` the other way round:
        both happen, as the process is stopped before or after it asked what has come in.
        """
        until = self.loop.now + seconds
        if not self.alive or until <= self.stalled_until:
            return
        if self.stalled_until <= self.loop.now:
            self.stalled_for -= self.loop.now
        self.stalled_until = until
        self.timers_first = timers_first
        self.loop.at(until, self._go_on, until)

    @property
    def stalled(self) -> bool:
        """Whether it is stalled now."""
        return self.stalled_until > self.loop.now

    def _go_on(self, until: float) -> None:
        if until != self.stalled_until or not self.alive:
            return
        self.stalled_until = 0.0
        self.stalled_for += self.loop.now
        late, self._late_timers = self._late_timers, []
        self.ready = deque([*late, *self.ready] if self.timers_first else [*self.ready, *late])
        self.loop.list_ready(self)

    def due(self, handle: asyncio.Handle) -> None:
        """Run a timer that is due, or keep it until a stall ends."""
        if not self.alive:
            return
        if self.stalled:
            self._late_timers.append(handle)
        else:
            self.ready.append(handle)
            self.loop.list_ready(self)

    def kill(self) -> None:
        """End it at once, without clean-up, as SIGKILL does."""
        self.alive = False
        self.ready.clear()
        self._late_timers.clear()
        self.loop.graveyard.append(self)


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of a simulation.

    Unhandled errors of callbacks and tasks are collected in ``errors``. ``after_step`` is called after each step with
    the machine that made it.
    """

    def __init__(self, random: Random, *, most_steps: int = 2_000_000) -> None:
        """Make a loop whose choices come from ``random``; more than ``most_steps`` are an error."""
        self._number = 0
        self.current: Machine | None = None
        self.graveyard: list[Machine] = []
        self.random = random
        self.now = _START
        self.steps = 0
        self.most_steps = most_steps
        self.errors: list[dict[str, Any]] = []
        self.after_step: Callable[[Machine], object] | None = None
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._runnable: list[Machine] = []
        self._burying = False
        super().__init__()
        self.set_debug(False)
        self.world = Machine(self, "world")
        """The machine on which ``run`` runs its coroutine."""

    def next_number(self) -> int:
        """Return the next number of a count."""
        self._number += 1
        return self._number

    # -- what asyncio asks for

    def time(self) -> float:
        """Return the monotonic time of the machine that runs."""
        machine = self.current
        return self.now if machine is None else machine.time()

    def call_soon(  # type: ignore[override]  # its own type ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Put a call into the queue of the machine that runs, or of that of the context."""
        handle = asyncio.Handle(callback, args, self, context)
        machine = self.current if context is None else context.get(_machine)
        if machine is None:
            machine = self.world
        if machine.alive and not self._burying:
            machine.ready.append(handle)
            if not machine.listed:
                self.list_ready(machine)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no other threads

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back when the clock of the machine shows ``when``."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        machine = self.current if context is None else context.get(_machine)
        if machine is None:
            machine = self.world
        if machine.alive and not self._burying:
            heapq.heappush(self._events, (machine.when(when), self.next_number(), machine.due, (handle,)))
        return handle

    def create_task(self, coro: Coroutine[Any, Any, T], **settings: Any) -> asyncio.Task[T]:  # type: ignore[override]
        """Make a task of the machine that runs."""
        if self._burying:
            coro.close()
            return self.create_future()  # type: ignore[return-value]
        task = SimulatedTask(coro, loop=self, **{key: value for key, value in settings.items() if value is not None})
        if task.machine is not None:
            tasks = task.machine.tasks
            tasks.append(task)
            if len(tasks) > 64 and len(tasks) & 63 == 0:
                tasks[:] = [task for task in tasks if not task.done() or failed(task)]
        return task

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future."""
        return SimulatedFuture(loop=self)

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run it here and now: threads cannot be repeated exactly."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Collect an unhandled error."""
        if not self._burying:
            self.errors.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when it is due."""

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _process_events(self, event_list: object) -> None:
        """There are no files."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        if not self._burying:
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]

    # -- the simulation

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back at a time of the simulation, on no machine: the network and the store do."""
        heapq.heappush(self._events, (when, self.next_number(), callback, args))

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back in so many seconds, on no machine."""
        self.at(self.now + seconds, callback, *args)

    def list_ready(self, machine: Machine) -> None:
        """Make a machine runnable, if it has work and is not stalled."""
        if not machine.listed and machine.ready and machine.stalled_until <= self.now:
            machine.listed = True
            self._runnable.append(machine)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the world's machine to its end, and return what it returns.

        Raises:
            SimulationError: if nothing will ever happen again, or there were too many steps.

        """
        task = self.world.spawn(coro)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        if not task.done():
            raise SimulationError("nothing is going to happen any more: a deadlock")
        return task.result()  # type: ignore[no-any-return]

    def _run_once(self) -> None:
        """Run until ``stop()`` is called, or nothing is left to happen."""
        events, runnable, rand = self._events, self._runnable, self.random.random
        at_once = 0
        while not self._stopping:  # type: ignore[attr-defined]
            if events and (not runnable or events[0][0] <= self.now or at_once > _MOST_STEPS_AT_ONCE):
                when, _, callback, args = heapq.heappop(events)
                for machine in runnable:  # they are too busy, and late by so much
                    machine.stalled_for += max(0.0, when - self.now)
                self.now = max(self.now, when)
                at_once = 0
                callback(*args)
                continue
            if not runnable:
                self.stop()
                break
            number = int(rand() * len(runnable)) if len(runnable) > 1 else 0
            machine = runnable[number]
            if not machine.ready or machine.stalled_until > self.now:
                runnable[number] = runnable[-1]
                runnable.pop()
                machine.listed = False
                continue
            handle = machine.ready.popleft()
            if handle._cancelled:  # noqa: SLF001 - as asyncio's own loops do
                continue
            self.steps += 1
            at_once += 1
            if self.steps > self.most_steps:
                raise SimulationError(f"more than {self.most_steps} steps: it runs in circles")
            self.now += _STEP
            self.current = machine
            try:
                handle._run()  # noqa: SLF001 - the same
                if self.after_step is not None:
                    self.after_step(machine)
            finally:
                self.current = None
            if machine.slowness and rand() < machine.slowness:
                machine.stall(self.random.expovariate(1 / machine.mean_pause), timers_first=rand() < 0.5)

    def bury(self) -> None:
        """Close all coroutines that are left, so that none runs when it is garbage collected."""
        self._burying = True
        for machine in (*self.graveyard, self.world):
            machine.alive = False
            for task in machine.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is known
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()
            machine.tasks.clear()
            machine.ready.clear()
        self._events.clear()
        self._runnable.clear()
        logger = logging.getLogger("asyncio")
        disabled, logger.disabled = logger.disabled, True
        try:
            self.close()
        finally:
            logger.disabled = disabled


def failed(task: asyncio.Task[Any]) -> bool:
    """Whether a task ended by an error that was never retrieved."""
    return task.done() and bool(task._log_traceback)  # noqa: SLF001 - it has no other name
