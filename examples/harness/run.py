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
    from collections.abc import AsyncIterator, Mapping

    from examples.harness.example import Example
    from examples.harness.fleets import Fleet
    from examples.harness.tally import Phase

STEADY, KILL, ROLLING = "steady", "kill -9 of one", "rolling restart"
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


async def run(example: Example, *, sticky: bool, timing: Timing | None = None) -> Outcome:
    """Run an example once; ``sticky`` is whether its app adds the middleware.

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
                tally = Tally(example.users, environment)
                return await _phases(example, fleet, tally, timing or Timing(), sticky=sticky)
        finally:
            await asyncio.to_thread(server.stop)


async def _phases(example: Example, fleet: Fleet, tally: Tally, timing: Timing, *, sticky: bool) -> Outcome:
    stuck: list[str] = []

    async def all_looked() -> None:
        if not await tally.all_looked(_LOOKED_BY if sticky else _WITHOUT_BY):
            stuck.append(tally.phase.name)

    async with _users(example, fleet, tally):
        await all_looked()
        tally.begin(STEADY)
        await anyio.sleep(timing.steady)
        await all_looked()

        victim = tally.holder_of_most(fleet.pids())
        tally.begin(KILL, killed=victim)
        await fleet.kill(victim)
        await all_looked()
        await anyio.sleep(timing.settle)

        tally.begin(ROLLING)
        await fleet.restart()
        await all_looked()
        await anyio.sleep(timing.settle)
        tally.end()
    return Outcome(users=example.users, phases=tally.phases, stuck=stuck)


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


@contextlib.asynccontextmanager
async def _users(example: Example, fleet: Fleet, tally: Tally) -> AsyncIterator[None]:
    """Have the users live their lives in the block."""
    async with anyio.create_task_group() as group:
        for session in tally.sessions:
            group.start_soon(example.user, fleet.url, session)
        yield
        group.cancel_scope.cancel()
