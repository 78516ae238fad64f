"""Pods and changes as an operator sees them, for what needs no server."""

from __future__ import annotations

from typing import Any

import attrs

from stateful_route.ops import Change, ChangeKind, PodSeen, PodsSeen

_POD = PodSeen(
    pod_index=0,
    incarnation=1,
    state="READY",
    alive=True,
    routable=True,
    heartbeat_age=0.4,
    lease=5.0,
    load=3,
    links=3,
    placed_total=3,
    capacity=1.0,
    max_links=None,
    address=None,
    zone=None,
    version=None,
    draining=False,
    reclaiming=False,
    adopts=False,
)


def pod(index: int = 0, state: str = "READY", **more: Any) -> PodSeen:
    """Return a pod in that state; it lives unless that says otherwise."""
    alive = state in {"READY", "DENY_NEW_CALL"}
    known: dict[str, Any] = {"pod_index": index, "state": state, "alive": alive, "routable": state == "READY"}
    return attrs.evolve(_POD, **(known | more))


def pods(*all_of: PodSeen, at: float = 1000.0) -> PodsSeen:
    """Return pods at one moment."""
    return PodsSeen(at=at, pods=all_of)


def announced(index: int, state: str, incarnation: int = 1) -> Change:
    """Return the word that a pod is in that state."""
    return Change(kind=ChangeKind.POD, pod_index=index, state=state, incarnation=incarnation)


def moved(uid: str) -> Change:
    """Return the word that a link has changed."""
    return Change(kind=ChangeKind.LINK, uid=uid, epoch=7)
