"""Faults on request: what a test asks of a store in memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.errors import StoreError


@attrs.frozen(eq=False)
class _Hold:
    operations: frozenset[str]
    answers: bool
    released: anyio.Event = attrs.field(factory=anyio.Event)


@attrs.frozen
class _Fault:
    error: StoreError
    operations: frozenset[str]
    applied: bool


class FaultsOnRequest:
    """Counts the calls of a store, holds them, and makes them fail.

    Attributes:
        operations: how often each method of the contract was called, by its name; to listen is no call.

    """

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self._holds: list[_Hold] = []
        self._full_holds: list[_Hold] = []
        self._held = 0
        self._held_more = anyio.Event()
        self._fault: _Fault | None = None

    def fail_with(self, error: StoreError | None, *operations: str, applied: bool = False) -> None:
        """Make the next calls raise ``error``, until it is called again with ``None``.

        The calls for many uids do not raise it: as on a server, it is their answer for each uid.
        With names of ``operations`` only those fail. With ``applied`` the operation happens all the same, as
        when only its answer is lost; the ``maybe_applied`` of the error is for the caller to set.
        """
        self._fault = None if error is None else _Fault(error, frozenset(operations), applied)

    def hold(self, *operations: str, answers: bool = False) -> None:
        """Hold calls from now on, until ``release_held()``.

        With names of ``operations`` only those are held. With ``answers`` the operation is applied first, and its
        answer is held.
        """
        self._holds.append(_Hold(frozenset(operations), answers))

    def hold_no_more(self) -> None:
        """Hold no further calls; those that are held stay so until ``release_held()``."""
        self._full_holds += self._holds
        self._holds = []

    def release_held(self) -> None:
        """Let the held calls go on, and hold no more."""
        holds, self._holds, self._full_holds = [*self._holds, *self._full_holds], [], []
        for hold in holds:
            hold.released.set()

    async def wait_held(self, count: int = 1) -> None:
        """Return once at least ``count`` calls are held."""
        while self._held < count:
            await self._held_more.wait()

    @contextlib.asynccontextmanager
    async def _operation(self, name: str) -> AsyncIterator[None]:
        """Count a call, hold it and fail it, as a test asked for."""
        self.operations[name] += 1
        await self._gate(name, after=False)
        yield
        await self._gate(name, after=True)

    async def _gate(self, name: str, *, after: bool) -> None:
        await anyio.lowlevel.checkpoint()
        for hold in tuple(self._holds):
            if hold.answers is after and (not hold.operations or name in hold.operations):
                await self._wait(hold)
        fault = self._fault
        if fault is not None and fault.applied is after and (not fault.operations or name in fault.operations):
            raise fault.error

    async def _wait(self, hold: _Hold) -> None:
        self._held += 1
        more, self._held_more = self._held_more, anyio.Event()
        more.set()
        try:
            await hold.released.wait()
        finally:
            self._held -= 1
