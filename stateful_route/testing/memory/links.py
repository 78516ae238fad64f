"""Links in memory: what the scripts of the links do, without a server."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, TypeAlias

import attrs

from stateful_route._validation import to_ms, to_seconds
from stateful_route.errors import StoreProtocolError
from stateful_route.history import LinkEvent, why_recorded
from stateful_route.links import ENDED_TENURE_SECONDS, Link, LinkChange, LinkKey, LinkKind, Outcome, PreviousOwner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.pods import PodLife
    from stateful_route.testing.memory.histories import MemoryHistories
    from stateful_route.testing.memory.pods import Moment

_NEVER = math.inf


@attrs.frozen(kw_only=True)
class Told:
    """What a history is told of a change besides: the pod that had it drains; an operator has asked for it."""

    draining: bool = False
    by_operator: bool = False


# Outcomes of a claim that tell which link ended last.
_TOLD = frozenset({Outcome.CREATED, Outcome.OVERWRITTEN, Outcome.CONFIRMED, Outcome.INHERITED, Outcome.REPLACED})


class _Poison(enum.Enum):
    """What stands for a value that cannot be read."""

    VALUE = "unreadable"


@attrs.frozen
class Stale:
    """The event that a link is stale up to an epoch: to all clients, and to a pod unless ``None``."""

    epoch: int
    pod_index: int | None


@attrs.frozen
class _Entry:
    """A link as it is kept: ``ends_ms`` in milliseconds since 1970, infinite for a persistent link."""

    owner: PodLife
    epoch: int
    kind: LinkKind
    ends_ms: float

    def link(self, now: Moment) -> Link:
        ttl = None if self.ends_ms == _NEVER else to_seconds(int(self.ends_ms) - now.ms)
        return Link(self.owner.pod_index, self.owner.incarnation, self.epoch, self.kind, ttl)


@attrs.frozen
class _Mark:
    """What is remembered of a uid: which tenure ended last, and which one began after it, if one did."""

    ended: int
    began: int | None
    until_ms: int
    move: str | None = None


_Decision = tuple[Outcome, _Entry | None]
Wanted: TypeAlias = "tuple[int | None, int | None, int | None]"
"""The pod, the incarnation and the epoch that a link has to have; ``None`` matches any."""
Written: TypeAlias = "tuple[LinkChange, Stale | None]"
"""The change of a link, and the event that it needs, if any."""

# The outcome of an operation that took an unreadable link for an absent one.
_IF_UNREADABLE = {Outcome.CREATED: Outcome.OVERWRITTEN, Outcome.ABSENT: Outcome.UNREADABLE}


def _among(life: PodLife, lives: Sequence[PodLife]) -> bool:
    return any(life.pod_index == other.pod_index and life.incarnation <= other.incarnation for other in lives)


def _next(previous: int | None, now: Moment) -> int:
    """Return an epoch or an incarnation: from the clock, and above the previous one even if the clock went back."""
    return now.us if previous is None else max(previous + 1, now.us)


def _new(
    before: _Entry | None, owner: PodLife, kind: LinkKind, ends_ms: float, now: Moment, last: int | None = None
) -> _Entry:
    """Return a link for a new owner: its epoch is above that of the link before, and of the one that ended last."""
    epochs = [epoch for epoch in (before.epoch if before else None, last) if epoch is not None]
    return _Entry(owner, _next(max(epochs, default=None), now), kind, ends_ms)


def _place(
    before: _Entry | None,
    candidate: PodLife,
    ttl_ms: int,
    dead: Sequence[PodLife],
    leaving: Sequence[PodLife],
    now: Moment,
    *,
    lost: bool,
) -> _Decision:
    ends_ms = now.ms + ttl_ms
    if before is None and lost:
        return Outcome.LOST, None
    if before is None:
        return Outcome.CREATED, _new(None, candidate, LinkKind.TEMPORARY, ends_ms, now)
    in_grace = before.kind is LinkKind.GRACE
    if _among(before.owner, dead) or (in_grace and _among(before.owner, leaving)):
        return Outcome.REPLACED, _new(before, candidate, LinkKind.TEMPORARY, ends_ms, now)
    if before.kind is LinkKind.PERSISTENT:
        return Outcome.UNCHANGED, before
    longer = attrs.evolve(before, kind=LinkKind.TEMPORARY, ends_ms=max(before.ends_ms, ends_ms))
    return (Outcome.REVIVED if in_grace else Outcome.RENEWED), longer


def _confirm(before: _Entry) -> _Decision:
    if before.kind is LinkKind.PERSISTENT:
        return Outcome.UNCHANGED, before
    return Outcome.CONFIRMED, attrs.evolve(before, kind=LinkKind.PERSISTENT, ends_ms=_NEVER)


def _claim(before: _Entry | None, owner: PodLife, now: Moment, *, steal_temporary: bool, last: int | None) -> _Decision:
    taken = _new(before, owner, LinkKind.PERSISTENT, _NEVER, now, last)
    if before is None:
        return Outcome.CREATED, taken
    if before.owner == owner:
        return _confirm(before)
    if before.owner.pod_index == owner.pod_index:
        newer = owner.incarnation > before.owner.incarnation
        return (Outcome.INHERITED, taken) if newer else (Outcome.SUPERSEDED, before)
    if steal_temporary and before.kind is not LinkKind.PERSISTENT:
        return Outcome.REPLACED, taken
    return Outcome.REFUSED, before


def _is_late(present: PodLife, owner: PodLife) -> bool:
    """Whether a newer life of the same pod is there; a life that is not known is 0."""
    return present.pod_index == owner.pod_index and present.incarnation > owner.incarnation > 0


def _assign(
    before: _Entry | None, owner: PodLife, expected_epoch: int | None, now: Moment, last: int | None
) -> _Decision:
    if expected_epoch is not None and (before is None or before.epoch != expected_epoch):
        return Outcome.REFUSED, before
    if before is not None and before.owner == owner:
        return _confirm(before)
    if before is not None and _is_late(before.owner, owner):
        return Outcome.SUPERSEDED, before
    taken = _new(before, owner, LinkKind.PERSISTENT, _NEVER, now, last)
    return (Outcome.CREATED if before is None else Outcome.REPLACED), taken


def _release(before: _Entry | None, wanted: Wanted, grace_ms: int, now: Moment) -> _Decision:
    if before is None:
        return Outcome.ABSENT, None
    held = before.owner.pod_index, before.owner.incarnation, before.epoch
    if any(asked not in {None, found} for asked, found in zip(wanted, held, strict=True)):
        return Outcome.REFUSED, before
    if grace_ms <= 0:
        return Outcome.RELEASED, None
    return Outcome.GRACE, attrs.evolve(before, kind=LinkKind.GRACE, ends_ms=min(before.ends_ms, now.ms + grace_ms))


def _move(before: _Entry | None, owner: PodLife, epoch: int, to: PodLife, now: Moment, *, done: bool) -> _Decision:
    if before is None:
        return Outcome.ABSENT, None
    if before.kind is LinkKind.PERSISTENT and (before.owner, before.epoch) == (owner, epoch):
        return Outcome.REPLACED, _new(before, to, LinkKind.PERSISTENT, _NEVER, now)
    return (Outcome.UNCHANGED if done and before.owner == to else Outcome.REFUSED), before


def _change(before: _Entry | None, decision: _Decision, now: Moment) -> LinkChange:
    """Return the answer: the link after it, and who held it before if nobody or another life holds it now."""
    outcome, after = decision
    previous = None
    if before is not None and (after is None or after.epoch != before.epoch):
        previous = PreviousOwner(before.owner.pod_index, before.owner.incarnation, before.epoch)
    return LinkChange(outcome, None if after is None else after.link(now), previous)


def _stale_to_clients(before: _Entry | None, after: _Entry | None) -> Stale | None:
    """Return the event to clients when a temporary link gets another owner.

    For a persistent one there was another event: its pod is dead, or has another life.
    """
    if before is None or after is None or before.kind is not LinkKind.TEMPORARY or after.epoch == before.epoch:
        return None
    return Stale(before.epoch, None)


def _stale_to_all(before: _Entry | None, after: _Entry | None) -> Stale | None:
    """Return the event to clients and the owner when a link was taken or removed."""
    if before is None:
        return None
    changed = after is None or after.epoch != before.epoch
    left = after is not None and after.kind is LinkKind.GRACE is not before.kind
    return Stale(before.epoch, before.owner.pod_index) if changed or left else None


def _stays_in_grace(before: _Entry | None, after: _Entry | None) -> bool:
    """Whether a link was in grace and is, as when its release comes twice."""
    return before is not None and after is not None and before.kind is LinkKind.GRACE is after.kind


_Tells: TypeAlias = "Callable[[_Entry | None, _Entry | None], Stale | None]"


class MemoryLinks:
    """The links of all uids. A link that has expired is absent for every operation."""

    def __init__(self, histories: MemoryHistories) -> None:
        """Begin empty; what becomes of the links is noted in ``histories``."""
        self._histories = histories
        self._links: dict[LinkKey, _Entry | _Poison] = {}
        self._ended: dict[LinkKey, _Mark] = {}

    def __len__(self) -> int:
        return len(self._links)

    def all_keys(self) -> list[LinkKey]:
        """Return which links there are, those that have ended among them."""
        return list(self._links)

    def poison(self, key: LinkKey) -> None:
        """Make the value of a link unreadable, whether there was one or not."""
        self._links[key] = _Poison.VALUE

    def expire(self, key: LinkKey) -> None:
        """End a link now, as if its time had run out."""
        self._links.pop(key, None)

    def find(self, key: LinkKey, now: Moment) -> Link | StoreProtocolError | None:
        """Return a link, ``None``, or the error that it cannot be read."""
        found = self._find(key, now)
        if isinstance(found, _Poison):
            return StoreProtocolError(f"the link of {key} cannot be read", operation="get_link", maybe_applied=False)
        return None if found is None else found.link(now)

    def services(self, namespace: str, uid: str, now: Moment) -> dict[str, int]:
        """Return the pod of each service in which a uid has a link that can be read."""
        keys = [key for key in self._links if (key.namespace, key.uid) == (namespace, uid)]
        found = {key.service_name: self._before(key, now) for key in keys}
        return {service: entry.owner.pod_index for service, entry in found.items() if entry is not None}

    def place(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl_ms: int,
        dead: Sequence[PodLife],
        leaving: Sequence[PodLife],
        now: Moment,
        *,
        lost: bool,
    ) -> Written:
        """Make a link for ``candidate`` if there is none that counts, unless the store has ``lost`` the pods."""
        lost = lost and self._find(key, now) is None
        decision = _place(self._before(key, now), candidate, ttl_ms, dead, leaving, now, lost=lost)
        return self._write("place", key, decision, now, _stale_to_clients)

    def claim(self, key: LinkKey, owner: PodLife, now: Moment, *, steal_temporary: bool) -> Written:
        """Make a link persistent for ``owner``, if there is none or it is its own."""
        before = self._before(key, now)
        last = self._last_ended(key, before, now)
        decision = _claim(before, owner, now, steal_temporary=steal_temporary, last=last)
        change, stale = self._write("claim", key, decision, now, _stale_to_clients)
        if change.outcome in _TOLD:
            self._mark_begun(key, last, decision[1], now)
        if change.outcome in _TOLD | {Outcome.UNCHANGED} and change.outcome is not Outcome.OVERWRITTEN:
            change = attrs.evolve(change, ended=last)
        if change.outcome is Outcome.UNCHANGED:
            change = attrs.evolve(change, move=self._move_of(key, before, now))
        return change, stale

    def assign(self, key: LinkKey, owner: PodLife, expected_epoch: int | None, now: Moment, told: Told) -> Written:
        """Make a link persistent for ``owner``, whoever holds it, if its epoch is the expected one."""
        before = self._before(key, now)
        last = self._last_ended(key, before, now)
        if before is not None and before.kind is LinkKind.PERSISTENT:
            last = before.epoch
        decision = _assign(before, owner, expected_epoch, now, last)
        change, stale = self._write("assign", key, decision, now, _stale_to_all, told)
        if change.outcome in _TOLD - {Outcome.CONFIRMED}:
            self._mark_begun(key, last, decision[1], now)
        return change, stale

    def move(
        self, key: LinkKey, owner: PodLife, epoch: int, to: PodLife, named: tuple[str, Moment], told: Told
    ) -> Written:
        """Make the persistent link that ``owner`` has at that epoch one of ``to``; ``named`` is the move, and when."""
        name, now = named
        before = self._before(key, now)
        done = self._move_of(key, before, now) == name
        decision = _move(before, owner, epoch, to, now, done=done)
        change, stale = self._write("move", key, decision, now, _stale_to_all, told)
        if change.outcome is Outcome.REPLACED and decision[1] is not None:
            self._ended[key] = _Mark(epoch, decision[1].epoch, now.ms + to_ms(ENDED_TENURE_SECONDS), name)
        return change, stale

    def release(self, key: LinkKey, wanted: Wanted, grace_ms: int, now: Moment, told: Told) -> Written:
        """Remove a link if it is held by that pod, incarnation and epoch; ``None`` matches any."""
        decision = _release(self._before(key, now), wanted, grace_ms, now)
        return self._write("release", key, decision, now, _stale_to_all, told)

    def _find(self, key: LinkKey, now: Moment) -> _Entry | _Poison | None:
        """Return what is at ``key``; drop it if it has ended."""
        found = self._links.get(key)
        if isinstance(found, _Entry) and found.ends_ms <= now.ms:
            del self._links[key]
            return None
        return found

    def _before(self, key: LinkKey, now: Moment) -> _Entry | None:
        """Return the link that an operation finds; an unreadable one counts as absent, and is overwritten."""
        found = self._find(key, now)
        return found if isinstance(found, _Entry) else None

    def _write(
        self, operation: str, key: LinkKey, decision: _Decision, now: Moment, tells: _Tells, told: Told | None = None
    ) -> Written:
        found, before, after = self._find(key, now), self._before(key, now), decision[1]
        told = told or Told()
        change = _change(before, decision, now)
        if isinstance(found, _Poison):
            change = attrs.evolve(change, outcome=_IF_UNREADABLE.get(change.outcome, change.outcome))
        if not change.done:
            return change, None
        if after is None:
            self._links.pop(key, None)
        else:
            self._links[key] = after
        self._mark_ended(key, found, change.outcome, after, now)
        why = why_recorded(operation, change.outcome)
        if why is not None and not _stays_in_grace(before, after):
            event = LinkEvent(
                time_us=now.us,
                why=why,
                before=None if before is None else before.owner,
                after=None if after is None else after.owner,
                epoch=None if after is None else after.epoch,
                draining=told.draining,
                by_operator=told.by_operator,
            )
            self._histories.add(key, event, now)
        return change, tells(before, after)

    def _last_ended(self, key: LinkKey, link: _Entry | None, now: Moment) -> int | None:
        """Return the epoch of the tenure that ended last before that of the link, if that was of late."""
        mark = self._ended.get(key)
        if mark is None or mark.until_ms <= now.ms:
            return None
        same = mark.began is None or (link is not None and mark.began == link.epoch)
        return mark.ended if same else mark.began  # or else its link was lost, and did not end

    def _move_of(self, key: LinkKey, link: _Entry | None, now: Moment) -> str | None:
        """Return the name of the move that made the link, if that was of late."""
        mark = self._ended.get(key)
        if mark is None or mark.until_ms <= now.ms or link is None or mark.began != link.epoch:
            return None
        return mark.move

    def _mark_begun(self, key: LinkKey, last: int | None, link: _Entry | None, now: Moment) -> None:
        """Remember that a tenure has begun, if it is known which one ended last."""
        if last is not None and link is not None:
            self._ended[key] = _Mark(last, link.epoch, now.ms + to_ms(ENDED_TENURE_SECONDS))

    def _mark_ended(
        self, key: LinkKey, before: _Entry | _Poison | None, outcome: Outcome, after: _Entry | None, now: Moment
    ) -> None:
        """Remember a tenure that has ended, or will with its grace."""
        if not isinstance(before, _Entry):
            return
        taken_over = outcome is Outcome.REPLACED and before.kind is LinkKind.PERSISTENT
        if taken_over or outcome in {Outcome.RELEASED, Outcome.GRACE}:
            ends_ms = now.ms if after is None or taken_over else int(after.ends_ms)
            self._ended[key] = _Mark(before.epoch, None, ends_ms + to_ms(ENDED_TENURE_SECONDS))
