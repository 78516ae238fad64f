"""The pods among which a strategy chooses, and what it costs something to find out about all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

C = TypeVar("C")

Narrow: TypeAlias = "Callable[[Sequence[C]], Sequence[C]]"
"""Returns those that a strategy prefers; it looks at all."""

LOOKS = 16
"""How many candidates a choice looks at: of N one looks at all of them once in N / 16 choices.

What was placed meanwhile is a 16th of a uid for each pod.
"""

# Strategies that are remembered: an application has a few, unless it makes one for each choice.
_MOST = 16


@attrs.define
class _Narrowed(Generic[C]):
    """What a strategy prefers, and for how many more choices that is good enough.

    The strategy is kept with it, so that no other one gets its ``id``.
    """

    strategy: object
    pods: Candidates[C]
    choices: int


class Candidates(list[C]):
    """Candidates that remember which of them a strategy prefers, until something is heard of one of them."""

    __slots__ = ("_narrowed",)

    def __init__(self, pods: Sequence[C] = ()) -> None:
        super().__init__(pods)
        self._narrowed: dict[int, _Narrowed[C]] = {}

    def renew(self) -> None:
        """Take in that one of them is another, or says something else, than before."""
        if self._narrowed:
            self._narrowed = {}

    def narrowed(self, strategy: object, narrow: Narrow[C], looks: int = LOOKS) -> Sequence[C]:
        """Return what ``narrow`` of ``strategy`` returns; if there are many, what it returned a few choices ago."""
        choices = len(self) // looks
        if choices <= 1:
            return narrow(self)
        known = self._narrowed.get(id(strategy))
        if known is None or not known.choices:
            if known is None and len(self._narrowed) >= _MOST:
                self._narrowed.clear()
            known = _Narrowed(strategy, Candidates(narrow(self)), choices)
            self._narrowed[id(strategy)] = known
        known.choices -= 1
        return known.pods


def narrowed(candidates: Sequence[C], strategy: object, narrow: Narrow[C], looks: int = LOOKS) -> Sequence[C]:
    """Return those of ``candidates`` that ``strategy`` prefers."""
    return candidates.narrowed(strategy, narrow, looks) if isinstance(candidates, Candidates) else narrow(candidates)
