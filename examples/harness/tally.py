"""What the users of an example see: requests answered and failed, and state that is there or gone."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LOOK = 0.02


@attrs.define
class Phase:
    """What happened in one part of a run.

    Attributes:
        name: of the phase.
        killed: the process that was killed in this phase with all that it had in memory; ``None`` if none was.
        seconds: how long it took.
        answered: requests that were answered well.
        failed: requests that are safe to repeat (GET, or repeated under an id of their own), and failed.
        unsafe_failed: requests that are not safe to repeat, and failed: nobody knows whether they were applied.
        lost: the users whose state was gone at least once.
        lost_elsewhere: those of them whose state was not in the killed process.
        failures: why requests failed, and how often.
        measures: what else users measured, by what it is.

    """

    name: str
    killed: int | None = None
    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    unsafe_failed: int = 0
    lost: set[int] = attrs.field(factory=set)
    lost_elsewhere: set[int] = attrs.field(factory=set)
    failures: Counter[str] = attrs.field(factory=Counter)
    measures: dict[str, list[float]] = attrs.field(factory=dict)


class Session:
    """What one user sees, told by the user.

    Attributes:
        number: of the user.
        holder: the process that had the state when the user last looked; ``None`` before the first look.
        looks: how often the user looked whether the state is there.
        environment: of the processes of the example.

    """

    def __init__(self, tally: Tally, number: int, environment: Mapping[str, str]) -> None:
        """Tell it to that tally."""
        self.environment = environment
        self.number = number
        self.holder: int | None = None
        self.looks = 0
        self._tally = tally

    def answered(self) -> None:
        """Note that a request was answered well."""
        self._tally.phase.answered += 1

    def failed(self, why: str, *, safe: bool = True) -> None:
        """Note that a request failed; ``safe`` says whether it was safe to repeat."""
        phase = self._tally.phase
        if safe:
            phase.failed += 1
        else:
            phase.unsafe_failed += 1
        phase.failures[why if safe else f"{why} (not safe to repeat)"] += 1

    def measured(self, what: str, value: float) -> None:
        """Note a number that the report sums up."""
        self._tally.phase.measures.setdefault(what, []).append(value)

    def looked(self, *, kept: bool, holder: int | None = None) -> None:
        """Note whether all is there that was acknowledged, and the process id of who answered that."""
        phase = self._tally.phase
        self.looks += 1
        if not kept:
            phase.lost.add(self.number)
            if phase.killed is None or self.holder != phase.killed:
                phase.lost_elsewhere.add(self.number)
        if holder is not None:
            self.holder = holder


class Tally:
    """What all users of a run see, by phases."""

    def __init__(self, users: int, environment: Mapping[str, str]) -> None:
        """Take that many users; the first phase, in which they arrive, has begun and does not count."""
        self.sessions = [Session(self, number, environment) for number in range(users)]
        self.phase = Phase("start")
        self.phases: list[Phase] = []
        self._began = time.monotonic()

    def begin(self, name: str, *, killed: int | None = None) -> None:
        """End the phase and begin the next one, in which a process may be killed."""
        self.end()
        self.phase = Phase(name, killed)
        self.phases.append(self.phase)

    def end(self) -> None:
        """End the phase."""
        now = time.monotonic()
        self.phase.seconds, self._began = now - self._began, now

    def holder_of_most(self, processes: Collection[int]) -> int:
        """Return which of these processes has the state of the most users."""
        holders = Counter(session.holder for session in self.sessions)
        return max(processes, key=lambda process: holders[process])

    async def all_looked(self, within: float) -> bool:
        """Return whether each user looked, all of it from now on, within that many seconds."""
        # The first look that ends now may have begun before.
        before = [session.looks for session in self.sessions]
        with anyio.move_on_after(within):
            while not all(session.looks >= looks + 2 for session, looks in zip(self.sessions, before, strict=True)):  # noqa: ASYNC110 - a look at many counters
                await anyio.sleep(_LOOK)
            return True
        return False
