"""Counts what a pod does, and tells the hook of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from stateful_route.instrumentation import Drained, HandedOff

if TYPE_CHECKING:
    from stateful_route.instrumentation import Teller
    from stateful_route.models import DrainCounts
    from stateful_route.server.life.lease import PodLease


@attrs.frozen(kw_only=True)
class PodIdentity:
    """Which pod it is that has some numbers.

    Attributes:
        service: its service.
        namespace: that of the service.
        pod_index: the ordinal that it has now.
        pod_name: the name of its process.
        version: what revision of the application it runs; ``None`` if it has not published that.

    """

    service: str
    namespace: str
    pod_index: int
    pod_name: str
    version: str | None


@attrs.frozen
class ServerStatistics:
    """How a pod is, and what it has done since its driver was made.

    Attributes:
        links: uids that it owns now.
        load: that its next heartbeat publishes; in another thread than that of the event
            loop, what was read last.
        placed: uids that it took on, in its present life.
        lives: lives that it has begun: one, unless Redis lost the pod, or it was taken for dead.
        heartbeats: that were accepted, registrations left out.
        heartbeat_failures: that were not.
        heartbeat_seconds: how long the last answer took; 0.0 before the first.
        heartbeat_age: seconds since the last heartbeat, or the registration, was sent that was accepted; ``None``
            before the start. Above the lease nothing is owned.
        hand_offs: calls of ``hand_off`` that have ended.
        hand_off_failures: those that raised.
        moved: uids that went to another pod with their state.
        states_lost: uids that the pod gave up, or leaves behind at its end, without their state: no pod took it, it was
            too large, or the hand-off failed or was cut off.
        adopted: states that came from other pods, and were adopted.
        drains: that have ended.
        pod: which pod it is; ``None`` while it does not run, or has no index.

    """

    links: int
    load: int
    placed: int
    lives: int
    heartbeats: int
    heartbeat_failures: int
    heartbeat_seconds: float
    heartbeat_age: float | None
    hand_offs: int
    hand_off_failures: int
    moved: int
    states_lost: int
    adopted: int
    drains: int
    pod: PodIdentity | None = None


class Tally:
    """What happens in one pod: numbers for ``statistics()``, and events for ``instrumentation=``."""

    def __init__(self, lease: PodLease, teller: Teller | None = None) -> None:
        """Have counted nothing."""
        self._lease = lease
        self._teller = teller
        self._beaten_at: float | None = None
        self.lives = 0
        self.heartbeats = 0
        self.heartbeat_failures = 0
        self.heartbeat_seconds = 0.0
        self.hand_offs = 0
        self.hand_off_failures = 0
        self.moved = 0
        self.states_lost = 0
        self.drains = 0

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
