"""A Hypothesis state machine: random operations on a store, each compared with a model that is a dict.

::

    TestMyModel = link_machine(my_kit).TestCase

It needs Hypothesis. The model is written from the table of ``stateful_route.store.protocol``, and from nothing else.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stateful_route.errors import StoreProtocolError
from stateful_route.history import LinkEvent, why_recorded
from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome, PreviousOwner
from stateful_route.pods import PodLife

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from stateful_route.instrumentation import Why
    from stateful_route.testing.conformance import StoreKit

TEMPORARY, PERSISTENT, GRACE = LinkKind
_UNREADABLE = "unreadable"

# Seconds. No link ends by itself: a machine takes less than SLACK, and all times differ by more than that.
_TIMES = 200.0, 300.0, 500.0, 900.0
_SLACK = 60.0
_FAR = 1_800_000_000_000_000  # incarnations as large as real ones, so that lost digits show

_UIDS = st.sampled_from(["alice", "bob:1"])
_SERVICES = st.sampled_from(["room", "doc"])
_NAMES = st.tuples(_UIDS, _SERVICES)
_PODS = 3
_LIVES = st.builds(PodLife, st.integers(0, _PODS - 1), st.sampled_from([0, 1, _FAR, _FAR + 1]))
_SOME_LIVES = st.lists(_LIVES, max_size=3)
_TTLS = st.sampled_from(_TIMES)
_GRACES = st.sampled_from([0.0, *_TIMES])
_OFFS = st.sampled_from([None, None, 0, 0, 0, -1, 1])  # how far what is named is off what the link has; None: any

_Name = tuple[str, str]
"""A uid and a service."""
_Known = Link | str | None


@attrs.frozen
class _Expected:
    """What the model says that an operation does: ``owner`` is whose link it is after it, if that changes."""

    outcome: Outcome
    kind: LinkKind | None = None
    seconds: float | None = None
    owner: PodLife | None = None


def _listed(link: Link, lives: list[PodLife]) -> bool:
    newest = max((life.incarnation for life in lives if life.pod_index == link.pod_index), default=-1)
    return newest >= link.incarnation


def _model_place(link: Link | None, new: PodLife, ttl: float, dead: list[PodLife], leaving: list[PodLife]) -> _Expected:
    if link is None:
        return _Expected(Outcome.CREATED, TEMPORARY, ttl, new)
    if _listed(link, dead) or (link.kind is GRACE and _listed(link, leaving)):
        return _Expected(Outcome.REPLACED, TEMPORARY, ttl, new)
    if link.kind is PERSISTENT:
        return _Expected(Outcome.UNCHANGED, PERSISTENT)
    return _Expected(
        Outcome.RENEWED if link.kind is TEMPORARY else Outcome.REVIVED, TEMPORARY, max(ttl, link.ttl or 0.0)
    )


def _model_claim(link: Link | None, new: PodLife, *, steal: bool) -> _Expected:
    if link is None:
        return _Expected(Outcome.CREATED, PERSISTENT, owner=new)
    stays = _Expected(Outcome.REFUSED, link.kind, link.ttl)
    if link.pod_index != new.pod_index:
        free = steal and link.kind in {TEMPORARY, GRACE}
        return _Expected(Outcome.REPLACED, PERSISTENT, owner=new) if free else stays
    if link.incarnation > new.incarnation:
        return attrs.evolve(stays, outcome=Outcome.SUPERSEDED)
    if link.incarnation < new.incarnation:
        return _Expected(Outcome.INHERITED, PERSISTENT, owner=new)
    return _Expected(Outcome.UNCHANGED if link.kind is PERSISTENT else Outcome.CONFIRMED, PERSISTENT)


def _model_release(link: Link | None, wanted: dict[str, int | None], grace: float) -> _Expected:
    if link is None:
        return _Expected(Outcome.ABSENT)
    if any(value is not None and getattr(link, name) != value for name, value in wanted.items()):
        return _Expected(Outcome.REFUSED, link.kind, link.ttl)
    if not grace:
        return _Expected(Outcome.RELEASED)
    return _Expected(Outcome.GRACE, GRACE, min(grace, math.inf if link.ttl is None else link.ttl))


def _model_assign(link: Link | None, new: PodLife, epoch: int | None) -> _Expected:
    if epoch is not None and (link is None or link.epoch != epoch):
        return _Expected(Outcome.REFUSED, link.kind, link.ttl) if link else _Expected(Outcome.REFUSED)
    if link is None:
        return _Expected(Outcome.CREATED, PERSISTENT, owner=new)
    if link.pod_index == new.pod_index and link.incarnation > new.incarnation > 0:
        return _Expected(Outcome.SUPERSEDED, link.kind, link.ttl)
    if link.owner != new:
        return _Expected(Outcome.REPLACED, PERSISTENT, owner=new)
    return _Expected(Outcome.UNCHANGED if link.kind is PERSISTENT else Outcome.CONFIRMED, PERSISTENT)


def _model_move(link: Link | None, old: PodLife, epoch: int, new: PodLife) -> _Expected:
    if link is None:
        return _Expected(Outcome.ABSENT)
    if link.kind is PERSISTENT and (link.owner, link.epoch) == (old, epoch):
        return _Expected(Outcome.REPLACED, PERSISTENT, owner=new)
    return _Expected(Outcome.REFUSED, link.kind, link.ttl)


class LinkMachine(RuleBasedStateMachine):
    """Random operations on a few links. ``link_machine`` makes it for a store."""

    open_kit: Callable[[], AbstractAsyncContextManager[StoreKit]]

    def __init__(self) -> None:
        """Open the store, in an event loop of the machine's own."""
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.kit = self.run(self.stack.enter_async_context(self.open_kit()))
        self.store = self.kit.store
        self.namespace = f"model-{uuid.uuid4().hex}"
        self.model: dict[_Name, _Known] = {}
        self.epochs: dict[tuple[_Name, int], PodLife] = {}
        self.histories: dict[_Name, list[LinkEvent]] = {}

    def teardown(self) -> None:
        """Close the store and the event loop."""
        self.run(self.stack.aclose())
        self.runner.close()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Run an operation to its end."""
        return self.runner.run(call)

    def key(self, name: _Name) -> LinkKey:
        """Return the key of a link."""
        return LinkKey(self.namespace, *name)

    def link(self, name: _Name) -> Link | None:
        """Return what the model knows of a link, taking an unreadable one for absent."""
        known = self.model.get(name)
        return known if isinstance(known, Link) else None

    def check(
        self, name: _Name, operation: str, expected: _Expected, change: object, *, draining: bool = False
    ) -> None:
        """Compare the answer of an operation with the model, and keep what it says."""
        assert isinstance(change, LinkChange)
        before, link = self.link(name), change.link
        changed = expected.outcome in {Outcome.REPLACED, Outcome.INHERITED, Outcome.RELEASED}
        previous = PreviousOwner(before.pod_index, before.incarnation, before.epoch) if before and changed else None
        outcome = expected.outcome
        if self.model.get(name) == _UNREADABLE:
            outcome = {Outcome.CREATED: Outcome.OVERWRITTEN, Outcome.ABSENT: Outcome.UNREADABLE}.get(outcome, outcome)

        assert (outcome, previous) == (change.outcome, change.previous)
        assert (expected.kind is None) == (link is None)
        if link is not None:
            assert (expected.owner or (before and before.owner)) == link.owner
            assert expected.kind is link.kind
            self.check_time(expected.seconds, link)
            if before is None or expected.owner is not None:
                assert link.epoch > (before.epoch if before else 0)
            else:
                assert before.epoch == link.epoch
            assert link.owner == self.epochs.setdefault((name, link.epoch), link.owner), "two owners, one epoch"
        self.note(name, why_recorded(operation, outcome), before, link, draining=draining)
        if link is not None or change.done:
            self.model[name] = link

    def note(self, name: _Name, why: Why | None, before: Link | None, link: Link | None, *, draining: bool) -> None:
        """Keep what a store that keeps histories has noted of an operation."""
        in_grace = before is not None and link is not None and before.kind is GRACE is link.kind
        if self.kit.history and why is not None and not in_grace:
            event = LinkEvent(
                time_us=0,
                why=why,
                before=before.owner if before else None,
                after=link.owner if link else None,
                epoch=link.epoch if link else None,
                draining=draining,
            )
            self.histories[name] = [*self.histories.get(name, []), event][-self.kit.history :]

    @staticmethod
    def check_time(seconds: float | None, link: Link) -> None:
        """Compare what is left of a link with what was left a moment before."""
        if seconds is None:
            assert link.ttl is None
        else:
            assert link.ttl is not None
            assert seconds - _SLACK < link.ttl <= seconds

    def check_read(self, name: _Name, found: object) -> None:
        """Compare a link that was read with the model."""
        known = self.model.get(name)
        if known == _UNREADABLE:
            assert isinstance(found, StoreProtocolError)
        elif isinstance(known, Link):
            assert isinstance(found, Link)
            self.check_time(known.ttl, found)
            assert known == attrs.evolve(found, ttl=known.ttl)
        else:
            assert found is None

    @rule(name=_NAMES, new=_LIVES, ttl=_TTLS, dead=_SOME_LIVES, leaving=_SOME_LIVES)
    def place(self, name: _Name, new: PodLife, ttl: float, dead: list[PodLife], leaving: list[PodLife]) -> None:
        """Place a uid. Nobody places on a pod that it knows to be dead."""
        dead = [life for life in dead if life.pod_index != new.pod_index or life.incarnation < new.incarnation]
        change = self.run(self.store.place(self.key(name), new, ttl, dead=dead, leaving=leaving))
        self.check(name, "place", _model_place(self.link(name), new, ttl, dead, leaving), change)

    @rule(items=st.lists(st.tuples(_UIDS, _LIVES), max_size=4), service=_SERVICES, ttl=_TTLS, leaving=_SOME_LIVES)
    def place_links(self, items: list[tuple[str, PodLife]], service: str, ttl: float, leaving: list[PodLife]) -> None:
        """Place many uids, the same one twice included."""
        changes = self.run(self.store.place_links(self.namespace, items, service, ttl, leaving=leaving))
        for (uid, new), change in zip(items, changes, strict=True):
            name = uid, service
            self.check(name, "place_links", _model_place(self.link(name), new, ttl, [], leaving), change)

    @rule(name=_NAMES, new=_LIVES, steal=st.booleans())
    def claim(self, name: _Name, new: PodLife, *, steal: bool) -> None:
        """Claim a uid."""
        change = self.run(self.store.claim(self.key(name), new, steal_temporary=steal))
        self.check(name, "claim", _model_claim(self.link(name), new, steal=steal), change)

    @rule(name=_NAMES, offs=st.tuples(_OFFS, _OFFS, _OFFS), grace=_GRACES, draining=st.booleans())
    def release(
        self, name: _Name, offs: tuple[int | None, int | None, int | None], grace: float, *, draining: bool
    ) -> None:
        """Release a uid, naming all of what it has, or less, or something else."""
        pod, life, epoch = offs
        link = self.link(name)
        held = link or Link(0, 0, 1, PERSISTENT, None)
        wanted = {
            "pod_index": None if pod is None else (held.pod_index + pod) % _PODS,
            "incarnation": None if life is None else abs(held.incarnation + life),
            "epoch": None if epoch is None else held.epoch + epoch,
        }
        change = self.run(self.store.release(self.key(name), grace=grace, announced=not draining, **wanted))
        self.check(name, "release", _model_release(link, wanted, grace), change, draining=draining)

    @rule(name=_NAMES, new=_LIVES, off=_OFFS)
    def assign(self, name: _Name, new: PodLife, off: int | None) -> None:
        """Assign a uid, at an expected epoch or not."""
        link = self.link(name)
        if self.model.get(name) == _UNREADABLE:
            off = None  # the contract does not say which wins: an expected epoch, or overwriting
        epoch = None if off is None else (link.epoch if link else 1) + off
        change = self.run(self.store.assign(self.key(name), new, expected_epoch=epoch))
        self.check(name, "assign", _model_assign(link, new, epoch), change)

    @rule(name=_NAMES, new=_LIVES, life=_OFFS, off=_OFFS)
    def move(self, name: _Name, new: PodLife, life: int | None, off: int | None) -> None:
        """Move a uid to another life, naming what it has, or something else; each attempt has a name of its own."""
        link = self.link(name)
        held = link or Link(0, 0, 1, PERSISTENT, None)
        old = PodLife(held.pod_index, abs(held.incarnation + (life or 0)))
        epoch = held.epoch + (off or 0)
        change = self.run(self.store.move(self.key(name), old, epoch, new, name=uuid.uuid4().hex))
        self.check(name, "move", _model_move(link, old, epoch, new), change)

    @rule(name=_NAMES)
    def get(self, name: _Name) -> None:
        """Read a link."""
        try:
            found = self.run(self.store.get_link(self.key(name)))
        except StoreProtocolError as error:
            found = error
        self.check_read(name, found)

    @rule(name=_NAMES)
    def history(self, name: _Name) -> None:
        """Read the history of a link."""
        events = self.run(self.store.history(self.key(name)))
        assert self.histories.get(name, []) == [attrs.evolve(event, time_us=0) for event in events]
        assert all(event.time_us for event in events)

    @rule(name=_NAMES)
    def expire(self, name: _Name) -> None:
        """Let the time of a link run out."""
        link = self.link(name)
        if link is not None and link.kind is not PERSISTENT:
            self.run(self.kit.expire(self.key(name)))
            self.model[name] = None

    @rule(name=_NAMES)
    def poison(self, name: _Name) -> None:
        """Make a link unreadable."""
        self.run(self.kit.poison_link(self.key(name)))
        self.model[name] = _UNREADABLE

    @rule()
    def time_passes(self) -> None:
        """Let the clock of the store move."""
        self.run(self.kit.advance(0.002))

    @invariant()
    def all_reads_agree(self) -> None:
        """Every link is as the model has it, for one reader and for many, and the services of a uid are its links."""
        uids = sorted({uid for uid, _ in self.model})
        services = sorted({service for _, service in self.model})
        links, listed = self.run(self.read_all(uids, services))
        for service, answers in zip(services, links, strict=True):
            for uid, found in zip(uids, answers, strict=True):
                self.check_read((uid, service), found)
        for uid, pods in zip(uids, listed, strict=True):
            known = {service: link for (each, service), link in self.model.items() if each == uid and link is not None}
            # Whether a link that cannot be read is listed is not said: the index may know better than the link.
            expected = {service: link.pod_index for service, link in known.items() if isinstance(link, Link)}
            assert expected == {each: pod for each, pod in pods.items() if known.get(each) != _UNREADABLE}

    async def read_all(self, uids: list[str], services: list[str]) -> tuple[list[Any], list[dict[str, int]]]:
        """Return the links of each service, and the services of each uid."""
        links = asyncio.gather(*(self.store.get_links(self.namespace, uids, service) for service in services))
        listed = asyncio.gather(*(self.store.get_services(self.namespace, uid) for uid in uids))
        return await links, await listed


def link_machine(make_kit: Callable[[], AbstractAsyncContextManager[StoreKit]]) -> type[LinkMachine]:
    """Return a state machine over the stores that ``make_kit`` opens, one for each example; run its ``TestCase``.

    Another length is set as Hypothesis does it: ``machine.TestCase.settings = settings(max_examples=1000)``.
    """

    class Machine(LinkMachine):
        """Random operations on the links of one store."""

        open_kit = staticmethod(make_kit)

    # A call over a network is slow at times, which is no failure.
    Machine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return Machine
