"""Who claims a uid can tell whether anybody had it in between; a life takes the place of one that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route.models import LinkKey, Outcome, PodLife, Registration, ServerInfo
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    GOODBYE,
    GRACE,
    LONG,
    LONGER,
    NEWER,
    OTHER,
    OWNER,
    PERSISTENT,
    REPORT,
    RETENTION,
    SHORT,
    TEMPORARY,
    About,
    Parts,
    StoreKit,
    given_link,
    server_of,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store

PROCESS, ANOTHER = "a-process", "another-process"


class Tenures(Parts):
    """The marks of links that ended, and the lives of a pod in their order."""

    @pytest.mark.parametrize("grace", [0.0, SHORT])
    async def test_a_release_is_told(self, store_kit: StoreKit, store: Store, key: LinkKey, grace: float) -> None:
        """A claim tells the epoch of the link that was released before, be its grace over."""
        before = await given_link(store, key, PERSISTENT)
        await store.release(key, grace=grace)
        await store_kit.advance(BEYOND_SHORT)

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

    @pytest.fixture
    def server(self, key: LinkKey) -> ServerInfo:
        """Return a pod, in a namespace of the test's own."""
        return server_of(key)

    async def test_another_life_than_expected(self, store: Store, server: ServerInfo) -> None:
        """A registration that expects another life than the one that is there changes nothing, and says which it is."""
        there = await store.register(server, REPORT, LONG, RETENTION, process=PROCESS, expected=0)
        before = await store.read_pods(server.namespace, server.service_name)
        late = [
            await store.register(server, GOODBYE, LONGER, RETENTION, process=process, expected=expected)
            for process, expected in ((PROCESS, 0), (ANOTHER, 0), (ANOTHER, there.incarnation - 1))
        ]
        after = await store.read_pods(server.namespace, server.service_name)

        refused = [Registration(0, there.incarnation, 0.0, own=own, refused=True) for own in (True, False, False)]
        assert refused == late
        assert (before.pods, before.version) == (after.pods, after.version)

    async def test_expected_life(self, store: Store, server: ServerInfo) -> None:
        """A registration that expects the life that is there begins the next one."""
        first = await store.register(server, REPORT, LONG, RETENTION, process=PROCESS, expected=0)
        second = await store.register(server, REPORT, LONG, RETENTION, process=ANOTHER, expected=first.incarnation)

        assert (False, False, first.incarnation) == (second.refused, second.own, second.previous_incarnation)
        assert second.incarnation > first.incarnation
        assert About(LONG) == second.previous_left

    async def test_above(self, store: Store, server: ServerInfo) -> None:
        """An incarnation is above that which its pod names, though the store does not know it."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        above = first.incarnation + 10_000_000_000
        second = await store.register(server, REPORT, LONG, RETENTION, expected=first.incarnation, above=above)
        third = await store.register(server, REPORT, LONG, RETENTION)

        assert above + 1 == second.incarnation
        assert third.incarnation > second.incarnation

    async def test_the_birth_of_a_process(self, store: Store, server: ServerInfo) -> None:
        """A registration tells the first incarnation of the process before: that of the life, or the one it names."""
        first = await store.register(server, REPORT, LONG, RETENTION, process=PROCESS)
        again = await store.register(server, REPORT, LONG, RETENTION, process=f"{first.incarnation}:{PROCESS}")
        other = await store.register(server, REPORT, LONG, RETENTION, process=ANOTHER, expected=0)

        assert (0, first.incarnation, first.incarnation) == (
            first.previous_born,
            again.previous_born,
            other.previous_born,
        )
        assert (True, True) == (again.own, other.refused)

    async def test_own_life(self, store: Store, server: ServerInfo) -> None:
        """A process need not wait for an older life of its own, but for all those of others before that."""
        await store.register(server, REPORT, LONGER, RETENTION, process=ANOTHER)
        first = await store.register(server, REPORT, SHORT, RETENTION, process=PROCESS)
        again = await store.register(server, REPORT, SHORT, RETENTION, process=PROCESS)

        assert (False, About(LONGER)) == (first.own, first.previous_left)
        assert (True, About(LONGER)) == (again.own, again.previous_left)

    async def test_only_own_lives(self, store: Store, server: ServerInfo) -> None:
        """A process that was alone before waits for nobody."""
        await store.register(server, REPORT, LONG, RETENTION, process=PROCESS)
        again = await store.register(server, REPORT, LONG, RETENTION, process=PROCESS)

        assert (True, 0.0) == (again.own, again.previous_left)

    async def test_death_beside_an_older_life(self, store_kit: StoreKit, store: Store, server: ServerInfo) -> None:
        """A life is not dead before the leases of all older ones have ended: what they own would be taken with it."""
        await store.register(server, REPORT, LONG, RETENTION, process=ANOTHER)
        short = await store.register(server, REPORT, SHORT, RETENTION, process=PROCESS)
        await store_kit.advance(BEYOND_SHORT)
        life = PodLife(server.pod_index, short.incarnation)

        assert not await store.confirm_death(server.namespace, server.service_name, life, RETENTION)

    async def test_a_shorter_retention(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """A pod with a short retention drops no other before twice the lease of that one has passed."""
        await store.register(server_of(key, 0), REPORT, LONG, RETENTION)
        await store_kit.advance(BEYOND_SHORT)
        await store.register(server_of(key, 1), REPORT, SHORT, SHORT)
        await store_kit.advance(BEYOND_SHORT)

        pods = (await store.read_pods(key.namespace, key.service_name)).pods

        assert [0, 1] == [pod.pod_index for pod in pods]
