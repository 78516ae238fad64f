"""Users with a session each, and what they lose.

A user sends one request after the other, each on a new connection, as the next request of a browser may come on any: by
turns a POST, which the application counts, and a GET, which tells the count and is safe to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from benchmarks.web.counting import HEADER, PATH
from benchmarks.web.processes import LOOPBACK
from benchmarks.web.raw import Answer, Connection, RawError, request_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

_PAUSE = 0.03
_AFTER_FAILURE = 0.1
_PATIENCE = 20.0
_ASK_AGAIN = 45.0


@attrs.define
class Phase:
    """What happened to the users in some time.

    Attributes:
        name: what was done to the replicas.
        begun: when, by the monotonic clock.
        requests: how many ended in this phase.
        failed: of those, how many got no answer with 2xx.
        failed_safe: of those, how many were safe to repeat.
        longest: seconds that the slowest answer with 2xx took.
        lost: the sessions that were told less than they had been told before.
        reasons: why requests failed.

    """

    name: str
    begun: float
    requests: int = 0
    failed: int = 0
    failed_safe: int = 0
    longest: float = 0.0
    lost: set[str] = attrs.field(factory=set)
    reasons: Counter[str] = attrs.field(factory=Counter)


@attrs.define
class Session:
    """One user.

    Attributes:
        uid: the id of the session.
        acknowledged: the number that the application told last.
        cookie: that the proxy gave, as it is sent back.
        asked: how many requests are over.

    """

    uid: str
    acknowledged: int = 0
    cookie: str | None = None
    asked: int = 0

    def request(self, host: str) -> tuple[str, bytes]:
        """Return the method of the next request, and the request."""
        method = "POST" if self.asked % 2 == 0 else "GET"
        headers = {HEADER: self.uid, "Connection": "close"} | ({"Cookie": self.cookie} if self.cookie else {})
        return method, request_bytes(method, PATH + self.uid, host, headers)

    def take(self, method: str, answer: Answer) -> bool:
        """Take an answer with 2xx; return whether the session was lost."""
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
        seen = int(json.loads(answer.body)["seen"])
        expected = self.acknowledged + (method == "POST")
        self.acknowledged = seen
        return seen < expected


class Users:
    """So many users at a port of the loopback.

    Attributes:
        phases: one after the other.

    """

    def __init__(self, port: int, count: int) -> None:
        """Know them; nobody asks yet."""
        self.phases: list[Phase] = []
        self.sessions = [Session(f"user-{number:03}") for number in range(count)]
        self._port = port
        self._over = False

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Let all of them ask, until the block ends and their last requests have."""
        async with asyncio.TaskGroup() as group:
            for session in self.sessions:
                group.create_task(self._use(session))
            try:
                yield
            finally:
                self._over = True

    @contextlib.asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[None]:
        """Give what happens in the block to a phase, and then until each user has been answered twice, or failed."""
        self.phases.append(Phase(name, time.monotonic()))
        yield
        until = [session.asked + 3 for session in self.sessions]  # the first of them may have begun before
        async with asyncio.timeout(_ASK_AGAIN):
            while any(session.asked < least for session, least in zip(self.sessions, until, strict=True)):  # noqa: ASYNC110 - polled, so that nothing is added to a request
                await asyncio.sleep(_PAUSE)

    async def _use(self, session: Session) -> None:
        while not self._over:
            failure = await self._ask(session)
            session.asked += 1
            await asyncio.sleep(_AFTER_FAILURE if failure else _PAUSE)

    async def _ask(self, session: Session) -> bool:
        """Send one request; return whether it failed."""
        method, request = session.request(f"{LOOPBACK}:{self._port}")
        failure, lost, begun = "", False, time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE), await Connection.open(LOOPBACK, self._port) as connection:
                answer = await connection.send(request)
        except (OSError, RawError) as error:  # TimeoutError is an OSError
            failure = f"{type(error).__name__}: {error}"
        else:
            if answer.is_success:
                lost = session.take(method, answer)
            else:
                failure = f"{answer.status}: {answer.body[:100].decode(errors='replace').splitlines()[:2]}"
        phase = self.phases[-1]  # what was done to the replicas while it was under way, if anything was
        phase.requests += 1
        if not failure:
            phase.longest = max(phase.longest, time.monotonic() - begun)
        if lost:
            phase.lost.add(session.uid)
        if failure:
            phase.failed += 1
            phase.failed_safe += method == "GET"
            phase.reasons[f"{method} {failure}"] += 1
        return bool(failure)


@attrs.frozen(order=True)
class Served:
    """A request that a process served, by the monotonic clock, which all processes of a machine share."""

    begun: float
    ended: float
    uid: str
    pid: int


def read_served(folder: Path) -> list[Served]:
    """Return what the applications wrote down; of one that was killed, the last line may be cut off."""
    served = []
    for file in folder.iterdir():
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                uid, begun, ended = line.split()
                served.append(Served(float(begun), float(ended), uid, int(file.name)))
    return served


def two_owners(served: Iterable[Served]) -> list[Served]:
    """Return the requests that a process served after, or while, a later process did.

    The later process of a session is the one that began to serve it later. So a session that moves for good, from one
    process to another, has none; one that goes to and fro has one each time that it comes back.
    """
    by_uid: dict[str, list[Served]] = {}
    for one in sorted(served):
        by_uid.setdefault(one.uid, []).append(one)
    return [one for of_uid in by_uid.values() for one in _out_of_turn(of_uid)]


def _out_of_turn(served: list[Served]) -> list[Served]:
    """Look at the requests of one session, in the order in which they began."""
    first: dict[int, float] = {}
    for one in served:
        first.setdefault(one.pid, one.begun)
    # The begin of the first process that came after that of the request.
    return [one for one in served if any(first[one.pid] < began <= one.ended for began in first.values())]


def sessions_by_phase(served: Iterable[Served], phases: list[Phase]) -> dict[str, set[str]]:
    """Return the sessions of those requests by the phase in which each of them ended."""
    found: dict[str, set[str]] = {phase.name: set() for phase in phases}
    for one in served:
        name = next((phase.name for phase in reversed(phases) if phase.begun <= one.ended), phases[0].name)
        found[name].add(one.uid)
    return found
