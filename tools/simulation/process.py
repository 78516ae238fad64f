"""A process of a simulated world: how it calls its driver, and what is checked of each call."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
from typing import TYPE_CHECKING, Any

import anyio

from stateful_route.errors import LifecycleError, RoutingError, StatefulRouteError, StoreError, StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from random import Random

    from stateful_route.client.driver import ClientDriver
    from stateful_route.config import BaseConfig
    from stateful_route.server.driver import ServerDriver
    from tools.simulation.judge import Judge
    from tools.simulation.loop import Machine
    from tools.simulation.store import SimulatedStore

_BOUNDED = frozenset(
    {"claim", "release", "set", "try_set", "remove", "remove_with_id", "routing_state"}
    | {"compute", "get", "set_if_absent", "batch_compute", "batch_get", "pods"}
)
"""The operations that end within a call deadline; others wait for the application as well."""


@types.coroutine
def cancelled_at(coro: Coroutine[Any, Any, Any], step: int) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel the task that runs it when it waits for the ``step``-th time."""
    task = asyncio.current_task()
    send: Callable[[Any], Any] = coro.send
    value: Any = None
    while True:
        try:
            awaited = send(value)
        except StopIteration as end:
            return end.value
        step -= 1
        if step == 0 and task is not None:
            task.get_loop().call_soon(task.cancel)
        try:
            value = yield awaited
            send = coro.send
        except BaseException as error:  # noqa: BLE001 - it is passed on
            value, send = error, coro.throw


class Process:
    """An application on a machine of its own; subclasses start a driver for it."""

    driver: ServerDriver | ClientDriver

    def __init__(
        self, machine: Machine, store: SimulatedStore, config: BaseConfig, judge: Judge, random: Random
    ) -> None:
        """Make a process without a driver."""
        self.machine = machine
        self.name = machine.name
        self.store = store
        self.config = config
        self.judge = judge
        self.random = random
        self.leaving = False
        self.longest: dict[str, float] = {}
        self._gave_up_at = 0.0

    def operations(self, args: dict[str, Any]) -> dict[str, Callable[[], Any]]:
        """Return what a plan may ask for, by the kind of the action; a result that is awaitable is awaited."""
        raise NotImplementedError

    def do(self, kind: str, args: dict[str, Any]) -> None:
        """Run an operation of the application in a task of its own."""
        self.machine.spawn(self._do(kind, args))

    async def _act(self, kind: str, args: dict[str, Any]) -> object:
        self.judge.called(self.name)
        result = self.operations(args)[kind]()
        return await result if inspect.isawaitable(result) else result

    async def _do(self, kind: str, args: dict[str, Any]) -> None:
        machine, trace = self.machine, self.judge.trace
        label = f"{kind} {args}" if trace.on else ""
        trace.note(self.name, "calls", label)
        began, stalled = machine.loop.now, machine.stalled_for
        result: object = "given up"
        try:
            with anyio.move_on_after(args["timeout"]) if "timeout" in args else contextlib.nullcontext():
                work = self._act(kind, args)
                result = await (cancelled_at(work, args["cancel"]) if "cancel" in args else work)
        except asyncio.CancelledError:
            result = "cancelled"
            if not {"cancel", "timeout"} & args.keys():
                self.judge.violate("errors are expected", f"{self.name} {kind} was cancelled, and by nobody")
        except StatefulRouteError as error:
            result = error
            refused = isinstance(error, LifecycleError) and self.may_be_out
            if not (refused or isinstance(error, (StoreError, RoutingError))):
                self.judge.violate("errors are expected", f"{self.name} {kind}: {type(error).__name__}: {error}")
        self._check_end(kind, label, result, began, machine.stalled_for - stalled)

    def _check_end(self, kind: str, label: str, result: object, began: float, stalled: float) -> None:
        """Check that a call ended in time, and that a fault explains its error."""
        now, deadline = self.machine.loop.now, self.config.call_deadline_seconds
        took = now - began - stalled
        self.longest[kind] = max(took, self.longest.get(kind, 0.0))
        ends = f"{label} after {took:.4f} s: {type(result).__name__} {result}" if self.judge.trace.on else ""
        self.judge.trace.note(self.name, "ends", ends)
        if isinstance(result, str) and result in {"cancelled", "given up"}:
            self._gave_up_at = now
        # A caller that joined a call which was given up begins again, and may have too little time left.
        abandoned = took >= deadline and isinstance(result, StoreTimeoutError) and began < self._gave_up_at
        if isinstance(result, StoreError) and not abandoned and self.must_be_answered(began):
            self.judge.violate("errors are expected", f"{self.name} {kind}: {result}, and nothing was wrong")
        if kind in _BOUNDED:
            self.check_took(kind, took, deadline + 0.02)

    def check_took(self, what: str, took: float, bound: float) -> None:
        """Check that something took no longer than its bound; both are seconds in which the machine ran."""
        if took > bound:
            text = f"{self.name} {what} took {took:.3f} s: {bound:.3f} s is its bound"
            self.judge.violate("every call ends in time", text)

    def must_be_answered(self, began: float) -> bool:
        """Whether no fault explains that a call that began then got an error of the store."""
        del began
        return False

    @property
    def may_be_out(self) -> bool:
        """Whether its driver may refuse calls for good."""
        return self.leaving
