"""What a case is, and how it is run: the sides by turns, many short rounds, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import attrs

from benchmarks.goals import SUBJECT, Goal
from benchmarks.rows import Options, Row
from stateful_route.embedded.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from benchmarks.goals import Target

__all__ = ["Case", "Goal", "Lab", "Round", "Variant", "interleave", "run", "server_version"]

Round: TypeAlias = "Callable[[], Awaitable[float]]"
"""Measures for some milliseconds, and returns one figure in the unit of its case."""

T = TypeVar("T")


@attrs.frozen
class Variant:
    """One measurement of a case.

    Attributes:
        name: of the variant.
        subject: measures ours.
        reference: measures what the goal is about.
        others: measure others on the same work, by name.
        missing: others that cannot be measured, and why.
        goals: in place of the goal of the case.

    """

    name: str
    subject: Round
    reference: Round
    others: Mapping[str, Round] = attrs.field(factory=dict)
    missing: Mapping[str, str] = attrs.field(factory=dict)
    goals: Sequence[Target] | None = None


@attrs.frozen(kw_only=True)
class Case:
    """What is measured, against what, and how good it has to be.

    Attributes:
        name: as it is called on the command line.
        title: the subject, in words.
        reference: what it is compared with, in words.
        versus: the name of the reference where there is one word for it.
        unit: of the figures, for example ``"ns"``.
        goal: what the ratio of the two is to reach.
        rounds: how often each side of a variant runs.
        quick_rounds: the same in a quick run; by default a tenth.
        warm_up: whether one round of each side goes first, and does not count.
        open: prepares the variants, and cleans up after them.
        draw: draws the pictures of its rows into a folder, and returns their files.

    """

    name: str
    title: str
    reference: str
    versus: str = "reference"
    unit: str
    goal: Goal
    rounds: int
    quick_rounds: int | None = None
    warm_up: bool = True
    open: Callable[[Lab], AbstractAsyncContextManager[Sequence[Variant]]]
    draw: Callable[[Sequence[Row], Path], Sequence[Path]] | None = None

    def run(self, options: Options) -> AsyncIterator[Row]:
        """Give out the row of each variant as it is known."""
        return run(self, options)


class Lab:
    """What a case may use: how to run, and servers that end with it."""

    def __init__(self, options: Options | None = None) -> None:
        """Run that way, by default in full."""
        self.options = options or Options()
        self._servers = contextlib.ExitStack()
        self.server_version: str | None = None
        """Product and version of the last server; ``None`` if the case needed none."""

    def server(self, *, tcp: bool = False) -> LocalServer:
        """Start a server for this case alone. It blocks, while nothing is measured yet."""
        server = self._servers.enter_context(LocalServer(tcp=tcp))
        self.server_version = server_version(server)
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()


def server_version(server: LocalServer) -> str:
    """Return product and version of a server."""
    facts = dict(line.split(":", 1) for line in server.ask("INFO", "server").splitlines() if ":" in line)
    return f"{facts.get('server_name', 'redis')} {facts.get('valkey_version') or facts['redis_version']}"


async def run(case: Case, options: Options) -> AsyncIterator[Row]:
    """Run a case, giving out the row of each variant as it is known."""
    rounds = options.pick(case.rounds, case.quick_rounds or max(case.rounds // 10, 2))
    with Lab(options) as lab:
        async with case.open(lab) as variants:
            for variant in variants:
                sides = {SUBJECT: variant.subject, case.versus: variant.reference, **variant.others}
                figures = await interleave(sides, rounds, warm_up=case.warm_up)
                yield Row(
                    case=case,
                    variant=variant.name,
                    unit=case.unit,
                    figures=figures,
                    goals=(attrs.evolve(case.goal, of=case.versus),) if variant.goals is None else variant.goals,
                    missing=variant.missing,
                    server=lab.server_version,
                )


async def interleave(
    sides: Mapping[str, Callable[[], Awaitable[T]]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[T]]:
    """Run the sides by turns, by default after one round of each that does not count; return what each measured.

    The order is turned round after each turn, so that no side always runs in what the same other left behind.
    """
    figures: dict[str, list[T]] = {name: [] for name in sides}
    order = list(sides)
    with _heap_set_aside():
        for name in order if warm_up else ():
            await _rest()
            await sides[name]()
        for _ in range(rounds):
            for name in order:
                await _rest()
                figures[name].append(await sides[name]())
            order.reverse()
    return figures


async def _rest() -> None:
    """Bring all sides to the same start: no garbage, and no task in the background that has waited for its turn."""
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
