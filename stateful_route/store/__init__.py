"""What keeps links and pods: the protocol of a store, and the values that it takes and returns."""

from stateful_route.links import LinkChange, LinkKey, Outcome, PreviousOwner
from stateful_route.pods import PodLife, PodReport, PodTable, StateObj
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
