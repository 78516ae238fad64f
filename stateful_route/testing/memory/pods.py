"""The pods of one service in memory: what the scripts of the pods do, without a server."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import attrs

from stateful_route._validation import to_seconds
from stateful_route.pods import (
    DIGEST_MODULUS,
    LEASED_PROCESS,
    HeartbeatOutcome,
    PodReport,
    PodState,
    PodTable,
    Registration,
    RoutingState,
    StateObj,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from stateful_route.pods import PodLife

_FIRST_SEQUENCE = 0

# As in the scripts: living pods up to which every change is told, and the turns and the tolerance above.
_FEW, _SHORTEST_TURN, _TOLD_PER_SECOND, _TOLERANCE = 4, 1, 100, 0.02
_MOST_CHANGES = 1000

# As in register.lua: for how long those are awaited that left so lately, one that lives to say so, and to come back.
_SETTLING_MS, _LATELY_MS, _OBJECTS_WITHIN_MS, _REGISTERS_WITHIN_MS = 1500, 60_000, 500, 1500


@attrs.frozen
class Moment:
    """The clock as one operation sees it: ``us`` for what it stamps, ``ms`` for what ends."""

    us: int
    ms: int


@attrs.frozen
class _Pod:
    """A pod as it is kept: its newest life, its last heartbeat, and its report."""

    incarnation: int
    sequence: int
    report: PodReport
    at_ms: int
    lease_ms: int
    version: int
    dead: bool = False
    process: str = ""
    free_ms: int = 0
    """When the leases of all older lives of other processes have ended."""

    @property
    def ends_ms(self) -> float:
        return math.inf if self.dead else self.at_ms + self.lease_ms

    @property
    def said_goodbye(self) -> bool:
        return not self.dead and self.report.routing_state is RoutingState.SHUTDOWN

    def left_ms(self, now: Moment) -> int:
        """Return how long this life, or an older one, may still believe to be alive."""
        if self.dead or self.said_goodbye:
            return 0
        return max(0, max(self.at_ms + self.lease_ms, self.free_ms) - now.ms)

    def state(self, pod_index: int) -> PodState:
        load_state = StateObj(self.report.load, to_seconds(self.at_ms), to_seconds(self.lease_ms))
        return PodState(
            pod_index=pod_index,
            incarnation=self.incarnation,
            report=self.report,
            load_state=load_state,
            dead=self.dead,
            version=self.version,
        )


def _name(process: str) -> str:
    return process.rpartition(":")[2]


def _born(pod: _Pod) -> int:
    """Return the first incarnation of the process of a pod, as far as it knew it."""
    born, colon, _ = pod.process.rpartition(":")
    return int(born) if colon else pod.incarnation


def _without_numbers(report: PodReport) -> PodReport:
    return attrs.evolve(report, load=0, links=0, placed_total=0)


def _only_numbers(report: PodReport) -> PodReport:
    return PodReport(load=report.load, links=report.links, placed_total=report.placed_total)


class MemoryPods:
    """The pods of one service. An entry that is ``None`` cannot be read."""

    def __init__(self) -> None:
        self._pods: dict[int, _Pod | None] = {}
        self._version = 0
        self._digest = 0
        self._pruned_ms = -math.inf
        self._silent_ms = self._began_ms = 0
        self.born = self._held_ms = self._settling_ms = self._awaited = 0

    @property
    def version(self) -> int:
        """The newest version."""
        return self._version

    def rise_to(self, epoch: int) -> None:
        """Let the next version be above an epoch."""
        self._version = max(self._version, epoch)

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._pods)

    def poison(self, pod_index: int) -> None:
        """Make the entry of the pod unreadable."""
        self._pods[pod_index] = None

    def mark_dead(self, pod_index: int, now: Moment) -> None:
        """Confirm the death of the newest life of the pod.

        Raises:
            KeyError: if there is no readable entry of the pod.

        """
        known = self._pods.get(pod_index)
        if known is None:
            raise KeyError(pod_index)
        self._change(pod_index, attrs.evolve(known, dead=True), now)

    def register(
        self,
        pod_index: int | None,
        report: PodReport,
        lease_ms: int,
        retention_ms: int,
        now: Moment,
        *,
        process: str = "",
        expected: int | None = None,
        above: int = 0,
        can_wait: bool = False,
        listened_to: bool = False,
    ) -> Registration:
        """Begin a life of a pod, if the one before is the expected one; drop the pods that were silent for long.

        Without an index it is the pod with the lowest one that is free. ``listened_to`` is whether a pod listens.
        """
        late, leases = False, pod_index is None
        if pod_index is None:
            pod_index, late = self._leased_index(process, now)
        known = self._pods.get(pod_index)
        own = known is not None and bool(process) and _name(known.process) == _name(process)
        born = 0 if known is None else _born(known)
        if late or expected not in {None, 0 if known is None else known.incarnation}:
            before = known.incarnation if known else None
            return Registration(0, before, 0.0, own=own, refused=True, previous_born=born, pod_index=pod_index)
        if wait_ms := self._wait_ms(
            process, lease_ms, now, seeks_index=leases and not own, can_wait=can_wait, listened_to=listened_to
        ):
            before, wait = known.incarnation if known else None, to_seconds(wait_ms)
            return Registration(0, before, 0.0, refused=True, previous_born=born, pod_index=pod_index, wait=wait)
        self._leave_future(pod_index, now)
        self._prune(pod_index, retention_ms, now)
        heard_ms = self._heard_ms()
        if now.ms - heard_ms > lease_ms / 2:
            self._silent_ms, self._began_ms = now.ms, heard_ms
        known = self._pods.get(pod_index)
        self._await_others(pod_index, now, own=own)
        incarnation = max(now.us, above + 1, 0 if known is None else known.incarnation + 1)
        free_ms = 0
        if known is not None:
            free_ms = known.free_ms
            if not own:
                free_ms = max(free_ms, now.ms + known.left_ms(now))
        began = _Pod(incarnation, _FIRST_SEQUENCE, report, now.ms, lease_ms, 0, process=process, free_ms=free_ms)
        self._change(pod_index, began, now)
        left = to_seconds(max(0, free_ms - now.ms))
        before = known.incarnation if known else None
        return Registration(incarnation, before, left, own=own, previous_born=born, pod_index=pod_index)

    def _wait_ms(
        self, process: str, lease_ms: int, now: Moment, *, seeks_index: bool, can_wait: bool, listened_to: bool
    ) -> int:
        """Hold placements back if others may live that are not known; return for how long they may register first."""
        first, knows_first, _ = process.rpartition(":")
        if knows_first:
            born = self.born or now.us
            if int(first) < born:
                self._held_ms = max(self._held_ms, born // 1000 + lease_ms)
        elif not self.born and listened_to:
            if can_wait:
                return min(lease_ms // 12, _OBJECTS_WITHIN_MS)
            self._held_ms = now.ms + lease_ms
        elif seeks_index and can_wait and self._held_ms > now.ms:
            return max(0, self.born // 1000 + min(lease_ms // 4, _REGISTERS_WITHIN_MS) - now.ms)
        return 0

    def beat(
        self, pod_index: int | None, incarnation: int, sequence: int, report: PodReport, lease_ms: int, now: Moment
    ) -> tuple[HeartbeatOutcome, bool]:
        """Accept or refuse a heartbeat; return which, and whether the pod changed its routing state or its draining."""
        known = None if pod_index is None else self._pods.get(pod_index)
        if pod_index is None or known is None or known.incarnation < incarnation:
            return HeartbeatOutcome.UNKNOWN, False
        if known.incarnation > incarnation:
            return HeartbeatOutcome.SUPERSEDED, False
        if known.dead:
            return HeartbeatOutcome.DEAD, False
        if sequence < known.sequence:
            return HeartbeatOutcome.OUTDATED, False
        known = self._leave_future(pod_index, now) or known
        heard = attrs.evolve(known, sequence=sequence, at_ms=now.ms)
        half, heard_ms = known.lease_ms / 2, self._heard_ms()
        after_silence = now.ms - known.at_ms > half and now.ms - heard_ms > half
        if after_silence:
            self._silent_ms, self._began_ms = now.ms, heard_ms
        if after_silence or known.lease_ms != lease_ms or self._is_worth_telling(known, report, now):
            self._change(pod_index, attrs.evolve(heard, report=report, lease_ms=lease_ms), now)
        else:
            self._pods[pod_index] = heard
        before = known.report
        told = before.routing_state is not report.routing_state or before.draining is not report.draining
        return HeartbeatOutcome.ACCEPTED, told

    def confirm_death(self, life: PodLife, now: Moment) -> tuple[bool, bool]:
        """Return whether that life is dead, and whether that is new."""
        known = self._pods.get(life.pod_index)
        if known is None and life.pod_index in self._pods:
            return False, False
        if known is not None and known.dead and known.incarnation >= life.incarnation:
            return True, False
        if known is not None and known.incarnation == life.incarnation:
            known = self._leave_future(life.pod_index, now) or known
        if known is not None and not known.dead and (known.incarnation != life.incarnation or known.left_ms(now)):
            return False, False
        if known is not None and self._may_be_heard_yet(known, now):
            return False, False
        if known is None:
            known = _Pod(life.incarnation, _FIRST_SEQUENCE, PodReport(), now.ms, 1, 0)
        if known.incarnation != life.incarnation:  # of a life that is not known nothing was said
            known = attrs.evolve(known, report=_only_numbers(known.report))
        dead = attrs.evolve(known, incarnation=life.incarnation, dead=True)
        self._change(life.pod_index, dead, now)
        return True, True

    def end_life(self, life: PodLife, now: Moment) -> tuple[bool, bool]:
        """Return whether that life has ended, whatever is left of its lease, and whether that is new."""
        known = self._pods.get(life.pod_index)
        if known is None and life.pod_index in self._pods:
            return False, False
        if known is None or known.incarnation != life.incarnation or known.dead or known.said_goodbye:
            return True, False
        known = self._leave_future(life.pod_index, now) or known
        if known.free_ms > now.ms:
            return False, False
        self._change(life.pod_index, attrs.evolve(known, dead=True), now)
        return True, True

    def read(self, since: int | None, also: Collection[int], now: Moment) -> PodTable:
        """Return the pods that changed after that version, and those; or all of them."""
        told = since is not None
        known = {pod_index: pod for pod_index, pod in sorted(self._pods.items()) if pod is not None}
        changed = {pod_index for pod_index, pod in known.items() if since is not None and pod.version > since}
        whole = since is not None and (not 0 < since <= self._version or len(changed) > _MOST_CHANGES)
        wanted = self._pods.keys() if whole else changed | (self._pods.keys() & set(also))
        ends = {pod_index: pod.ends_ms for pod_index, pod in known.items()}
        later = [end for end in ends.values() if now.ms < end < math.inf]
        return PodTable(
            to_seconds(now.ms),
            tuple(pod.state(pod_index) for pod_index, pod in known.items() if pod_index in wanted),
            len(wanted - known.keys()),
            version=self._version if told else 0,
            digest=self._digest if told else 0,
            whole=whole,
            overdue=tuple(pod_index for pod_index, end in ends.items() if end <= now.ms),
            next_deadline=to_seconds(int(min(later))) if later else None,
            born=self.born if told else 0,
            held_until=to_seconds(self._held_ms) if told else 0.0,
            settling_until=to_seconds(self._settling_ms) if told else 0.0,
            living=0 if told else sum(end < math.inf for end in ends.values()),
        )

    def _await_others(self, pod_index: int, now: Moment, *, own: bool) -> None:
        """Await those that left lately if no pod lives: all restart together."""
        if self._settling_ms > now.ms:
            self._awaited -= not own
        else:
            others = [pod for index, pod in self._pods.items() if pod is not None and index != pod_index]
            lives = any(
                pod is not None and not pod.said_goodbye and now.ms < pod.ends_ms < math.inf
                for pod in self._pods.values()
            )
            self._awaited = 0 if lives else sum(pod.at_ms + _LATELY_MS > now.ms for pod in others)
            self._settling_ms = now.ms + _SETTLING_MS
        if self._awaited <= 0:
            self._settling_ms = 0

    def _leased_index(self, process: str, now: Moment) -> tuple[int, bool]:
        """Return the index that this process was given, and whether it said goodbye; or the lowest that is free."""
        for pod_index, pod in self._pods.items():
            if pod is not None and process and _name(pod.process) == _name(process):
                return pod_index, pod.said_goodbye
        return next(pod_index for pod_index in itertools.count() if self._is_free(pod_index, now)), False

    def _is_free(self, pod_index: int, now: Moment) -> bool:
        if pod_index not in self._pods:
            return True
        pod = self._pods[pod_index]
        if pod is None or not _name(pod.process).startswith(LEASED_PROCESS):
            return False
        return (pod.dead or pod.said_goodbye) and pod.free_ms <= now.ms

    def _change(self, pod_index: int, pod: _Pod, now: Moment) -> None:
        """Write an entry with the next version of the table."""
        before = self._pods.get(pod_index)
        self.born = self.born or now.us
        self._version = max(self._version + 1, now.us)
        self._digest = (self._digest - (before.version if before else 0) + self._version) % DIGEST_MODULUS
        self._pods[pod_index] = attrs.evolve(pod, version=self._version)

    def _may_be_heard_yet(self, known: _Pod, now: Moment) -> bool:
        """Whether the pods were not heard because the store took no heartbeats; ``confirm.lua`` says more."""
        if known.dead or known.report.routing_state is RoutingState.SHUTDOWN:
            return False
        half, heard_ms = known.lease_ms / 2, self._heard_ms()
        if now.ms - heard_ms > half and self._silent_ms <= heard_ms:
            self._silent_ms, self._began_ms = now.ms, heard_ms
        excused = self._began_ms < known.at_ms + known.lease_ms + half
        return excused and self._silent_ms <= now.ms < self._silent_ms + half

    def _leave_future(self, pod_index: int, now: Moment) -> _Pod | None:
        """Make entries from the future as old as now if that of the pod is one; return it. ``pod.lua`` says why."""
        known = self._pods.get(pod_index)
        if known is None or known.at_ms <= now.ms:
            return known
        for index, pod in self._pods.items():
            if pod is not None and pod.at_ms > now.ms:
                free_ms = max(0, pod.free_ms - (pod.at_ms - now.ms))
                self._pods[index] = attrs.evolve(pod, at_ms=now.ms, free_ms=free_ms)
        self._pruned_ms = min(self._pruned_ms, now.ms)
        self._silent_ms, self._began_ms = min(self._silent_ms, now.ms), min(self._began_ms, now.ms)
        self._held_ms, self._settling_ms = min(self._held_ms, now.ms), min(self._settling_ms, now.ms)
        return self._pods[pod_index]

    def _heard_ms(self) -> int:
        """Return when a pod was heard last, or nearly."""
        living = [pod for pod in self._pods.values() if pod is not None and not pod.dead]
        return max(living, key=lambda pod: pod.ends_ms).at_ms if living else 0

    def _prune(self, registering: int, retention_ms: int, now: Moment) -> None:
        if self._pruned_ms + retention_ms / 100 >= now.ms:
            return
        self._pruned_ms = now.ms
        for pod_index, pod in tuple(self._pods.items()):
            if pod is None or pod_index == registering:
                continue
            if pod.at_ms + max(retention_ms, 2 * pod.lease_ms) < now.ms:
                del self._pods[pod_index]
                self._digest = (self._digest - pod.version) % DIGEST_MODULUS

    def _is_worth_telling(self, known: _Pod, report: PodReport, now: Moment) -> bool:
        """Whether a report differs enough from the last one that clients got; ``pod.lua`` says when."""
        told = known.report
        if _without_numbers(told) != _without_numbers(report):
            return True
        if told == report:
            return False
        living = sum(pod is not None and not pod.dead for pod in self._pods.values())
        turn = max(_SHORTEST_TURN, living / _TOLD_PER_SECOND)
        turns = (now.us - known.version) / 1_000_000 / turn
        if living <= _FEW or turns >= 2 + now.us % 1000 / 500:
            return True
        if turns < 0.25:
            return turns < 0 and now.us % 1000 < 333 / turn
        room = math.inf if report.max_links is None else max(1, report.max_links - max(report.links, told.links))
        drift = max(
            abs(report.load - told.load) / max(1, report.load, told.load),
            abs(report.links - told.links) / min(max(1, report.links, told.links), room),
        )
        return drift * turns >= _TOLERANCE
