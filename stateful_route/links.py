"""The values of a link: which pod has a uid, since when, and what an operation did to it. All are frozen."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from stateful_route.pods import PodChange, PodLife, PodRequest


class LinkKind(enum.StrEnum):
    """How long a link lives."""

    TEMPORARY = "temporary"
    """Made by a client; expires unless it is renewed or confirmed."""
    PERSISTENT = "persistent"
    """Confirmed by its pod; no expiry."""
    GRACE = "grace"
    """Removed, and still resolving for some seconds, so that the uid comes back to a warm pod."""


@attrs.frozen(weakref_slot=False)
class Link:
    """Where a uid is routed.

    Attributes:
        pod_index: the pod that owns the uid.
        incarnation: the life of that pod that owns it; 0 if it was not known when the link was made.
        epoch: the fencing token: it rises whenever the owner or its incarnation changes.
        kind: temporary, persistent or grace.
        ttl: seconds that were left when the link was read; ``None`` for a link without expiry.

    """

    pod_index: int
    incarnation: int
    epoch: int
    kind: LinkKind
    ttl: float | None

    @property
    def owner(self) -> PodLife:
        """The life of the pod that owns the uid."""
        return PodLife(self.pod_index, self.incarnation)


@attrs.frozen
class LinkKey:
    """What is routed: the three parts that name one link."""

    namespace: str
    uid: str
    service_name: str


@attrs.frozen
class PreviousOwner:
    """Who held a link before an operation changed its owner."""

    pod_index: int
    incarnation: int
    epoch: int


class Outcome(enum.StrEnum):
    """What an operation on a link did. Which outcomes an operation has is said in ``store.protocol``."""

    ABSENT = "absent"
    """There was nothing to release."""
    CREATED = "created"
    """There was no link; there is one now, with a new epoch."""
    RENEWED = "renewed"
    """The same owner and epoch, with more time."""
    UNCHANGED = "unchanged"
    """The link was already what was asked for, or nobody but its owner may change it."""
    REVIVED = "revived"
    """A link in grace is temporary again, with the same owner and epoch."""
    REPLACED = "replaced"
    """Another owner, with a new epoch."""
    CONFIRMED = "confirmed"
    """The owner made its link persistent; the same epoch."""
    INHERITED = "inherited"
    """A newer incarnation of the owner took the link over, with a new epoch."""
    OVERWRITTEN = "overwritten"
    """A value that could not be read was replaced by a link with a new epoch."""
    RELEASED = "released"
    """The link is gone."""
    GRACE = "grace"
    """The link is in grace now."""
    REFUSED = "refused"
    """Somebody else holds the link; it is as it was."""
    SUPERSEDED = "superseded"
    """A newer incarnation of the same pod holds the link; it is as it was."""
    UNREADABLE = "unreadable"
    """The value cannot be read; it is as it was."""
    LOST = "lost"
    """There is none, and the store has lost the pods that the caller knows: none was made."""

    @property
    def same_owner(self) -> bool:
        """Whether a link that was there has the owner and epoch that it had."""
        return self in _SAME_OWNER


_SAME_OWNER = frozenset({Outcome.RENEWED, Outcome.UNCHANGED, Outcome.REVIVED, Outcome.CONFIRMED, Outcome.GRACE})


_NOT_DONE = frozenset({Outcome.ABSENT, Outcome.REFUSED, Outcome.SUPERSEDED, Outcome.UNREADABLE, Outcome.LOST})


ENDED_TENURE_SECONDS = 60.0
"""For how long a store remembers which link of a uid ended last, after its grace if it had one."""


@attrs.frozen(weakref_slot=False)
class LinkChange:
    """The answer of an operation that may change a link.

    Attributes:
        outcome: what it did.
        link: the link as it is now; ``None`` if there is none, or it cannot be read.
        previous: who held it before, if the owner or its incarnation changed.
        ended: of a claim, the epoch of the link before that was released, removed, taken over or lost, if there was one
            of late; see ``ENDED_TENURE_SECONDS``.
        move: of a claim that finds the link of its own life, the name of the move by which it came to it, if one did
            of late.

    """

    outcome: Outcome
    link: Link | None
    previous: PreviousOwner | None = None
    ended: int | None = attrs.field(default=None, eq=False)
    move: str | None = attrs.field(default=None, eq=False)

    @property
    def done(self) -> bool:
        """Whether the store now is what the operation asked for."""
        return self.outcome not in _NOT_DONE


@attrs.frozen
class LinkInvalidation:
    """The event that a link has changed its owner, or was removed.

    Attributes:
        key: which link.
        epoch: what is known of the link at that epoch, or an earlier one, is stale.

    """

    key: LinkKey
    epoch: int


TopicEvent: TypeAlias = LinkInvalidation | PodChange | PodRequest
"""What the store tells everybody, or one pod."""
