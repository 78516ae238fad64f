"""Concurrent calls for the same thing share one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

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
        self._under_way: dict[K, list[asyncio.Future[V]] | None] = {}
        """By what is asked for, those who wait for the first caller: none almost always."""
        self.joined = 0
        """How many callers got the result of another's call."""

    def is_under_way(self, key: K) -> bool:
        """Whether a call for the key is under way."""
        return key in self._under_way

    async def run(self, key: K, call: Callable[P, Awaitable[V]], *args: P.args, **kwargs: P.kwargs) -> V:
        """Return the result of ``call``, or of one for the same key that is under way."""
        while key in self._under_way:
            try:
                result = await self._join(key)
            except _AbandonedError:
                continue
            self.joined += 1
            return result
        self._under_way[key] = None
        try:
            result = await call(*args, **kwargs)
        except BaseException as error:
            for future in self._end(key):
                future.set_exception(error if isinstance(error, Exception) else _AbandonedError())
            raise
        for future in self._end(key):
            future.set_result(result)
        return result

    def _join(self, key: K) -> asyncio.Future[V]:
        """Return the future of a call that is under way."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        waiting = self._under_way[key]
        if waiting is None:
            self._under_way[key] = [future]
        else:
            waiting.append(future)
        return future

    def _end(self, key: K) -> Sequence[asyncio.Future[V]]:
        """End a call; return the futures of those who still wait for it."""
        waiting = self._under_way.pop(key)
        return () if waiting is None else [future for future in waiting if not future.done()]


class _AbandonedError(Exception):
    """The caller that ran the call was cancelled."""
