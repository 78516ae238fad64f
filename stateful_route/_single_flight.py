"""Concurrent calls for the same thing share one."""

from __future__ import annotations

import asyncio
import math
import operator
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from stateful_route._deadline import within
from stateful_route.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")
P = ParamSpec("P")


class SingleFlight(Generic[K, V]):
    """Runs a call for a key once, however many ask at the same time.

    The first caller runs it, in its own task: a call that nobody joins costs a dict entry. If the call fails, all of
    them get the error. If the first caller is cancelled, or its time is up, one of the others runs the call again, for
    as long as it has time left itself.
    """

    def __init__(self, seconds: float = math.inf, operation: str = "wait", *, writes: bool = True) -> None:
        """Begin with nothing in flight.

        A call ends within ``seconds`` of its beginning, if nobody has to wait for another's; so does one that has to.
        The other two are what the error of one that does not end in time says. Without ``seconds`` a time-out is an
        error as any other.
        """
        self._seconds = seconds
        self._operation = operation
        self._writes = writes
        self._in_flight: dict[K, list[tuple[float, asyncio.Future[V]]] | None] = {}
        """By what is asked for, since when who waits for the first caller: nobody almost always."""
        self._again: dict[K, float] = {}
        """Since when the caller waits that runs an abandoned call again."""
        self.joined = 0
        """How many callers got the result of another's call."""

    def is_in_flight(self, key: K) -> bool:
        """Whether a call for the key is in flight."""
        return key in self._in_flight

    def began(self, key: K, began: float) -> float:
        """Return when the caller came that runs a call, if it runs an abandoned one again; or else ``began``."""
        return self._again.get(key, began)

    async def run(self, key: K, call: Callable[P, Awaitable[V]], *args: P.args, **kwargs: P.kwargs) -> V:
        """Return the result of ``call``, or of one for the same key that is in flight.

        Raises:
            StoreTimeoutError: if the time of this caller is up.

        """
        if not self.begin(key):
            return await self.join(key, call, *args, **kwargs)
        try:
            result = await call(*args, **kwargs)
        except BaseException as error:
            self.fail(key, error)
            raise
        self.end(key, result)
        return result

    def begin(self, key: K) -> bool:
        """Begin a call, which ``end`` or ``fail`` ends; return ``False`` if there is one to ``join``.

        For who cannot afford a coroutine for ``run``.
        """
        if key in self._in_flight:
            return False
        self._in_flight[key] = None
        return True

    def end(self, key: K, result: V) -> None:
        """End a call that has a result, which all get who have joined it."""
        waiting = self._in_flight.pop(key)
        if waiting is not None:
            for _, future in waiting:
                if not future.done():
                    future.set_result(result)

    async def join(self, key: K, call: Callable[P, Awaitable[V]], *args: P.args, **kwargs: P.kwargs) -> V:
        """Return the result of the call that is in flight, or, if that is abandoned, of another one.

        Raises:
            StoreTimeoutError: if the time of this caller is up.

        """
        now = asyncio.get_running_loop().time
        began = now()
        try:
            return await self._join(key, began)  # who runs the call began before this one, and has to end before it
        except _AbandonedError as abandoned:
            if now() >= began + self._seconds:
                raise abandoned.error from None
        async with within(self._seconds, self._operation, writes=self._writes, since=began):
            while key in self._in_flight:
                try:
                    return await self._join(key, began)
                except _AbandonedError:
                    continue
            self._again[key] = began
            try:
                return await self.run(key, call, *args, **kwargs)
            finally:
                del self._again[key]

    async def _join(self, key: K, began: float) -> V:
        """Return the result of a call that is in flight."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        waiting = self._in_flight[key]
        if waiting is None:
            self._in_flight[key] = [(began, future)]
        else:
            waiting.append((began, future))
        result = await future
        self.joined += 1
        return result

    def fail(self, key: K, error: BaseException) -> None:
        """End a call that failed: its error is that of all, unless it is about the caller that ran it."""
        out_of_time = isinstance(error, StoreTimeoutError) and self._seconds < math.inf
        if isinstance(error, Exception) and not out_of_time:
            for _, future in self._end(key):
                future.set_exception(error)
            return
        # Who came last has the most time left, and runs the call again.
        if not isinstance(error, StoreTimeoutError):
            message = f"no answer within {self._seconds:g} s"
            error = StoreTimeoutError(message, operation=self._operation, maybe_applied=self._writes)
        for _, future in sorted(self._end(key), key=operator.itemgetter(0), reverse=True):
            future.set_exception(_AbandonedError(error))

    def _end(self, key: K) -> Sequence[tuple[float, asyncio.Future[V]]]:
        """End a call; return the futures of those who still wait for it."""
        waiting = self._in_flight.pop(key)
        return () if waiting is None else [waiter for waiter in waiting if not waiter[1].done()]


class _AbandonedError(Exception):
    """The caller that ran the call was cancelled, or its time is up."""

    def __init__(self, error: StoreTimeoutError) -> None:
        """Take the error of those who have no time left either."""
        super().__init__()
        self.error = error
