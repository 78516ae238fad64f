"""The cache of links: an entry ends before its link does, and the least recently used goes first."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route.client.cache import hot as hot_module
from stateful_route.client.cache.links import LinkCache
from stateful_route.client.pods.pod import Pod
from stateful_route.client.pods.service import ServicePods
from stateful_route.models import Link, LinkKind
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.testing import ManualClock

KEY = ("prod", "alice", "room")


def pod(pod_index: int = 0) -> Pod:
    return Pod(ServicePods("prod", "room", 1.0), pod_index)


def link(ttl: float | None = None, epoch: int = 1, incarnation: int = 1) -> Link:
    return Link(0, incarnation, epoch, LinkKind.PERSISTENT if ttl is None else LinkKind.TEMPORARY, ttl)


def key_of(uid: str | int) -> tuple[str, str, str]:
    return "prod", str(uid), "room"


def indexes(*pods: Pod | None) -> list[int | None]:
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
        cache.put(KEY, pod(), link(), clock())
        clock.advance(99.9)
        before = cache.link(KEY)
        clock.advance(0.1)

        assert link() == before
        assert cache.link(KEY) is None

    def test_margin(self, cache: LinkCache, clock: ManualClock) -> None:
        """A temporary link is kept until the margin before its end, from when it was asked for."""
        asked_at = clock()
        clock.advance(2.0)
        cache.put(KEY, pod(), link(10.0), asked_at)
        clock.advance(6.9)
        before = cache.pod(KEY)
        clock.advance(0.1)

        assert before is not None
        assert cache.pod(KEY) is None

    @pytest.mark.parametrize("ttl", [0.0, 0.5, 1.0])
    def test_short_link(self, cache: LinkCache, clock: ManualClock, ttl: float) -> None:
        """A link with no more than the margin left is not kept, and leaves what is there alone."""
        cache.put(KEY, pod(), link(ttl), clock())

        assert 0 == len(cache)

    def test_ended_make_room(self, clock: ManualClock) -> None:
        """What has ended goes as new links come, two for each, though nothing asks for it."""
        cache = LinkCache(1000, ttl=10.0, margin=1.0, clock=clock)
        for number in range(500):
            cache.put(key_of(number), pod(), link(), clock())
        clock.advance(10.0)
        lengths = []
        for number in range(500, 800):
            cache.put(key_of(number), pod(), link(), clock())
            lengths.append(len(cache))

        assert (501, 248, 300) == (lengths[0], min(lengths), lengths[-1])


class TestLink:
    @pytest.mark.parametrize("kind", [LinkKind.TEMPORARY, LinkKind.GRACE])
    def test_fields(self, cache: LinkCache, clock: ManualClock, kind: LinkKind) -> None:
        """A cached link has the owner, epoch and kind that were told; its ttl is no more than what is left."""
        told = Link(7, 2**52 + 1, 2**63 + 3, kind, 50.0)
        cache.put(KEY, pod(7), told, clock())
        clock.advance(10.0)
        found = cache.link(KEY)

        assert found is not None
        assert (told.owner, told.epoch, told.kind) == (found.owner, found.epoch, found.kind)
        assert found.ttl == pytest.approx(39.0, abs=0.002)

    def test_lives_of_one_pod(self, cache: LinkCache, clock: ManualClock) -> None:
        """Links of several lives of a pod are told apart."""
        here = pod()
        for incarnation in (5, 6, 5):
            cache.put(key_of(incarnation), here, link(incarnation=incarnation), clock())
        found = [cache.link(key_of(incarnation)) for incarnation in (5, 6)]

        assert [link(incarnation=5), link(incarnation=6)] == found

    def test_by_hand(self, cache: LinkCache, clock: ManualClock) -> None:
        """Of an entry that was put by hand only the pod is known."""
        cache.put(KEY, pod(3), None, clock())

        assert [3] == indexes(cache.pod(KEY))
        assert cache.link(KEY) is None


class TestOldNews:
    def test_older_epoch(self, cache: LinkCache, clock: ManualClock) -> None:
        """A link of a lower epoch is old news; one of the same or a higher epoch replaces the entry."""
        found = []
        for pod_index, epoch in ((1, 5), (2, 4), (3, 5), (4, 6)):
            cache.put(KEY, pod(pod_index), link(epoch=epoch), clock())
            found.append(cache.pod(KEY))

        assert [1, 1, 3, 4] == indexes(*found)

    def test_nothing_is_held_up(self, cache: LinkCache, clock: ManualClock) -> None:
        """An entry that has ended, whose pod may not be used, or that has no link, makes way for any link."""
        found = []
        gone = pod(1)
        cache.put(KEY, gone, link(2.0, epoch=9), clock())
        clock.advance(3.0)
        cache.put(KEY, gone, link(epoch=5), clock())
        found.append(cache.pod(KEY))
        gone.available = False
        gone.settle()
        cache.put(KEY, pod(2), link(epoch=4), clock())
        found.append(cache.pod(KEY))
        cache.put(KEY, pod(3), None, clock())
        found.append(cache.pod(KEY))
        cache.put(KEY, pod(4), link(epoch=1), clock())
        found.append(cache.pod(KEY))

        assert [1, 2, 3, 4] == indexes(*found)

    def test_announced_while_asked(self, cache: LinkCache, clock: ManualClock) -> None:
        """What was announced while its answer was under way is not kept; a later epoch is, and the next answer too."""
        cache.ask(KEY)
        cache.ask(KEY)
        cache.outdate(KEY, 5)
        cache.outdate(KEY, 3)
        cache.put(KEY, pod(1), link(epoch=5), clock())
        first = cache.pod(KEY)
        cache.answered(KEY)
        cache.put(KEY, pod(2), link(epoch=6), clock())
        second = cache.pod(KEY)
        cache.answered(KEY)
        cache.pop(KEY)
        cache.put(KEY, pod(3), link(epoch=5), clock())

        assert [None, 2, 3] == indexes(first, second, cache.pod(KEY))
        assert ({}, {}) == (cache._asked, cache._outdated)

    def test_asked_for_many(self, cache: LinkCache) -> None:
        """Once many questions are answered, nothing is kept of them."""
        with cache.asking([key_of(uid) for uid in "abc"]) as keys:
            for key in keys:
                cache.outdate(key, 5)

        assert ({}, {}) == (cache._asked, cache._outdated)

    def test_outdate(self, cache: LinkCache, clock: ManualClock) -> None:
        """An entry of the announced epoch or an earlier one is dropped, one by hand always, and no later one."""
        cache.put(key_of("a"), pod(), link(epoch=5), clock())
        cache.put(key_of("b"), pod(), link(epoch=6), clock())
        cache.put(key_of("c"), pod(), None, clock())
        for uid in "abcd":
            cache.pod(key_of(uid))
            cache.outdate(key_of(uid), 5)
        cache.outdate(("prod", "b", "other"), 9)

        assert [None, 0, None] == indexes(*(cache.pod(key_of(uid)) for uid in "abc"))
        assert [False, True, False] == [in_front(cache, uid) for uid in "abc"]


class TestFlush:
    def test_ends_all(self, cache: LinkCache, clock: ManualClock) -> None:
        """All entries of the service end, in the hot cache too, and those of others stay."""
        keys = [KEY, ("prod", "bob", "room"), ("prod", "alice", "hall"), ("test", "alice", "room")]
        for key in keys:
            cache.put(key, pod(), link(), clock())
            cache.pod(key)
        cache.flush("prod", "room")

        assert not in_front(cache)
        assert [None, None, 0, 0] == indexes(*(cache.pod(key) for key in keys))

    def test_answer_under_way(self, cache: LinkCache, clock: ManualClock) -> None:
        """An answer that was asked for before the flush is not kept; one that was asked for after it is."""
        asked_at = clock()
        clock.advance(0.001)
        cache.flush("prod", "room")
        cache.put(KEY, pod(1), link(), asked_at)
        before = cache.pod(KEY)
        cache.put(KEY, pod(2), link(), clock())

        assert [None, 2] == indexes(before, cache.pod(KEY))

    def test_same_life_again(self, cache: LinkCache, clock: ManualClock) -> None:
        """What ended stays so when the same pod gets links again."""
        here = pod()
        cache.put(key_of("old"), here, link(), clock())
        cache.flush("prod", "room")
        cache.put(key_of("new"), here, link(), clock())

        assert [None, 0] == indexes(cache.pod(key_of("old")), cache.pod(key_of("new")))

    def test_touches_no_entry(self, clock: ManualClock) -> None:
        """It costs nothing for each link: the entries are dropped as they come up."""
        cache = LinkCache(1000, ttl=100.0, margin=1.0, clock=clock)
        for number in range(1000):
            cache.put(key_of(number), pod(number % 3), link(), clock())
        cache.flush("prod", "room")

        assert 1000 == len(cache)
        assert all(holder.flushed for holder in cache._holders.values())

    def test_hint(self, cache: LinkCache, clock: ManualClock) -> None:
        """What ended tells where its uid was, until its own end; what was announced to be so no more does not."""
        for number, uid in enumerate("abc"):
            cache.put(key_of(uid), pod(number), link(epoch=5), clock())
        none = cache.hint(key_of("other")), cache.has_hints
        cache.flush("prod", "room")
        cache.outdate(key_of("b"), 5)
        hints = [cache.hint(key_of(uid)) for uid in "abc"]
        cached = indexes(*(cache.pod(key_of(uid)) for uid in "abc"))
        clock.advance(100.0)
        late = [cache.hint(key_of(uid)) for uid in "abc"], cache.has_hints
        clock.advance(0.1)
        cache.hint(key_of("a"))

        assert (None, False) == none
        assert ([0, None, 2], [None] * 3) == (hints, cached)
        assert ([None] * 3, True) == late
        assert not cache.has_hints

    def test_hint_is_replaced(self, cache: LinkCache, clock: ManualClock) -> None:
        """An answer replaces a hint, be its epoch lower, as that of a store that has lost all."""
        cache.put(KEY, pod(1), link(epoch=9), clock())
        cache.flush("prod", "room")
        cache.put(KEY, pod(2), link(epoch=3), clock())

        assert [2] == indexes(cache.pod(KEY))
        assert 2 == cache.hint(KEY)

    def test_put_by_hand(self, cache: LinkCache, clock: ManualClock) -> None:
        """What was put by hand is no hint."""
        cache.put(KEY, pod(1), None, clock())
        cache.flush("prod", "room")

        assert cache.hint(KEY) is None

    def test_many_flushes(self, clock: ManualClock) -> None:
        """However often it is flushed, and whichever pods there were, what is kept for the hints has a bound."""
        cache = LinkCache(100, ttl=100.0, margin=1.0, clock=clock)
        for life in range(10_000):
            cache.put(key_of(life % 100), pod(life % 7), link(incarnation=life), clock())
            cache.flush("prod", "room")

        assert 4096 >= len(cache._holders)
        assert 9999 % 7 == cache.hint(key_of(99))
        assert all(holder.number in cache._holders for holder in cache._services["prod", "room"].flushed)


class TestFront:
    def test_first_use(self, cache: LinkCache, clock: ManualClock) -> None:
        """A link is in the hot cache from its first use on."""
        cache.put(KEY, pod(), link(), clock())
        before = in_front(cache)
        cache.pod(KEY)

        assert not before
        assert in_front(cache)

    def test_last_ticks(self, cache: LinkCache, clock: ManualClock) -> None:
        """It leaves the hot cache one or two hundredths of the ttl before it ends, and is cached up to the end."""
        clock.advance(0.5)
        cache.put(KEY, pod(), link(51.0), clock())
        seen = []
        for tenth in range(500):
            cached = cache.pod(KEY) is not None
            seen.append((tenth / 10, cached, in_front(cache)))
            clock.advance(0.1)

        assert all(cached for _, cached, _ in seen)
        assert 48.0 <= max(at for at, _, hot in seen if hot) < 49.0
        assert cache.pod(KEY) is None
        assert not in_front(cache)

    def test_pod_that_is_not_usable(self, cache: LinkCache, clock: ManualClock) -> None:
        """No entry of a pod is a hit while the pod is not usable, in the hot cache either."""
        here = pod()
        cache.put(KEY, here, link(), clock())
        cache.pod(KEY)
        seen = []
        for available in (True, False, True):
            here.available = available
            here.settle()
            seen.append((in_front(cache), cache.link(KEY) is not None))

        assert [(True, True), (False, False), (True, True)] == seen

    def test_usable_again_after_its_end(self, cache: LinkCache, clock: ManualClock) -> None:
        """A pod that is usable again brings nothing back that left the hot cache meanwhile."""
        here = pod()
        cache.put(KEY, here, link(), clock())
        cache.pod(KEY)
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
            lambda: cache.put(KEY, pod(2), link(epoch=9), clock()),
            lambda: cache.pop(KEY),
            lambda: cache.outdate(KEY, 9),
        ]
        seen = []
        for act in acts:
            cache.put(KEY, pod(1), link(epoch=1), clock())
            cache.pod(KEY)
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
            cache.put(key_of(number), pod(), link(), clock())
            cache.pod(key_of(number))
            lengths.append((len(cache._hot), len(cache.hot["prod"]["room"].slots)))

        assert [(number % 10 + 1,) * 2 for number in range(25)] == lengths
        assert all(cache.pod(key_of(number)) for number in range(25))

    @pytest.mark.parametrize(
        "leave",
        [
            lambda cache: cache.outdate(KEY, 9),
            lambda cache: cache.pop(KEY),
            lambda cache: cache.flush("prod", "room"),
            lambda cache: cache.put(KEY, pod(1), link(epoch=10), cache._clock()),
            lambda cache: cache.close(),
            lambda cache: cache._hot.clear(),
        ],
        ids=["outdated", "popped", "flushed", "put again", "closed", "hot cache cleared"],
    )
    def test_what_is_known(self, clock: ManualClock, leave: Callable[[LinkCache], object]) -> None:
        """A link that was asked for is at hand for the next hit, until it leaves the hot cache for whatever reason."""
        cache = LinkCache(3, ttl=100.0, margin=1.0, clock=clock)
        cache.put(KEY, pod(), link(epoch=9), clock())
        hot = cache.hot.setdefault("prod", {})["room"]
        found = cache.link(KEY)
        before = hot.known.get("alice")
        leave(cache)

        assert found is not None
        assert before is found
        assert {} == hot.known

    def test_news_that_does_not_last(self, clock: ManualClock, cache: LinkCache) -> None:
        """A newer link that ends too soon to be kept ends the older one that is there."""
        cache.put(KEY, pod(), link(epoch=9), clock())
        cache.put(KEY, pod(1), link(1.0, epoch=9), clock())
        same = cache.link(KEY)
        cache.put(KEY, pod(1), link(1.0, epoch=10), clock())

        assert same is not None
        assert cache.link(KEY) is None

    def test_other_clock(self) -> None:
        """With a clock that calls nobody back the hot cache stays empty, and the end is exact all the same."""
        now = [1000.0]
        cache = LinkCache(3, ttl=100.0, margin=1.0, clock=lambda: now[0])
        cache.put(KEY, pod(), link(), 1000.0)
        found = []
        for at in (1000.0, 1099.9, 1100.0):
            now[0] = at
            found.append((cache.pod(KEY) is not None, in_front(cache)))

        assert [(True, False), (True, False), (False, False)] == found

    async def test_event_loop(self) -> None:
        """With the clock of the process a timer of the event loop takes it out, before its end."""
        cache = LinkCache(3, ttl=0.5, margin=0.0)
        started = time.monotonic()
        cache.put(KEY, pod(), link(), started)
        cache.pod(KEY)
        before = in_front(cache)
        await eventually(lambda: not in_front(cache))

        assert before
        assert {} == cache._hot._ticks

    def test_own_namespace(self, clock: ManualClock) -> None:
        """In the hot cache an empty string is the own namespace."""
        cache = LinkCache(3, 100.0, 1.0, clock, "prod")
        cache.put(KEY, pod(), link(), clock())
        cache.pod(KEY)

        assert cache.hot["prod"] is cache.hot[""]
        assert "alice" in cache.hot[""]["room"].slots


class TestBounds:
    def test_least_recently_used(self, cache: LinkCache, clock: ManualClock) -> None:
        """The least recently used entry goes first, and the cache does not grow beyond its size."""
        for uid in "abc":
            cache.put(key_of(uid), pod(), link(), clock())
        cache.pod(key_of("a"))
        cache.put(key_of("d"), pod(), link(), clock())
        found = [uid for uid in "abcd" if cache.pod(key_of(uid))]

        assert (3, ["a", "c", "d"]) == (len(cache), found)

    def test_hot_uid(self, clock: ManualClock) -> None:
        """A uid that is used again and again, in the hot cache if it is there, outlasts any number of others."""
        cache = LinkCache(100, ttl=1e6, margin=1.0, clock=clock)
        cache.put(KEY, pod(), link(), clock())
        from_front = 0
        for number in range(5000):
            cache.put(key_of(number), pod(), link(), clock())
            if in_front(cache):
                from_front += 1
            else:
                assert cache.pod(KEY) is not None

        assert from_front > 4800

    def test_front_is_within(self, cache: LinkCache, clock: ManualClock) -> None:
        """What was evicted is not in the hot cache."""
        for number in range(20):
            cache.put(key_of(number), pod(), link(), clock())
            cache.pod(key_of(number))

        kept = {str(number) for number in range(20) if cache.pop(key_of(number)) is not None}

        assert 3 == len(kept)
        assert set() == set(cache.hot["prod"]["room"].slots)

    def test_lives_that_are_gone(self, clock: ManualClock) -> None:
        """Lives and services whose links have all ended are forgotten: neither restarts nor tenants fill the memory."""
        cache = LinkCache(100, ttl=10.0, margin=1.0, clock=clock)
        for number in range(10_000):
            cache.put(("prod", "alice", f"room-{number % 3000}"), pod(), link(incarnation=number), clock())
            clock.advance(0.1)

        assert len(cache._holders) <= 1001
        assert len(cache._services) <= 1001
        assert len(cache._by_prefix) == len(cache._services) == len(cache.hot["prod"])

    def test_life_that_was_forgotten(self, clock: ManualClock) -> None:
        """A life that was forgotten, as all its links had ended, gets new ones that are found."""
        cache = LinkCache(5000, ttl=10.0, margin=1.0, clock=clock)
        here = pod()
        cache.put(KEY, here, link(), clock())
        clock.advance(10.0)
        for number in range(1001):
            cache.put(key_of(number), pod(), link(), clock())
        forgotten = here not in cache._services["prod", "room"].latest
        cache.put(KEY, here, link(), clock())

        assert forgotten
        assert here is cache.pod(KEY)

    def test_namespaces_that_are_gone(self, clock: ManualClock) -> None:
        """Of a namespace whose links have all ended nothing is left, be it in the hot cache or not."""
        cache = LinkCache(100, ttl=10.0, margin=1.0, clock=clock)
        for number in range(3000):
            cache.put((f"tenant-{number}", "alice", "room"), pod(), link(), clock())
            clock.advance(0.1)

        assert len(cache._services) <= 1001
        assert len(cache._services) == len(cache.hot) - 1  # "" is the own one

    def test_nothing_for_the_collector(self, clock: ManualClock) -> None:
        """A link is no object for the garbage collector: there are as many with 20,000 links as with a few."""
        cache = LinkCache(50_000, ttl=100.0, margin=1.0, clock=clock)
        pods = [pod(pod_index) for pod_index in range(10)]

        def fill(first: int, last: int) -> int:
            for number in range(first, last):
                cache.put(key_of(number), pods[number % 10], link(50.0 + number % 7, number), clock())
                cache.pod(key_of(number))
            gc.collect()
            return len(gc.get_objects())

        before = fill(0, 100)

        assert fill(100, 20_000) - before < 100


class TestDrop:
    def test_pop(self, cache: LinkCache, clock: ManualClock) -> None:
        """Pop drops an entry and returns its pod if it had not ended."""
        cache.put(KEY, pod(4), link(), clock())
        popped, again = cache.pop(KEY), cache.pop(KEY)
        cache.put(KEY, pod(4), link(), clock())
        clock.advance(100.0)
        ended = cache.pop(KEY)

        assert [4, None, None] == indexes(popped, again, ended)
        assert 0 == len(cache)

    def test_close(self, cache: LinkCache, clock: ManualClock) -> None:
        """Close drops all, keeps none any more, and leaves no timer."""
        cache.put(KEY, pod(4), link(), clock())
        cache.pod(KEY)
        for _ in cache.close():
            pass
        cache.put(KEY, pod(4), link(), clock())

        assert 0 == len(cache)
        assert not in_front(cache)
        assert {} == cache._hot._ticks
