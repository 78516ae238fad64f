"""The conformance suite: what any ``Store`` has to do, as tests to inherit.

::

    class TestMyStore(StoreConformance):
        @pytest_asyncio.fixture
        async def store_kit(self):
            async with my_kit() as kit:
                yield kit

It needs pytest and pytest-asyncio. Each test works in a namespace of its own, so that a shared server will do, and
nothing is ever flushed. Let pytest rewrite the assertions of this module (``stateful_route.testing`` sees to that).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route._checks import MAX_ID_BYTES
from stateful_route.errors import StoreProtocolError
from stateful_route.models import (
    DIGEST_MODULUS,
    HeartbeatOutcome,
    Link,
    LinkChange,
    LinkKey,
    LinkKind,
    Outcome,
    PodLife,
    PodReport,
    PodState,
    PreviousOwner,
    RoutingState,
    ServerInfo,
    StateObj,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.models import PodTable
    from stateful_route.store.port import Store


@attrs.frozen(kw_only=True)
class StoreKit:
    """A store to be tested, and what a test may do to it behind its back.

    Attributes:
        store: the store.
        advance: lets so many seconds pass for the store; on a real server that takes as long.
        poison_link: makes the value of a link unreadable, whether there was one or not.
        poison_pod: makes the entry of a pod (namespace, service, pod index) unreadable, whether there was one or not.
        expire: ends a temporary link, or one in grace, now, in every place where it is kept (used by the model only).

    """

    store: Store
    advance: Callable[[float], Awaitable[None]]
    poison_link: Callable[[LinkKey], Awaitable[None]]
    poison_pod: Callable[[str, str, int], Awaitable[None]]
    expire: Callable[[LinkKey], Awaitable[None]]


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


class _About(float):
    """Equals what is left of so many seconds within a test."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and 0 <= float(self) - float(other) < min(SLACK, float(self))

    def __hash__(self) -> int:
        return super().__hash__()

    def __repr__(self) -> str:
        return f"<up to {float(self)}>"


def _later(link: Link) -> Link:
    """Return ``link`` as it is when it is read some time later."""
    return link if link.ttl is None else attrs.evolve(link, ttl=_About(link.ttl))


def _made(owner: PodLife, above: int, kind: LinkKind, ttl: float | None) -> Link:
    """Return a link with a new epoch."""
    return Link(owner.pod_index, owner.incarnation, _Above(above), kind, None if ttl is None else _About(ttl))


def _holder(link: Link) -> PreviousOwner:
    return PreviousOwner(link.pod_index, link.incarnation, link.epoch)


@attrs.frozen
class Row:
    """A row of the table of ``stateful_route.store.port``.

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
            link = _made(self.actor, before.epoch if before else 0, self.kind, self.ttl)
            return LinkChange(outcome, link, _holder(before) if before else None)
        if outcome is Outcome.RELEASED:
            assert before is not None
            return LinkChange(outcome, None, _holder(before))
        if before is None or outcome in {Outcome.UNCHANGED, Outcome.REFUSED, Outcome.SUPERSEDED}:
            return LinkChange(outcome, _later(before) if before else None)
        return LinkChange(outcome, _later(attrs.evolve(before, kind=self.kind, ttl=self.ttl)))


def _place_row(title: str, outcomes: tuple[Outcome, ...], **lives: list[PodLife]) -> Row:
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
    _assign_row("an older life of the owner", OLDER, (Outcome.CREATED, *_TAKEN)),
    _assign_row("a newer life of the owner", NEWER, (Outcome.CREATED, *_TAKEN)),
    _assign_row("the same life, as expected", OWNER, (Outcome.REFUSED, *_CONFIRMED), off=0),
    _assign_row("another pod, as expected", OTHER, (Outcome.REFUSED, *_TAKEN), off=0),
    _assign_row("the same life, expecting more", OWNER, (Outcome.REFUSED, *_REFUSED), off=1),
    _assign_row("another pod, expecting less", OTHER, (Outcome.REFUSED, *_REFUSED), off=-1),
)

_PRIORS = {"absent": None, "temporary": TEMPORARY, "persistent": PERSISTENT, "grace": GRACE}
CELLS = [
    pytest.param(row, kind, outcome, id=f"{row.title}: {name} -> {outcome}")
    for row in TABLE
    for (name, kind), outcome in zip(_PRIORS.items(), row.outcomes, strict=True)
]

# Ids that a careless layout of keys mixes up, in whatever part of a key they stand.
HOSTILE = (
    "a", "A", "a:b", "b:c", "c", "b", ":", "{a}", "a}", "{", "}{", "%", "%3A", "%253A", "a|b", "|", "a-b", "-", "0",
    " a", "a b", "a\nb", "a\r\n", "a\x00b", "*", "[a]", "?", "\\", '"', "é", "e\u0301", "🙂", "pods", "link",
    "x" * MAX_ID_BYTES,
)  # fmt: skip


async def _given(store: Store, key: LinkKey, kind: LinkKind | None, ttl: float = LONG) -> Link | None:
    """Make a link of ``OWNER`` by the operations of the store; it has ``ttl`` seconds unless it is persistent."""
    if kind is None:
        return None
    change = await (store.place(key, OWNER, ttl) if kind is TEMPORARY else store.claim(key, OWNER))
    if kind is GRACE:
        change = await store.release(key, grace=ttl)
    return change.link


async def _link(store: Store, key: LinkKey, kind: LinkKind, ttl: float = LONG) -> Link:
    link = await _given(store, key, kind, ttl)
    assert link is not None
    return link


async def _readings(store: Store, key: LinkKey) -> tuple[Link | None, object, dict[str, int]]:
    """Return all three ways to read a link."""
    link = await store.get_link(key)
    links = await store.get_links(key.namespace, [key.uid], key.service_name)
    return link, links, await store.get_services(key.namespace, key.uid)


_GONE: tuple[None, list[None], dict[str, int]] = (None, [None], {})


class _Parts:
    """The fixtures, taken from the one that the subclass provides."""

    @pytest.fixture
    def store(self, store_kit: StoreKit) -> Store:
        """Return the store to be tested."""
        return store_kit.store

    @pytest.fixture
    def key(self) -> LinkKey:
        """Return the name of a link, in a namespace of the test's own."""
        return LinkKey(f"conformance-{uuid.uuid4().hex}", "alice", "room")


