"""Runs an example: without stateful_route and with it, through a calm time, a kill and a rolling restart."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import tempfile
from typing import TYPE_CHECKING

import anyio
import attrs

from examples.harness.fleets import fleet_of
from examples.harness.processes import Process
from examples.harness.tally import Tally
from stateful_route.embedded.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from examples.harness.example import Example
    from examples.harness.fleets import Fleet
    from examples.harness.tally import Phase

PHASES = STEADY, KILL, ROLLING = "steady", "kill -9 of one", "rolling restart"
# A dead pod is known as such after its lease of 5 s, and what was held meanwhile comes then.
_LOOKED_BY = 30.0
# Without us some never come to look: they wait for what another process has.
_WITHOUT_BY = 5.0


@attrs.frozen(kw_only=True)
class Timing:
    """How long the parts of a run take that do not end by themselves, in seconds.

    Attributes:
        steady: nothing happens.
        settle: after all processes are up again, and each user has looked.

    """

    steady: float = 4.0
    settle: float = 1.0


@attrs.frozen
class Outcome:
    """What happened to the users of one run.

    Attributes:
        users: how many there were.
        phases: what they saw, in order.
        stuck: the phases after which not every user came to look within 30 s.

    """

    users: int
    phases: list[Phase]
    stuck: list[str]


async def run(
    example: Example, *, sticky: bool, timing: Timing | None = None, phases: Collection[str] = PHASES
) -> Outcome:
    """Run an example once; ``sticky`` is whether its app adds the middleware, ``phases`` are those that are wanted.

    Raises:
        ProcessError: if a process of it does not start, or does not end.

    """
    server = LocalServer(tcp=True)
    with tempfile.TemporaryDirectory(prefix="example-") as folder:
        try:
            await asyncio.to_thread(server.start)
            environment = {
                "STICKY": "1" if sticky else "0",
                "STATEFUL_ROUTE_URL": server.url,
                "STATEFUL_ROUTE_SECRET": secrets.token_hex(),
                "STATE": folder,
                "PYTHONUNBUFFERED": "1",
                **example.environment,
            }
            async with fleet_of(example, environment) as fleet, _companions(example, fleet, environment):
                lived = Run(example, fleet, timing or Timing(), _LOOKED_BY if sticky else _WITHOUT_BY, environment)
                return await lived.live(phases)
        finally:
            await asyncio.to_thread(server.stop)


class Run:
    """One run: users who live their lives, and what is done to the processes meanwhile."""

    def __init__(
        self, example: Example, fleet: Fleet, timing: Timing, looked_by: float, environment: Mapping[str, str]
    ) -> None:
        """Do it to a fleet that is started; ``looked_by`` is how long a phase waits for users to look, in seconds."""
        self._example = example
        self._fleet = fleet
        self._timing = timing
        self._looked_by = looked_by
        self._tally = Tally(example.users, environment)
        self._stuck: list[str] = []

    async def live(self, phases: Collection[str]) -> Outcome:
        """Live through the phases, and return what the users saw."""
        parts = {STEADY: self._stay, KILL: self._kill, ROLLING: self._restart}
        async with anyio.create_task_group() as group:
            for session in self._tally.sessions:
                group.start_soon(self._example.user, self._fleet.url, session)
            await self._all_looked()
            for name in PHASES:
                if name in phases:
                    await parts[name]()
                    await self._all_looked()
            self._tally.end()
            group.cancel_scope.cancel()
        return Outcome(users=self._example.users, phases=self._tally.phases, stuck=self._stuck)

    async def _stay(self) -> None:
        self._tally.begin(STEADY)
        await anyio.sleep(self._timing.steady)

    async def _kill(self) -> None:
        victim = self._tally.holder_of_most(self._fleet.pids())
        self._tally.begin(KILL, killed=victim)
        await self._fleet.kill(victim)
        await self._settle()

    async def _restart(self) -> None:
        self._tally.begin(ROLLING)
        await self._fleet.restart()
        await self._settle()

    async def _settle(self) -> None:
        await self._all_looked()
        await anyio.sleep(self._timing.settle)

    async def _all_looked(self) -> None:
        if not await self._tally.all_looked(self._looked_by):
            self._stuck.append(self._tally.phase.name)


@contextlib.asynccontextmanager
async def _companions(example: Example, fleet: Fleet, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Run the further processes of an example in the block; what they are sent waits until they are up."""
    async with contextlib.AsyncExitStack() as stack:
        for arguments in example.companions:
            command = (sys.executable, "-m", *arguments)
            process = Process(arguments[0], command, {**environment, "APP_URL": fleet.url}, example.path)
            stack.push_async_callback(process.stop)
            await process.start()
        yield
