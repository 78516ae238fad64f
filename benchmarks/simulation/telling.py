"""What telling loads by a rule costs in balance, and saves in entries: ``python -m benchmarks.simulation.telling``.

The pods of a large service beat each second, clients read what has changed each second and place by it; once by the
rule of the scripts, once with every change told. Time is simulated. A tenth of the pods restarts in the middle.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from random import Random

import attrs

from stateful_route.client.pods.service import ServicePods
from stateful_route.placement import BestOfRandom
from stateful_route.store import PodReport
from stateful_route.testing.memory.pods import MemoryPods, Moment

_BEGIN = 1_800_000_000.0
_LEASE_MS, _RETENTION_MS = 5000, 86_400_000
_SETTLE = 1.0
_STEPS = 10
"""Steps in a second; a tenth of the pods, and of the clients, has its turn in each."""


@attrs.frozen
class Figures:
    """What came of it.

    Attributes:
        fullest: links of the fullest pod over the mean, the 99th percentile over the seconds before the restart.
        after: the same, from ten seconds after the restart on.
        entries: that a client read a second, on average.
        most: that a client read in one second, but for the first.

    """

    fullest: float
    after: float
    entries: float
    most: int


class _Told(MemoryPods):
    """Tells every change."""

    def _is_worth_telling(self, known: object, report: PodReport, now: Moment) -> bool:
        del known, report, now
        return True


class _Run:
    def __init__(self, pods: MemoryPods, count: int, links: int, clients: int, life: float) -> None:
        self._random = Random(1)
        self._store = pods
        self._links = [0] * count
        self._placed = [0] * count
        self._lives = [0] * count
        self._tables = [ServicePods("simulation", "room", _SETTLE) for _ in range(clients)]
        self._strategy = BestOfRandom(3)
        self._ends: list[tuple[float, int, int]] = []
        self._rate = count * links / life
        self._life = life
        self._now = _BEGIN
        self._sequence = itertools.count(1)
        self.read = 0
        for pod_index in range(count):
            self._begin(pod_index)
        for pod_index in range(count):
            for _ in range(self._about(links)):
                self._link(pod_index)

    @property
    def unbalance(self) -> float:
        return max(self._links) * len(self._links) / sum(self._links)

    def second(self) -> None:
        """Let a second pass."""
        for step in range(_STEPS):
            self._now += 1 / _STEPS
            now = self._moment()
            while self._ends and self._ends[0][0] <= self._now:
                _, pod_index, incarnation = heapq.heappop(self._ends)
                self._links[pod_index] -= self._lives[pod_index] == incarnation
            for pod_index in range(step, len(self._links), _STEPS):
                self._beat(pod_index, now)
            for table in self._tables[step::_STEPS]:
                self._read(table, now)
            for _ in range(self._about(self._rate / _STEPS)):
                self._place()

    def restart(self, share: float) -> None:
        """Restart some pods, and let their users come back to the service at once."""
        lost = 0
        for pod_index in range(int(share * len(self._links))):
            lost += self._links[pod_index]
            self._begin(pod_index)
        for table in self._tables:
            self._read(table, self._moment())
        for _ in range(lost):
            self._place()

    def _moment(self) -> Moment:
        us = round(self._now * 1_000_000)
        return Moment(us, us // 1000)

    def _about(self, mean: float) -> int:
        return max(0, round(self._random.gauss(mean, mean**0.5)))

    def _begin(self, pod_index: int) -> None:
        self._links[pod_index] = self._placed[pod_index] = 0
        began = self._store.register(pod_index, PodReport(), _LEASE_MS, _RETENTION_MS, self._moment())
        self._lives[pod_index] = began.incarnation

    def _link(self, pod_index: int) -> None:
        self._links[pod_index] += 1
        self._placed[pod_index] += 1
        end = self._now + self._random.expovariate(1 / self._life)
        heapq.heappush(self._ends, (end, pod_index, self._lives[pod_index]))

    def _beat(self, pod_index: int, now: Moment) -> None:
        links = self._links[pod_index]
        report = PodReport(load=links, links=links, placed_total=self._placed[pod_index])
        self._store.beat(pod_index, self._lives[pod_index], next(self._sequence), report, _LEASE_MS, now)

    def _read(self, table: ServicePods, now: Moment) -> None:
        changes = self._store.read(table.version, (), now)
        self.read += len(changes.pods)
        table.apply(changes, self._now)

    def _place(self) -> None:
        table = self._random.choice(self._tables)
        if table.loaded:
            pod = self._strategy(table.placements.candidates, self._random)
            table.placements.placed(pod, self._now)
            self._link(pod.pod_index)


def simulate(pods: MemoryPods, *, count: int, links: int, clients: int, life: float, seconds: int) -> Figures:
    """Return the figures of one run."""
    run = _Run(pods, count, links, clients, life)
    for _ in range(seconds // 3):
        run.second()
    before = _watch(run, clients, seconds)
    run.restart(0.1)
    after = _watch(run, clients, seconds)
    entries = [entries for _, entries in before]
    return Figures(
        fullest=_percentile([fullest for fullest, _ in before]),
        after=_percentile([fullest for fullest, _ in after[10:]]),
        entries=sum(entries) / len(entries),
        most=round(max(entries for _, entries in [*before, *after])),
    )


def _watch(run: _Run, clients: int, seconds: int) -> list[tuple[float, float]]:
    watched = []
    for _ in range(seconds):
        run.read = 0
        run.second()
        watched.append((run.unbalance, run.read / clients))
    return watched


def _percentile(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def main() -> None:
    """Simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--links", type=int, default=300, help="of a pod")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--life", type=float, default=600.0, help="of a link, in seconds")
    parser.add_argument("--seconds", type=int, default=90)
    options = vars(parser.parse_args())
    count = options.pop("pods")
    for name, pods in (("by the rule", MemoryPods()), ("all told", _Told())):
        figures = simulate(pods, count=count, **options)
        print(
            f"{name:12} fullest/mean {figures.fullest:.3f}, after a restart {figures.after:.3f}; "
            f"entries a second {figures.entries:.0f}, at most {figures.most}"
        )


if __name__ == "__main__":
    main()
