"""Histories of concurrent calls, and whether they are linearizable.

A history is linearizable if each call took effect at one moment between its invocation and its reply. Keys do not know
of each other, so the calls on each are checked by themselves.
"""

from __future__ import annotations

import enum
import itertools
import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator


class Reply(enum.Enum):
    """What stands for a reply."""

    UNKNOWN = "unknown"
    """None came: the call may have taken effect at any time since, or never."""


@attrs.frozen(eq=False)
class Operation:
    """One call of a history.

    Attributes:
        key: what it was about.
        call: what was asked, as the model takes it.
        by: who asked, for people.
        invoked: when, in seconds of a monotonic clock.
        returned: when the reply came; infinite if none did.
        reply: what was replied, or ``Reply.UNKNOWN``.

    """

    key: Hashable
    call: Hashable
    by: str
    invoked: float
    returned: float = math.inf
    reply: Any = Reply.UNKNOWN


class History:
    """Calls as they began and ended. One that was begun and never ended may take effect at any later time, or never."""

    def __init__(self) -> None:
        """Begin empty."""
        self._operations: dict[int, Operation] = {}
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        unknown = sum(operation.reply is Reply.UNKNOWN for operation in self._operations.values())
        return f"<History of {len(self._operations)} calls, {unknown} without a reply>"

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All calls, in the order in which they began."""
        return tuple(self._operations.values())

    def begin(self, key: Hashable, call: Hashable, at: float, by: str = "") -> int:
        """Note that a call began at ``at``; return the number to end it by."""
        number = next(self._numbers)
        self._operations[number] = Operation(key, call, by, at)
        return number

    def end(self, number: int, reply: object, at: float) -> None:
        """Note the reply to a call."""
        self._operations[number] = attrs.evolve(self._operations[number], reply=reply, returned=at)

    def drop(self, number: int) -> None:
        """Forget a call that certainly changed nothing and learned nothing."""
        del self._operations[number]


class Model(Protocol):
    """What the calls on one key are to do when they come one by one. States are hashable."""

    def initial(self) -> Any:
        """Return the state before the first call."""
        ...

    def step(self, state: Any, call: Any, reply: Any) -> Iterable[Any]:
        """Return the states that the call may leave with that reply; with any, if it is ``Reply.UNKNOWN``."""
        ...

    def is_read(self, call: Any, reply: Any) -> bool:
        """Whether a call with that reply leaves every state as it was."""
        ...

    def describe(self, reply: Any) -> str:
        """Return a reply as people read it."""
        ...


_Found: TypeAlias = tuple[Any, int]
"""A state, and the calls that took effect on the way to it and have not returned yet, a bit for each."""

# How many states are kept at each return, and how many more calls without a reply are tried than are needed.
_EFFORTS = (64, 1), (512, 2), (math.inf, math.inf)

_SHOWN = 12


@attrs.frozen
class Counterexample:
    """The shortest beginning of a history that no order of its calls explains. Print it.

    Attributes:
        key: what it is about.
        states: in what states the key may have been before the last reply.
        before: the last calls that returned before it.
        pending: the calls that may have taken effect since, or have not by now.
        last: the call whose reply is not explained.
        describe: how a reply is shown.

    """

    key: Hashable
    states: tuple[Any, ...]
    before: tuple[Operation, ...]
    pending: tuple[Operation, ...]
    last: Operation
    describe: Callable[[Any], str] = attrs.field(repr=False)

    def __str__(self) -> str:
        shown = [*self.before, *self.pending[-_SHOWN:], self.last]
        start = min(operation.invoked for operation in shown)
        rows = [("", "from ms", "to ms", "by", "call", "reply")]
        rows += [
            (
                ">" if operation is self.last else "",
                f"{(operation.invoked - start) * 1000:.3f}",
                "" if math.isinf(operation.returned) else f"{(operation.returned - start) * 1000:.3f}",
                operation.by,
                str(operation.call),
                self.describe(operation.reply),
            )
            for operation in shown
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        states = " | ".join(map(str, self.states[:_SHOWN]))
        left_out = len(self.pending) - len(self.pending[-_SHOWN:])
        more = [f"and {left_out} older calls that may have taken effect"] if left_out else []
        return "\n".join([f"{self.key}: no order explains the reply marked >, after {states}", *table, *more])


def check_linearizable(history: History, model: Model) -> Counterexample | None:
    """Return ``None`` if the history is linearizable, or else why it is not.

    It is the search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017: just-in-time
    linearization). Time and memory grow with the calls that overlap and with those without a reply, not with the
    length of the history.
    """
    keys: dict[Hashable, list[Operation]] = {}
    for operation in history.operations:
        keys.setdefault(operation.key, []).append(operation)
    failures = (_check_key(operations, model) for operations in keys.values())
    return next((failure for failure in failures if failure is not None), None)


def _check_key(operations: list[Operation], model: Model) -> Counterexample | None:
    # Many calls without a reply may explain the others in very many ways, of which a few are enough if it is
    # linearizable, and all are needed if it is not.
    for width, spare in _EFFORTS:
        search = _Search(operations, model, width, spare)
        failure = search.run()
        if failure is None or search.complete:
            return failure
    raise AssertionError("the last width is infinite")


class _Search:
    """The search through the calls on one key: at each return, the states in which the key may be then.

    Attributes:
        complete: whether these were all; not only the ``width`` that need the fewest calls without a reply, and no
            more than ``spare`` of those above the fewest.

    """

    def __init__(self, operations: list[Operation], model: Model, width: float, spare: float) -> None:
        self.complete = True
        self._operations = operations
        self._model = model
        self._width = width
        self._spare = spare
        self._pending: list[int] = []
        # Calls without a reply that ask the same are the same: only the first that is left need be tried.
        self._unknown: dict[Hashable, list[int]] = {}
        self._all_unknown = sum(1 << n for n, operation in enumerate(operations) if operation.reply is Reply.UNKNOWN)

    def run(self) -> Counterexample | None:
        found: list[_Found] = [(self._model.initial(), 0)]
        done: list[int] = []
        for _, returning, number in self._events():
            operation = self._operations[number]
            if not returning:
                if operation.reply is not Reply.UNKNOWN:
                    self._pending.append(number)
                elif not self._model.is_read(operation.call, Reply.UNKNOWN):
                    self._unknown.setdefault(operation.call, []).append(number)
                continue
            after = self._returned(number, found)
            if not after:
                return self._failure(number, found, done)
            found = after
            self._pending.remove(number)
            done.append(number)
        return None

    def _events(self) -> list[tuple[float, bool, int]]:
        """Return what began and ended, in order; at the same moment what begins comes first, as they may overlap."""
        begins = [(operation.invoked, False, number) for number, operation in enumerate(self._operations)]
        ends = [
            (operation.returned, True, number)
            for number, operation in enumerate(self._operations)
            if operation.reply is not Reply.UNKNOWN
        ]
        return sorted(begins + ends)

    def _returned(self, number: int, found: list[_Found]) -> list[_Found]:
        """Return what may be once the call ``number`` took effect, after others if need be.

        A state that was reached with fewer calls without a reply leaves more open: what needs more of them is dropped.
        """
        after: list[_Found] = []
        least: dict[tuple[Any, int], list[int]] = {}
        level, spare = found, self._spare
        while level and spare >= 0:
            reached, level = self._level(number, level, least)
            after += reached
            spare -= bool(after)
        self.complete = self.complete and not level
        after.sort(key=self._unknown_taken)
        if len(after) > self._width:
            self.complete = False
            del after[int(self._width) :]
        return after

    def _level(
        self, number: int, found: list[_Found], least: dict[tuple[Any, int], list[int]]
    ) -> tuple[list[_Found], list[_Found]]:
        """Return what may be once ``number`` took effect, and what may be if one more without a reply did before."""
        reached: list[_Found] = []
        more: list[_Found] = []
        todo = list(found)
        for state, effective in todo:  # and through what is appended on the way
            taken = self._absorb(state, effective)
            unknown = taken & self._all_unknown
            smaller = least.setdefault((state, taken ^ unknown), [])
            if any(each & unknown == each for each in smaller):
                continue
            smaller.append(unknown)
            if taken >> number & 1:
                reached.append((state, taken ^ 1 << number))
                continue
            for next_number in self._candidates(taken):
                operation = self._operations[next_number]
                known = operation.reply is not Reply.UNKNOWN
                for next_state in self._model.step(state, operation.call, operation.reply):
                    # Without a reply and without an effect it may as well come later.
                    if known or next_state != state:
                        (todo if known else more).append((next_state, taken | 1 << next_number))
        return reached, more

    def _unknown_taken(self, found: _Found) -> int:
        return (found[1] & self._all_unknown).bit_count()

    def _candidates(self, taken: int) -> Iterator[int]:
        yield from (number for number in self._pending if not taken >> number & 1)
        for numbers in self._unknown.values():
            first = next((number for number in numbers if not taken >> number & 1), None)
            if first is not None:
                yield first

    def _absorb(self, state: Any, taken: int) -> int:
        """Let the reads take effect that fit the state: that closes nothing, and saves trying their orders."""
        for number in self._pending:
            operation = self._operations[number]
            if (
                not taken >> number & 1
                and self._model.is_read(operation.call, operation.reply)
                and [state] == list(self._model.step(state, operation.call, operation.reply))
            ):
                taken |= 1 << number
        return taken

    def _failure(self, number: int, found: list[_Found], done: list[int]) -> Counterexample:
        unknown = itertools.chain.from_iterable(self._unknown.values())
        pending = sorted({*self._pending, *unknown} - {number}, key=lambda each: self._operations[each].invoked)
        return Counterexample(
            key=self._operations[number].key,
            states=tuple({state: None for state, _ in found}),
            before=tuple(self._operations[each] for each in done[-5:]),
            pending=tuple(self._operations[each] for each in pending),
            last=self._operations[number],
            describe=self._model.describe,
        )
