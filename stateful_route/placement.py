"""What chooses the pod of a new uid: the strategies that ship, and what one of your own is given."""

from stateful_route.client.placement.strategies import (
    BestOfRandom,
    Candidate,
    InZone,
    NewestVersion,
    PlacementStrategy,
    Prefer,
    PreferEmptier,
)

__all__ = [
    "BestOfRandom",
    "Candidate",
    "InZone",
    "NewestVersion",
    "PlacementStrategy",
    "Prefer",
    "PreferEmptier",
]
