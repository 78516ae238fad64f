"""The cache of links: an entry ends before its link does, and the least recently used goes first."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route.client.cache import hot as hot_module
from stateful_route.client.cache.links import LinkCache, ServiceLinks
from stateful_route.client.pods.service import ServicePods
from stateful_route.links import Link, LinkKind
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.client.cache.hot import CachedPod
    from stateful_route.client.pods.pod import Pod
    from stateful_route.testing import ManualClock

UID = "alice"


def pod(pod_index: int = 0) -> Pod:
    return ServicePods("prod", "room", 1.0).pod(pod_index)


def link(ttl: float | None = None, epoch: int = 1, incarnation: int = 1) -> Link:
    return Link(0, incarnation, epoch, LinkKind.PERSISTENT if ttl is None else LinkKind.TEMPORARY, ttl)


def room(cache: LinkCache) -> ServiceLinks:
    return cache.service("prod", "room")


def indexes(*pods: CachedPod | None) -> list[int | None]:
    return [None if pod is None else pod.pod_index for pod in pods]


def in_front(cache: LinkCache, uid: str = "alice") -> bool:
    """Return whether a hit would find it in the hot cache."""
    hot = cache.hot.get("prod", {}).get("room")
    slot = None if hot is None else hot.slots.get(uid)
    return slot is not None and slot.usable


@pytest.fixture
def cache(clock: ManualClock) -> LinkCache:
    return LinkCache(3, ttl=100.0, margin=1.0, clock=clock)


class TestEnd:
    def test_persistent(self, cache: LinkCache, clock: ManualClock) -> None:
        """A persistent link is kept for the ttl of the cache."""
        room(cache).put(UID, pod(), link(), clock())
        clock.advance(99.9)
        before = room(cache).link(UID)
        clock.advance(0.1)

        assert link() == before
        assert room(cache).link(UID) is None

    def test_margin(self, cache: LinkCache, clock: ManualClock) -> None:
        """A temporary link is kept until the margin before its end, from when it was asked for."""
        asked_at = clock()
        clock.advance(2.0)
        room(cache).put(UID, pod(), link(10.0), asked_at)
        clock.advance(6.9)
        before = room(cache).pod(UID)
        clock.advance(0.1)

        assert before is not None
        assert room(cache).pod(UID) is None

    @pytest.mark.parametrize("ttl", [0.0, 0.5, 1.0])
    def test_short_link(self, cache: LinkCache, clock: ManualClock, ttl: float) -> None:
        """A link with no more than the margin left is not kept, and leaves what is there alone."""
        room(cache).put(UID, pod(), link(ttl), clock())

        assert 0 == len(cache)

    def test_ended_make_room(self, clock: ManualClock) -> None:
        """What has ended goes as new links come, two for each, though nothing asks for it."""
        cache = LinkCache(1000, ttl=10.0, margin=1.0, clock=clock)
        for number in range(500):
            room(cache).put(str(number), pod(), link(), clock())
        clock.advance(10.0)
        lengths = []
        for number in range(500, 800):
            room(cache).put(str(number), pod(), link(), clock())
            lengths.append(len(cache))

        assert (501, 248, 300) == (lengths[0], min(lengths), lengths[-1])


class TestLink:
    @pytest.mark.parametrize("kind", [LinkKind.TEMPORARY, LinkKind.GRACE])
    def test_fields(self, cache: LinkCache, clock: ManualClock, kind: LinkKind) -> None:
        """A cached link has the owner, epoch and kind that were told; its ttl is no more than what is left."""
        told = Link(7, 2**52 + 1, 2**63 + 3, kind, 50.0)
        room(cache).put(UID, pod(7), told, clock())
        clock.advance(10.0)
        found = room(cache).link(UID)

        assert found is not None
        assert (told.owner, told.epoch, told.kind) == (found.owner, found.epoch, found.kind)
        assert found.ttl == pytest.approx(39.0, abs=0.002)

    def test_lives_of_one_pod(self, cache: LinkCache, clock: ManualClock) -> None:
        """Links of several lives of a pod are told apart."""
        here = pod()
        for incarnation in (5, 6, 5):
            room(cache).put(str(incarnation), here, link(incarnation=incarnation), clock())
        found = [room(cache).link(str(incarnation)) for incarnation in (5, 6)]

        assert [link(incarnation=5), link(incarnation=6)] == found

    def test_by_hand(self, cache: LinkCache, clock: ManualClock) -> None:
        """Of an entry that was put by hand only the pod is known."""
        room(cache).put_by_hand(UID, pod(3))

        assert [3] == indexes(room(cache).pod(UID))
        assert room(cache).link(UID) is None


class TestOldNews:
    def test_older_epoch(self, cache: LinkCache, clock: ManualClock) -> None:
        """A link of a lower epoch is old news; one of the same or a higher epoch replaces the entry."""
        found = []
        for pod_index, epoch in ((1, 5), (2, 4), (3, 5), (4, 6)):
            room(cache).put(UID, pod(pod_index), link(epoch=epoch), clock())
            found.append(room(cache).pod(UID))

        assert [1, 1, 3, 4] == indexes(*found)

    def test_nothing_is_held_up(self, cache: LinkCache, clock: ManualClock) -> None:
        """An entry that has ended, whose pod may not be used, or that has no link, makes way for any link."""
        found = []
        gone = pod(1)
        room(cache).put(UID, gone, link(2.0, epoch=9), clock())
        clock.advance(3.0)
        room(cache).put(UID, gone, link(epoch=5), clock())
        found.append(room(cache).pod(UID))
        gone.available = False
        gone.settle()
        room(cache).put(UID, pod(2), link(epoch=4), clock())
        found.append(room(cache).pod(UID))
        room(cache).put_by_hand(UID, pod(3))
        found.append(room(cache).pod(UID))
        room(cache).put(UID, pod(4), link(epoch=1), clock())
        found.append(room(cache).pod(UID))

        assert [1, 2, 3, 4] == indexes(*found)

    def test_invalidated_in_flight(self, cache: LinkCache, clock: ManualClock) -> None:
        """What is invalidated while its answer is in flight is not kept; a later epoch is, as is the next answer."""
        asked_at = clock()
        clock.advance(0.01)
        room(cache).invalidate(UID, 5)
        room(cache).invalidate(UID, 3)
        room(cache).put(UID, pod(1), link(epoch=5), asked_at)
        first = room(cache).pod(UID)
        room(cache).put(UID, pod(2), link(epoch=6), asked_at)
        second = room(cache).pod(UID)
        room(cache).pop(UID)
        clock.advance(0.01)
        room(cache).put(UID, pod(3), link(epoch=5), clock())

        assert [None, 2, 3] == indexes(first, second, room(cache).pod(UID))

    def test_invalidated_at_once(self, cache: LinkCache, clock: ManualClock) -> None:
        """Of a question and an invalidation at the same instant of the clock nobody knows which was first."""
        room(cache).invalidate(UID, 5)
        room(cache).put(UID, pod(1), link(epoch=5), clock())

        assert room(cache).pod(UID) is None

    def test_many_invalidations(self, clock: ManualClock) -> None:
        """An invalidation is remembered while answers are in flight, not for ever; an older answer is not kept."""
        cache = LinkCache(3, ttl=100.0, margin=1.0, clock=clock, answer_time=1.0)
        kept = []
        asked_at = clock()
        for number in range(1000):
            room(cache).invalidate(str(number), 5)
            clock.advance(0.01)
            if number == 99:
                for uid in range(100):
                    room(cache).put(str(uid), pod(), link(epoch=5), asked_at)
                kept.append(len(cache))

        room(cache).put("late", pod(), link(epoch=5), asked_at)
        kept.append(len(cache))
        room(cache).put("0", pod(), link(epoch=5), clock())
        kept.append(len(cache))

        assert [0, 0, 1] == kept
        assert 202 >= len(room(cache)._overtaken._heard) + len(room(cache)._overtaken._older)

    def test_outdate(self, cache: LinkCache, clock: ManualClock) -> None:
        """An entry of the announced epoch or an earlier one is dropped, one by hand always, and no later one."""
        room(cache).put("a", pod(), link(epoch=5), clock())
        room(cache).put("b", pod(), link(epoch=6), clock())
        room(cache).put_by_hand("c", pod())
        for uid in "abcd":
            room(cache).pod(str(uid))
            room(cache).invalidate(str(uid), 5)
        cache.service("prod", "other").invalidate("b", 9)

        assert [None, 0, None] == indexes(*(room(cache).pod(str(uid)) for uid in "abc"))
        assert [False, True, False] == [in_front(cache, uid) for uid in "abc"]


class TestFlush:
    def test_ends_all(self, cache: LinkCache, clock: ManualClock) -> None:
        """All entries of the service end, in the hot cache too, and those of others stay."""
        keys = [("prod", UID, "room"), ("prod", "bob", "room"), ("prod", UID, "hall"), ("test", UID, "room")]
        for namespace, uid, service_name in keys:
            cache.service(namespace, service_name).put(uid, pod(), link(), clock())
            cache.service(namespace, service_name).pod(uid)
        room(cache).flush()

        assert not in_front(cache)
        assert [None, None, 0, 0] == indexes(*(cache.service(name, of).pod(uid) for name, uid, of in keys))

    def test_answer_in_flight(self, cache: LinkCache, clock: ManualClock) -> None:
        """An answer that was asked for before the flush is not kept; one that was asked for after it is."""
        asked_at = clock()
        clock.advance(0.001)
        room(cache).flush()
        room(cache).put(UID, pod(1), link(), asked_at)
        before = room(cache).pod(UID)
        room(cache).put(UID, pod(2), link(), clock())

        assert [None, 2] == indexes(before, room(cache).pod(UID))

    def test_same_life_again(self, cache: LinkCache, clock: ManualClock) -> None:
        """What ended stays so when the same pod gets links again."""
        here = pod()
        room(cache).put("old", here, link(), clock())
        room(cache).flush()
        room(cache).put("new", here, link(), clock())

        assert [None, 0] == indexes(room(cache).pod("old"), room(cache).pod("new"))

    def test_touches_no_entry(self, clock: ManualClock) -> None:
        """It costs nothing for each link: the entries are dropped as they come up."""
        cache = LinkCache(1000, ttl=100.0, margin=1.0, clock=clock)
        for number in range(1000):
            room(cache).put(str(number), pod(number % 3), link(), clock())
        room(cache).flush()

        assert 1000 == len(cache)
        assert all(holder.flushed for holder in cache.holders.values())

    def test_hint(self, cache: LinkCache, clock: ManualClock) -> None:
        """What ended tells where its uid was, until its own end; what was announced to be so no more does not."""
        for number, uid in enumerate("abc"):
            room(cache).put(str(uid), pod(number), link(epoch=5), clock())
        none = room(cache).hint("other"), room(cache).has_hints
        room(cache).flush()
        room(cache).invalidate("b", 5)
        hints = indexes(*(room(cache).hint(uid) for uid in "abc"))
        cached = indexes(*(room(cache).pod(str(uid)) for uid in "abc"))
        clock.advance(100.0)
        late = [room(cache).hint(uid) for uid in "abc"], room(cache).has_hints
        clock.advance(0.1)
        room(cache).hint("a")

        assert (None, False) == none
        assert ([0, None, 2], [None] * 3) == (hints, cached)
        assert ([None] * 3, True) == late
        assert not room(cache).has_hints

    def test_hint_is_replaced(self, cache: LinkCache, clock: ManualClock) -> None:
        """An answer replaces a hint, be its epoch lower, as that of a store that has lost all."""
        room(cache).put(UID, pod(1), link(epoch=9), clock())
        room(cache).flush()
        room(cache).put(UID, pod(2), link(epoch=3), clock())

        assert [2] == indexes(room(cache).pod(UID))
        assert [2] == indexes(room(cache).hint(UID))

    def test_put_by_hand(self, cache: LinkCache, clock: ManualClock) -> None:
        """What was put by hand is no hint."""
        room(cache).put_by_hand(UID, pod(1))
        room(cache).flush()

        assert room(cache).hint(UID) is None

    def test_many_flushes(self, clock: ManualClock) -> None:
        """However often it is flushed, and whichever pods there were, what is kept for the hints has a bound."""
        cache = LinkCache(100, ttl=100.0, margin=1.0, clock=clock)
        for life in range(10_000):
            room(cache).put(str(life % 100), pod(life % 7), link(incarnation=life), clock())
            room(cache).flush()

        assert 4096 >= len(cache.holders)
        assert [9999 % 7] == indexes(room(cache).hint("99"))
        assert all(holder.number in cache.holders for holder in room(cache)._flushed)


class TestFront:
    def test_first_use(self, cache: LinkCache, clock: ManualClock) -> None:
        """A link is in the hot cache from its first use on."""
        room(cache).put(UID, pod(), link(), clock())
        before = in_front(cache)
        room(cache).pod(UID)

        assert not before
        assert in_front(cache)

    def test_last_ticks(self, cache: LinkCache, clock: ManualClock) -> None:
        """It leaves the hot cache one or two hundredths of the ttl before it ends, and is cached up to the end."""
        clock.advance(0.5)
        room(cache).put(UID, pod(), link(51.0), clock())
        seen = []
        for tenth in range(500):
            cached = room(cache).pod(UID) is not None
            seen.append((tenth / 10, cached, in_front(cache)))
            clock.advance(0.1)

        assert all(cached for _, cached, _ in seen)
        assert 48.0 <= max(at for at, _, hot in seen if hot) < 49.0
        assert room(cache).pod(UID) is None
        assert not in_front(cache)

    def test_pod_that_is_not_usable(self, cache: LinkCache, clock: ManualClock) -> None:
        """No entry of a pod is a hit while the pod is not usable, in the hot cache either."""
        here = pod()
        room(cache).put(UID, here, link(), clock())
        room(cache).pod(UID)
        seen = []
        for available in (True, False, True):
            here.available = available
            here.settle()
            seen.append((in_front(cache), room(cache).link(UID) is not None))

        assert [(True, True), (False, False), (True, True)] == seen

    def test_usable_again_after_its_end(self, cache: LinkCache, clock: ManualClock) -> None:
        """A pod that is usable again brings nothing back that left the hot cache meanwhile."""
        here = pod()
        room(cache).put(UID, here, link(), clock())
        room(cache).pod(UID)
        here.available = False
        here.settle()
        clock.advance(100.0)
        here.available = True
        here.settle()

        assert not in_front(cache)
        assert {} == here.slots

    def test_replaced(self, cache: LinkCache, clock: ManualClock) -> None:
        """What replaces or drops an entry takes it out of the hot cache."""
        acts: list[Callable[[], object]] = [
            lambda: room(cache).put(UID, pod(2), link(epoch=9), clock()),
            lambda: room(cache).pop(UID),
            lambda: room(cache).invalidate(UID, 9),
        ]
        seen = []
        for act in acts:
            room(cache).put(UID, pod(1), link(epoch=1), clock())
            room(cache).pod(UID)
            before = in_front(cache)
            act()
            seen.append((before, in_front(cache)))

        assert [(True, False)] * 3 == seen

    def test_bound(self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hot cache never has more than its bound: it begins anew, and what is used comes back."""
        monkeypatch.setattr(hot_module, "MOST", 10)
        cache = LinkCache(1000, ttl=100.0, margin=1.0, clock=clock)
        lengths = []
        for number in range(25):
            room(cache).put(str(number), pod(), link(), clock())
            room(cache).pod(str(number))
            lengths.append((len(cache._hot_cache), len(cache.hot["prod"]["room"].slots)))

        assert [(number % 10 + 1,) * 2 for number in range(25)] == lengths
        assert all(room(cache).pod(str(number)) for number in range(25))

    @pytest.mark.parametrize(
        "leave",
        [
            lambda cache: room(cache).invalidate(UID, 9),
            lambda cache: room(cache).pop(UID),
            lambda cache: room(cache).flush(),
            lambda cache: room(cache).put(UID, pod(1), link(epoch=10), cache.clock()),
            lambda cache: cache.close(),
            lambda cache: cache._hot_cache.clear(),
        ],
        ids=["outdated", "popped", "flushed", "put again", "closed", "hot cache cleared"],
    )
    def test_what_is_known(self, clock: ManualClock, leave: Callable[[LinkCache], object]) -> None:
        """A link that was asked for is at hand for the next hit, until it leaves the hot cache for whatever reason."""
        cache = LinkCache(3, ttl=100.0, margin=1.0, clock=clock)
        room(cache).put(UID, pod(), link(epoch=9), clock())
        hot = cache.hot.setdefault("prod", {})["room"]
        found = room(cache).link(UID)
        before = hot.known.get("alice")
        leave(cache)

        assert found is not None
        assert before is found
        assert {} == hot.known

    def test_news_that_does_not_last(self, clock: ManualClock, cache: LinkCache) -> None:
        """A newer link that ends too soon to be kept ends the older one that is there."""
        room(cache).put(UID, pod(), link(epoch=9), clock())
        room(cache).put(UID, pod(1), link(1.0, epoch=9), clock())
        same = room(cache).link(UID)
        room(cache).put(UID, pod(1), link(1.0, epoch=10), clock())

        assert same is not None
        assert room(cache).link(UID) is None

    def test_other_clock(self) -> None:
        """With a clock that calls nobody back the hot cache stays empty, and the end is exact all the same."""
        now = [1000.0]
        cache = LinkCache(3, ttl=100.0, margin=1.0, clock=lambda: now[0])
        room(cache).put(UID, pod(), link(), 1000.0)
        found = []
        for at in (1000.0, 1099.9, 1100.0):
            now[0] = at
            found.append((room(cache).pod(UID) is not None, in_front(cache)))

        assert [(True, False), (True, False), (False, False)] == found

    async def test_event_loop(self) -> None:
        """With the clock of the process a timer of the event loop takes it out, before its end."""
        cache = LinkCache(3, ttl=0.5, margin=0.0)
        started = time.monotonic()
        room(cache).put(UID, pod(), link(), started)
        room(cache).pod(UID)
        before = in_front(cache)
        await eventually(lambda: not in_front(cache))

        assert before
        assert {} == cache._hot_cache._ticks

    def test_own_namespace(self, clock: ManualClock) -> None:
        """In the hot cache an empty string is the own namespace."""
        cache = LinkCache(3, 100.0, 1.0, clock, "prod")
        room(cache).put(UID, pod(), link(), clock())
        room(cache).pod(UID)

        assert cache.hot["prod"] is cache.hot[""]
        assert "alice" in cache.hot[""]["room"].slots


