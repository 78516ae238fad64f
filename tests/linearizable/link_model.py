"""What calls on a link do when they come one by one, for ``check_linearizable``.

It is written from the table of ``stateful_route.store.protocol``, and from nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from stateful_route.links import Link, LinkChange, LinkKind, Outcome, PreviousOwner
from tests.linearizable.history import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stateful_route.pods import PodLife


LinkReply: TypeAlias = LinkChange | Link | Reply | None
"""What comes of a call on a link."""


@attrs.frozen
class LinkCall:
    """A call on a link. What an operation does not take is left out.

    Attributes:
        operation: "get", "place", "claim", "release", "assign", "move"; or "lose", which a test notes when it made the
            store lose its links.
        life: the candidate, or the new owner.
        seconds: the ttl, or the grace.
        dead: the lives that the caller knows to be dead.
        leaving: the lives that the caller knows to be draining or shut down.
        steal: whether a temporary link of another pod is taken.
        pod_index: whose link is released; ``None`` is anyone's.
        incarnation: of which life; ``None`` is any.
        epoch: the epoch that is expected; ``None`` is any.

    """

    operation: str
    life: PodLife | None = None
    seconds: float = 0.0
    dead: tuple[PodLife, ...] = ()
    leaving: tuple[PodLife, ...] = ()
    steal: bool = False
    pod_index: int | None = None
    incarnation: int | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        said = [self.operation]
        if self.life is not None:
            said.append(_life(self.life))
        for field in attrs.fields(LinkCall)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                shown = ",".join(map(_life, value)) if isinstance(value, tuple) else value
                said.append(f"{field.name}={shown}")
        return " ".join(said)


@attrs.frozen
class _Held:
    """A link as the model knows it: its epoch is that, or one above that; ``seconds`` is the most that is left."""

    owner: PodLife
    epoch: int
    exact: bool
    kind: LinkKind
    seconds: float

    def __str__(self) -> str:
        return f"{_life(self.owner)} {self.kind} epoch {'' if self.exact else '> '}{self.epoch}"


@attrs.frozen
class _LinkState:
    """A link or none, and the highest epoch of the key that was seen."""

    held: _Held | None
    epoch: int

    def __str__(self) -> str:
        return str(self.held) if self.held else f"no link, last epoch {self.epoch}"


@attrs.frozen
class _Effect:
    """What a call does: its outcome, and the link after it."""

    outcome: Outcome
    after: _Held | None


_T, _P, _G = LinkKind
_PLACED = {_T: Outcome.RENEWED, _P: Outcome.UNCHANGED, _G: Outcome.REVIVED}
_CONFIRMED = {_T: Outcome.CONFIRMED, _P: Outcome.UNCHANGED, _G: Outcome.CONFIRMED}
_READS = frozenset({Outcome.ABSENT, Outcome.UNCHANGED, Outcome.REFUSED, Outcome.SUPERSEDED, Outcome.UNREADABLE})
_ROUNDING = 0.0015  # seconds: what a store that counts in milliseconds may add


class LinkModel:
    """The table of ``stateful_route.store.protocol``, as calls that come one by one.

    An epoch may be any above all that the key had before: the clock of the store has to go on, not back. A link may
    end by itself once its time can be over. Values that cannot be read are not in it.
    """

    def __init__(self, lasting: float = 60.0) -> None:
        """Judge histories that last at most so many seconds: by that much a time may have run down."""
        self._lasting = lasting

    def initial(self) -> _LinkState:
        """Return that there is no link."""
        return _LinkState(None, 0)

    def is_read(self, call: LinkCall, reply: LinkReply) -> bool:
        """Whether a call with that reply leaves every link as it was."""
        return call.operation == "get" or (isinstance(reply, LinkChange) and reply.outcome in _READS)

    def step(self, state: _LinkState, call: LinkCall, reply: LinkReply) -> Iterator[_LinkState]:
        """Yield the states that fit the reply."""
        if call.operation == "lose":
            yield _LinkState(None, state.epoch)
            return
        for held in self._may_be(state.held, call):
            effect = _EFFECTS[call.operation](held, call, state.epoch)
            if reply is Reply.UNKNOWN:
                after = effect.after
                yield _LinkState(after, max(state.epoch, after.epoch if after else 0))
            elif isinstance(reply, LinkChange):
                yield from self._changed(state, held, effect, reply)
            else:
                yield from self._read(state, effect.after, reply)

    def describe(self, reply: LinkReply) -> str:
        """Return the reply as people read it."""
        if not isinstance(reply, LinkChange):
            return _link(reply) if reply is None or isinstance(reply, Link) else reply.value
        was = reply.previous
        before = f", was {was.pod_index}:{was.incarnation} epoch {was.epoch}" if was else ""
        return f"{reply.outcome}: {_link(reply.link)}{before}"

    def _may_be(self, held: _Held | None, call: LinkCall) -> Iterator[_Held | None]:
        """Yield what there may be when the call comes."""
        yield held
        if held is None:
            return
        if held.seconds <= self._lasting:
            yield None
        if not held.exact and call.epoch is not None and call.epoch > held.epoch:
            yield attrs.evolve(held, epoch=call.epoch, exact=True)

    def _read(self, state: _LinkState, held: _Held | None, found: Any) -> Iterator[_LinkState]:
        if held is None or found is None:
            if held is found:
                yield _LinkState(None, state.epoch)
        elif self._fits(held, found):
            yield _seen(state, held, found.epoch)

    def _changed(
        self, state: _LinkState, before: _Held | None, effect: _Effect, change: LinkChange
    ) -> Iterator[_LinkState]:
        if change.outcome is not effect.outcome:
            return
        after = effect.after
        # Another owner, or none: the reply has to say who it was.
        lost = before is not None and (after is None or change.outcome in {Outcome.REPLACED, Outcome.INHERITED})
        if lost is not (change.previous is not None):
            return
        if before is not None and change.previous is not None:
            if not _was(before, change.previous):
                return
            state = _LinkState(None, max(state.epoch, change.previous.epoch))
            after = after and attrs.evolve(after, epoch=state.epoch)
        yield from self._read(state, after, change.link)

    def _fits(self, held: _Held, link: Link) -> bool:
        left = math.inf if link.ttl is None else link.ttl
        at_least = held.seconds - self._lasting - _ROUNDING
        return (
            (held.owner, held.kind) == (link.owner, link.kind)
            and (link.epoch == held.epoch if held.exact else link.epoch > held.epoch)
            and at_least <= left <= held.seconds + _ROUNDING
        )


def _seen(state: _LinkState, held: _Held, epoch: int) -> _LinkState:
    exact = held if held.exact else attrs.evolve(held, epoch=epoch, exact=True)
    return _LinkState(exact, max(state.epoch, epoch))


def _was(held: _Held, previous: PreviousOwner) -> bool:
    epoch = previous.epoch
    same = epoch == held.epoch if held.exact else epoch > held.epoch
    return same and (previous.pod_index, previous.incarnation) == (held.owner.pod_index, held.owner.incarnation)


def _listed(held: _Held, lives: tuple[PodLife, ...]) -> bool:
    return any(each.pod_index == held.owner.pod_index and each.incarnation >= held.owner.incarnation for each in lives)


def _new(call: LinkCall, kind: LinkKind, epoch: int) -> _Held:
    assert call.life is not None
    return _Held(call.life, epoch, exact=False, kind=kind, seconds=math.inf if kind is _P else call.seconds)


def _get(held: _Held | None, _call: LinkCall, _epoch: int) -> _Effect:
    return _Effect(Outcome.UNCHANGED, held)


def _place(held: _Held | None, call: LinkCall, epoch: int) -> _Effect:
    if held is None:
        return _Effect(Outcome.CREATED, _new(call, _T, epoch))
    if _listed(held, call.dead) or (held.kind is _G and _listed(held, call.leaving)):
        return _Effect(Outcome.REPLACED, _new(call, _T, epoch))
    if held.kind is not _P:
        renewed = attrs.evolve(held, kind=_T, seconds=max(held.seconds, call.seconds))
        return _Effect(_PLACED[held.kind], renewed)
    return _Effect(Outcome.UNCHANGED, held)


def _confirm(held: _Held) -> _Effect:
    return _Effect(_CONFIRMED[held.kind], attrs.evolve(held, kind=_P, seconds=math.inf))


def _claim(held: _Held | None, call: LinkCall, epoch: int) -> _Effect:
    assert call.life is not None
    if held is None:
        return _Effect(Outcome.CREATED, _new(call, _P, epoch))
    if held.owner == call.life:
        return _confirm(held)
    if held.owner.pod_index == call.life.pod_index:
        if held.owner.incarnation > call.life.incarnation:
            return _Effect(Outcome.SUPERSEDED, held)
        return _Effect(Outcome.INHERITED, _new(call, _P, epoch))
    if call.steal and held.kind is not _P:
        return _Effect(Outcome.REPLACED, _new(call, _P, epoch))
    return _Effect(Outcome.REFUSED, held)


def _release(held: _Held | None, call: LinkCall, _epoch: int) -> _Effect:
    if held is None:
        return _Effect(Outcome.ABSENT, None)
    has = (held.owner.pod_index, held.owner.incarnation, held.epoch if held.exact else -1)
    asked = (call.pod_index, call.incarnation, call.epoch)
    if any(wanted is not None and wanted != found for wanted, found in zip(asked, has, strict=True)):
        return _Effect(Outcome.REFUSED, held)
    if not call.seconds:
        return _Effect(Outcome.RELEASED, None)
    return _Effect(Outcome.GRACE, attrs.evolve(held, kind=_G, seconds=min(held.seconds, call.seconds)))


def _assign(held: _Held | None, call: LinkCall, epoch: int) -> _Effect:
    known = held.epoch if held is not None and held.exact else None
    if call.epoch is not None and call.epoch != known:
        return _Effect(Outcome.REFUSED, held)
    if held is None:
        return _Effect(Outcome.CREATED, _new(call, _P, epoch))
    if held.owner == call.life:
        return _confirm(held)
    present, life = held.owner, call.life
    if life is not None and present.pod_index == life.pod_index and present.incarnation > life.incarnation > 0:
        return _Effect(Outcome.SUPERSEDED, held)  # it has arrived late
    return _Effect(Outcome.REPLACED, _new(call, _P, epoch))


def _move(held: _Held | None, call: LinkCall, epoch: int) -> _Effect:
    if held is None:
        return _Effect(Outcome.ABSENT, None)
    named = (call.pod_index, call.incarnation, call.epoch)
    has = (held.owner.pod_index, held.owner.incarnation, held.epoch if held.exact else -1)
    if held.kind is not _P or named != has:
        return _Effect(Outcome.REFUSED, held)
    return _Effect(Outcome.REPLACED, _new(call, _P, epoch))


_EFFECTS: Mapping[str, Callable[[_Held | None, LinkCall, int], _Effect]] = {
    "get": _get,
    "place": _place,
    "claim": _claim,
    "release": _release,
    "assign": _assign,
    "move": _move,
}


def _life(life: PodLife) -> str:
    return f"{life.pod_index}:{life.incarnation}"


def _link(link: Link | None) -> str:
    return "no link" if link is None else f"{_life(link.owner)} {link.kind} epoch {link.epoch}"
