"""The pods that may get new uids, with what a placement needs to know of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.client.placement.candidates import Candidates

if TYPE_CHECKING:
    from collections.abc import Collection

    from stateful_route.client.pods.pod import Pod
    from stateful_route.models import PodReport


class ReadyPods:
    """The pods that are alive and READY. A change of one costs the same, however many there are."""

    def __init__(self) -> None:
        """Begin with none."""
        self.routable: Candidates[Pod] = Candidates()
        """Those that may get new uids: all, or those that nobody failed to reach if there are any."""
        self._reports: dict[int, PodReport] = {}
        self._pods: dict[int, Pod] = {}
        self._load = 0
        self._links = 0
        self.limits = 0
        """How many of the pods have a limit."""
        self._changed = False
        self._open: Candidates[Pod] | None = None
        self._listed: set[Pod] = set()

    @property
    def mean_weight(self) -> float:
        """The published load for each published link; 1 if there is none of either."""
        return self._load / self._links if self._load and self._links else 1.0

    @property
    def candidates(self) -> Candidates[Pod]:
        """The pods among which a strategy chooses: routable, and not full."""
        if not self.limits:
            return self.routable
        if self._open is None:
            self._open = Candidates([pod for pod in self.routable if not pod.full])
            self._listed = set(self._open)
        return self._open

    def has_room(self, uids: int) -> bool:
        """Whether the candidates have room for so many, at least one."""
        for pod in self.candidates:
            if pod.max_links is None:
                return True
            uids -= pod.max_links - pod.links
            if uids <= 0:
                return True
        return False

    def note(self, pod: Pod, report: PodReport | None) -> None:
        """Take in that a pod is ready and reports this, or that it is not ready."""
        before = self._reports.pop(pod.pod_index, None)
        if before is not None:
            self._count(before, -1)
        if report is not None:
            self._reports[pod.pod_index] = report
            self._count(report, 1)
            self._pods[pod.pod_index] = pod
        elif before is not None:
            del self._pods[pod.pod_index]
        self._changed |= (before is None) is not (report is None)

    def note_own(self, pod: Pod) -> None:
        """Take in that the own placements on a pod are others, and so may be whether it is full."""
        if self._open is None or (pod in self._listed) is not pod.full:
            return
        if pod.full:
            self._open.remove(pod)
            self._open.renew()
            self._listed.remove(pod)
        else:
            self._open = None

    def list_again(self, reported: Collection[Pod], *, others: bool = False) -> None:
        """List the routable pods after a change; ``others`` says that other ones were reported unreachable."""
        self._open = None
        self.routable.renew()
        if self._changed or others:
            self._changed = False
            pods = [self._pods[pod_index] for pod_index in sorted(self._pods)]
            self.routable = Candidates([pod for pod in pods if pod not in reported] or pods)

    def _count(self, report: PodReport, sign: int) -> None:
        self._load += sign * report.load
        self._links += sign * report.links
        self.limits += sign * (report.max_links is not None)
