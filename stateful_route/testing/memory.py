"""A store in memory: the whole ``Store`` contract without a server, with faults on request."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

from stateful_route._checks import to_ms, to_seconds
from stateful_route.errors import StoreError, StoreProtocolError, StoreUnavailableError
from stateful_route.models import (
    Announcement,
    HeartbeatOutcome,
    Link,
    LinkAnnouncement,
    LinkChange,
    LinkKey,
    LinkKind,
    Outcome,
    PodAnnouncement,
    PodLife,
    PodReport,
    PodTable,
    PreviousOwner,
    Registration,
    ServerInfo,
)
from stateful_route.store.port import StoreInfo
from stateful_route.testing.service_pods import Moment, ServicePods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_NEVER = math.inf


class _Poison(enum.Enum):
    """What stands for a value that cannot be read."""

    VALUE = "unreadable"


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


_Decision = tuple[Outcome, _Entry | None]
_DEAF = StoreUnavailableError("nothing is heard any more", operation="listen", maybe_applied=False)
# What an operation that took an unreadable link for an absent one did in truth.
_IF_UNREADABLE = {Outcome.CREATED: Outcome.OVERWRITTEN, Outcome.ABSENT: Outcome.UNREADABLE}


def _among(life: PodLife, lives: Sequence[PodLife]) -> bool:
    return any(life.pod_index == other.pod_index and life.incarnation <= other.incarnation for other in lives)


def _next(previous: int | None, now: Moment) -> int:
    """Return an epoch or an incarnation: from the clock, and above the previous one even if the clock went back."""
    return now.us if previous is None else max(previous + 1, now.us)


def _new(before: _Entry | None, owner: PodLife, kind: LinkKind, ends_ms: float, now: Moment) -> _Entry:
    return _Entry(owner, _next(before.epoch if before else None, now), kind, ends_ms)


def _place(
    before: _Entry | None,
    candidate: PodLife,
    ttl_ms: int,
    dead: Sequence[PodLife],
    leaving: Sequence[PodLife],
    now: Moment,
) -> _Decision:
    ends_ms = now.ms + ttl_ms
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


def _claim(before: _Entry | None, owner: PodLife, now: Moment, *, steal_temporary: bool) -> _Decision:
    taken = _new(before, owner, LinkKind.PERSISTENT, _NEVER, now)
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


def _assign(before: _Entry | None, owner: PodLife, expected_epoch: int | None, now: Moment) -> _Decision:
    if expected_epoch is not None and (before is None or before.epoch != expected_epoch):
        return Outcome.REFUSED, before
    if before is not None and before.owner == owner:
        return _confirm(before)
    taken = _new(before, owner, LinkKind.PERSISTENT, _NEVER, now)
    return (Outcome.CREATED if before is None else Outcome.REPLACED), taken


def _release(
    before: _Entry | None,
    pod_index: int | None,
    incarnation: int | None,
    epoch: int | None,
    grace_ms: int,
    now: Moment,
) -> _Decision:
    if before is None:
        return Outcome.ABSENT, None
    held = (before.owner.pod_index, before.owner.incarnation, before.epoch)
    if any(asked not in {None, found} for asked, found in zip((pod_index, incarnation, epoch), held, strict=True)):
        return Outcome.REFUSED, before
    if grace_ms <= 0:
        return Outcome.RELEASED, None
    return Outcome.GRACE, attrs.evolve(before, kind=LinkKind.GRACE, ends_ms=min(before.ends_ms, now.ms + grace_ms))


def _change(before: _Entry | None, decision: _Decision, now: Moment) -> LinkChange:
    """Return the answer: the link after it, and who held it before if nobody or another life holds it now."""
    outcome, after = decision
    previous = None
    if before is not None and (after is None or after.epoch != before.epoch):
        previous = PreviousOwner(before.owner.pod_index, before.owner.incarnation, before.epoch)
    return LinkChange(outcome, None if after is None else after.link(now), previous)


def _announced(before: _Entry | _Poison | None, after: _Entry | None) -> int | None:
    """Return up to which epoch what is known of a link is not so any more; ``None`` if all of it still is."""
    if isinstance(before, _Entry):
        changed = after is None or after.epoch != before.epoch
        left = after is not None and after.kind is LinkKind.GRACE is not before.kind
        return before.epoch if changed or left else None
    return after.epoch - 1 if before is not None and after is not None else None


@attrs.frozen(eq=False)
class _Hold:
    operations: frozenset[str]
    answers: bool
    released: anyio.Event = attrs.field(factory=anyio.Event)


@attrs.frozen
class _Fault:
    error: StoreError
    operations: frozenset[str]
    applied: bool


class MemoryStore:
    """A ``Store`` in memory, for tests of what stands on a store. Not for use across processes.

    Each call gives way to other tasks before and after it changes anything, as a call over a network does: a
    caller that is cancelled does not know whether it was applied.

    Attributes:
        operations: how often each method of the contract was called, by its name; to listen is no call.

    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Begin empty. ``clock`` returns seconds since 1970."""
        self.operations: Counter[str] = Counter()
        self._clock = clock
        self._links: dict[LinkKey, _Entry | _Poison] = {}
        self._pods: defaultdict[tuple[str, str], ServicePods] = defaultdict(ServicePods)
        self._stamp = 0, 0
        self._holds: list[_Hold] = []
        self._held = 0
        self._held_more = anyio.Event()
        self._fault: _Fault | None = None
        self._listeners: dict[asyncio.Queue[Announcement | None], str] = {}
        self._deaf = False

    def __repr__(self) -> str:
        """Show how much is in it."""
        pods = sum(map(len, self._pods.values()))
        return f"<MemoryStore links={len(self._links)} pods={pods} held={self._held}>"

    # -- what a test asks for

    def poison_link(self, key: LinkKey) -> None:
        """Make the value of the link unreadable, whether there was one or not."""
        self._links[key] = _Poison.VALUE

    def poison_pod(self, namespace: str, service_name: str, pod_index: int) -> None:
        """Make the entry of the pod unreadable, whether there was one or not."""
        self._pods[namespace, service_name].poison(pod_index)

    def expire_link(self, key: LinkKey) -> None:
        """End the link now, as if its time had run out."""
        self._links.pop(key, None)

    def mark_dead(self, namespace: str, service_name: str, pod_index: int) -> None:
        """Confirm the death of the newest life of the pod.

        Raises:
            KeyError: if there is no readable entry of the pod.

        """
        self._pods[namespace, service_name].mark_dead(pod_index, self._now())

    def fail_with(self, error: StoreError | None, *operations: str, applied: bool = False) -> None:
        """Make the next calls raise ``error``, until it is called again with ``None``.

        The calls for many uids do not raise it: as on a server, it is their answer for each uid.
        With names of ``operations`` only those fail. With ``applied`` the operation happens all the same, as
        when only its answer is lost; the ``maybe_applied`` of the error is for the caller to set.
        """
        self._fault = None if error is None else _Fault(error, frozenset(operations), applied)

    def deafen(self) -> None:
        """Lose all that listen, and let nobody listen until ``hear_again()``."""
        self._deaf = True
        for listener in self._listeners:
            listener.put_nowait(None)

    def hear_again(self) -> None:
        """Let those who ask listen again."""
        self._deaf = False

    def hold(self, *operations: str, answers: bool = False) -> None:
        """Keep calls waiting from now on, until ``release_held()``.

        With names of ``operations`` only those wait. With ``answers`` an operation happens first and its answer
        waits.
        """
        self._holds.append(_Hold(frozenset(operations), answers))

    def release_held(self) -> None:
        """Let the calls go on that wait, and hold no more."""
        holds, self._holds = self._holds, []
        for hold in holds:
            hold.released.set()

    async def wait_held(self, count: int = 1) -> None:
        """Return once at least ``count`` calls are held."""
        while self._held < count:
            await self._held_more.wait()

    @contextlib.asynccontextmanager
    async def _operation(self, name: str) -> AsyncIterator[None]:
        """Stand around one call: count it, hold it, fail it."""
        self.operations[name] += 1
        await self._gate(name, after=False)
        yield
        await self._gate(name, after=True)

    async def _gate(self, name: str, *, after: bool) -> None:
        await anyio.lowlevel.checkpoint()
        for hold in tuple(self._holds):
            if hold.answers is after and (not hold.operations or name in hold.operations):
                await self._wait(hold)
        fault = self._fault
        if fault is not None and fault.applied is after and (not fault.operations or name in fault.operations):
            raise fault.error

    async def _wait(self, hold: _Hold) -> None:
        self._held += 1
        more, self._held_more = self._held_more, anyio.Event()
        more.set()
        try:
            await hold.released.wait()
        finally:
            self._held -= 1

    # -- time and links

    def _now(self) -> Moment:
        """Return the time of one operation.

        Two scripts on a server never see the same microsecond; here a clock that stands still gains one with
        each operation, lest two owners of a uid get the same epoch. What ends, ends by the clock alone.
        """
        us = round(self._clock() * 1_000_000)
        seen, ticks = self._stamp
        self._stamp = us, ticks + 1 if us == seen else 0
        return Moment(us + self._stamp[1], us // 1000)

    def _find(self, key: LinkKey, now: Moment) -> _Entry | _Poison | None:
        """Return what is at ``key``; drop it if it has ended."""
        found = self._links.get(key)
        if isinstance(found, _Entry) and found.ends_ms <= now.ms:
            del self._links[key]
            return None
        return found

    def _read(self, key: LinkKey, now: Moment) -> Link | None:
        found = self._find(key, now)
        if isinstance(found, _Poison):
            raise StoreProtocolError(f"the link of {key} cannot be read", operation="get_link", maybe_applied=False)
        return None if found is None else found.link(now)

    def _write(self, key: LinkKey, decide: Callable[[_Entry | None, Moment], _Decision]) -> LinkChange:
        now = self._now()
        found = self._find(key, now)
        before = found if isinstance(found, _Entry) else None
        decision = decide(before, now)
        change = _change(before, decision, now)
        if isinstance(found, _Poison):
            change = attrs.evolve(change, outcome=_IF_UNREADABLE.get(change.outcome, change.outcome))
        if change.done:
            after = decision[1]
            epoch = _announced(found, after)
            if epoch is not None:
                self._announce(key.namespace, LinkAnnouncement(key, epoch))
            if after is None:
                self._links.pop(key, None)
            else:
                self._links[key] = after
        return change

    async def get_link(self, key: LinkKey) -> Link | None:
        """Return the link, or ``None``."""
        async with self._operation("get_link"):
            return self._read(key, self._now())

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """Return the link, ``None`` or the error of each uid, in their order."""
        try:
            async with self._operation("get_links"):
                now = self._now()
                return [self._read_or_error(LinkKey(namespace, uid, service_name), now) for uid in uids]
        except StoreError as error:
            return [error for _ in uids]

    def _read_or_error(self, key: LinkKey, now: Moment) -> Link | StoreError | None:
        try:
            return self._read(key, now)
        except StoreProtocolError as error:
            return error

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """Return the pod index of each service to which the uid is linked."""
        async with self._operation("get_services"):
            now = self._now()
            keys = [key for key in self._links if (key.namespace, key.uid) == (namespace, uid)]
            found = {key.service_name: self._find(key, now) for key in keys}
            return {service: entry.owner.pod_index for service, entry in found.items() if isinstance(entry, _Entry)}

    async def place(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
    ) -> LinkChange:
        """Return the link of the uid, made for ``candidate`` if there is none."""
        async with self._operation("place"):
            return self._placed(key, candidate, ttl, dead, leaving)

    def _placed(
        self, key: LinkKey, candidate: PodLife, ttl: float, dead: Sequence[PodLife], leaving: Sequence[PodLife]
    ) -> LinkChange:
        return self._write(key, lambda before, now: _place(before, candidate, to_ms(ttl), dead, leaving, now))

    async def place_links(
        self,
        namespace: str,
        candidates: Sequence[tuple[str, PodLife]],
        service_name: str,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
    ) -> list[LinkChange | StoreError]:
        """Place many uids, each with its own candidate."""
        try:
            async with self._operation("place_links"):
                return [
                    self._placed(LinkKey(namespace, uid, service_name), candidate, ttl, dead, leaving)
                    for uid, candidate in candidates
                ]
        except StoreError as error:
            return [error for _ in candidates]

    async def claim(self, key: LinkKey, owner: PodLife, *, steal_temporary: bool = False) -> LinkChange:
        """Make the link persistent for ``owner``, if there is none or it is its own."""
        async with self._operation("claim"):
            return self._write(key, lambda before, now: _claim(before, owner, now, steal_temporary=steal_temporary))

    async def release(
        self,
        key: LinkKey,
        *,
        pod_index: int | None = None,
        incarnation: int | None = None,
        epoch: int | None = None,
        grace: float = 0.0,
    ) -> LinkChange:
        """Remove the link if it is held by that pod, incarnation and epoch; ``None`` matches any."""
        async with self._operation("release"):
            return self._write(
                key, lambda before, now: _release(before, pod_index, incarnation, epoch, to_ms(grace), now)
            )

    async def assign(self, key: LinkKey, owner: PodLife, *, expected_epoch: int | None = None) -> LinkChange:
        """Make the link persistent for ``owner``, whoever holds it, if its epoch is the expected one."""
        async with self._operation("assign"):
            return self._write(key, lambda before, now: _assign(before, owner, expected_epoch, now))

    # -- pods

    async def register(self, server: ServerInfo, report: PodReport, lease: float, retention: float) -> Registration:
        """Begin a life of a pod; drop the pods that have said nothing for ``retention`` seconds."""
        async with self._operation("register"):
            pods = self._pods[server.namespace, server.service_name]
            began = pods.register(server.pod_index, report, to_ms(lease), to_ms(retention), self._now())
            self._announce_pod(
                server.namespace, server.service_name, server.pod_index, began.incarnation, report.routing_state
            )
            return began

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """Publish a heartbeat. ``retention`` is of no use here: only ``register`` drops pods."""
        del retention
        async with self._operation("heartbeat"):
            pods = self._pods[server.namespace, server.service_name]
            outcome, another_state = pods.beat(
                server.pod_index, incarnation, sequence, report, to_ms(lease), self._now()
            )
            if another_state:
                state = report.routing_state
                self._announce_pod(server.namespace, server.service_name, server.pod_index, incarnation, state)
            return outcome

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """Return whether that life is dead. ``retention`` is of no use here: only ``register`` drops pods."""
        del retention
        async with self._operation("confirm_death"):
            dead, new = self._pods[namespace, service_name].confirm_death(life, self._now())
            if new:
                self._announce_pod(namespace, service_name, life.pod_index, life.incarnation, "DEAD")
            return dead

    async def read_pods(
        self, namespace: str, service_name: str, *, since: int | None = 0, also: Sequence[int] = ()
    ) -> PodTable:
        """Return the pods of a service, or what has changed in them; what cannot be read is left out and counted."""
        async with self._operation("read_pods"):
            return self._pods[namespace, service_name].read(since, also, self._now())

    # -- announcements

    @contextlib.asynccontextmanager
    async def listen(self, namespace: str, patience: float) -> AsyncIterator[AsyncIterator[Announcement | None]]:
        """Subscribe to what is announced in a namespace."""
        await self._gate("listen", after=False)
        if self._deaf:
            raise _DEAF
        heard: asyncio.Queue[Announcement | None] = asyncio.Queue()
        self._listeners[heard] = namespace
        try:
            yield self._hear(heard, patience)
        finally:
            self._listeners.pop(heard, None)

    async def _hear(
        self, heard: asyncio.Queue[Announcement | None], patience: float
    ) -> AsyncIterator[Announcement | None]:
        while True:
            announcement = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):  # wait_for of Python 3.11 may lose a cancellation
                    announcement = await heard.get()
            if self._deaf:
                raise _DEAF
            yield announcement

    def _announce(self, namespace: str, announcement: Announcement) -> None:
        for listener, wanted in self._listeners.items():
            if wanted == namespace and not self._deaf:
                listener.put_nowait(announcement)

    def _announce_pod(self, namespace: str, service_name: str, pod_index: int, incarnation: int, state: str) -> None:
        self._announce(namespace, PodAnnouncement(namespace, service_name, pod_index, incarnation, str(state)))

    # -- the store itself

    async def info(self) -> StoreInfo:
        """Return what the store is."""
        async with self._operation("info"):
            return StoreInfo("memory", "noeviction")

    async def aclose(self) -> None:
        """Do nothing but count the call: nothing was opened. It is never held and never fails."""
        self.operations["aclose"] += 1
