"""What the tests share: the kit, lives, times and reports, and expected values that stand for a range."""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route.links import Link, LinkKey, LinkKind, PreviousOwner
from stateful_route.pods import PodLife, PodReport, RoutingState, ServerInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.pods import HeartbeatOutcome, Registration
    from stateful_route.store.protocol import Store


@attrs.frozen(kw_only=True)
class StoreKit:
    """A store to be tested, and what a test may do to it behind its back.

    Attributes:
        store: the store.
        advance: lets so many seconds pass for the store; on a real server that takes as long.
        poison_link: makes the value of a link unreadable, whether there was one or not.
        poison_pod: makes the entry of a pod (namespace, service, pod index) unreadable, whether there was one or not.
        expire: ends a temporary link, or one in grace, now, in every place where it is kept (used by the model only).
        history: how many changes of a link the store keeps, for some minutes at least; 0 or at least 3.

    """

    store: Store
    advance: Callable[[float], Awaitable[None]]
    poison_link: Callable[[LinkKey], Awaitable[None]]
    poison_pod: Callable[[str, str, int], Awaitable[None]]
    expire: Callable[[LinkKey], Awaitable[None]]
    history: int = 0


TEMPORARY, PERSISTENT, GRACE = LinkKind
# As large as real incarnations are, and close together: a store that loses digits takes one for another.
INCARNATION = 1_800_000_000_000_100
OWNER = PodLife(0, INCARNATION)
OLDER = PodLife(0, INCARNATION - 1)
NEWER = PodLife(0, INCARNATION + 1)
OTHER = PodLife(2, 7)
STRANGER = PodLife(10, INCARNATION + 50)

# Seconds. SHORT ends while a test waits for it; LONG outlives every test, and SLACK is the most that one takes.
SHORT = 0.1
BEYOND_SHORT = 0.15
LONG = 200.0
LONGER = 500.0
SLACK = 60.0


class _Above(int):
    """Equals every number above it, so that an expected value can have a new epoch."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other > int(self)

    def __hash__(self) -> int:
        return super().__hash__()

    def __repr__(self) -> str:
        return f"<above {int(self)}>"


class About(float):
    """Equals what is left of so many seconds within a test."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and 0 <= float(self) - float(other) < min(SLACK, float(self))

    def __hash__(self) -> int:
        return super().__hash__()

    def __repr__(self) -> str:
        return f"<up to {float(self)}>"


def later(link: Link) -> Link:
    """Return ``link`` as it is when it is read some time later."""
    return link if link.ttl is None else attrs.evolve(link, ttl=About(link.ttl))


def made(owner: PodLife, above: int, kind: LinkKind, ttl: float | None) -> Link:
    """Return a link with a new epoch."""
    return Link(owner.pod_index, owner.incarnation, _Above(above), kind, None if ttl is None else About(ttl))


def holder(link: Link) -> PreviousOwner:
    """Return who has ``link``, as the next owner learns it."""
    return PreviousOwner(link.pod_index, link.incarnation, link.epoch)


REPORT = PodReport(
    load=17,
    routing_state=RoutingState.READY,
    links=3,
    placed_total=2**53 - 1,
    capacity=2.5,
    max_links=9,
    address='http://[::1]:80/ "é🙂"\n%{}',
    zone="eu 1",
    version="v1|2",
)
DRAINING = attrs.evolve(REPORT, routing_state=RoutingState.DENY_NEW_CALL)
GOODBYE = attrs.evolve(REPORT, routing_state=RoutingState.SHUTDOWN)
RETENTION = 1000.0


def server_of(key: LinkKey, pod_index: int | None = 0) -> ServerInfo:
    """Return a pod of the service of ``key``."""
    return ServerInfo(
        namespace=key.namespace, service_name=key.service_name, pod_name=f"pod-{pod_index}", pod_index=pod_index
    )


async def given(store: Store, key: LinkKey, kind: LinkKind | None, ttl: float = LONG) -> Link | None:
    """Make a link of ``OWNER`` by the operations of the store; it has ``ttl`` seconds unless it is persistent."""
    if kind is None:
        return None
    change = await (store.place(key, OWNER, ttl) if kind is TEMPORARY else store.claim(key, OWNER))
    if kind is GRACE:
        change = await store.release(key, grace=ttl)
    return change.link


async def given_link(store: Store, key: LinkKey, kind: LinkKind, ttl: float = LONG) -> Link:
    """Make a link as ``given`` does; here there is one."""
    link = await given(store, key, kind, ttl)
    assert link is not None
    return link


async def readings(store: Store, key: LinkKey) -> tuple[Link | None, object, dict[str, int]]:
    """Return all three ways to read a link."""
    link = await store.get_link(key)
    links = await store.get_links(key.namespace, [key.uid], key.service_name)
    return link, links, await store.get_services(key.namespace, key.uid)


GONE: tuple[None, list[None], dict[str, int]] = (None, [None], {})


class Service:
    """The pods of the service of a test, with the report, lease and retention that most tests give."""

    def __init__(self, kit: StoreKit, key: LinkKey) -> None:
        """Take the pods of the service of ``key``."""
        self._kit = kit
        self._store = kit.store
        self._key = key
        self._names = key.namespace, key.service_name
        self.advance = kit.advance
        self.read = functools.partial(self._store.read_pods, *self._names)

    async def register(
        self,
        pod_index: int | None = 0,
        report: PodReport = REPORT,
        *,
        lease: float = LONG,
        retention: float = RETENTION,
        **named: Any,
    ) -> Registration:
        """Begin a life of a pod."""
        return await self._store.register(server_of(self._key, pod_index), report, lease, retention, **named)

    async def beat(
        self, pod_index: int, incarnation: int, sequence: int, report: PodReport = REPORT, *, lease: float = LONG
    ) -> HeartbeatOutcome:
        """Publish a heartbeat of a pod."""
        server = server_of(self._key, pod_index)
        return await self._store.heartbeat(server, incarnation, sequence, report, lease, RETENTION)

    async def confirm(self, pod_index: int, incarnation: int) -> bool:
        """Return whether a life of a pod is dead."""
        return await self._store.confirm_death(*self._names, PodLife(pod_index, incarnation), RETENTION)

    async def end(self, pod_index: int, incarnation: int) -> bool:
        """End a life of a pod whose process is gone; return whether it has ended."""
        return await self._store.end_life(*self._names, PodLife(pod_index, incarnation), RETENTION)

    async def poison(self, pod_index: int) -> None:
        """Make the entry of a pod unreadable."""
        await self._kit.poison_pod(*self._names, pod_index)


class Parts:
    """The fixtures, taken from the one that the subclass provides."""

    @pytest.fixture
    def store(self, store_kit: StoreKit) -> Store:
        """Return the store to be tested."""
        return store_kit.store

    @pytest.fixture
    def key(self) -> LinkKey:
        """Return the name of a link, in a namespace of the test's own."""
        return LinkKey(f"conformance-{uuid.uuid4().hex}", "alice", "room")

    @pytest.fixture
    def service(self, store_kit: StoreKit, key: LinkKey) -> Service:
        """Return the pods of the service of ``key``."""
        return Service(store_kit, key)
