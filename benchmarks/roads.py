"""Which functions of the package run, in their order: the road that one call takes through the house."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import CodeType, FrameType

PACKAGE = "stateful_route"

_GENERATED = "<attrs generated "
_START = 0
"""The argument of the instruction ``RESUME`` at the start of a function; in a coroutine that goes on it is another."""


@attrs.frozen
class Step:
    """One call.

    Attributes:
        depth: how many functions of the package it is inside of; those of others between them are not counted.
        module: without the name of the package.
        function: with its class.
        resumed: whether it is a coroutine, or a generator, that goes on.
        coroutines: how many coroutines of the package wait for each other here, this one among them.

    """

    depth: int
    module: str
    function: str
    resumed: bool
    coroutines: int = 0


@attrs.frozen
class Walk:
    """The calls of one trip, in their order; a coroutine or a generator that goes on is one more call."""

    steps: Sequence[Step]

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return len(self.steps)

    @property
    def modules(self) -> int:
        """In how many modules they are."""
        return len({step.module for step in self.steps})

    @property
    def moves(self) -> int:
        """How often a call is in another module than the one before it."""
        return sum(before.module != after.module for before, after in itertools.pairwise(self.steps))

    @property
    def functions(self) -> int:
        """How many different functions there are."""
        return len({(step.module, step.function) for step in self.steps})

    @property
    def coroutines(self) -> int:
        """How many coroutines wait for each other, where there are most."""
        return max((step.coroutines for step in self.steps), default=0)

    @property
    def figures(self) -> tuple[int, int, int]:
        """Calls, modules and moves."""
        return self.calls, self.modules, self.moves

    def lines(self) -> list[str]:
        """Return the walk as an indented list, and below it how many calls each module has."""
        lines = []
        for step, same in itertools.groupby(self.steps):
            count = len(list(same))
            marks = f"{' (goes on)' if step.resumed else ''}{f' x{count}' if count > 1 else ''}"
            lines.append(f"{'  ' * step.depth}{step.module}:{step.function}{marks}")
        by_module = Counter(step.module for step in self.steps)
        return [*lines, "", *(f"{count:4} {module}" for module, count in by_module.most_common())]


def most_common(walks: Iterable[Walk]) -> Walk:
    """Return one of those whose figures came most often: what else happens now and then is left out so."""
    walks = list(walks)
    ((figures, _),) = Counter(walk.figures for walk in walks).most_common(1)
    return next(walk for walk in walks if walk.figures == figures)


class Recorder:
    """Takes down what runs in this thread."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, Step]] = []
        self._inside: list[bool] = []
        """Whether each function that it is inside of is a coroutine."""

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Take down an event of ``sys.setprofile``."""
        if event not in {"call", "return"}:
            return
        package, _, module = str(frame.f_globals.get("__name__")).partition(".")
        if package != PACKAGE:
            return
        if event == "return":  # or it waits
            del self._inside[-1:]
            return
        code = frame.f_code
        depth = len(self._inside)
        self._inside.append(bool(code.co_flags & inspect.CO_COROUTINE))
        step = Step(depth, module, _name(code), _goes_on(frame), sum(self._inside))
        self._steps.append((time.perf_counter(), step))

    @property
    def walk(self) -> Walk:
        """All that ran."""
        return Walk([step for _, step in self._steps])

    def parts(self, pause: float) -> list[Walk]:
        """Return what ran between pauses of so many seconds at least."""
        parts: list[list[Step]] = []
        last = float("-inf")
        for at, step in self._steps:
            if at - last >= pause:
                parts.append([])
            parts[-1].append(step)
            last = at
        return [Walk(steps) for steps in parts]


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    """Take down what runs in this thread until the end of the block."""
    recorder = Recorder()
    before = sys.getprofile()
    sys.setprofile(recorder)
    try:
        yield recorder
    finally:
        sys.setprofile(before)


def _name(code: CodeType) -> str:
    name = code.co_qualname
    if code.co_filename.startswith(_GENERATED):  # it does not say of which class it is, but its file does
        return f"{code.co_filename.rstrip('>').rpartition('.')[2]}.{name.rpartition('.')[2]}"
    return name.replace(".<locals>", "")


def _goes_on(frame: FrameType) -> bool:
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti + 1] & 3 != _START
