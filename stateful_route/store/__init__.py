"""What keeps links and pods: the protocol of a store, and the values that it takes and returns."""

from stateful_route.models import (
    LinkChange,
    LinkKey,
    Outcome,
    PodLife,
    PodReport,
    PodTable,
    PreviousOwner,
    StateObj,
)
from stateful_route.store.protocol import Store

__all__ = [
    "LinkChange",
    "LinkKey",
    "Outcome",
    "PodLife",
    "PodReport",
    "PodTable",
    "PreviousOwner",
    "StateObj",
    "Store",
]
