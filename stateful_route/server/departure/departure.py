"""One uid on its way out of a pod: where it is, and what is known of it meanwhile."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import asyncio

    from stateful_route.pods import PodLife
    from stateful_route.server.owning.ownership import Ownership


class State(enum.Enum):
    """How far a departure is; the last seven are ends."""

    QUEUED = "queued"
    """The uid waits for its turn, and is served."""
    HANDING = "handing"
    """``hand_off`` runs."""
    SENT = "sent"
    """The uid is served by nobody, and its state, if there is one, is being sent."""
    MOVING = "moving"
    """The store is asked to move the link, or to release it."""
    TOLD = "told"
    """Another pod has the uid, is told so, and adopts the state."""
    GONE = "gone"
    """This pod has moved the uid to another pod, or released it."""
    STAYS = "stays"
    """This pod has the uid as before."""
    REFUSED = "refused"
    """This pod has the uid as before: no pod has taken the state now, or the store was away."""
    LOST = "lost"
    """This pod has lost the uid meanwhile."""
    UNSURE = "unsure"
    """This pod does not own the uid any more; the store did not say whether the link has moved, or is released."""
    CUT = "cut"
    """The hand-off was cut off: it may have done half of its work."""


_ON_ITS_WAY = frozenset({State.SENT, State.MOVING, State.TOLD})


@attrs.define(eq=False)
class Departure:
    """The departure of one uid, in one tenure.

    Attributes:
        handle: the handle of the uid; a newer one once the pod has claimed it again in this tenure.
        leaving: whether the pod leaves; else the uid stays if its hand-off fails, or nobody takes its state.
        to: the pod that was named, if one was.
        life: the life of that pod, if an operator has named it.
        older: the departure of an older tenure of the uid, to be waited for.
        state: how far it is.
        told: tells the receiver that the uid is there, and ends once that has adopted the state.

    """

    handle: Ownership
    leaving: bool
    to: int | None = None
    life: PodLife | None = None
    older: Departure | None = None
    state: State = State.QUEUED
    told: asyncio.Task[None] | None = None

    @property
    def uid(self) -> str:
        """The uid."""
        return self.handle.uid

    @property
    def is_on_its_way(self) -> bool:
        """Whether the link may move at this moment, or the state is being adopted."""
        return self.state in _ON_ITS_WAY

    def covers(self, handle: Ownership) -> bool:
        """Whether a handle is of this tenure."""
        return handle is self.handle or handle.continues(self.handle)