class TestBounds:
    def test_least_recently_used(self, cache: LinkCache, clock: ManualClock) -> None:
        """The least recently used entry goes first, and the cache does not grow beyond its size."""
        for uid in "abc":
            room(cache).put(str(uid), pod(), link(), clock())
        room(cache).pod("a")
        room(cache).put("d", pod(), link(), clock())
        found = [uid for uid in "abcd" if room(cache).pod(str(uid))]

        assert (3, ["a", "c", "d"]) == (len(cache), found)

    def test_hot_uid(self, clock: ManualClock) -> None:
        """A uid that is used again and again, in the hot cache if it is there, outlasts any number of others."""
        cache = LinkCache(100, ttl=1e6, margin=1.0, clock=clock)
        room(cache).put(UID, pod(), link(), clock())
        from_front = 0
        for number in range(5000):
            room(cache).put(str(number), pod(), link(), clock())
            if in_front(cache):
                from_front += 1
            else:
                assert room(cache).pod(UID) is not None

        assert from_front > 4800

    def test_front_is_within(self, cache: LinkCache, clock: ManualClock) -> None:
        """What was evicted is not in the hot cache."""
        for number in range(20):
            room(cache).put(str(number), pod(), link(), clock())
            room(cache).pod(str(number))

        kept = {str(number) for number in range(20) if room(cache).pop(str(number)) is not None}

        assert 3 == len(kept)
        assert set() == set(cache.hot["prod"]["room"].slots)

    def test_lives_that_are_gone(self, clock: ManualClock) -> None:
        """Lives whose links have all ended are forgotten: restarts do not fill the memory."""
        cache = LinkCache(100, ttl=10.0, margin=1.0, clock=clock)
        for number in range(10_000):
            cache.service("prod", f"room-{number % 30}").put(UID, pod(), link(incarnation=number), clock())
            clock.advance(0.1)

        assert len(cache.holders) <= 1001

    def test_services_that_are_gone(self, clock: ManualClock) -> None:
        """Of a service that is dropped nothing is left, and what is in flight for it is not kept."""
        cache = LinkCache(100, ttl=10.0, margin=1.0, clock=clock)
        for number in range(3000):
            service = cache.service(f"tenant-{number}", "room")
            service.put(UID, pod(), link(), clock())
            service.pod(UID)
            cache.drop(f"tenant-{number}", "room")
            service.flush()  # by a reading that was in flight
            service.put("late", pod(), link(), clock())
            service.invalidate(UID, 9)

        assert ([], {}, {}) == (list(cache._services), cache._by_prefix, cache.holders)
        assert [""] == [namespace for namespace, services in cache.hot.items() if not services]

    def test_life_that_was_forgotten(self, clock: ManualClock) -> None:
        """A life that was forgotten, as all its links had ended, gets new ones that are found."""
        cache = LinkCache(5000, ttl=10.0, margin=1.0, clock=clock)
        here = pod()
        room(cache).put(UID, here, link(), clock())
        clock.advance(10.0)
        for number in range(1001):
            room(cache).put(str(number), pod(), link(), clock())
        forgotten = here not in room(cache)._latest
        room(cache).put(UID, here, link(), clock())

        assert forgotten
        assert here is room(cache).pod(UID)

    def test_nothing_for_the_collector(self, clock: ManualClock) -> None:
        """A link is no object for the garbage collector: there are as many with 20,000 links as with a few."""
        cache = LinkCache(50_000, ttl=100.0, margin=1.0, clock=clock)
        pods = [pod(pod_index) for pod_index in range(10)]

        def fill(first: int, last: int) -> int:
            for number in range(first, last):
                room(cache).put(str(number), pods[number % 10], link(50.0 + number % 7, number), clock())
                room(cache).pod(str(number))
            gc.collect()
            return len(gc.get_objects())

        before = fill(0, 100)

        assert fill(100, 20_000) - before < 100


class TestDrop:
    def test_pop(self, cache: LinkCache, clock: ManualClock) -> None:
        """Pop drops an entry and returns its pod if it had not ended."""
        room(cache).put(UID, pod(4), link(), clock())
        popped, again = room(cache).pop(UID), room(cache).pop(UID)
        room(cache).put(UID, pod(4), link(), clock())
        clock.advance(100.0)
        ended = room(cache).pop(UID)

        assert [4, None, None] == indexes(popped, again, ended)
        assert 0 == len(cache)

    def test_close(self, cache: LinkCache, clock: ManualClock) -> None:
        """Close drops all, keeps none any more, and leaves no timer."""
        room(cache).put(UID, pod(4), link(), clock())
        room(cache).pod(UID)
        for _ in cache.close():
            pass
        room(cache).put(UID, pod(4), link(), clock())

        assert 0 == len(cache)
        assert not in_front(cache)
        assert {} == cache._hot_cache._ticks
