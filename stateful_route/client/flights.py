"""Concurrent calls for the same thing share one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")
P = ParamSpec("P")


class SingleFlight(Generic[K, V]):
    """Runs a call for a key once, however many ask at the same time.

    The first caller runs it, in its own task: a call that nobody joins costs a dict entry. If the first caller is
    cancelled, one of the others runs the call again; if the call fails, all of them get the error.
    """

    def __init__(self) -> None:
        """Begin with nothing under way."""
        self._under_way: dict[K, list[asyncio.Future[V]]] = {}
        self.joined = 0
        """How many callers got the result of another's call."""

    def is_under_way(self, key: K) -> bool:
        """Whether a call for the key is under way."""
        return key in self._under_way

    async def run(self, key: K, call: Callable[P, Awaitable[V]], *args: P.args, **kwargs: P.kwargs) -> V:
        """Return the result of ``call``, or of one for the same key that is under way."""
        while (waiting := self._under_way.get(key)) is not None:
            future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            try:
                result = await future
            except _AbandonedError:
                continue
            self.joined += 1
            return result
        waiting = self._under_way[key] = []
        error: BaseException | None = None
        try:
            result = await call(*args, **kwargs)
        except Exception as failure:
            error = failure
            raise
        else:
            for future in waiting:
                if not future.done():
                    future.set_result(result)
            return result
        finally:
            del self._under_way[key]
            for future in waiting:
                if not future.done():
                    future.set_exception(_AbandonedError() if error is None else error)


class _AbandonedError(Exception):
    """The caller that ran the call was cancelled."""
