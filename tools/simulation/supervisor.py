"""Who sees processes end, and has the store end their lives: soon, late, or again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from stateful_route.config import BaseConfig
    from stateful_route.lives import Life
    from tools.simulation.judge import Judge
    from tools.simulation.loop import Machine
    from tools.simulation.store import SimulatedStore


class Supervisor:
    """A process on a machine of its own."""

    def __init__(
        self, name: str, machine: Machine, store: SimulatedStore, config: BaseConfig, judge: Judge, random: Random
    ) -> None:
        """Have seen nobody end."""
        del random
        self.name = name
        self.machine = machine
        self._store = store
        self._retention = config.retention_seconds
        self._trace = judge.trace

    def prove(self, life: Life, after: Sequence[float]) -> None:
        """Say that the process of a life is gone, after each of so many seconds, whatever is answered."""
        for seconds in after:
            self.machine.spawn(self._say(life, seconds))

    async def _say(self, life: Life, seconds: float) -> None:
        await asyncio.sleep(seconds)
        answer: object
        try:
            answer = await self._store.end_life(life.namespace, life.service_name, life.of_pod, self._retention)
        except StoreError as error:
            answer = error
        self._trace.note(self.name, "has ended", f"{life}: {answer}")

    async def stop(self) -> None:
        """Close the store."""
        await self._store.aclose()
