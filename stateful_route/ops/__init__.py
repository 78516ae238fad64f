"""What operators ask and order: where a uid is, which pods there are, to move, drain and release, and what is wrong.

``route.operator()`` gives an ``Operator``.
"""

from stateful_route.ops.operator import Operator
from stateful_route.ops.values import (
    Change,
    ChangeKind,
    DrainSeen,
    Finding,
    FoundLink,
    Level,
    PastChange,
    Place,
    PodSeen,
    PodsSeen,
)

__all__ = [
    "Change",
    "ChangeKind",
    "DrainSeen",
    "Finding",
    "FoundLink",
    "Level",
    "Operator",
    "PastChange",
    "Place",
    "PodSeen",
    "PodsSeen",
]
