"""What an operation does to links: to one, to many at once, and as one of many operations at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route.errors import StoreProtocolError
from stateful_route.links import LinkChange, LinkKey, LinkKind, Outcome, PreviousOwner
from stateful_route.pods import PodLife
from stateful_route.testing.conformance.histories import entry_of, kept, timeless
from stateful_route.testing.conformance.shared import (
    GONE,
    GRACE,
    INCARNATION,
    LONG,
    OLDER,
    OTHER,
    OWNER,
    PERSISTENT,
    SLACK,
    STRANGER,
    TEMPORARY,
    Parts,
    StoreKit,
    given,
    given_link,
    holder,
    later,
    made,
    readings,
)
from stateful_route.testing.conformance.table import CELLS, Row

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Links(Parts):
    """What an operation does to one link."""

    @pytest.mark.parametrize(("row", "kind", "outcome"), CELLS)
    async def test_table(
        self, store_kit: StoreKit, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome
    ) -> None:
        """Each cell of the table: the outcome, the link after it, its epoch, who held it before, and its history.

        A second run leaves the link as the first one left it.
        """
        before = await given(store, key, kind)
        epoch = before.epoch if before else 0
        history = await store.history(key)

        change = await row.run(store, key, epoch)

        assert row.expected(outcome, before) == change
        link = change.link
        expected = GONE if link is None else (later(link), [later(link)], {key.service_name: link.pod_index})
        assert expected == await readings(store, key)
        entries = *timeless(history), *entry_of(row, change, before)
        assert kept(store_kit, *entries) == timeless(await store.history(key))

        second = await row.run(store, key, epoch)

        assert (later(link) if link else None) == second.link
        assert second.previous is None

    async def test_numbers_of_any_size(self, store: Store, key: LinkKey) -> None:
        """The largest pod index and incarnation are kept to the last digit."""
        largest = PodLife(2**31 - 1, 2**53 - 1)
        change = await store.claim(key, largest)

        assert LinkChange(Outcome.CREATED, made(largest, 0, PERSISTENT, None)) == change
        assert change.link == await store.get_link(key)
        assert Outcome.SUPERSEDED is (await store.claim(key, PodLife(2**31 - 1, 2**53 - 2))).outcome

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_assign_of_an_older_life(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A forced link for an older life of the pod that holds it has arrived late, and changes nothing."""
        before = await given_link(store, key, kind)

        change = await store.assign(key, OLDER)

        assert LinkChange(Outcome.SUPERSEDED, later(before)) == change

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
        link = await given_link(store, key, TEMPORARY)

        assert pytest.approx(now, abs=SLACK) == link.epoch / 1_000_000

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_epoch_rises_over_a_released_link(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """A uid that was released and placed again has a higher epoch."""
        before = await given_link(store, key, kind)
        await store.release(key)

        change = await store.place(key, OTHER, LONG)

        assert LinkChange(Outcome.CREATED, made(OTHER, before.epoch, TEMPORARY, LONG)) == change


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

    async def test_place_links_at_once(self, store: Store, key: LinkKey) -> None:
        """Many questions at once, of uids in common, are answered each; a store says whether it is one server."""
        assert store.places_together in {True, False}

        candidates = [[(f"u{i % 40}", PodLife(pod, INCARNATION)) for i in range(pod, pod + 60)] for pod in range(5)]
        answers = await asyncio.gather(
            *(store.place_links(key.namespace, some, key.service_name, LONG) for some in candidates)
        )

        owners: dict[str, set[PodLife]] = {}
        for some, changes in zip(candidates, answers, strict=True):
            for (uid, _), change in zip(some, changes, strict=True):
                assert isinstance(change, LinkChange)
                assert change.link is not None
                owners.setdefault(uid, set()).add(change.link.owner)
        assert [1] * 40 == [len(lives) for lives in owners.values()]

    async def test_place_links_of_nothing(self, store: Store, key: LinkKey) -> None:
        """Placing no uid answers nothing."""
        assert [] == await store.place_links(key.namespace, [], key.service_name, LONG)


class Races(Parts):
    """Operations on one link, all at once."""

    async def test_places(self, store: Store, key: LinkKey) -> None:
        """Of 50 that place one uid at once exactly one makes the link, and all agree whose it is."""
        changes = await asyncio.gather(*(store.place(key, PodLife(i, INCARNATION), LONG) for i in range(50)))

        assert sorted([Outcome.CREATED] + [Outcome.RENEWED] * 49) == sorted(change.outcome for change in changes)
        assert 1 == len({(change.link.owner, change.link.epoch) for change in changes if change.link})

    @pytest.mark.parametrize("kind", [TEMPORARY, PERSISTENT, GRACE])
    async def test_takeovers(self, store: Store, key: LinkKey, kind: LinkKind) -> None:
        """Of 50 that take the link of a dead pod at once exactly one replaces it, and all agree whose it is."""
        await given_link(store, key, kind)
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
        await given_link(store, key, kind)
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
        link = await given_link(store, key, PERSISTENT)
        changes = await asyncio.gather(*(store.release(key, epoch=link.epoch) for _ in range(50)))

        assert sorted([Outcome.RELEASED] + [Outcome.ABSENT] * 49) == sorted(change.outcome for change in changes)

    async def test_assigns(self, store: Store, key: LinkKey) -> None:
        """Of 50 that assign a link at one expected epoch exactly one does."""
        link = await given_link(store, key, PERSISTENT)
        changes = await asyncio.gather(
            *(store.assign(key, PodLife(i, 1), expected_epoch=link.epoch) for i in range(1, 51))
        )

        assert sorted([Outcome.REPLACED] + [Outcome.REFUSED] * 49) == sorted(change.outcome for change in changes)


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
