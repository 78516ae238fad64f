"""The table of ``stateful_route.store.protocol``: what each operation does to each kind of link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.pods import PodLife
from stateful_route.testing.conformance.shared import (
    GRACE,
    INCARNATION,
    LONG,
    NEWER,
    OLDER,
    OTHER,
    OWNER,
    PERSISTENT,
    STRANGER,
    TEMPORARY,
    holder,
    later,
    made,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.store.protocol import Store


@attrs.frozen
class Row:
    """A row of the table of ``stateful_route.store.protocol``.

    Attributes:
        title: what is done, and by whom.
        run: does it, given the epoch of the link that is there, or 0.
        outcomes: what comes of it if there is no link of ``OWNER``, a temporary, a persistent one, one in grace.
        actor: who has the link if the owner changes.
        kind: what a link is after an operation that was done.
        ttl: how long a link of that kind has then; where there was one, it had ``LONG``.

    """

    title: str
    run: Callable[[Store, LinkKey, int], Awaitable[LinkChange]]
    outcomes: tuple[Outcome, Outcome, Outcome, Outcome]
    actor: PodLife = OTHER
    kind: LinkKind = PERSISTENT
    ttl: float | None = None

    def expected(self, outcome: Outcome, before: Link | None) -> LinkChange:
        """Return the answer that has this outcome."""
        if outcome in {Outcome.CREATED, Outcome.REPLACED, Outcome.INHERITED}:
            link = made(self.actor, before.epoch if before else 0, self.kind, self.ttl)
            return LinkChange(outcome, link, holder(before) if before else None)
        if outcome is Outcome.RELEASED:
            assert before is not None
            return LinkChange(outcome, None, holder(before))
        if before is None or outcome in {Outcome.UNCHANGED, Outcome.REFUSED, Outcome.SUPERSEDED}:
            return LinkChange(outcome, later(before) if before else None)
        return LinkChange(outcome, later(attrs.evolve(before, kind=self.kind, ttl=self.ttl)))


def _place_row(title: str, outcomes: tuple[Outcome, ...], **lives: Any) -> Row:
    return Row(
        f"place {title}".strip(),
        lambda store, key, _epoch: store.place(key, OTHER, LONG, **lives),
        (Outcome.CREATED, *outcomes),  # type: ignore[arg-type]  # three outcomes are given
        kind=TEMPORARY,
        ttl=LONG,
    )


def _claim_row(title: str, owner: PodLife, outcomes: tuple[Outcome, ...], *, steal: bool = False) -> Row:
    return Row(
        f"claim by {title}{', stealing' if steal else ''}",
        lambda store, key, _epoch: store.claim(key, owner, steal_temporary=steal),
        (Outcome.CREATED, *outcomes),  # type: ignore[arg-type]  # three outcomes are given
        actor=owner,
    )


def _release_row(title: str, outcome: Outcome, wanted: Callable[[int], dict[str, Any]]) -> Row:
    return Row(
        f"release {title}",
        lambda store, key, epoch: store.release(key, **wanted(epoch)),
        (Outcome.ABSENT, outcome, outcome, outcome),
        kind=GRACE,
        ttl=LONG,
    )


def _assign_row(title: str, owner: PodLife, outcomes: tuple[Outcome, ...], off: int | None = None) -> Row:
    """Return a row of assign; ``off`` is how far the expected epoch is from the one that the link has."""
    return Row(
        f"assign {title}",
        lambda store, key, epoch: store.assign(key, owner, expected_epoch=None if off is None else epoch + off),
        outcomes,  # type: ignore[arg-type]  # four outcomes are given
        actor=owner,
    )


def _move_row(title: str, owner: PodLife, outcome: Outcome, off: int = 0) -> Row:
    """Return a row of move to ``OTHER``; ``off`` is how far the named epoch is from the one that the link has."""
    return Row(
        f"move {title}",
        lambda store, key, epoch: store.move(key, owner, epoch + off, OTHER, name="0f1e2d3c4b5a6978"),
        (Outcome.ABSENT, Outcome.REFUSED, outcome, Outcome.REFUSED),
    )


_KEPT = Outcome.RENEWED, Outcome.UNCHANGED, Outcome.REVIVED
_LEFT = Outcome.RENEWED, Outcome.UNCHANGED, Outcome.REPLACED
_TAKEN = (Outcome.REPLACED,) * 3
_CONFIRMED = Outcome.CONFIRMED, Outcome.UNCHANGED, Outcome.CONFIRMED
_REFUSED = (Outcome.REFUSED,) * 3
_SUPERSEDED = (Outcome.SUPERSEDED,) * 3
_INHERITED = (Outcome.INHERITED,) * 3
_STOLEN = Outcome.REPLACED, Outcome.REFUSED, Outcome.REPLACED

TABLE = (
    _place_row("", _KEPT),
    _place_row("while others are dead or leaving", _KEPT, dead=[STRANGER, PodLife(1, 1)], leaving=[STRANGER]),
    _place_row("while an older life of the owner is dead", _KEPT, dead=[OLDER]),
    _place_row("while the owner is dead", _TAKEN, dead=[STRANGER, OWNER]),
    _place_row("while a newer life of the owner is dead", _TAKEN, dead=[OLDER, NEWER]),
    _place_row("while an older life of the owner is leaving", _KEPT, leaving=[OLDER]),
    _place_row("while the owner is leaving", _LEFT, leaving=[STRANGER, OWNER]),
    _place_row("while a newer life of the owner is leaving", _LEFT, leaving=[OLDER, NEWER]),
    _place_row("while the owner is dead and leaving", _TAKEN, dead=[OWNER], leaving=[OWNER]),
    _claim_row("the same life", OWNER, _CONFIRMED),
    _claim_row("the same life", OWNER, _CONFIRMED, steal=True),
    _claim_row("an older life of the owner", OLDER, _SUPERSEDED),
    _claim_row("an older life of the owner", OLDER, _SUPERSEDED, steal=True),
    _claim_row("a newer life of the owner", NEWER, _INHERITED),
    _claim_row("a newer life of the owner", NEWER, _INHERITED, steal=True),
    _claim_row("another pod", OTHER, _REFUSED),
    _claim_row("a younger pod", STRANGER, _REFUSED),
    _claim_row("another pod", OTHER, _STOLEN, steal=True),
    _claim_row("a younger pod", STRANGER, _STOLEN, steal=True),
    _release_row("by anyone", Outcome.RELEASED, lambda _: {}),
    _release_row("by the pod", Outcome.RELEASED, lambda _: {"pod_index": 0}),
    _release_row("by the life", Outcome.RELEASED, lambda _: {"pod_index": 0, "incarnation": INCARNATION}),
    _release_row("at the epoch", Outcome.RELEASED, lambda epoch: {"epoch": epoch}),
    _release_row(
        "by the life at the epoch",
        Outcome.RELEASED,
        lambda epoch: {"pod_index": 0, "incarnation": INCARNATION, "epoch": epoch},
    ),
    _release_row("by anyone, with grace", Outcome.GRACE, lambda _: {"grace": LONG}),
    _release_row(
        "by the life at the epoch, with grace",
        Outcome.GRACE,
        lambda epoch: {"pod_index": 0, "incarnation": INCARNATION, "epoch": epoch, "grace": LONG},
    ),
    _release_row("by another pod", Outcome.REFUSED, lambda _: {"pod_index": 2}),
    _release_row("by another pod, with grace", Outcome.REFUSED, lambda _: {"pod_index": 2, "grace": LONG}),
    _release_row("by an older life", Outcome.REFUSED, lambda _: {"pod_index": 0, "incarnation": INCARNATION - 1}),
    _release_row("by a newer life", Outcome.REFUSED, lambda _: {"pod_index": 0, "incarnation": INCARNATION + 1}),
    _release_row("by the unknown life", Outcome.REFUSED, lambda _: {"pod_index": 0, "incarnation": 0}),
    _release_row("at an older epoch", Outcome.REFUSED, lambda epoch: {"epoch": epoch - 1}),
    _release_row("at a newer epoch", Outcome.REFUSED, lambda epoch: {"pod_index": 0, "epoch": epoch + 1}),
    _assign_row("the same life", OWNER, (Outcome.CREATED, *_CONFIRMED)),
    _assign_row("another pod", OTHER, (Outcome.CREATED, *_TAKEN)),
    _assign_row("an older life of the owner", OLDER, (Outcome.CREATED, *_SUPERSEDED[-3:])),
    _assign_row("a newer life of the owner", NEWER, (Outcome.CREATED, *_TAKEN)),
    _assign_row("the same life, as expected", OWNER, (Outcome.REFUSED, *_CONFIRMED), off=0),
    _assign_row("another pod, as expected", OTHER, (Outcome.REFUSED, *_TAKEN), off=0),
    _assign_row("the same life, expecting more", OWNER, (Outcome.REFUSED, *_REFUSED), off=1),
    _assign_row("another pod, expecting less", OTHER, (Outcome.REFUSED, *_REFUSED), off=-1),
    _move_row("by the life at the epoch", OWNER, Outcome.REPLACED),
    _move_row("by the life at an older epoch", OWNER, Outcome.REFUSED, off=-1),
    _move_row("by the life at a newer epoch", OWNER, Outcome.REFUSED, off=1),
    _move_row("by an older life", OLDER, Outcome.REFUSED),
    _move_row("by a newer life", NEWER, Outcome.REFUSED),
    _move_row("by another pod", STRANGER, Outcome.REFUSED),
)

_PRIORS = {"absent": None, "temporary": TEMPORARY, "persistent": PERSISTENT, "grace": GRACE}
CELLS = [
    pytest.param(row, kind, outcome, id=f"{row.title}: {name} -> {outcome}")
    for row in TABLE
    for (name, kind), outcome in zip(_PRIORS.items(), row.outcomes, strict=True)
]
