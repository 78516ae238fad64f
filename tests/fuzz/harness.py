"""What the fuzz tests share: how many examples, and an event loop that notices what nobody caught."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hypothesis import HealthCheck, settings

from stateful_route import Link, StatefulRouteError
from stateful_route.links import LinkChange
from stateful_route.pods import PodState, PodTable, Registration
from stateful_route.store.protocol import StoreInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

T = TypeVar("T")

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def fuzzing(examples: int) -> settings:
    """Return how to fuzz: the same examples in each run, or as many new ones as ``FUZZ_EXAMPLES`` says."""
    return settings(
        max_examples=int(EXAMPLES) if EXAMPLES else examples,
        derandomize=not EXAMPLES,
        print_blob=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Harness:
    """An event loop in which each example is bounded in time and leaves neither a task nor an error behind."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._runner.__enter__()
        self._uncaught: list[dict[str, Any]] = []
        self._runner.get_loop().set_exception_handler(lambda _, context: self._uncaught.append(context))
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T], within: float = 10.0) -> T:
        """Return the result of a coroutine."""
        result = self._runner.run(asyncio.wait_for(coroutine, within))
        uncaught, self._uncaught = self._uncaught, []
        assert [] == uncaught
        return result


async def typed(call: Awaitable[object]) -> object:
    """Return what a call returns, or its error, if it is one of ours; any other is raised."""
    try:
        return await call
    except StatefulRouteError as error:
        return error


def sound(answer: Any) -> bool:  # noqa: PLR0911 - as many as there are types
    """Whether an answer is made of what its types say: nothing of the garbage has come through."""
    match answer:
        case Link():
            return all(isinstance(part, int) for part in (answer.pod_index, answer.incarnation, answer.epoch))
        case LinkChange():
            return answer.link is None or sound(answer.link)
        case PodState():
            return isinstance(answer.incarnation, int) and answer.report.load >= 0
        case PodTable():
            numbers = (answer.version, answer.digest, answer.living)
            return all(isinstance(number, int) for number in numbers) and all(map(sound, answer.pods))
        case dict():
            return all(isinstance(name, str) and isinstance(index, int) for name, index in answer.items())
        case list():
            return all(map(sound, answer))
        case Registration():
            return isinstance(answer.incarnation, int) and isinstance(answer.previous_left, float)
    return answer is None or isinstance(answer, StatefulRouteError | StoreInfo | bool | str)
