"""Bounds how many new uids a second a process places, for all of its clients and for each address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateful_route._validation import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds' worth of new uids that may come at once: all clients connect again after a restart.
_BURST = 10.0
# Addresses that are remembered; the one that was bounded first is forgotten first.
_MOST_ADDRESSES = 4096


class Bucket:
    """Lets so many pass a second, and more at once after a pause: a token bucket."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = max(1.0, rate * _BURST)
        self._at = now

    def has(self, now: float) -> bool:
        """Whether one more may pass."""
        self._tokens = min(max(1.0, self._rate * _BURST), self._tokens + (now - self._at) * self._rate)
        self._at = now
        return self._tokens >= 1.0

    def take(self) -> None:
        """Note that one has passed: those that were under way together may be more than there was room for."""
        self._tokens -= 1.0


class NewUids:
    """Counts the uids that are placed, and tells when there are too many."""

    def __init__(self, rate: float | None, rate_of_address: float | None, clock: Callable[[], float]) -> None:
        """Have counted none; ``None`` is no bound."""
        for name, value in (("new_uids", rate), ("new_uids_per_address", rate_of_address)):
            if value is not None:
                check_seconds(name, value)
        self._clock = clock
        self._all = None if rate is None else Bucket(rate, clock())
        self._rate_of_address = rate_of_address
        self._by_address: dict[str, Bucket] = {}

    def has_room(self, scope: Any) -> bool:
        """Whether one more may be placed for the client of a request; ``None`` is nobody in particular."""
        now = self._clock()
        return all(bucket.has(now) for bucket in self._buckets(scope, now))

    def note(self, scope: Any) -> None:
        """Count one that was placed."""
        for bucket in self._buckets(scope, self._clock()):
            bucket.take()

    def _buckets(self, scope: Any, now: float) -> list[Bucket]:
        buckets = [] if self._all is None else [self._all]
        address = (scope.get("client") or (None,))[0] if scope and self._rate_of_address is not None else None
        if address is not None and self._rate_of_address is not None:
            bucket = self._by_address.get(address)
            if bucket is None:
                if len(self._by_address) == _MOST_ADDRESSES:
                    del self._by_address[next(iter(self._by_address))]
                bucket = self._by_address[address] = Bucket(self._rate_of_address, now)
            buckets.append(bucket)
        return buckets
