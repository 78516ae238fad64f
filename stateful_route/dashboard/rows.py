"""What the page is told of a pod, and what has changed in that. No I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateful_route.ops import PodSeen

Row: TypeAlias = "dict[str, Any]"
"""A pod as the page knows it: plain values by camelCase names."""

_SHOWN = (
    "podIndex",
    "podName",
    "incarnation",
    "alive",
    "routable",
    "lease",
    "load",
    "links",
    "placedTotal",
    "capacity",
    "maxLinks",
    "address",
    "zone",
    "version",
    "reclaiming",
)

DRAINING = "DRAINING"
"""The state of a pod that takes no new uids and gives up all that it has."""


def row_of(pod: PodSeen) -> Row:
    """Return what the page is told of a pod.

    The age of its heartbeat is in whole seconds: a pod that is well seldom changes then, and the page stands still.
    """
    known = pod.to_dict()
    row = {name: known[name] for name in _SHOWN}
    return row | {"state": state_of(pod), "full": pod.full, "heartbeatAge": math.floor(pod.heartbeat_age)}


def state_of(pod: PodSeen) -> str:
    """Return the state of a pod; one that denies new calls, and gives up all that it has, is DRAINING."""
    return DRAINING if pod.state == "DENY_NEW_CALL" and pod.draining else pod.state


def changed(before: Mapping[int, Row], after: Mapping[int, Row]) -> list[Row]:
    """Return the fields that differ of each pod, beside its index; all of them for a new one."""
    found = []
    for index, row in after.items():
        known = before.get(index)
        if known is None:
            found.append(row)
        elif known != row:
            found.append({"podIndex": index} | {name: value for name, value in row.items() if known[name] != value})
    return found
