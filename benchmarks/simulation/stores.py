"""What the clients are told of the pods: everything, or what is worth telling by the rule of the scripts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from stateful_route import PodState
from stateful_route.store import PodTable, StateObj
from stateful_route.testing.memory.pods import MemoryPods, Moment

if TYPE_CHECKING:
    from stateful_route.store import PodReport

_RETENTION_MS = 86_400_000


class Store(Protocol):
    """The pods as the store knows them. Times are in seconds of the simulation, above 0."""

    def begin(self, pod_index: int, report: PodReport, now: float) -> None:
        """Begin a life of a pod."""
        ...

    def beat(self, pod_index: int, report: PodReport, now: float) -> None:
        """Take in a heartbeat of the present life of a pod."""
        ...

    def read(self, version: int, now: float) -> PodTable:
        """Return the pods, or what has changed in them since that version."""
        ...


class AllTold:
    """Tells the last heartbeat of each pod at each reading."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._lives: dict[int, int] = {}
        self._states: dict[int, PodState] = {}

    def begin(self, pod_index: int, report: PodReport, now: float) -> None:
        self._lives[pod_index] = self._lives.get(pod_index, 0) + 1
        self.beat(pod_index, report, now)

    def beat(self, pod_index: int, report: PodReport, now: float) -> None:
        self._states[pod_index] = PodState(
            pod_index=pod_index,
            incarnation=self._lives[pod_index] * 10_000 + pod_index,
            report=report,
            load_state=StateObj(report.load, now, self._lease),
        )

    def read(self, version: int, now: float) -> PodTable:
        del version
        return PodTable(now, tuple(self._states.values()))


class ByRule:
    """Tells what has changed enough since it was told last, as the scripts do."""

    def __init__(self, lease: float) -> None:
        self._lease_ms = round(1000 * lease)
        self._pods = MemoryPods()
        self._lives: dict[int, int] = {}
        self._sequence = itertools.count(1)

    def begin(self, pod_index: int, report: PodReport, now: float) -> None:
        began = self._pods.register(pod_index, report, self._lease_ms, _RETENTION_MS, _moment(now))
        self._lives[pod_index] = began.incarnation

    def beat(self, pod_index: int, report: PodReport, now: float) -> None:
        life, sequence = self._lives[pod_index], next(self._sequence)
        self._pods.beat(pod_index, life, sequence, report, self._lease_ms, _moment(now))

    def read(self, version: int, now: float) -> PodTable:
        return self._pods.read(version, (), _moment(now))


def _moment(now: float) -> Moment:
    us = round(now * 1_000_000)
    return Moment(us, us // 1000)
