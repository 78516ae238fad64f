"""What has happened in a service, in the order in which it was seen: a bounded list. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from stateful_route.ops.values import ChangeKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateful_route.ops.values import Change, PodSeen

KEPT = 200
"""So many events of pods are kept, and as many of links: a million links that move push no death out."""
LINKS_TOLD = 20
"""So many links are told of one by one between two looks; of more, only how many."""
PODS_TOLD = 10
"""The same of pods to which the same has happened."""

DRAINING = "DRAINING"
"""The state of a pod that takes no new uids and gives up all that it has."""
_UNREAD = "unread"
"""In place of the kind of a link that could not be read."""
_OVER = frozenset({"SHUTDOWN", "DEAD"})
_KINDS = {
    "READY": "ready",
    "DENY_NEW_CALL": "denies",
    DRAINING: "drains",
    "SHUTDOWN": "left",
    "DEAD": "dead",
    "SILENT": "silent",
}


def state_of(pod: PodSeen) -> str:
    """Return the state of a pod; one that denies new calls, and gives up all that it has, is DRAINING."""
    return DRAINING if pod.state == "DENY_NEW_CALL" and pod.draining else pod.state


class Story:
    """Events, made of what is announced and of what has changed between two looks; each is told once."""

    def __init__(self) -> None:
        self._pods: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._links: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._new: list[dict[str, Any]] = []
        self._states: dict[int, tuple[int, str]] | None = None
        self._numbers: dict[int, int] = {}
        self._names: dict[int, tuple[int, str | None]] = {}
        self._heard_of: set[int] = set()
        self._count = 0
        self._links_now = 0
        self._pods_now: Counter[str] = Counter()

    def all(self) -> list[dict[str, Any]]:
        """Return all that is kept, the oldest one first."""
        return sorted((*self._pods, *self._links), key=lambda event: event["id"])

    def take_new(self, at: float) -> list[dict[str, Any]]:
        """Return what has come since the last call; links and pods beyond those that were told are one event."""
        if self._links_now > LINKS_TOLD:
            self._add(self._links, at, "links", count=self._links_now - LINKS_TOLD)
        self._links_now = 0
        for kind, count in self._pods_now.items():
            if count > PODS_TOLD:
                self._add(self._pods, at, "pods", of=kind, count=count - PODS_TOLD)
        self._pods_now.clear()
        new, self._new = self._new, []
        return new

    def begin_look(self) -> None:
        """Note that the pods are read now: what is heard from here on may be newer than what is read."""
        self._heard_of.clear()

    def look(self, at: float, pods: Iterable[PodSeen]) -> None:
        """Take in how the pods are; at the first time nothing has happened yet."""
        pods = list(pods)
        self._numbers = {pod.pod_index: pod.links for pod in pods}
        self._names = {pod.pod_index: (pod.incarnation, pod.pod_name) for pod in pods}
        states = {pod.pod_index: (pod.incarnation, state_of(pod)) for pod in pods}
        known, self._states = self._states, {}
        for index, (incarnation, state) in states.items():
            before = None if known is None else known.get(index)
            if before is not None and (index in self._heard_of or before[0] > incarnation):
                self._states[index] = before
                continue
            self._states[index] = (incarnation, state)
            if known is not None:
                self._pod(at, index, before, (incarnation, state))

    def hear(self, at: float, change: Change) -> None:
        """Take in what was announced of a link or a pod."""
        if change.kind is ChangeKind.LINK:
            self._link(at, change)
        elif self._states is not None and change.pod_index is not None and change.state is not None:
            self._heard_of.add(change.pod_index)
            before = self._states.get(change.pod_index)
            after = (change.incarnation or 0, change.state)
            if change.pod_name is not None:
                self._names[change.pod_index] = (after[0], change.pod_name)
            if before is None or before[0] <= after[0]:
                self._states[change.pod_index] = self._announced(before, after)
                self._pod(at, change.pod_index, before, self._states[change.pod_index])

    def say(self, at: float, kind: str, why: str | None = None) -> None:
        """Take in what has become of Redis."""
        self._add(self._pods, at, kind, why=why)

    @staticmethod
    def _announced(before: tuple[int, str] | None, after: tuple[int, str]) -> tuple[int, str]:
        """Return the state that is meant: that a pod drains is not announced, only that it denies new calls."""
        drains = before is not None and before == (after[0], DRAINING) and after[1] == "DENY_NEW_CALL"
        return (after[0], DRAINING) if drains else after

    def _pod(self, at: float, index: int, before: tuple[int, str] | None, after: tuple[int, str]) -> None:
        if before == after:
            return
        kind = _KINDS.get(after[1], "ready")
        if after[1] == "READY":
            kind = _began(before, after[0])
        elif before is not None and before[0] < after[0] and before[1] not in _OVER:
            self._of_pod(at, "restarted", index, after[0])
        self._of_pod(at, kind, index, after[0])

    def _of_pod(self, at: float, kind: str, index: int, incarnation: int) -> None:
        self._pods_now[kind] += 1
        if self._pods_now[kind] <= PODS_TOLD:
            named, name = self._names.get(index, (0, None))
            name = name if named == incarnation else None
            self._add(self._pods, at, kind, podIndex=index, podName=name, links=self._numbers.get(index))

    def _link(self, at: float, change: Change) -> None:
        self._links_now += 1
        if self._links_now > LINKS_TOLD:
            return
        link = change.link
        owner = None if link is None else link.pod_index
        kind = _UNREAD if change.why is not None else None if link is None else link.kind.value
        self._add(self._links, at, "link", uid=change.uid, podIndex=owner, podName=change.pod_name, linkKind=kind)

    def _add(self, kept: deque[dict[str, Any]], at: float, kind: str, **more: object) -> None:
        self._count += 1
        event = {"id": self._count, "at": round(at, 3), "kind": kind} | more
        kept.append(event)
        self._new.append(event)
        del self._new[: -2 * KEPT]  # if nobody takes them


def _began(before: tuple[int, str] | None, incarnation: int) -> str:
    if before is None:
        return "began"
    if before[0] == incarnation:
        return "heard" if before[1] == "SILENT" else "ready"
    return "began" if before[1] in _OVER else "restarted"
