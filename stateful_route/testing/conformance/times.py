"""How long a link lives, and which of two links was there first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.pods import PodLife
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    GONE,
    GRACE,
    LONG,
    LONGER,
    NEWER,
    OTHER,
    OWNER,
    PERSISTENT,
    SHORT,
    STRANGER,
    TEMPORARY,
    About,
    Parts,
    Service,
    StoreKit,
    given_link,
    later,
    made,
    readings,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Times(Parts):
    """How long a link lives."""

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_expiry(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link whose time is over is gone for every reader, and the next one has a higher epoch."""
        before = await given_link(store, key, kind, SHORT)
        await store_kit.advance(BEYOND_SHORT)

        assert GONE == await readings(store, key)
        assert LinkChange(Outcome.ABSENT, None) == await store.release(key)
        expected = LinkChange(Outcome.CREATED, made(OTHER, before.epoch, PERSISTENT, None))
        assert expected == await store.claim(key, OTHER)

    @pytest.mark.parametrize("operation", ["take over", "inherit", "assign"])
    async def test_a_changed_owner_has_its_epoch_from_the_clock(
        self, store_kit: StoreKit, store: Store, key: LinkKey, operation: str
    ) -> None:
        """The epoch of a link that changes its owner is the clock too, so that it rises over links made since."""
        before = await given_link(store, key, PERSISTENT)
        await store_kit.advance(SHORT)
        other = await given_link(store, attrs.evolve(key, uid="bob"), PERSISTENT)

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
        await given_link(store, key, kind, SHORT)
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
        link = later(change.link)
        assert (link, [link], {key.service_name: link.pod_index}) == await readings(store, key)

    @pytest.mark.parametrize("operation", ["place", "place_links"])
    async def test_place_never_shortens(self, store: Store, key: LinkKey, operation: str) -> None:
        """Renewing gives at least the time asked for, and takes none away."""
        before = await given_link(store, key, TEMPORARY)

        async def renew(ttl: float) -> Link | None:
            if operation == "place":
                return (await store.place(key, OTHER, ttl)).link
            (change,) = await store.place_links(key.namespace, [(key.uid, OTHER)], key.service_name, ttl)
            assert isinstance(change, LinkChange)
            return change.link

        assert later(before) == await renew(0.001)
        assert attrs.evolve(before, ttl=About(LONGER)) == await renew(LONGER)
        assert attrs.evolve(before, ttl=About(LONGER)) == await renew(LONG)
        assert attrs.evolve(before, ttl=About(LONGER)) == await store.get_link(key)

    async def test_a_revived_link_has_the_time_asked_for(self, store: Store, key: LinkKey) -> None:
        """A link that comes back from grace has at least the time asked for."""
        before = await given_link(store, key, GRACE)

        change = await store.place(key, OTHER, LONGER)

        revived = attrs.evolve(before, kind=TEMPORARY, ttl=About(LONGER))
        assert LinkChange(Outcome.REVIVED, revived) == change

    async def test_a_replaced_link_has_only_the_time_asked_for(self, store: Store, key: LinkKey) -> None:
        """The time of an owner that is dead does not pass to the next one."""
        before = await given_link(store, key, TEMPORARY, LONGER)

        change = await store.place(key, OTHER, LONG, dead=[OWNER])

        assert made(OTHER, before.epoch, TEMPORARY, LONG) == change.link

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_grace_is_never_lengthened(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link that has less time than the grace keeps what it has."""
        before = await given_link(store, key, kind)

        change = await store.release(key, grace=LONGER)

        assert LinkChange(Outcome.GRACE, later(attrs.evolve(before, kind=GRACE))) == change

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_grace_ends(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link that has more time than the grace resolves for the grace, then it is gone."""
        before = await given_link(store, key, kind)
        change = await store.release(key, grace=SHORT)

        assert LinkChange(Outcome.GRACE, attrs.evolve(before, kind=GRACE, ttl=About(SHORT))) == change
        await store_kit.advance(BEYOND_SHORT)
        assert GONE == await readings(store, key)

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


class Tenures(Parts):
    """A claim tells the epoch of the tenure that ended last: so its owner knows whether another one was between."""

    @pytest.mark.parametrize("grace", [0.0, SHORT])
    async def test_a_release_is_told(self, service: Service, store: Store, key: LinkKey, grace: float) -> None:
        """A claim tells the epoch of the link that was released before, be its grace over."""
        before = await given_link(store, key, PERSISTENT)
        await store.release(key, grace=grace)
        await service.advance(BEYOND_SHORT)

        claimed = await store.claim(key, OTHER)

        assert (Outcome.CREATED, before.epoch) == (claimed.outcome, claimed.ended)

    async def test_a_release_is_told_of_a_link_that_was_placed_since(self, store: Store, key: LinkKey) -> None:
        """A claim that confirms a placement tells of the link before that was released."""
        before = await given_link(store, key, PERSISTENT)
        await store.release(key)
        await store.place(key, OTHER, LONG)

        claimed = await store.claim(key, OTHER)

        assert (Outcome.CONFIRMED, before.epoch) == (claimed.outcome, claimed.ended)

    @pytest.mark.parametrize("many", [False, True])
    async def test_a_takeover_is_told(self, store: Store, key: LinkKey, many: bool) -> None:  # noqa: FBT001
        """A claim tells of a link that was taken over from a dead pod, by one placement or by many at once."""
        keys = [LinkKey(key.namespace, f"{key.uid}-{i}", key.service_name) for i in range(5 if many else 1)]
        before = [await given_link(store, one, PERSISTENT) for one in keys]
        if many:
            candidates = [(one.uid, OTHER) for one in keys]
            await store.place_links(key.namespace, candidates, key.service_name, LONG, dead=[OWNER])
        else:
            await store.place(keys[0], OTHER, LONG, dead=[OWNER])

        claimed = [await store.claim(one, OTHER) for one in keys]

        assert [link.epoch for link in before] == [change.ended for change in claimed]

    async def test_a_forced_move_is_told(self, store: Store, key: LinkKey) -> None:
        """A claim that inherits a link tells of the one that was moved by force before."""
        before = await given_link(store, key, PERSISTENT)
        await store.assign(key, PodLife(OTHER.pod_index, OTHER.incarnation))

        claimed = await store.claim(key, PodLife(OTHER.pod_index, OTHER.incarnation + 1))

        assert (Outcome.INHERITED, before.epoch) == (claimed.outcome, claimed.ended)

    async def test_nothing_is_told(self, store: Store, key: LinkKey) -> None:
        """A claim of what nobody had tells nothing, nor does one that changes nothing, or is refused."""
        fresh = await store.claim(key, OWNER)
        unchanged = await store.claim(key, OWNER)
        refused = await store.claim(key, OTHER)

        assert [None] * 3 == [change.ended for change in (fresh, unchanged, refused)]

    @pytest.mark.parametrize("kind", [TEMPORARY, GRACE])
    async def test_the_last_one_is_told(self, store: Store, key: LinkKey, kind: object) -> None:
        """Of two links that ended it is the later one that is told."""
        await given_link(store, key, PERSISTENT)
        await store.release(key)
        last = await given_link(store, key, PERSISTENT)
        await store.release(key, grace=0.0 if kind is TEMPORARY else LONG)

        claimed = await store.claim(key, NEWER)

        assert last.epoch == claimed.ended

    async def test_it_is_told_again(self, store: Store, key: LinkKey) -> None:
        """A claim that is repeated, as its answer may be lost, is told the same; so is a newer life of the owner."""
        before = await given_link(store, key, PERSISTENT)
        await store.release(key)

        claimed = [await store.claim(key, life) for life in (OWNER, OWNER, NEWER)]

        assert [before.epoch] * 3 == [change.ended for change in claimed]

    async def test_not_of_what_cannot_be_read(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """A claim that overwrites a value which cannot be read tells nothing: that may have been another tenure."""
        await given_link(store, key, PERSISTENT)
        await store.release(key)
        await store_kit.poison_link(key)

        claimed = await store.claim(key, OTHER)

        assert (Outcome.OVERWRITTEN, None) == (claimed.outcome, claimed.ended)
