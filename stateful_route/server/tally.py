"""Counts what a pod does, and tells the hook of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.instrumentation import Drained, HandedOff
from stateful_route.statistics import ServerCounts

if TYPE_CHECKING:
    from stateful_route.instrumentation import Teller
    from stateful_route.pods import DrainCounts
    from stateful_route.server.life.lease import PodLease


class Tally(ServerCounts):
    """What happens in one pod: numbers for ``statistics()``, and events for ``instrumentation=``."""

    def __init__(self, lease: PodLease, teller: Teller | None = None) -> None:
        super().__init__()
        self._lease = lease
        self._teller = teller
        self._beaten_at: float | None = None

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the last heartbeat, or registration, was sent that was accepted."""
        return None if self._beaten_at is None else self._lease.clock() - self._beaten_at

    def registered(self, sent: float) -> None:
        """Count a life whose registration was sent then: its first heartbeat."""
        self.lives += 1
        self._beaten_at = sent

    def beaten(self, sent: float) -> None:
        """Count a heartbeat that was sent then, and is accepted now."""
        self.heartbeats += 1
        self.heartbeat_seconds = self._lease.clock() - sent
        self._beaten_at = sent

    def handed_off(self, uid: str, began: float, error: BaseException | None) -> None:
        """Count a hand-off that began then, and has ended."""
        self.hand_offs += 1
        self.hand_off_failures += error is not None
        if self._teller is not None:
            seconds = self._lease.clock() - began
            self._teller.handed_off(
                HandedOff(
                    namespace=self._lease.server.namespace,
                    service_name=self._lease.server.service_name,
                    uid=uid,
                    seconds=seconds,
                    error=error,
                )
            )

    def drained(self, handed_over: int, counts: DrainCounts, seconds: float) -> None:
        """Count a drain that has ended."""
        self.drains += 1
        if self._teller is not None:
            server = self._lease.server
            self._teller.drained(
                Drained(
                    namespace=server.namespace,
                    service_name=server.service_name,
                    pod_index=server.pod_index,
                    handed_over=handed_over,
                    left=counts.left,
                    moved=counts.moved,
                    states_lost=counts.lost,
                    seconds=seconds,
                )
            )