class _Links(_Parts):
    @pytest.mark.parametrize(("row", "kind", "outcome"), CELLS)
    async def test_table(self, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome) -> None:
        """Each cell of the table: the outcome, the link after it, its epoch, and who held it before."""
        before = await _given(store, key, kind)

        change = await row.run(store, key, before.epoch if before else 0)

        assert row.expected(outcome, before) == change
        link = change.link
        expected = _GONE if link is None else (_later(link), [_later(link)], {key.service_name: link.pod_index})
        assert expected == await _readings(store, key)

    @pytest.mark.parametrize(("row", "kind", "outcome"), CELLS)
    async def test_second_run(
        self, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome
    ) -> None:
        """An operation that runs twice leaves the link as the first run left it."""
        before = await _given(store, key, kind)
        epoch = before.epoch if before else 0

        first = await row.run(store, key, epoch)
        second = await row.run(store, key, epoch)

        assert outcome is first.outcome
        assert (_later(first.link) if first.link else None) == second.link
        assert second.previous is None

    async def test_numbers_of_any_size(self, store: Store, key: LinkKey) -> None:
        """The largest pod index and incarnation are kept to the last digit."""
        largest = PodLife(2**31 - 1, 2**53 - 1)
        change = await store.claim(key, largest)

        assert LinkChange(Outcome.CREATED, _made(largest, 0, PERSISTENT, None)) == change
        assert change.link == await store.get_link(key)
        assert Outcome.SUPERSEDED is (await store.claim(key, PodLife(2**31 - 1, 2**53 - 2))).outcome

    async def test_unknown_incarnation(self, store: Store, key: LinkKey) -> None:
        """A link of a life that is not known is of the oldest: a life claims it as inherited, a dead one frees it."""
        unknown = PodLife(0, 0)
        placed = await store.place(key, unknown, LONG)
        claimed = await store.claim(key, OWNER)

        assert Outcome.INHERITED is claimed.outcome
        assert PreviousOwner(0, 0, placed.link.epoch if placed.link else 0) == claimed.previous
        assert Outcome.REPLACED is (await store.assign(key, unknown)).outcome
        assert Outcome.REPLACED is (await store.place(key, OTHER, LONG, dead=[PodLife(0, 1)])).outcome

    async def test_pod_0_matches_pod_0_only(self, store: Store, key: LinkKey) -> None:
        """Pod 0 is a pod: what it may not release it does not release."""
        await store.claim(key, OTHER)

        change = await store.release(key, pod_index=0)

        assert Outcome.REFUSED is change.outcome
        assert change.link is not None
        assert OTHER == change.link.owner

    async def test_epoch_comes_from_the_clock(self, store: Store, key: LinkKey) -> None:
        """A new epoch is the clock of the store in microseconds, so that it rises over links that are gone too."""
        now = (await store.read_pods(key.namespace, key.service_name)).now
        link = await _link(store, key, TEMPORARY)

        assert pytest.approx(now, abs=SLACK) == link.epoch / 1_000_000

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_epoch_rises_over_a_released_link(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A uid that was released and placed again has a higher epoch."""
        before = await _link(store, key, kind)
        await store.release(key)

        change = await store.place(key, OTHER, LONG)

        assert LinkChange(Outcome.CREATED, _made(OTHER, before.epoch, TEMPORARY, LONG)) == change


class _Time(_Parts):
    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_expiry(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link whose time is over is gone for every reader, and the next one has a higher epoch."""
        before = await _link(store, key, kind, SHORT)
        await store_kit.advance(BEYOND_SHORT)

        assert _GONE == await _readings(store, key)
        assert LinkChange(Outcome.ABSENT, None) == await store.release(key)
        expected = LinkChange(Outcome.CREATED, _made(OTHER, before.epoch, PERSISTENT, None))
        assert expected == await store.claim(key, OTHER)

    @pytest.mark.parametrize("operation", ["take over", "inherit", "assign"])
    async def test_a_changed_owner_has_its_epoch_from_the_clock(
        self, store_kit: StoreKit, store: Store, key: LinkKey, operation: str
    ) -> None:
        """The epoch of a link that changes its owner is the clock too, so that it rises over links made since."""
        before = await _link(store, key, PERSISTENT)
        await store_kit.advance(SHORT)
        other = await _link(store, attrs.evolve(key, uid="bob"), PERSISTENT)

        change = await {
            "take over": lambda: store.place(key, OTHER, LONG, dead=[OWNER]),
            "inherit": lambda: store.claim(key, NEWER),
            "assign": lambda: store.assign(key, OTHER),
        }[operation]()

        assert change.link is not None
        assert change.link.epoch > other.epoch > before.epoch

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    @pytest.mark.parametrize("operation", ["place", "claim", "assign", "steal", "take over", "inherit"])
    async def test_time_is_given(
        self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind, operation: str
    ) -> None:
        """An operation that gives a link more time saves it from the end that it had, for every reader."""
        await _link(store, key, kind, SHORT)
        change = await {
            "place": lambda: store.place(key, OTHER, LONG),
            "claim": lambda: store.claim(key, OWNER),
            "assign": lambda: store.assign(key, OWNER),
            "steal": lambda: store.claim(key, OTHER, steal_temporary=True),
            "take over": lambda: store.place(key, OTHER, LONG, dead=[OWNER]),
            "inherit": lambda: store.claim(key, NEWER),
        }[operation]()
        await store_kit.advance(BEYOND_SHORT)

        assert change.done
        assert change.link is not None
        link = _later(change.link)
        assert (link, [link], {key.service_name: link.pod_index}) == await _readings(store, key)

    @pytest.mark.parametrize("operation", ["place", "place_links"])
    async def test_place_never_shortens(self, store: Store, key: LinkKey, operation: str) -> None:
        """Renewing gives at least the time asked for, and takes none away."""
        before = await _link(store, key, TEMPORARY)

        async def renew(ttl: float) -> Link | None:
            if operation == "place":
                return (await store.place(key, OTHER, ttl)).link
            (change,) = await store.place_links(key.namespace, [(key.uid, OTHER)], key.service_name, ttl)
            assert isinstance(change, LinkChange)
            return change.link

        assert _later(before) == await renew(0.001)
        assert attrs.evolve(before, ttl=_About(LONGER)) == await renew(LONGER)
        assert attrs.evolve(before, ttl=_About(LONGER)) == await renew(LONG)
        assert attrs.evolve(before, ttl=_About(LONGER)) == await store.get_link(key)

    async def test_a_revived_link_has_the_time_asked_for(self, store: Store, key: LinkKey) -> None:
        """A link that comes back from grace has at least the time asked for."""
        before = await _link(store, key, GRACE)

        change = await store.place(key, OTHER, LONGER)

        revived = attrs.evolve(before, kind=TEMPORARY, ttl=_About(LONGER))
        assert LinkChange(Outcome.REVIVED, revived) == change

    async def test_a_replaced_link_has_only_the_time_asked_for(self, store: Store, key: LinkKey) -> None:
        """The time of an owner that is dead does not pass to the next one."""
        before = await _link(store, key, TEMPORARY, LONGER)

        change = await store.place(key, OTHER, LONG, dead=[OWNER])

        assert _made(OTHER, before.epoch, TEMPORARY, LONG) == change.link

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_grace_is_never_lengthened(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link that has less time than the grace keeps what it has."""
        before = await _link(store, key, kind)

        change = await store.release(key, grace=LONGER)

        assert LinkChange(Outcome.GRACE, _later(attrs.evolve(before, kind=GRACE))) == change

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_grace_ends(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link that has more time than the grace resolves for the grace, then it is gone."""
        before = await _link(store, key, kind)
        change = await store.release(key, grace=SHORT)

        assert LinkChange(Outcome.GRACE, attrs.evolve(before, kind=GRACE, ttl=_About(SHORT))) == change
        await store_kit.advance(BEYOND_SHORT)
        assert _GONE == await _readings(store, key)

    async def test_a_service_that_ended_hides_no_other(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """The services of a uid end one by one: the ends of a temporary link and of grace leave the others alone."""
        ns, uid = key.namespace, key.uid
        room, doc, chat, game = (LinkKey(ns, uid, service) for service in ("room", "doc", "chat", "game"))
        await store.claim(room, OWNER)
        await store.place(doc, OTHER, 2 * SHORT)
        await store.place(chat, STRANGER, LONG)
        await store.claim(game, OTHER)
        await store.release(game, grace=2 * SHORT)

        assert {"room": 0, "doc": 2, "chat": 10, "game": 2} == await store.get_services(ns, uid)
        await store_kit.advance(2 * BEYOND_SHORT)
        assert {"room": 0, "chat": 10} == await store.get_services(ns, uid)
        await store.release(room)
        assert {"chat": 10} == await store.get_services(ns, uid)
        await store.place(chat, OTHER, LONG, dead=[STRANGER])
        assert {"chat": 2} == await store.get_services(ns, uid)

    async def test_a_lone_service_is_kept_as_long_as_its_link(
        self, store_kit: StoreKit, store: Store, key: LinkKey
    ) -> None:
        """The services of a uid are still listed when the first of its links has ended, whatever the order."""
        ns, uid = key.namespace, key.uid
        await store.place(LinkKey(ns, uid, "long"), OWNER, LONG)
        await store.place(LinkKey(ns, uid, "short"), OWNER, SHORT)
        await store_kit.advance(BEYOND_SHORT)

        assert {"long": 0} == await store.get_services(ns, uid)


class _Many(_Parts):
    async def test_links_in_order(self, store: Store, key: LinkKey) -> None:
        """get_links answers each uid in its place, the same one twice and none at all included."""
        ns, service = key.namespace, key.service_name
        kinds = {"t": TEMPORARY, "p": PERSISTENT, "g": GRACE}
        links = {uid: _later(await _link(store, LinkKey(ns, uid, service), kind)) for uid, kind in kinds.items()}

        uids = ["g", "nobody", "t", "p", "t"]
        assert [links.get(uid) for uid in uids] == await store.get_links(ns, uids, service)
        assert [] == await store.get_links(ns, [], service)

    async def test_many_links(self, store: Store, key: LinkKey) -> None:
        """A thousand uids are placed and read in one call each, every one with its own candidate."""
        candidates = [(f"u{i}", PodLife(i % 7, INCARNATION + i)) for i in range(1000)]
        placed = await store.place_links(key.namespace, candidates, key.service_name, LONG)
        found = await store.get_links(key.namespace, [uid for uid, _ in candidates], key.service_name)

        expected = [_made(life, 0, TEMPORARY, LONG) for _, life in candidates]
        assert [LinkChange(Outcome.CREATED, link) for link in expected] == placed
        assert expected == found

    async def test_place_links_item_by_item(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Each item of place_links has the outcome that place would have."""
        ns, service = key.namespace, key.service_name
        kinds = {"t": TEMPORARY, "p": PERSISTENT, "g": GRACE}
        links = {uid: await _link(store, LinkKey(ns, uid, service), kind) for uid, kind in kinds.items()}
        dead = await store.claim(LinkKey(ns, "d", service), STRANGER)
        await store_kit.poison_link(LinkKey(ns, "x", service))
        assert dead.link is not None

        changes = await store.place_links(
            ns, [(uid, OTHER) for uid in "xgndtpn"], service, LONG, dead=[STRANGER], leaving=[OWNER]
        )

        new = _made(OTHER, 0, TEMPORARY, LONG)
        expected = [
            LinkChange(Outcome.OVERWRITTEN, new),
            LinkChange(Outcome.REPLACED, _made(OTHER, links["g"].epoch, TEMPORARY, LONG), _holder(links["g"])),
            LinkChange(Outcome.CREATED, new),
            LinkChange(Outcome.REPLACED, _made(OTHER, dead.link.epoch, TEMPORARY, LONG), _holder(dead.link)),
            LinkChange(Outcome.RENEWED, _later(links["t"])),
            LinkChange(Outcome.UNCHANGED, links["p"]),
            LinkChange(Outcome.RENEWED, new),
        ]
        assert expected == changes

    async def test_place_links_of_nothing(self, store: Store, key: LinkKey) -> None:
        """Placing no uid answers nothing."""
        assert [] == await store.place_links(key.namespace, [], key.service_name, LONG)


class _Unreadable(_Parts):
    @pytest.mark.parametrize("kind", [None, TEMPORARY, PERSISTENT, GRACE])
    async def test_reads(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind | None) -> None:
        """A link that cannot be read is an error that says so, not an absent link."""
        await _given(store, key, kind)
        await store_kit.poison_link(key)

        with pytest.raises(StoreProtocolError) as caught:
            await store.get_link(key)
        assert caught.value.maybe_applied is False

    async def test_other_uids(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """In get_links only the uid that cannot be read has the error."""
        link = await _link(store, key, PERSISTENT)
        await store_kit.poison_link(LinkKey(key.namespace, "bob", key.service_name))

        answers = await store.get_links(key.namespace, ["alice", "bob", "carol"], key.service_name)

        assert [link, None] == [answers[0], answers[2]]
        assert isinstance(answers[1], StoreProtocolError)

    @pytest.mark.parametrize("kind", [None, TEMPORARY, PERSISTENT, GRACE])
    @pytest.mark.parametrize("operation", ["place", "place, others dead", "claim", "claim, stealing", "assign"])
    async def test_overwritten(
        self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind | None, operation: str
    ) -> None:
        """Place, claim and assign put a link in place of what cannot be read, with a new epoch, for every reader."""
        before = await _given(store, key, kind)
        await store_kit.poison_link(key)

        change = await {
            "place": lambda: store.place(key, OTHER, LONG),
            "place, others dead": lambda: store.place(key, OTHER, LONG, dead=[OWNER], leaving=[OWNER]),
            "claim": lambda: store.claim(key, OTHER),
            "claim, stealing": lambda: store.claim(key, OTHER, steal_temporary=True),
            "assign": lambda: store.assign(key, OTHER),
        }[operation]()

        above = before.epoch if before else 0
        expected = (TEMPORARY, LONG) if operation.startswith("place") else (PERSISTENT, None)
        assert LinkChange(Outcome.OVERWRITTEN, _made(OTHER, above, *expected)) == change
        assert change.link is not None
        link = _later(change.link)
        assert (link, [link], {key.service_name: 2}) == await _readings(store, key)

    @pytest.mark.parametrize("grace", [0.0, LONG])
    async def test_release_leaves_it(self, store_kit: StoreKit, store: Store, key: LinkKey, grace: float) -> None:
        """Release does not touch what it cannot read."""
        await store.claim(key, OWNER)
        await store_kit.poison_link(key)

        assert LinkChange(Outcome.UNREADABLE, None) == await store.release(key, pod_index=0, grace=grace)
        assert LinkChange(Outcome.UNREADABLE, None) == await store.release(key, grace=grace)
        with pytest.raises(StoreProtocolError):
            await store.get_link(key)

    async def test_other_services(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """A link that cannot be read hides no other service of the uid."""
        other = LinkKey(key.namespace, key.uid, "doc")
        await store.claim(key, OWNER)
        await store.claim(other, OTHER)
        await store_kit.poison_link(key)

        services = await store.get_services(key.namespace, key.uid)

        assert services["doc"] == OTHER.pod_index


class _Races(_Parts):
    async def test_places(self, store: Store, key: LinkKey) -> None:
        """Of 50 that place one uid at once exactly one makes the link, and all agree whose it is."""
        changes = await asyncio.gather(*(store.place(key, PodLife(i, INCARNATION), LONG) for i in range(50)))

        assert sorted([Outcome.CREATED] + [Outcome.RENEWED] * 49) == sorted(change.outcome for change in changes)
        assert 1 == len({(change.link.owner, change.link.epoch) for change in changes if change.link})

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_takeovers(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """Of 50 that take the link of a dead pod at once exactly one replaces it, and all agree whose it is."""
        await _link(store, key, kind)
        changes = await asyncio.gather(
            *(store.place(key, PodLife(i, INCARNATION), LONG, dead=[OWNER]) for i in range(1, 51))
        )

        assert sorted([Outcome.REPLACED] + [Outcome.RENEWED] * 49) == sorted(change.outcome for change in changes)
        assert 1 == len({(change.link.owner, change.link.epoch) for change in changes if change.link})

    async def test_claims(self, store: Store, key: LinkKey) -> None:
        """Of 50 pods that claim one uid at once exactly one gets it, and the others learn which."""
        changes = await asyncio.gather(*(store.claim(key, PodLife(i, INCARNATION)) for i in range(50)))

        assert sorted([Outcome.CREATED] + [Outcome.REFUSED] * 49) == sorted(change.outcome for change in changes)
        assert 1 == len({change.link for change in changes})

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_steals(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """Of 50 pods that steal a link at once exactly one gets it: a stolen link is persistent."""
        await _link(store, key, kind)
        changes = await asyncio.gather(
            *(store.claim(key, PodLife(i, INCARNATION), steal_temporary=True) for i in range(1, 51))
        )

        assert sorted([Outcome.REPLACED] + [Outcome.REFUSED] * 49) == sorted(change.outcome for change in changes)
        assert 1 == len({change.link for change in changes})

    async def test_lives(self, store: Store, key: LinkKey) -> None:
        """Of 50 lives of one pod that claim at once the newest has the link in the end, with the highest epoch."""
        changes = await asyncio.gather(*(store.claim(key, PodLife(0, 1 + i * 7 % 50)) for i in range(50)))

        link = await store.get_link(key)
        assert link is not None
        assert PodLife(0, 50) == link.owner
        assert link.epoch == max(change.link.epoch for change in changes if change.link)

    async def test_releases(self, store: Store, key: LinkKey) -> None:
        """Of 50 that release one link at once exactly one does."""
        link = await _link(store, key, PERSISTENT)
        changes = await asyncio.gather(*(store.release(key, epoch=link.epoch) for _ in range(50)))

        assert sorted([Outcome.RELEASED] + [Outcome.ABSENT] * 49) == sorted(change.outcome for change in changes)

    async def test_assigns(self, store: Store, key: LinkKey) -> None:
        """Of 50 that assign a link at one expected epoch exactly one does."""
        link = await _link(store, key, PERSISTENT)
        changes = await asyncio.gather(
            *(store.assign(key, PodLife(i, 1), expected_epoch=link.epoch) for i in range(1, 51))
        )

        assert sorted([Outcome.REPLACED] + [Outcome.REFUSED] * 49) == sorted(change.outcome for change in changes)


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


def _server(key: LinkKey, pod_index: int = 0) -> ServerInfo:
    return ServerInfo(
        namespace=key.namespace, service_name=key.service_name, pod_name=f"pod-{pod_index}", pod_index=pod_index
    )


class _Pods(_Parts):
    @pytest.fixture
    def server(self, key: LinkKey) -> ServerInfo:
        """Return a pod, in a namespace of the test's own."""
        return _server(key)

    async def test_no_pods(self, store: Store, key: LinkKey) -> None:
        """A service that was never seen has no pods."""
        table = await store.read_pods(key.namespace, key.service_name)

        assert ((), 0) == (table.pods, table.unreadable)

    async def test_register(self, store: Store, server: ServerInfo) -> None:
        """The first life of a pod is known at once, with all that it reports, and alive by the clock of the store."""
        registration = await store.register(server, REPORT, LONG, RETENTION)
        table = await store.read_pods(server.namespace, server.service_name)

        assert (None, 0.0) == (registration.previous_incarnation, registration.previous_left)
        (pod,) = table.pods
        load_state = StateObj(17, pod.load_state.timestamp, LONG)
        expected = PodState(
            pod_index=0, incarnation=registration.incarnation, report=REPORT, load_state=load_state, dead=False
        )
        assert expected == pod
        assert _About(table.now) == pod.load_state.timestamp
        assert pod.is_routable(table.now)

    async def test_incarnation_comes_from_the_clock(self, store: Store, server: ServerInfo) -> None:
        """An incarnation is the clock of the store in microseconds, so that it rises over lives that are forgotten."""
        registration = await store.register(server, REPORT, LONG, RETENTION)
        now = (await store.read_pods(server.namespace, server.service_name)).now

        assert pytest.approx(now, abs=SLACK) == registration.incarnation / 1_000_000

    @pytest.mark.parametrize("report", [REPORT, DRAINING])
    async def test_next_life(self, store: Store, server: ServerInfo, report: PodReport) -> None:
        """A later life has a higher incarnation and learns for how long the one before may believe to be alive."""
        first = await store.register(server, report, LONG, RETENTION)
        second = await store.register(server, REPORT, LONGER, RETENTION)
        third = await store.register(server, REPORT, LONG, RETENTION)

        assert first.incarnation < second.incarnation < third.incarnation
        assert (first.incarnation, _About(LONG)) == (second.previous_incarnation, second.previous_left)
        assert (second.incarnation, _About(LONGER)) == (third.previous_incarnation, third.previous_left)
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert third.incarnation == pod.incarnation

    async def test_concurrent_lives(self, store: Store, server: ServerInfo) -> None:
        """No two lives that begin at once have one incarnation."""
        registrations = await asyncio.gather(*(store.register(server, REPORT, LONG, RETENTION) for _ in range(50)))

        assert 50 == len({registration.incarnation for registration in registrations})
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert max(registration.incarnation for registration in registrations) == pod.incarnation

    async def test_next_life_after_goodbye(self, store: Store, server: ServerInfo) -> None:
        """A life that said goodbye leaves nothing to wait for."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, first.incarnation, 1, GOODBYE, LONG, RETENTION)

        second = await store.register(server, REPORT, LONG, RETENTION)

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_next_life_comes_from_the_clock(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """The incarnation of a later life is the clock too, so that it rises over lives begun since."""
        await store.register(_server(key, 0), REPORT, LONG, RETENTION)
        await store_kit.advance(SHORT)
        other = await store.register(_server(key, 1), REPORT, LONG, RETENTION)

        again = await store.register(_server(key, 0), REPORT, LONG, RETENTION)

        assert again.incarnation > other.incarnation

    async def test_next_life_after_the_lease(self, store_kit: StoreKit, store: Store, server: ServerInfo) -> None:
        """A life whose lease has ended leaves nothing to wait for."""
        first = await store.register(server, REPORT, SHORT, RETENTION)
        await store_kit.advance(BEYOND_SHORT)

        second = await store.register(server, REPORT, LONG, RETENTION)

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_heartbeat(self, store_kit: StoreKit, store: Store, server: ServerInfo) -> None:
        """A heartbeat publishes its report and its lease, and renews the life of the pod."""
        life = await store.register(server, REPORT, SHORT, RETENTION)
        await store_kit.advance(BEYOND_SHORT)
        lapsed = await store.read_pods(server.namespace, server.service_name)
        changed = PodReport(load=4, routing_state=RoutingState.DENY_NEW_CALL)
        outcome = await store.heartbeat(server, life.incarnation, 1, changed, LONG, RETENTION)
        renewed = await store.read_pods(server.namespace, server.service_name)

        assert HeartbeatOutcome.ACCEPTED is outcome
        (before,), (after,) = lapsed.pods, renewed.pods
        assert not before.is_alive(lapsed.now)
        expected = attrs.evolve(before, report=changed, load_state=StateObj(4, after.load_state.timestamp, LONG))
        assert expected == after
        assert after.is_available(renewed.now)
        assert after.load_state.timestamp > before.load_state.timestamp

    async def test_late_heartbeat(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat that arrives after a later one of its life is dropped."""
        life = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, life.incarnation, 10, DRAINING, LONG, RETENTION)

        outcome = await store.heartbeat(server, life.incarnation, 9, REPORT, LONGER, RETENTION)

        assert HeartbeatOutcome.OUTDATED is outcome
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert (DRAINING, LONG) == (pod.report, pod.load_state.ttl)

    async def test_heartbeat_twice(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat that runs twice is accepted twice: no later one was there."""
        life = await store.register(server, REPORT, LONG, RETENTION)
        outcomes = [await store.heartbeat(server, life.incarnation, 1, DRAINING, LONG, RETENTION) for _ in range(2)]

        assert [HeartbeatOutcome.ACCEPTED] * 2 == outcomes

    async def test_sequence_starts_again_with_each_life(self, store: Store, server: ServerInfo) -> None:
        """The heartbeats of a new life count from the start, whatever the life before had reached."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, first.incarnation, 1000, REPORT, LONG, RETENTION)
        second = await store.register(server, REPORT, LONG, RETENTION)

        outcome = await store.heartbeat(server, second.incarnation, 1, DRAINING, LONG, RETENTION)

        assert HeartbeatOutcome.ACCEPTED is outcome

    async def test_superseded_heartbeat(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat of an older life says that a newer one exists, and changes nothing."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        second = await store.register(server, REPORT, LONG, RETENTION)

        outcome = await store.heartbeat(server, first.incarnation, 99, GOODBYE, LONGER, RETENTION)

        assert HeartbeatOutcome.SUPERSEDED is outcome
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert (second.incarnation, REPORT, LONG) == (pod.incarnation, pod.report, pod.load_state.ttl)

    @pytest.mark.parametrize("above", [None, 1, 1000])
    async def test_unknown_heartbeat(self, store: Store, server: ServerInfo, above: int | None) -> None:
        """A heartbeat of a life that the store does not hold says so, and makes no pod of it."""
        held = None if above is None else await store.register(server, REPORT, LONG, RETENTION)
        before = (await store.read_pods(server.namespace, server.service_name)).pods

        incarnation = INCARNATION if held is None or above is None else held.incarnation + above
        outcome = await store.heartbeat(server, incarnation, 1, DRAINING, LONGER, RETENTION)

        assert HeartbeatOutcome.UNKNOWN is outcome
        assert before == (await store.read_pods(server.namespace, server.service_name)).pods

    async def test_pods_in_order(self, store: Store, key: LinkKey) -> None:
        """The pods of a service come by rising index, as numbers."""
        for pod_index in (10, 2, 0, 2**31 - 1, 1):
            await store.register(_server(key, pod_index), PodReport(load=pod_index), LONG, RETENTION)

        pods = (await store.read_pods(key.namespace, key.service_name)).pods

        assert [0, 1, 2, 10, 2**31 - 1] == [pod.pod_index for pod in pods]
        assert [0, 1, 2, 10, 2**31 - 1] == [pod.report.load for pod in pods]

    async def test_leases_of_several_pods(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Each pod has its own lease, and one whose lease ended is still listed."""
        await store.register(_server(key, 0), REPORT, SHORT, RETENTION)
        await store.register(_server(key, 1), REPORT, LONG, RETENTION)
        await store_kit.advance(BEYOND_SHORT)

        table = await store.read_pods(key.namespace, key.service_name)

        assert [(0, False), (1, True)] == [(pod.pod_index, pod.is_alive(table.now)) for pod in table.pods]

    async def test_retention(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Pods that have said nothing for the retention are dropped when another begins a life."""
        await store.register(_server(key, 0), REPORT, SHORT, RETENTION)
        kept = await store.register(_server(key, 1), REPORT, SHORT, RETENTION)
        await store_kit.advance(0.25)
        await store.heartbeat(_server(key, 1), kept.incarnation, 1, REPORT, SHORT, RETENTION)
        new = await store.register(_server(key, 2), REPORT, SHORT, 0.2)
        await store.heartbeat(_server(key, 2), new.incarnation, 1, REPORT, SHORT, RETENTION)

        pods = (await store.read_pods(key.namespace, key.service_name)).pods

        assert [1, 2] == [pod.pod_index for pod in pods]

    @pytest.mark.parametrize("poisoned", [0, 1, 2])
    async def test_unreadable_pod(self, store_kit: StoreKit, store: Store, key: LinkKey, poisoned: int) -> None:
        """An entry that cannot be read is counted and hides no other; its pod can begin another life."""
        lives = [await store.register(_server(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        await store_kit.poison_pod(key.namespace, key.service_name, poisoned)
        table = await store.read_pods(key.namespace, key.service_name)
        server = _server(key, poisoned)

        assert [i for i in range(3) if i != poisoned] == [pod.pod_index for pod in table.pods]
        assert 1 == table.unreadable
        outcome = await store.heartbeat(server, lives[poisoned].incarnation, 1, REPORT, LONG, RETENTION)
        assert HeartbeatOutcome.UNKNOWN is outcome
        again = await store.register(server, REPORT, LONG, RETENTION)
        assert (None, 0.0) == (again.previous_incarnation, again.previous_left)
        assert again.incarnation > lives[poisoned].incarnation
        table = await store.read_pods(key.namespace, key.service_name)
        assert ([0, 1, 2], 0) == ([pod.pod_index for pod in table.pods], table.unreadable)


class _Changes(_Parts):
    """What a reading of the pods brings to who has read them before."""

    @pytest.fixture
    def changes(self, store: Store, key: LinkKey) -> Callable[..., Awaitable[PodTable]]:
        """Return the reading of the service of the test."""
        return functools.partial(store.read_pods, key.namespace, key.service_name)

    async def test_nothing_new(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """A heartbeat that says the same leaves the version of the table, and is no change."""
        lives = [await store.register(_server(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        for i, life in enumerate(lives):
            await store.heartbeat(_server(key, i), life.incarnation, 1, REPORT, LONG, RETENTION)
        after = await changes(since=before.version)

        assert (True, False, ()) == (before.whole, after.whole, after.pods)
        assert (before.version, before.digest) == (after.version, after.digest)
        assert (await changes()).pods[0].load_state.timestamp >= before.pods[0].load_state.timestamp

    @pytest.mark.parametrize(
        ("report", "lease"),
        [
            (attrs.evolve(REPORT, routing_state=RoutingState.DENY_NEW_CALL), LONG),
            (attrs.evolve(REPORT, load=REPORT.load + 1), LONG),
            (attrs.evolve(REPORT, links=REPORT.links + 1), LONG),
            (attrs.evolve(REPORT, placed_total=5), LONG),
            (attrs.evolve(REPORT, capacity=7.0), LONG),
            (attrs.evolve(REPORT, address="http://elsewhere"), LONG),
            (REPORT, LONGER),
        ],
    )
    async def test_changed_report(
        self,
        store: Store,
        key: LinkKey,
        changes: Callable[..., Awaitable[PodTable]],
        report: PodReport,
        lease: float,
    ) -> None:
        """A heartbeat that says something else is the change of that pod alone; a second look brings nothing."""
        lives = [await store.register(_server(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        await store.heartbeat(_server(key, 1), lives[1].incarnation, 1, report, lease, RETENTION)
        after = await changes(since=before.version)
        again = await changes(since=after.version)

        (pod,) = after.pods
        assert (1, report, lease) == (pod.pod_index, pod.report, pod.load_state.ttl)
        assert before.version < after.version == pod.version
        assert ((), after.version) == (again.pods, again.version)

    async def test_new_life(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """A life that begins, and one that is dead, are changes."""
        await store.register(_server(key, 0), REPORT, LONG, RETENTION)
        before = await changes()
        life = await store.register(_server(key, 1), REPORT, LONG, RETENTION)
        begun = await changes(since=before.version)
        await store.heartbeat(_server(key, 1), life.incarnation, 1, GOODBYE, LONG, RETENTION)
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, life.incarnation), RETENTION)
        dead = await changes(since=begun.version)

        assert [(1, False)] == [(pod.pod_index, pod.dead) for pod in begun.pods]
        assert [(1, True)] == [(pod.pod_index, pod.dead) for pod in dead.pods]

    async def test_also(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Pods that are asked for come with the time of their last heartbeat; one that is not there does not."""
        lives = [await store.register(_server(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        await store.heartbeat(_server(key, 2), lives[2].incarnation, 1, REPORT, LONG, RETENTION)
        after = await changes(since=before.version, also=(2, 9))

        assert (False, [2], 0) == (after.whole, [pod.pod_index for pod in after.pods], after.unreadable)
        assert after.pods[0].load_state.timestamp >= before.pods[2].load_state.timestamp
        assert before.pods[2].version == after.pods[0].version

    async def test_strange_version(
        self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """Who has a version that the store never reached gets all."""
        await store.register(_server(key, 0), REPORT, LONG, RETENTION)
        before = await changes()
        after = await changes(since=before.version + 1)

        assert (True, 1) == (after.whole, len(after.pods))

    async def test_overdue(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """Who is overdue is told until a heartbeat comes or the death is confirmed, and when the next lease ends."""
        lives = [await store.register(_server(key, i), REPORT, 0.5, RETENTION) for i in range(2)]
        await store.register(_server(key, 2), REPORT, LONG, RETENTION)
        early = await changes()
        await store_kit.advance(0.6)
        late = await changes(since=early.version)
        for sequence in (1, 2):  # nobody was heard for a while: the others might come as well
            await store.heartbeat(_server(key, 0), lives[0].incarnation, sequence, REPORT, LONG, RETENTION)
            await store_kit.advance(0.15)
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, lives[1].incarnation), RETENTION)
        after = await changes(since=early.version)

        assert [(), (0, 1), ()] == [table.overdue for table in (early, late, after)]
        assert [_About(0.5), _About(LONG), _About(LONG)] == [
            (table.next_deadline or 0.0) - table.now for table in (early, late, after)
        ]

    async def test_death_in_a_silence(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """If no pod at all was heard, a death is confirmed only half a lease after that was noticed.

        The store may have refused all heartbeats, and takes them again: then the pods come first.
        """
        lives = [(await store.register(_server(key, i), REPORT, 0.5, RETENTION)).incarnation for i in range(2)]

        async def confirm() -> list[bool]:
            dead = [PodLife(i, life) for i, life in enumerate(lives)]
            return [await store.confirm_death(key.namespace, key.service_name, life, RETENTION) for life in dead]

        await store_kit.advance(0.6)
        noticed = await confirm()
        back = []
        for sequence in (1, 2):
            back.append(await store.heartbeat(_server(key, 0), lives[0], sequence, REPORT, 0.5, RETENTION))
            await store_kit.advance(0.15)
        late = await confirm()

        assert [False, False] == noticed
        assert [HeartbeatOutcome.ACCEPTED] * 2 == back
        assert [False, True] == late

    @pytest.mark.parametrize("first", ["heartbeat", "registration"])
    async def test_first_after_a_silence(self, store_kit: StoreKit, store: Store, key: LinkKey, first: str) -> None:
        """When a pod is heard after a silence of all, the others have half a lease to follow."""
        lives = [(await store.register(_server(key, i), REPORT, 0.5, RETENTION)).incarnation for i in range(2)]
        await store_kit.advance(0.6)
        if first == "heartbeat":
            await store.heartbeat(_server(key, 0), lives[0], 1, REPORT, 0.5, RETENTION)
        else:
            await store.register(_server(key, 2), REPORT, 0.5, RETENTION)
        dead = await store.confirm_death(key.namespace, key.service_name, PodLife(1, lives[1]), RETENTION)
        beat = await store.heartbeat(_server(key, 1), lives[1], 1, REPORT, 0.5, RETENTION)

        assert (False, HeartbeatOutcome.ACCEPTED) == (dead, beat)

    async def test_leases_alone(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Who asks for no changes learns of the leases, and of the pods that are asked for."""
        for i in range(3):
            await store.register(_server(key, i), REPORT, LONG, RETENTION)
        alone = await changes(since=None)
        one = await changes(since=None, also=(1,))

        assert [(False, 0, 0, []), (False, 0, 0, [1])] == [
            (table.whole, table.version, table.digest, [pod.pod_index for pod in table.pods]) for table in (alone, one)
        ]
        assert _About(LONG) == (alone.next_deadline or 0.0) - alone.now

    async def test_nothing_alive(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Without a living pod there is no next deadline."""
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, 1), RETENTION)

        assert None is (await changes()).next_deadline

    async def test_dropped(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """A pod that is dropped is in the digest no more, which is the sum of the versions of all pods."""
        await store.register(_server(key, 0), REPORT, SHORT, RETENTION)
        before = await changes()
        await store_kit.advance(0.25)
        await store.register(_server(key, 1), REPORT, LONG, 0.2)
        after = await changes(since=before.version)

        assert [1] == [pod.pod_index for pod in after.pods]
        assert [table.digest for table in (before, after)] == [
            sum(pod.version for pod in table.pods) % DIGEST_MODULUS for table in (before, after)
        ]

    async def test_large_service(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """In a large service a small change of a number waits; what matters does not, and in the end all is told."""
        life, *_ = [await store.register(_server(key, i), _busy(1000), LONG, RETENTION) for i in range(9, 0, -1)]
        last = await store.register(_server(key, 0), _busy(1000), LONG, RETENTION)
        before = await changes()
        await store.heartbeat(_server(key, 0), last.incarnation, 1, _busy(1001), LONG, RETENTION)
        small = await changes(since=before.version)
        await store.heartbeat(_server(key, 9), life.incarnation, 1, attrs.evolve(_busy(1), zone="b"), LONG, RETENTION)
        zone = await changes(since=before.version)
        await store_kit.advance(0.3)
        await store.heartbeat(_server(key, 0), last.incarnation, 2, _busy(1500), LONG, RETENTION)
        large = await changes(since=zone.version)
        await store_kit.advance(4.1)
        await store.heartbeat(_server(key, 0), last.incarnation, 3, _busy(1501), LONG, RETENTION)
        old = await changes(since=large.version)

        assert [[], [(9, 1)], [(0, 1500)], [(0, 1501)]] == [
            [(pod.pod_index, pod.report.load) for pod in table.pods] for table in (small, zone, large, old)
        ]


def _busy(links: int) -> PodReport:
    return PodReport(load=links, links=links)


def _ids(part: str, key: LinkKey) -> list[str]:
    """Return the hostile ids; those of a namespace begin with the one of the test."""
    if part != "namespace":
        return list(HOSTILE)
    return [(key.namespace + value)[:MAX_ID_BYTES] for value in HOSTILE]


class _Isolation(_Parts):
    @pytest.mark.parametrize("part", ["namespace", "uid", "service_name"])
    async def test_links_with_hostile_ids(self, store: Store, key: LinkKey, part: str) -> None:
        """Every id, in whatever part of the key, names a link of its own."""
        keys = [attrs.evolve(key, **{part: value}) for value in _ids(part, key)]
        for pod_index, each in enumerate(keys):
            await store.claim(each, PodLife(pod_index, INCARNATION))

        links = [await store.get_link(each) for each in keys]

        assert list(range(len(keys))) == [link.pod_index if link else None for link in links]
        services = [await store.get_services(each.namespace, each.uid) for each in keys]
        listed = {each.service_name: pod_index for pod_index, each in enumerate(keys)}
        alone = [{each.service_name: pod_index} for pod_index, each in enumerate(keys)]
        assert ([listed] * len(keys) if part == "service_name" else alone) == services

    async def test_ids_that_join_alike(self, store: Store, key: LinkKey) -> None:
        """Ids that are alike once they are joined by a separator name links of their own."""
        parts = ("a", "b", "a:b", "b:a", "a}", "{b", "a|b", "a%3Ab", "a b", "a-b")
        keys = [LinkKey(key.namespace + ns, uid, service) for ns, uid, service in itertools.product(parts, repeat=3)]
        await asyncio.gather(*(store.claim(each, PodLife(i, INCARNATION)) for i, each in enumerate(keys)))

        links = await asyncio.gather(*(store.get_link(each) for each in keys))

        assert list(range(len(keys))) == [link.pod_index if link else None for link in links]

    async def test_many_links_with_hostile_ids(self, store: Store, key: LinkKey) -> None:
        """The calls for many uids take every id, and answer as the calls for one do."""
        candidates = [(uid, PodLife(i, INCARNATION)) for i, uid in enumerate(HOSTILE)]
        await store.place_links(key.namespace, candidates, key.service_name, LONG)

        links = await store.get_links(key.namespace, HOSTILE, key.service_name)

        assert [_made(life, 0, TEMPORARY, LONG) for _, life in candidates] == links
        for (uid, _), link in zip(candidates, links, strict=True):
            assert isinstance(link, Link)
            assert _later(link) == await store.get_link(LinkKey(key.namespace, uid, key.service_name))

    @pytest.mark.parametrize("part", ["namespace", "service_name"])
    async def test_pods_with_hostile_ids(self, store: Store, key: LinkKey, part: str) -> None:
        """Every id, of a namespace or a service, has pods of its own."""
        servers = [_server(attrs.evolve(key, **{part: value})) for value in _ids(part, key)]
        lives = [await store.register(server, REPORT, LONG, RETENTION) for server in servers]

        tables = [await store.read_pods(server.namespace, server.service_name) for server in servers]

        assert [(life.incarnation,) for life in lives] == [
            tuple(pod.incarnation for pod in table.pods) for table in tables
        ]

    async def test_pods_that_join_alike(self, store: Store, key: LinkKey) -> None:
        """A namespace and a service that are alike once they are joined have pods of their own."""
        left = LinkKey(f"{key.namespace}:b", key.uid, "c")
        right = LinkKey(key.namespace, key.uid, "b:c")
        await store.register(_server(left, 1), REPORT, LONG, RETENTION)
        await store.register(_server(right, 2), REPORT, LONG, RETENTION)

        tables = [await store.read_pods(each.namespace, each.service_name) for each in (left, right)]

        assert [[1], [2]] == [[pod.pod_index for pod in table.pods] for table in tables]

    async def test_release_of_one(self, store: Store, key: LinkKey) -> None:
        """Releasing a link leaves the same uid elsewhere, and the others here, alone."""
        others = [
            attrs.evolve(key, namespace=f"{key.namespace}2"),
            attrs.evolve(key, uid="alice2"),
            attrs.evolve(key, service_name="room2"),
        ]
        for each in (key, *others):
            await store.claim(each, OWNER)

        await store.release(key)

        assert [False, True, True, True] == [await store.get_link(each) is not None for each in (key, *others)]


class _Whole(_Parts):
    async def test_info(self, store: Store) -> None:
        """A store says what it is."""
        assert (await store.info()).product

    async def test_close_twice(self, store: Store) -> None:
        """Closing twice does no harm."""
        await store.aclose()
        await store.aclose()


@pytest.mark.asyncio
class StoreConformance(_Links, _Time, _Many, _Unreadable, _Races, _Pods, _Changes, _Isolation, _Whole):
    """What any ``Store`` has to do. Inherit it and give it a fixture ``store_kit`` that yields a ``StoreKit``."""
