"""The history of a link: what has become of it, change by change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from stateful_route.instrumentation import Why
from stateful_route.links import Outcome

if TYPE_CHECKING:
    from stateful_route.pods import PodLife

MOST_KEPT = 1000
"""The most entries that a history may have: they are read at once."""
KEPT_SECONDS = 86400.0
"""For how long a history is kept after its latest entry, unless something else is set."""


@attrs.frozen(kw_only=True)
class LinkEvent:
    """An entry of the history of a link: it was changed.

    A link that has ended by itself, as its time was over, or that a server has lost, has no entry of that: the next
    one, if there is one, has nobody in ``before``.

    Attributes:
        time_us: when, in microseconds since 1970, by the clock of the store.
        why: why. A link that a client has taken out of its grace is ``PLACED`` again.
        before: the life of a pod that had it before; ``None`` if there was none that could be read.
        after: the life of a pod that has it from then on; ``None`` if nobody does. It is the same as before if the pod
            confirmed it, or left it in grace.
        epoch: that the link has from then on; ``None`` if there is none.
        draining: whether it was released, or moved, by its owner, and that had said that it drains.
        by_operator: whether an operator has asked for it: a release or an assignment by force, or a move, which its
            owner did then.

    """

    time_us: int
    why: Why
    before: PodLife | None
    after: PodLife | None
    epoch: int | None
    draining: bool = False
    by_operator: bool = False


_OF_PLACING = {
    Outcome.CREATED: Why.PLACED,
    Outcome.REPLACED: Why.TAKEN_OVER,
    Outcome.OVERWRITTEN: Why.OVERWRITTEN,
}
_OF_CLAIMING = {
    Outcome.CREATED: Why.CLAIMED,
    Outcome.CONFIRMED: Why.CLAIMED,
    Outcome.INHERITED: Why.INHERITED,
    Outcome.REPLACED: Why.STOLEN,
    Outcome.OVERWRITTEN: Why.OVERWRITTEN,
}
_OF_ASSIGNING = dict.fromkeys((Outcome.CREATED, Outcome.CONFIRMED, Outcome.REPLACED, Outcome.OVERWRITTEN), Why.ASSIGNED)
_OF_RELEASING = dict.fromkeys((Outcome.RELEASED, Outcome.GRACE), Why.RELEASED)
_OF_MOVING = {Outcome.REPLACED: Why.MOVED}
REASONS = {
    "place": _OF_PLACING,
    "place_links": _OF_PLACING,
    "claim": _OF_CLAIMING,
    "assign": _OF_ASSIGNING,
    "release": _OF_RELEASING,
    "move": _OF_MOVING,
}
"""Why a link changed, by the operation and its outcome; the others change nothing."""

_RECORDED = REASONS | {
    operation: REASONS[operation] | {Outcome.REVIVED: Why.PLACED} for operation in ("place", "place_links")
}


def why_recorded(operation: str, outcome: Outcome) -> Why | None:
    """Return why an operation with that outcome changed a link; ``None`` if it did not, or gave it more time only."""
    return _RECORDED[operation].get(outcome)
