"""What a case is, and how it is run: subject and reference by turns, many short rounds, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Self, TypeAlias

import attrs

from benchmarks.statistics import Spread, ratios, spread
from stateful_route.store.embedded import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

Round: TypeAlias = "Callable[[], Awaitable[float]]"
"""Measures for some milliseconds, and returns one figure in the unit of its case."""


@attrs.frozen
class Goal:
    """What the ratio of the subject to the reference is to reach; those of DESIGN.md, section 10."""

    ratio: float
    more_is_better: bool = False

    def is_met(self, ratio: float) -> bool:
        """Whether that ratio is good enough."""
        return ratio >= self.ratio if self.more_is_better else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'>=' if self.more_is_better else '<='} {self.ratio:g}x"


@attrs.frozen
class Variant:
    """One measurement of a case."""

    name: str
    subject: Round
    reference: Round


@attrs.frozen(kw_only=True)
class Case:
    """What is measured, against what, and how good it has to be.

    Attributes:
        name: as it is called on the command line.
        title: the subject, in words.
        reference: what it is compared with, in words.
        unit: of the figures, for example ``"ns"``.
        goal: what the ratio of the two is to reach.
        rounds: how often each side of a variant runs; in a quick run, a tenth.
        open: prepares the variants, and cleans up after them.

    """

    name: str
    title: str
    reference: str
    unit: str
    goal: Goal
    rounds: int
    open: Callable[[Lab], AbstractAsyncContextManager[Sequence[Variant]]]


class Lab:
    """What a case may use: servers that end with it."""

    def __init__(self) -> None:
        self._servers = contextlib.ExitStack()
        self.server_version: str | None = None
        """Product and version of the last server; ``None`` if the case needed none."""

    def server(self) -> LocalServer:
        """Start a server for this case alone. It blocks, while nothing is measured yet."""
        server = self._servers.enter_context(LocalServer())
        facts = dict(line.split(":", 1) for line in server.ask("INFO", "server").splitlines() if ":" in line)
        version = facts.get("valkey_version") or facts["redis_version"]
        self.server_version = f"{facts.get('server_name', 'redis')} {version}"
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()


@attrs.frozen(kw_only=True)
class Result:
    """The figures of one variant of a case, in its unit; one of each side for each round."""

    case: Case
    variant: str
    subject: Sequence[float]
    reference: Sequence[float]
    server: str | None

    @property
    def ratio(self) -> Spread:
        """Subject / reference, from the ratio of each round."""
        return spread(ratios(self.subject, self.reference))

    @property
    def noise(self) -> float:
        """How far the reference was from itself: the width of its spread, as a share of its median."""
        return spread(self.reference).relative

    @property
    def is_met(self) -> bool:
        """Whether the goal is met."""
        return self.case.goal.is_met(self.ratio.median)


async def run(case: Case, *, quick: bool) -> AsyncIterator[Result]:
    """Run a case, giving out the result of each variant as it is known."""
    rounds = max(case.rounds // 10, 2) if quick else case.rounds
    with Lab() as lab:
        async with case.open(lab) as variants:
            for variant in variants:
                with _heap_set_aside():
                    subject, reference = await interleave(variant.subject, variant.reference, rounds)
                yield Result(
                    case=case,
                    variant=variant.name,
                    subject=subject,
                    reference=reference,
                    server=lab.server_version,
                )


async def interleave(subject: Round, reference: Round, rounds: int) -> tuple[list[float], list[float]]:
    """Run both sides by turns, after one round of each that does not count; return the figures of each.

    Each side is first in every other pair, so that none of them always runs in what the other left behind.
    """
    figures: tuple[list[float], list[float]] = ([], [])
    sides = [(subject, figures[0]), (reference, figures[1])]
    for measure, _ in sides:
        await _rest()
        await measure()
    for _ in range(rounds):
        for measure, side_figures in sides:
            await _rest()
            side_figures.append(await measure())
        sides.reverse()
    return figures


async def _rest() -> None:
    """Bring both sides to the same start: no garbage, and no task in the background that has waited for its turn."""
    gc.collect()
    await asyncio.sleep(0.001)  # a round may keep the loop to itself; heartbeats and refreshes have to go on


@contextlib.contextmanager
def _heap_set_aside() -> Iterator[None]:
    """Keep what was prepared out of the collections before each round, which would take most of the time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
