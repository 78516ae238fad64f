"""What a move of a link does, besides its row of the table: its name, and what comes late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route.links import LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.testing.conformance.shared import (
    LONG,
    NEWER,
    OTHER,
    OWNER,
    PERSISTENT,
    STRANGER,
    Parts,
    StoreKit,
    given_link,
    holder,
    made,
    readings,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store

FIRST, SECOND = "00ff00ff00ff00ff", "A" * 32


class Moves(Parts):
    """A link goes from one life to another in one step, and its new owner knows by which move."""

    async def test_the_new_owner_is_told(self, store: Store, key: LinkKey) -> None:
        """A claim of who has the link by a move tells its name and the epoch before, however often it is asked."""
        before = await given_link(store, key, PERSISTENT)
        moved = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)

        claimed = [await store.claim(key, OTHER) for _ in range(2)]

        assert LinkChange(Outcome.REPLACED, made(OTHER, before.epoch, PERSISTENT, None), holder(before)) == moved
        assert [(Outcome.UNCHANGED, moved.link, before.epoch, FIRST)] * 2 == [
            (change.outcome, change.link, change.ended, change.move) for change in claimed
        ]

    async def test_nobody_else_is_told(self, store: Store, key: LinkKey) -> None:
        """A claim that is refused, that makes a link, or that confirms or inherits one tells of no move."""
        before = await given_link(store, key, PERSISTENT)
        created = await store.claim(key, OWNER)
        await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)
        refused = await store.claim(key, STRANGER)
        await store.release(key, grace=LONG)
        confirmed = await store.claim(key, OTHER)
        again = await store.claim(key, OTHER)
        await store.release(key)
        after = await store.claim(key, OTHER)

        assert [None] * 5 == [change.move for change in (created, refused, confirmed, again, after)]

    async def test_a_newer_life_inherits_it(self, store: Store, key: LinkKey) -> None:
        """A newer life of the new owner inherits the link, and not the move: what came along is of the older one."""
        before = await given_link(store, key, PERSISTENT)
        there = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)
        assert there.link is not None
        back = await store.move(key, OTHER, there.link.epoch, OWNER, name=SECOND)

        inherited = [await store.claim(key, NEWER) for _ in range(2)]

        assert Outcome.REPLACED is back.outcome
        assert [(Outcome.INHERITED, None), (Outcome.UNCHANGED, None)] == [
            (change.outcome, change.move) for change in inherited
        ]

    async def test_it_comes_twice(self, store: Store, key: LinkKey) -> None:
        """The same move says that it is done; one of another name, of the same epoch, is refused."""
        before = await given_link(store, key, PERSISTENT)
        moved = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)

        again = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)
        another = await store.move(key, OWNER, before.epoch, OTHER, name=SECOND)

        assert LinkChange(Outcome.UNCHANGED, moved.link) == again
        assert LinkChange(Outcome.REFUSED, moved.link) == another
        assert FIRST == (await store.claim(key, OTHER)).move

    @pytest.mark.parametrize("ended", ["released", "taken by force", "moved on"])
    async def test_it_comes_too_late(self, store: Store, key: LinkKey, ended: str) -> None:
        """A move of a tenure that has ended changes nothing."""
        before = await given_link(store, key, PERSISTENT)
        if ended == "released":
            await store.release(key)
            link = (await store.claim(key, OWNER)).link
        elif ended == "taken by force":
            link = (await store.assign(key, STRANGER)).link
        else:
            link = (await store.move(key, OWNER, before.epoch, STRANGER, name=SECOND)).link
        assert link is not None

        late = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)

        assert LinkChange(Outcome.REFUSED, link) == late
        assert (link, [link], {key.service_name: link.pod_index}) == await readings(store, key)

    async def test_a_release_comes_too_late(self, store: Store, key: LinkKey) -> None:
        """A release in the name of the life and epoch before the move ends nothing."""
        before = await given_link(store, key, PERSISTENT)
        moved = await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)

        late = await store.release(key, pod_index=OWNER.pod_index, epoch=before.epoch)

        assert LinkChange(Outcome.REFUSED, moved.link) == late

    async def test_what_cannot_be_read(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """A value that cannot be read is left as it is."""
        await store_kit.poison_link(key)

        change = await store.move(key, OWNER, 1, OTHER, name=FIRST)

        assert LinkChange(Outcome.UNREADABLE, None) == change

    @pytest.mark.parametrize("kind", [LinkKind.TEMPORARY, LinkKind.GRACE])
    async def test_only_what_is_confirmed(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A link that its pod has not confirmed, or has left, is not moved: nobody has a state of it."""
        before = await given_link(store, key, kind)

        assert Outcome.REFUSED is (await store.move(key, OWNER, before.epoch, OTHER, name=FIRST)).outcome
