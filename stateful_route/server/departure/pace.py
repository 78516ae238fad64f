"""How many uids are handed off at the same time while states travel: so many that each has an owner again soon."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# Uids at the same time: at first, at least, and at most.
_FIRST, _LEAST, _MOST = 8.0, 2.0, 64.0
# Seconds without an owner up to which there may be more at the same time, and above which there are to be fewer.
_GOOD, _BAD = 0.005, 0.012
_MORE, _FEWER = 0.5, 0.8
# The share of the time that is left which the rest may take at the present rate; and the least weight of an interval.
_IN_TIME, _WEIGHT = 0.9, 0.05
_LEAST_TIME = 0.001
# Seconds after which a hand-off is slow: it may wait for what runs, or for ever.
_LENT_AFTER = 0.1


class Pace:
    """A context that so many may be in as keeps the time short for which each uid has no owner.

    It is additive increase and multiplicative decrease, as TCP does it. Where ``hand_off`` takes its time there are
    soon 64 at the same time, since most of them are owned still; and so where the time runs out: a uid that is not
    handed off in time loses its state. One whose ``hand_off`` does not end keeps no other from its place.
    """

    def __init__(self) -> None:
        self.limit = _FIRST
        self._inside = 0
        self._lent = 0
        """How many have let others have their places, and will be back."""
        self._spared = 0
        self._hurries = False
        self._interval = 0.0
        """Seconds between two that leave: a moving mean."""
        self._intervals = 0
        self._left_at: float | None = None
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    def hurry(self, left: int, seconds: float) -> None:
        """Take in how many are to come yet, and in how many seconds all have to be done: more at a time, if need be.

        Those inside, and those that wait here, are to be done as well.
        """
        left += self._inside + len(self._waiting)
        share = left * self._interval / max(_IN_TIME * seconds, _LEAST_TIME)
        self._hurries = share > 1.0
        if self._hurries:  # the later that is seen, the faster
            self.limit = min(_MOST, self.limit + _MORE * share)
            self._wake_many()

    def note(self, seconds: float) -> None:
        """Take in for how long a uid had no owner."""
        if seconds < _GOOD:
            self.limit = min(_MOST, self.limit + _MORE)
        elif seconds > _BAD and self._spared <= 0 and not self._hurries:
            self.limit = max(_LEAST, self.limit * _FEWER)
            self._spared = int(self.limit)  # those were on their way by then
        self._spared -= 1

    async def __aenter__(self) -> None:
        """Wait until there are few enough."""
        if self._free() > 0 and not self._waiting:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # if it was cancelled as its place came
                    self._waiting.remove(turn)
            else:  # it has a place, which is the next one's now
                self._inside -= 1
                self._wake_many()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let others in."""
        self._inside -= 1
        now = asyncio.get_running_loop().time()
        if self._left_at is not None:
            self._intervals += 1
            weight = max(_WEIGHT, 1 / self._intervals)
            self._interval += weight * (min(now - self._left_at, 1.0) - self._interval)
        self._left_at = now
        self._wake_many()

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Return a context for who is inside and whose uid is owned still: after a while another has the place."""
        lent = False

        def begin() -> None:
            nonlocal lent
            lent = True
            self._inside, self._lent = self._inside - 1, self._lent + 1
            self._wake_many()

        timer = asyncio.get_running_loop().call_later(_LENT_AFTER, begin)
        try:
            yield
        finally:
            timer.cancel()
            if lent:
                self._inside, self._lent = self._inside + 1, self._lent - 1

    def _free(self) -> int:
        """Return how many may come in."""
        return min(int(self.limit), int(_MOST) - self._lent) - self._inside

    def _wake_many(self) -> None:
        """Give the places that are free to those that wait."""
        while self._waiting and self._free() > 0:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._inside += 1
                turn.set_result(None)
