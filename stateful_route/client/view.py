"""How well a client sees the pods of a service: by what clock, how lately, and whether without a gap."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.models import PodState, PodTable

# The share of a lease after which a table is read at the latest: a gap of half a lease is none that was seen.
_SHARE_OF_LEASE = 0.45


class StoreView:
    """The readings of the pods of a service, as far as they are about time."""

    def __init__(self) -> None:
        """Begin without a reading."""
        self.now: float | None = None
        """The clock of the store at the last reading."""
        self.read_at = 0.0
        """When that was, on the clock of this process."""
        self._leases = Counter[float]()
        self._next_deadline: float | None = None
        self._unbroken_since: float | None = None
        self._elapsed = 0.0
        self._jumped_by = 0.0

    @property
    def shortest_lease(self) -> float | None:
        """The shortest lease of a pod that is not dead, in seconds; ``None`` if there is no such pod."""
        return min(self._leases, default=None)

    @property
    def living(self) -> int:
        """How many pods are not dead."""
        return self._leases.total()

    @property
    def unbroken_for(self) -> float:
        """For how many seconds, up to the last reading, the table was read without a failure or a gap."""
        return 0.0 if self._unbroken_since is None else self.read_at - self._unbroken_since

    def store_time(self, at: float) -> float:
        """Return what the clock of the store says at a second of the clock of this process; 0 before the first reading.

        As far as the two run alike since the last reading.
        """
        return 0.0 if self.now is None else self.now + at - self.read_at

    def begin(self, table: PodTable, read_at: float) -> float | None:
        """Take in a reading; return the seconds since the one before, by the clock of the store."""
        seconds = None if self.now is None else table.now - self.now
        self._elapsed = read_at - self.read_at
        self._jumped_by = 0.0 if seconds is None else seconds - self._elapsed
        self.now, self.read_at = table.now, read_at
        self._next_deadline = _next_deadline(table)
        return seconds

    def end(self, longest_gap: float) -> None:
        """Judge the reading, after its pods were counted.

        If the one before is more than half of the shortest lease ago, or ``longest_gap`` seconds if there is no lease,
        a time without the store in between may have swallowed heartbeats. If the clock of the store went ahead of this
        one by more than that, the leases ended before their time.
        """
        if self.shortest_lease is not None:
            longest_gap = self.shortest_lease / 2
        if self._unbroken_since is None or max(self._elapsed, self._jumped_by) > longest_gap:
            self._unbroken_since = self.read_at

    def broken(self) -> None:
        """Take in that the table could not be read."""
        self._unbroken_since = None

    def count(self, state: PodState, pods: int) -> None:
        """Count one pod with that lease more, or less."""
        if not state.dead:
            lease = state.load_state.ttl
            self._leases[lease] += pods
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


def _next_deadline(table: PodTable) -> float | None:
    """Return when the next lease ends, by the clock of the store; ``None`` if none does."""
    if table.next_deadline is not None or not table.whole:
        return table.next_deadline
    ends = (state.load_state.timestamp + state.load_state.ttl for state in table.pods if not state.dead)
    return min((end for end in ends if end > table.now), default=None)
