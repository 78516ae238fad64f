"""Replicas of an application behind a proxy, and what an orchestrator does with them."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Self

from benchmarks.web import processes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from benchmarks.web.processes import Program
    from benchmarks.web.proxies import Balancer

_TAKEN_OUT = 0.3


class Fleet:
    """The replicas that run; ``async with`` ends them.

    It does what an orchestrator that knows its trade does, for all applications alike: a replica gets requests when it
    is ready, and none from some time before it is told to end.
    """

    def __init__(self, app: str, balancer: Balancer, folder: Path, env: Mapping[str, str]) -> None:
        """Describe it: the application is "module:name"."""
        self._app = app
        self._balancer = balancer
        self._folder = folder
        self._env = env
        self._numbers = itertools.count()
        self._there: list[Program] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self._there:
            await replica.kill()

    async def add(self, count: int = 1) -> None:
        """Start so many, and send requests to them when they are ready."""
        started = [await self._start() for _ in range(count)]
        await asyncio.gather(*map(processes.until_answers, started))
        self._there += started
        await self._balancer.use(self._there)

    async def retire(self) -> None:
        """End the one that is there longest: no requests by the proxy, then SIGTERM."""
        replica = self._there.pop(0)
        await self._balancer.use(self._there)
        await asyncio.sleep(_TAKEN_OUT)  # what the proxy has sent there is answered
        await replica.stop()

    async def retire_quietly(self) -> None:
        """End the one that is there longest, when nobody asks any more."""
        await self._there.pop(0).stop()

    async def restart(self) -> None:
        """Replace each of them by a new one, one after the other."""
        for _ in range(len(self._there)):
            await self.add()
            await self.retire()

    async def crash(self) -> None:
        """Kill one with -9, and start another in its place; the proxy hears of both when that one is ready."""
        replica = self._there.pop(0)
        await replica.kill()
        await self.add()

    def said(self) -> str:
        """Return what all of them have written to their logs."""
        logs = sorted(self._folder.glob("replica-*.log"))
        texts = {log.stem: log.read_text(encoding="utf-8", errors="replace").strip() for log in logs}
        return "\n".join(f"{name}: {text}" for name, text in texts.items() if text)

    async def _start(self) -> Program:
        name = f"replica-{next(self._numbers)}"
        return await processes.start_app(name, self._app, self._folder, self._env)
