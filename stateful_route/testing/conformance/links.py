"""An operation does to a link what the table says, and numbers are kept to the last digit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route.models import LinkChange, LinkKey, LinkKind, Outcome, PodLife, PreviousOwner
from stateful_route.testing.conformance.shared import (
    GONE,
    GRACE,
    LONG,
    OLDER,
    OTHER,
    OWNER,
    PERSISTENT,
    SLACK,
    TEMPORARY,
    Parts,
    given,
    given_link,
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
    async def test_table(self, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome) -> None:
        """Each cell of the table: the outcome, the link after it, its epoch, and who held it before."""
        before = await given(store, key, kind)

        change = await row.run(store, key, before.epoch if before else 0)

        assert row.expected(outcome, before) == change
        link = change.link
        expected = GONE if link is None else (later(link), [later(link)], {key.service_name: link.pod_index})
        assert expected == await readings(store, key)

    @pytest.mark.parametrize(("row", "kind", "outcome"), CELLS)
    async def test_second_run(
        self, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome
    ) -> None:
        """An operation that runs twice leaves the link as the first run left it."""
        before = await given(store, key, kind)
        epoch = before.epoch if before else 0

        first = await row.run(store, key, epoch)
        second = await row.run(store, key, epoch)

        assert outcome is first.outcome
        assert (later(first.link) if first.link else None) == second.link
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
