"""Of many who do the same at once one wins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route.models import LinkKey, LinkKind, Outcome, PodLife
from stateful_route.testing.conformance.shared import (
    GRACE,
    INCARNATION,
    LONG,
    OWNER,
    PERSISTENT,
    TEMPORARY,
    Parts,
    given_link,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


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
