"""A call for many uids answers each of them as the call for one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.models import LinkChange, LinkKey, Outcome, PodLife
from stateful_route.testing.conformance.shared import (
    GRACE,
    INCARNATION,
    LONG,
    OTHER,
    OWNER,
    PERSISTENT,
    STRANGER,
    TEMPORARY,
    Parts,
    StoreKit,
    given_link,
    holder,
    later,
    made,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Many(Parts):
    """The calls for many uids."""

    async def test_links_in_order(self, store: Store, key: LinkKey) -> None:
        """get_links answers each uid in its place, the same one twice and none at all included."""
        ns, service = key.namespace, key.service_name
        kinds = {"t": TEMPORARY, "p": PERSISTENT, "g": GRACE}
        links = {uid: later(await given_link(store, LinkKey(ns, uid, service), kind)) for uid, kind in kinds.items()}

        uids = ["g", "nobody", "t", "p", "t"]
        assert [links.get(uid) for uid in uids] == await store.get_links(ns, uids, service)
        assert [] == await store.get_links(ns, [], service)

    async def test_many_links(self, store: Store, key: LinkKey) -> None:
        """A thousand uids are placed and read in one call each, every one with its own candidate."""
        candidates = [(f"u{i}", PodLife(i % 7, INCARNATION + i)) for i in range(1000)]
        placed = await store.place_links(key.namespace, candidates, key.service_name, LONG)
        found = await store.get_links(key.namespace, [uid for uid, _ in candidates], key.service_name)

        expected = [made(life, 0, TEMPORARY, LONG) for _, life in candidates]
        assert [LinkChange(Outcome.CREATED, link) for link in expected] == placed
        assert expected == found

    async def test_place_links_item_by_item(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Each item of place_links has the outcome that place would have."""
        ns, service = key.namespace, key.service_name
        kinds = {"t": TEMPORARY, "p": PERSISTENT, "g": GRACE}
        links = {uid: await given_link(store, LinkKey(ns, uid, service), kind) for uid, kind in kinds.items()}
        dead = await store.claim(LinkKey(ns, "d", service), STRANGER)
        await store_kit.poison_link(LinkKey(ns, "x", service))
        assert dead.link is not None

        changes = await store.place_links(
            ns, [(uid, OTHER) for uid in "xgndtpn"], service, LONG, dead=[STRANGER], leaving=[OWNER]
        )

        new = made(OTHER, 0, TEMPORARY, LONG)
        expected = [
            LinkChange(Outcome.OVERWRITTEN, new),
            LinkChange(Outcome.REPLACED, made(OTHER, links["g"].epoch, TEMPORARY, LONG), holder(links["g"])),
            LinkChange(Outcome.CREATED, new),
            LinkChange(Outcome.REPLACED, made(OTHER, dead.link.epoch, TEMPORARY, LONG), holder(dead.link)),
            LinkChange(Outcome.RENEWED, later(links["t"])),
            LinkChange(Outcome.UNCHANGED, links["p"]),
            LinkChange(Outcome.RENEWED, new),
        ]
        assert expected == changes

    async def test_place_links_of_nothing(self, store: Store, key: LinkKey) -> None:
        """Placing no uid answers nothing."""
        assert [] == await store.place_links(key.namespace, [], key.service_name, LONG)
