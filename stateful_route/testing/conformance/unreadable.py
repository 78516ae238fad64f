"""What cannot be read is an error to who reads it, and gives way to who writes a link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route.errors import StoreProtocolError
from stateful_route.models import LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.testing.conformance.shared import (
    GRACE,
    LONG,
    OTHER,
    OWNER,
    PERSISTENT,
    TEMPORARY,
    Parts,
    StoreKit,
    given,
    given_link,
    later,
    made,
    readings,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Unreadable(Parts):
    """Links that cannot be read."""

    @pytest.mark.parametrize("kind", [None, TEMPORARY, PERSISTENT, GRACE])
    async def test_reads(self, store_kit: StoreKit, store: Store, key: LinkKey, kind: LinkKind | None) -> None:
        """A link that cannot be read is an error that says so, not an absent link."""
        await given(store, key, kind)
        await store_kit.poison_link(key)

        with pytest.raises(StoreProtocolError) as caught:
            await store.get_link(key)
        assert caught.value.maybe_applied is False

    async def test_other_uids(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """In get_links only the uid that cannot be read has the error."""
        link = await given_link(store, key, PERSISTENT)
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
        before = await given(store, key, kind)
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
        assert LinkChange(Outcome.OVERWRITTEN, made(OTHER, above, *expected)) == change
        assert change.link is not None
        link = later(change.link)
        assert (link, [link], {key.service_name: 2}) == await readings(store, key)

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
