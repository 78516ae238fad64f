"""What is done to the processes while the users go on: a kill, a rolling restart, a Redis that does not answer."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import anyio
import attrs

from examples.demo.database import DatabaseClient, StaleEpochError
from examples.demo.load import Phase
from examples.demo.serving import http_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.demo.load import Answer, Load
    from examples.demo.processes import Child, Fleet
    from stateful_route.embedded.server import LocalServer

_KNOWN_BY = 6.0
_ELSEWHERE_BY = 10.0
_READY_BY = 8.0
_GONE_BY = 8.0
_WRITTEN_BY = 20.0
_WRITES_AT_ONCE = 16
_LOOK = 0.02


@attrs.frozen(kw_only=True)
class Timing:
    """How long the parts of a chaos run take that do not end by themselves, in seconds.

    Attributes:
        calm: before and after all that happens; before it, until each gateway knows each user, too.
        settle: after a pod is up again, and after Redis is there again.
        away: for how long Redis does not answer.
        last_restart: since the begin of the run, after which no further pod is restarted.

    """

    calm: float = 3.0
    settle: float = 1.0
    away: float = 3.0
    last_restart: float = 26.0


@attrs.define
class Findings:
    """What the script of a chaos run saw.

    Attributes:
        killed: the index of the pod that was killed.
        its_users: how many users it had.
        elsewhere_after: seconds from the kill until the last of them was answered by another pod; ``None`` if one
            never was.
        late_writes: how many writes were sent to the database in the name of the killed pod, after that.
        restarted: how many pods were restarted one by one.
        refused: how many accesses with a stale epoch the database refused.
        lost: how many messages were accepted, and are not in the database in the end.

    """

    killed: int = 0
    its_users: int = 0
    elsewhere_after: float | None = None
    late_writes: int = 0
    restarted: int = 0
    refused: int = 0
    lost: int = 0


class Chaos:
    """Runs the script; each part of it is a phase of the load's tally."""

    def __init__(self, fleet: Fleet, load: Load, server: LocalServer | None, timing: Timing) -> None:
        """Do it to that fleet and, if it is ours, that server."""
        self.findings = Findings()
        self._fleet = fleet
        self._load = load
        self._server = server
        self._timing = timing
        self._began = 0.0

    async def run(self) -> None:
        """Run all of it.

        Raises:
            ChildError: if a pod does not end, or does not come up again.

        """
        timing, findings, load = self._timing, self.findings, self._load
        self._began = time.monotonic()
        # The first phase is there from the begin.
        with self._phase(load.tally.phases[-1]):
            await anyio.sleep(timing.calm)
            await self._until_known()
        findings.killed = max(range(len(self._fleet.pods)), key=lambda index: len(load.answers_of(index)))
        pod, before = self._fleet.pods[findings.killed], load.answers_of(findings.killed)
        with self._next_phase(f"kill -9 {pod.name}"):
            await self._kill(pod, before)
        with self._next_phase(f"{pod.name} is back"):
            await self._fleet.start_again(pod, _READY_BY)
            await self._write_late(before)
            await anyio.sleep(timing.settle)
        with self._next_phase("rolling restart"):
            await self._restart_all()
        # Each gateway gets to know again each user who was moved: of the others it cannot ask a Redis that is away.
        with self._next_phase("calm"):
            await anyio.sleep(timing.calm)
            await self._until_known()
        with self._next_phase("Redis away"):
            await self._pause_redis()
        with self._next_phase("calm"):
            await anyio.sleep(timing.calm)

    async def close(self) -> None:
        """Look at the database, when all messages are in."""
        async with http_client() as http:
            sizes = await DatabaseClient(http, self._fleet.database.url).sizes()
        self.findings.refused = sizes.refused
        accepted = self._load.tally.accepted
        self.findings.lost = sum(max(0, count - sizes.counts.get(uid, 0)) for uid, count in accepted.items())

    async def _until_known(self) -> None:
        gateways = [gateway.url for gateway in self._fleet.gateways]
        with anyio.move_on_after(_KNOWN_BY):
            while not self._load.known_to(gateways):  # noqa: ASYNC110 - as below
                await anyio.sleep(_LOOK)

    async def _kill(self, pod: Child, before: list[Answer]) -> None:
        """Kill a pod, and wait until its users are served elsewhere."""
        load, findings = self._load, self.findings
        findings.its_users = len(before)
        killed_at = time.monotonic()
        await pod.kill()
        with anyio.move_on_after(_ELSEWHERE_BY):
            # A look at each user, cheaper than a word from each answer.
            while any(load.last_moved.get(answer.uid, 0.0) < killed_at for answer in before):  # noqa: ASYNC110
                await anyio.sleep(_LOOK)
            last = max((load.last_moved[answer.uid] for answer in before), default=killed_at)
            findings.elsewhere_after = last - killed_at

    async def _write_late(self, before: list[Answer]) -> None:
        """Write to the database what the killed pod could have had in flight, with the epochs that it had.

        A write may come as late as it likes: it is refused, and the chat, which has gone on elsewhere, is not lost.
        """
        async with http_client(_WRITTEN_BY) as http:
            database = DatabaseClient(http, self._fleet.database.url)
            at_once = anyio.Semaphore(_WRITES_AT_ONCE)

            async def write(answer: Answer) -> None:
                async with at_once:
                    with contextlib.suppress(StaleEpochError):
                        await database.save(answer.uid, answer.epoch, [{"id": "late", "text": "from the killed pod"}])

            self.findings.late_writes = len(before)
            async with anyio.create_task_group() as group:
                for answer in before:
                    group.start_soon(write, answer)

    async def _restart_all(self) -> None:
        """Restart the pods one by one, as a StatefulSet does: the next one when the last is ready."""
        for pod in self._fleet.pods:
            if time.monotonic() - self._began > self._timing.last_restart:
                break
            await pod.terminate(_GONE_BY)
            await self._fleet.start_again(pod, _READY_BY)
            self.findings.restarted += 1
            await anyio.sleep(self._timing.settle)

    async def _pause_redis(self) -> None:
        if self._server is None:
            self._load.tally.phases[-1].skipped = "it is not the demo's own"
            return
        self._server.pause()
        try:
            await anyio.sleep(self._timing.away)
        finally:
            self._server.resume()
        await anyio.sleep(self._timing.settle)

    @contextlib.contextmanager
    def _next_phase(self, name: str) -> Iterator[None]:
        phase = Phase(name)
        self._load.tally.phases.append(phase)
        with self._phase(phase):
            yield

    @contextlib.contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        began = time.monotonic()
        yield
        phase.seconds = time.monotonic() - began
