"""How well a client sees the pods of a service: by what clock, how lately, and whether without a gap."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from stateful_route.pods import PodState, PodTable

# The share of a lease after which a table is read at the latest: a gap of half a lease is none that was seen.
_SHARE_OF_LEASE = 0.45

# Readings are remembered for so many of the longest lease: each heartbeat that can matter came between two of them.
# Of those that follow each other within this share of the shortest lease only the worst is remembered; and if these are
# too many all the same, of pairs of the older ones.
_REMEMBERED = 1.5
_FINE_SHARE = 0.125
_MOST_READINGS = 512


@attrs.define
class _Readings:
    """One reading, or several in a row.

    Attributes:
        began: when the first of them was asked for, on the clock of this process.
        gap: seconds since the reading before that, or by which the clock of the store went ahead of this one meanwhile.
        inner: the same of the others, at most.
        ahead: how far the clock of the store was ahead of this one, at least.

    """

    began: float
    gap: float
    ahead: float
    inner: float = 0.0

    def join(self, later: _Readings) -> None:
        """Add those that follow."""
        self.inner = max(self.inner, later.gap, later.inner)
        self.ahead = min(self.ahead, later.ahead)


class Freshness:
    """The readings of the pods of a service, as far as they are about time.

    The clock of the store may be set forward or back at any time; that of this process goes on. The leases of the pods
    end by clocks of their own, which go on too: a lease has ended if the clock of this process says so as well.
    """

    def __init__(self) -> None:
        self.now: float | None = None
        """The clock of the store at the last reading."""
        self.read_at = 0.0
        """When that was asked for, on the clock of this process."""
        self.received_at = 0.0
        """When it was answered."""
        self._leases = Counter[float]()
        self._longest_lease = 0.0
        self._next_deadline: float | None = None
        self._readings = deque[_Readings]()
        self._gap = math.inf
        self._ahead = 0.0
        self._seen_for: dict[float, float] = {}
        self._ripe_at: dict[float, float] = {}

    @property
    def shortest_lease(self) -> float | None:
        """The shortest lease of a pod that is not dead, in seconds; ``None`` if there is no such pod."""
        return min(self._leases, default=None)

    @property
    def living(self) -> int:
        """How many pods are not dead."""
        return self._leases.total()

    def unbroken_for(self, lease: float) -> float:
        """For how many seconds, up to the last reading, the table was read without a failure or a gap for that lease.

        If a reading is more than half of a lease later than the one before, a time without the store in between may
        have swallowed heartbeats of a pod that has it. If the clock of the store went ahead of this one by more than
        that, its lease ended before its time.
        """
        known = self._seen_for.get(lease)
        if known is None:
            known = self._seen_for[lease] = self.read_at - self._unbroken_since(lease / 2)
        return known

    def seen_at(self, lease: float) -> float:
        """Return when the table has been read for a whole lease without such a gap, on the clock of this process."""
        return self.read_at + lease - self.unbroken_for(lease)

    def ripe_at(self, lease: float) -> float:
        """Return when a lease that has ended, and had not at the reading before, has ended by this process's clock too.

        The last heartbeat came a lease before ``now`` at the latest, by the clock of the store then. If that has gone
        ahead since, it came later by this clock than it seems: as much as in the readings from which it can be.
        """
        known = self._ripe_at.get(lease)
        if known is not None:
            return known
        ahead = self._ahead
        oldest = self.read_at - _REMEMBERED * lease
        for readings in reversed(self._readings):
            ahead = min(ahead, readings.ahead)
            if readings.began < oldest:
                break
        # Since this reading there was none, or the lease would not have ended.
        ripe_at = self._ripe_at[lease] = min((self.now or 0.0) - ahead, self.received_at + lease)
        return ripe_at

    def store_time(self, at: float) -> float:
        """Return what the clock of the store says at a second of the clock of this process; 0 before the first reading.

        As far as the two run alike since the last reading.
        """
        return 0.0 if self.now is None else self.now + at - self.read_at

    def own_time(self, at: float) -> float:
        """Return the opposite: what this clock said at a second of the clock of the store, or a bit less."""
        return 0.0 if self.now is None else at - self.now + self.read_at

    def begin(self, table: PodTable, read_at: float, received_at: float) -> float | None:
        """Take in a reading; return the seconds since the one before."""
        elapsed = None if self.now is None else read_at - self.read_at
        jumped_by = 0.0 if self.now is None else table.now - self.store_time(read_at)
        self._gap = max(math.inf if elapsed is None else elapsed, jumped_by)
        self._ahead = table.now - received_at
        self._ripe_at.clear()
        self.now, self.read_at, self.received_at = table.now, read_at, received_at
        self._next_deadline = _next_deadline(table)
        return elapsed

    def end(self, longest_gap: float) -> None:
        """Remember the reading, after its pods were counted.

        If none of them is alive, nobody says how often to read: up to ``longest_gap`` seconds are no gap.
        """
        self._seen_for.clear()
        gap, readings = self._gap, self._readings
        shortest = self.shortest_lease
        if shortest is None:
            gap = math.inf if gap > longest_gap else 0.0
        fine = _FINE_SHARE * (shortest or 0.0)
        this = _Readings(self.read_at, gap, self._ahead)
        if readings and self.read_at - readings[-1].began < fine and gap <= fine:
            readings[-1].join(this)
        else:
            readings.append(this)
            if len(readings) > _MOST_READINGS:
                older = [readings.popleft() for _ in range(_MOST_READINGS // 2)]
                for first, second in zip(older[::2], older[1::2], strict=True):
                    first.join(second)
                readings.extendleft(reversed(older[::2]))
        while len(readings) > 1 and readings[1].began < self.read_at - _REMEMBERED * self._longest_lease:
            readings.popleft()

    def broken(self) -> None:
        """Take in that the table could not be read."""
        self._readings.clear()
        self._seen_for.clear()

    def _unbroken_since(self, longest_gap: float) -> float:
        """Return when the first reading after the last gap was made; now if there is none."""
        since = self.read_at
        for readings in reversed(self._readings):
            if readings.inner > longest_gap:
                break
            since = readings.began
            if readings.gap > longest_gap:
                break
        return since

    def count(self, state: PodState, pods: int) -> None:
        """Count one pod with that lease more, or less."""
        if not state.dead:
            lease = state.load_state.ttl
            self._leases[lease] += pods
            self._longest_lease = max(self._longest_lease, lease)
            if not self._leases[lease]:
                del self._leases[lease]

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to read the table at the latest; ``None`` if no pod is alive.

        That is when the next lease ends, if no heartbeat renews it, and before the gap since the last reading is too
        long to see what happens to the pod with the shortest lease.
        """
        lease = self.shortest_lease
        if lease is None:
            return None
        left = _SHARE_OF_LEASE * lease - (now - self.read_at)
        if self._next_deadline is not None:
            left = min(left, self._next_deadline - self.store_time(now))
        return max(0.0, left)

    def heard_at(self, state: PodState, *, overdue: bool) -> float:
        """Return when the last heartbeat of a pod came at the earliest: it may have said nothing new."""
        at = state.load_state.timestamp
        if self._next_deadline is None or overdue or state.dead:
            return at
        return max(at, self._next_deadline - state.load_state.ttl)

    def own_heard_at(self, state: PodState, *, overdue: bool) -> float:
        """Return the same on the clock of this process.

        Of one that came before the clock of the store was set back nothing is known.
        """
        at = self.heard_at(state, overdue=overdue)
        return -math.inf if at > (self.now or 0.0) else self.own_time(at)


def _next_deadline(table: PodTable) -> float | None:
    """Return when the next lease ends, by the clock of the store; ``None`` if none does."""
    if table.next_deadline is not None or not table.whole:
        return table.next_deadline
    ends = (state.load_state.timestamp + state.load_state.ttl for state in table.pods if not state.dead)
    return min((end for end in ends if end > table.now), default=None)
