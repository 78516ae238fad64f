"""The pods that may get new uids, and what this client and all others have placed on them of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.client.placement.candidates import Candidates
from stateful_route.client.placement.expected_load import PlacementRates

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stateful_route.client.pods.pod import Pod
    from stateful_route.pods import PodReport, PodState

# What the others have placed on one pod is at most so many times its share of what is placed in the time to settle, and
# in so many seconds until it is read.
_BURST_SHARE, _UNREAD = 2, 1.0


class Placements:
    """The pods that are alive and READY, and the account of what was placed on them.

    A change of one pod costs the same, however many there are.
    """

    def __init__(self, settle: float) -> None:
        """Begin with no pods. A published load shows a placement ``settle`` seconds after it was made."""
        self.weight_of_own = 1.0
        """The load that all clients have added for each uid that this one placed and no load shows yet."""
        self.placing = 0
        """How many uids are being placed: the store was asked for them, and has not answered."""
        self.routable: Candidates[Pod] = Candidates()
        """Those that may get new uids: all, or those that nobody failed to reach if there are any."""
        self._reports: dict[int, PodReport] = {}
        self._pods: dict[int, Pod] = {}
        self._load = 0
        self._links = 0
        self._limits = 0
        """How many of the pods have a limit."""
        self._changed = False
        self._open: Candidates[Pod] | None = None
        self._listed: set[Pod] = set()
        self._settle = settle
        self._rates = PlacementRates()
        self._placed_on: set[Pod] = set()
        self._placed_here = self._placed_by_all = 0
        """How many uids this client placed since the last reading, and all clients between the last two."""

    @property
    def candidates(self) -> Candidates[Pod]:
        """The pods among which a strategy chooses: routable, and not full."""
        if not self._limits:
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

    def placed(self, pod: Pod, at: float, count: int = 1) -> None:
        """Note that this client placed so many uids on a pod, at that time of its own clock.

        A pod that was never read has no load to which it could be added.
        """
        if pod.state is not None:
            pod.own.add(at, count)
            pod.weigh()
            self._placed_on.add(pod)
            self._placed_here += count

    def placed_by_others(self, own: int) -> int:
        """Return how many uids the other clients have placed on a pod, while this one placed so many, at a guess.

        As many as the rates say, but no more than some times what a pod gets in some seconds: how many others there are
        a client that places seldom cannot tell, and must not hold all pods for full.
        """
        most = _BURST_SHARE * self._rates.peak * (self._settle + _UNREAD) / (len(self.routable) or 1)
        return round(min(own * (self._rates.scale_with(self._placed_here) - 1), most))

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

    def heard(self, pod: Pod, before: PodState | None, heard_at: float) -> None:
        """Take in that a pod was read, which had said ``before``, with a heartbeat at ``heard_at`` by this clock."""
        if before is not None and pod.state is not None:  # nothing is known of one that was not read before
            counted = before.report.placed_total if before.incarnation == pod.state.incarnation else 0
            self._placed_by_all += max(0, pod.state.report.placed_total - counted)
        pod.own.published(heard_at, self._settle)
        pod.weigh()

    def read(self, seconds: float | None, heard_at: Callable[[Pod, PodState], float]) -> None:
        """Take in the end of a reading, ``seconds`` after the one before, and forget what heartbeats show by now."""
        for pod in tuple(self._placed_on):
            if pod.state is not None:
                pod.own.published(heard_at(pod, pod.state), self._settle)
                pod.weigh()
            if not pod.own.count:
                self._placed_on.discard(pod)
        if seconds is not None:
            self._rates.observe(self._placed_by_all, self._placed_here, seconds)
        self._placed_here = self._placed_by_all = 0
        # The published load for each published link, if there are any, is what one uid weighs.
        mean = self._load / self._links if self._load and self._links else 1.0
        weight = mean * self._rates.scale
        if weight != self.weight_of_own:
            self.weight_of_own = weight
            for pod in self._placed_on:  # one on which a placement is in flight is weighed when that is answered
                pod.weigh()

    def _count(self, report: PodReport, sign: int) -> None:
        self._load += sign * report.load
        self._links += sign * report.links
        self._limits += sign * (report.max_links is not None)
