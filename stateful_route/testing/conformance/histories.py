"""The history of a link: an entry for each change, and none for what changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.history import LinkEvent, why_recorded
from stateful_route.instrumentation import Why
from stateful_route.links import Link, LinkChange, LinkKey, Outcome
from stateful_route.testing.conformance.shared import (
    GRACE,
    LONG,
    LONGER,
    NEWER,
    OTHER,
    OWNER,
    PERSISTENT,
    STRANGER,
    TEMPORARY,
    Parts,
    StoreKit,
    given,
    given_link,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.store.protocol import Store
    from stateful_route.testing.conformance.table import Row

_NAME = "00ff00ff00ff00ff"


def kept(kit: StoreKit, *events: LinkEvent) -> list[LinkEvent]:
    """Return as many of the last of these events as the store keeps."""
    return list(events[-kit.history :]) if kit.history else []


def timeless(events: list[LinkEvent]) -> list[LinkEvent]:
    """Return the events without their times, which no test knows."""
    return [attrs.evolve(event, time_us=0) for event in events]


def entry_of(row: Row, change: LinkChange, before: Link | None) -> list[LinkEvent]:
    """Return the entry that a row of the table adds to a history, if it adds one."""
    why = why_recorded(row.title.split()[0], change.outcome)
    still_in_grace = before is not None and before.kind is GRACE and change.outcome is Outcome.GRACE
    return [] if why is None or still_in_grace else [_event(why, before, change.link)]


def _event(
    why: Why, before: Link | None, after: Link | None, *, draining: bool = False, by_operator: bool = False
) -> LinkEvent:
    """Return an entry without its time."""
    return LinkEvent(
        time_us=0,
        why=why,
        before=None if before is None else before.owner,
        after=None if after is None else after.owner,
        epoch=None if after is None else after.epoch,
        draining=draining,
        by_operator=by_operator,
    )


class Histories(Parts):
    """What a store that keeps histories says of a link; one that keeps none says nothing."""

    async def test_a_life_of_a_link(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """The entries come in their order, and only the last ones are kept."""
        placed = (await store.place(key, OWNER, LONG)).link
        renewed = (await store.place(key, OTHER, LONGER)).link
        claimed = (await store.claim(key, OWNER)).link
        inherited = (await store.claim(key, NEWER)).link
        assert placed is not None
        assert renewed is not None
        assert inherited is not None
        moved = (await store.move(key, NEWER, inherited.epoch, OTHER, name=_NAME)).link
        taken = (await store.place(key, STRANGER, LONG, dead=[OTHER])).link
        stolen = (await store.claim(key, OWNER, steal_temporary=True)).link
        assigned = (await store.assign(key, OTHER)).link
        in_grace = (await store.release(key, grace=LONG)).link
        back = (await store.place(key, STRANGER, LONG)).link
        await store.release(key)

        assert kept(
            store_kit,
            _event(Why.PLACED, None, placed),
            _event(Why.CLAIMED, placed, claimed),
            _event(Why.INHERITED, claimed, inherited),
            _event(Why.MOVED, inherited, moved),
            _event(Why.TAKEN_OVER, moved, taken),
            _event(Why.STOLEN, taken, stolen),
            _event(Why.ASSIGNED, stolen, assigned),
            _event(Why.RELEASED, assigned, in_grace),
            _event(Why.PLACED, in_grace, back),
            _event(Why.RELEASED, back, None),
        ) == timeless(await store.history(key))

    async def test_it_says_when(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """The time of an entry is by the clock of the store, as an epoch is."""
        first = await given_link(store, key, PERSISTENT)
        await store.release(key)
        last = await given_link(store, key, PERSISTENT)

        if store_kit.history:
            made, released, again = await store.history(key)

            assert [first.epoch, last.epoch] == [made.time_us, again.time_us]
            assert made.time_us < released.time_us < again.time_us

    @pytest.mark.parametrize("grace", [0.0, LONG])
    async def test_repeated(self, store: Store, key: LinkKey, grace: float) -> None:
        """A call that comes twice adds one entry."""
        calls: list[Callable[[], Awaitable[LinkChange]]] = [
            lambda: store.place(key, OWNER, LONG),
            lambda: store.claim(key, OWNER),
            lambda: store.assign(key, OTHER),
            lambda: store.release(key, pod_index=OTHER.pod_index, grace=grace),
        ]
        for call in calls:
            await call()
            once = await store.history(key)
            await call()

            assert once == await store.history(key)

    async def test_a_move_comes_twice(self, store: Store, key: LinkKey) -> None:
        """A move that is done adds nothing when it comes again."""
        before = await given_link(store, key, PERSISTENT)
        await store.move(key, OWNER, before.epoch, OTHER, name=_NAME)
        once = await store.history(key)

        await store.move(key, OWNER, before.epoch, OTHER, name=_NAME)

        assert once == await store.history(key)

    async def test_by_a_pod_that_drains(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """What a pod that drains gives up, and need not announce, is told apart."""
        before = await given_link(store, key, PERSISTENT)
        moved = (await store.move(key, OWNER, before.epoch, OTHER, name=_NAME, announced=False)).link
        await store.release(key, pod_index=OTHER.pod_index, announced=False)

        assert kept(
            store_kit,
            _event(Why.CLAIMED, None, before),
            _event(Why.MOVED, before, moved, draining=True),
            _event(Why.RELEASED, moved, None, draining=True),
        ) == timeless(await store.history(key))

    async def test_by_an_operator(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """What an operator has asked for is told apart, be it announced or not."""
        before = await given_link(store, key, PERSISTENT)
        moved = (await store.move(key, OWNER, before.epoch, OTHER, name=_NAME, by_operator=True)).link
        assert moved is not None
        told = (await store.assign(key, OWNER, by_operator=True)).link
        assert told is not None
        on = (await store.move(key, OWNER, told.epoch, OTHER, name=f"{_NAME}2", announced=False, by_operator=True)).link
        await store.release(key, by_operator=True)

        assert kept(
            store_kit,
            _event(Why.CLAIMED, None, before),
            _event(Why.MOVED, before, moved, by_operator=True),
            _event(Why.ASSIGNED, moved, told, by_operator=True),
            _event(Why.MOVED, told, on, draining=True, by_operator=True),
            _event(Why.RELEASED, on, None, by_operator=True),
        ) == timeless(await store.history(key))

    @pytest.mark.parametrize("operation", ["place", "place_links", "claim", "assign"])
    async def test_what_could_not_be_read(
        self, store_kit: StoreKit, store: Store, key: LinkKey, operation: str
    ) -> None:
        """A value that cannot be read was nobody's; that it was overwritten is told, unless it was forced."""
        await store_kit.poison_link(key)
        await store.release(key)  # which leaves it
        change = await _make(store, operation, key)

        why = Why.ASSIGNED if operation == "assign" else Why.OVERWRITTEN
        assert kept(store_kit, _event(why, None, change.link)) == timeless(await store.history(key))

    async def test_many(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Uids that are placed together have an entry each; those that had a link have none more."""
        uids = [f"user-{i}" for i in range(150)]
        keys = {uid: LinkKey(key.namespace, uid, key.service_name) for uid in uids}
        await store.claim(keys["user-3"], OWNER)
        await store.claim(keys["user-4"], STRANGER)
        pods = [(uid, OTHER) for uid in uids]
        changes = await store.place_links(key.namespace, pods, key.service_name, LONG, dead=[STRANGER])
        await store.place_links(key.namespace, pods, key.service_name, LONGER)
        histories = await asyncio.gather(*(store.history(each) for each in keys.values()))

        found = {
            uid: [(event.why, event.after) for event in history] for uid, history in zip(uids, histories, strict=True)
        }
        expected = {uid: [(Why.PLACED, OTHER)] for uid in uids} | {
            "user-3": [(Why.CLAIMED, OWNER)],
            "user-4": [(Why.CLAIMED, STRANGER), (Why.TAKEN_OVER, OTHER)],
        }
        assert all(isinstance(change, LinkChange) for change in changes)
        assert (expected if store_kit.history else {uid: [] for uid in uids}) == found

    async def test_each_has_its_own(self, store: Store, key: LinkKey) -> None:
        """A link of another uid, service or namespace has another history."""
        await given(store, key, TEMPORARY)
        others = [
            attrs.evolve(key, uid="bob"),
            attrs.evolve(key, service_name="doc"),
            attrs.evolve(key, namespace=f"{key.namespace}-2"),
        ]

        assert [[], [], []] == [await store.history(other) for other in others]


async def _make(store: Store, operation: str, key: LinkKey) -> LinkChange:
    """Make a link of ``OWNER``."""
    if operation == "place":
        return await store.place(key, OWNER, LONG)
    if operation == "claim":
        return await store.claim(key, OWNER)
    if operation == "assign":
        return await store.assign(key, OWNER)
    (change,) = await store.place_links(key.namespace, [(key.uid, OWNER)], key.service_name, LONG)
    assert isinstance(change, LinkChange)
    return change
