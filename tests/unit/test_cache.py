"""The cache of links: an entry ends before its link does, and the least recently used goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route.client.cache import LinkCache
from stateful_route.client.routing import Pod, ServiceTable
from stateful_route.models import Link, LinkKind
from stateful_route.testing import ManualClock

KEY = ("prod", "alice", "room")


def pod(pod_index: int = 0) -> Pod:
    return Pod(ServiceTable("prod", "room", 1.0), pod_index)


def link(ttl: float | None = None, epoch: int = 1) -> Link:
    return Link(0, 1, epoch, LinkKind.PERSISTENT if ttl is None else LinkKind.TEMPORARY, ttl)


@pytest.fixture
def cache(clock: ManualClock) -> LinkCache:
    return LinkCache(3, ttl=100.0, margin=1.0, clock=clock)


def test_persistent(cache: LinkCache, clock: ManualClock) -> None:
    """A persistent link is kept for the ttl of the cache."""
    cache.put(KEY, pod(), link(), clock())
    clock.advance(99.9)
    before = cache.get(KEY)
    clock.advance(0.1)

    assert before is not None
    assert link() == before.link
    assert cache.get(KEY) is None


def test_margin(cache: LinkCache, clock: ManualClock) -> None:
    """A temporary link is kept until the margin before its end, from when it was asked for."""
    asked_at = clock()
    clock.advance(2.0)
    cache.put(KEY, pod(), link(10.0), asked_at)
    clock.advance(6.9)
    before = cache.get(KEY)
    clock.advance(0.1)

    assert before is not None
    assert cache.get(KEY) is None


@pytest.mark.parametrize("ttl", [0.0, 0.5, 1.0])
def test_short_link(cache: LinkCache, clock: ManualClock, ttl: float) -> None:
    """A link with no more than the margin left is not kept, and leaves what is there alone."""
    cache.put(KEY, pod(), link(ttl), clock())

    assert 0 == len(cache)


_TTLS = st.none() | st.floats(0, 1000)


@given(
    steps=st.lists(st.tuples(_TTLS, st.integers(1, 5), st.floats(0, 50), st.floats(0, 50)), max_size=20),
    margin=st.floats(0, 10),
)
def test_never_outlives_its_link(steps: list[tuple[float | None, int, float, float]], margin: float) -> None:
    """Whatever is put and however time passes, a hit is a link that has the margin left."""
    clock = ManualClock(1000.0)
    cache = LinkCache(3, ttl=100.0, margin=margin, clock=clock)
    ends: dict[int, float] = {}
    for number, (ttl, epoch, delay, passes) in enumerate(steps):
        asked_at = clock()
        clock.advance(delay)
        told = Link(0, number, epoch, LinkKind.TEMPORARY, ttl)
        ends[number] = asked_at + (100.0 if ttl is None else min(100.0, ttl - margin))
        cache.put(KEY, pod(), told, asked_at)
        clock.advance(passes)
        entry = cache.get(KEY)

        assert entry is None or entry.link is None or clock() <= ends[entry.link.incarnation] + 1e-6


def test_older_epoch(cache: LinkCache, clock: ManualClock) -> None:
    """A link of a lower epoch is old news; one of the same or a higher epoch replaces the entry."""
    cache.put(KEY, pod(1), link(epoch=5), clock())
    cache.put(KEY, pod(2), link(epoch=4), clock())
    older = cache.get(KEY)
    cache.put(KEY, pod(3), link(epoch=5), clock())
    same = cache.get(KEY)
    cache.put(KEY, pod(4), link(epoch=6), clock())
    newer = cache.get(KEY)

    assert [1, 3, 4] == [entry.pod.pod_index for entry in (older, same, newer) if entry]


def test_older_epoch_after_the_end(cache: LinkCache, clock: ManualClock) -> None:
    """An entry that has ended, or that has no link, holds nothing up."""
    cache.put(KEY, pod(1), link(2.0, epoch=5), clock())
    clock.advance(3.0)
    cache.put(KEY, pod(2), link(epoch=4), clock())
    ended = cache.get(KEY)
    cache.pop(KEY)
    cache.put(KEY, pod(3), None, clock())
    cache.put(KEY, pod(4), link(epoch=1), clock())
    by_hand = cache.get(KEY)

    assert [2, 4] == [entry.pod.pod_index for entry in (ended, by_hand) if entry]


def test_pod_that_is_not_usable(cache: LinkCache, clock: ManualClock) -> None:
    """An entry is no hit while its pod is not usable."""
    here = pod()
    cache.put(KEY, here, link(), clock())
    here.usable = False
    away = cache.get(KEY)
    here.usable = True

    assert away is None
    assert cache.get(KEY) is not None


def test_least_recently_used(cache: LinkCache, clock: ManualClock) -> None:
    """The least recently used entry goes first, and the cache does not grow beyond its size."""
    for uid in "abc":
        cache.put(("prod", uid, "room"), pod(), link(), clock())
    cache.get(("prod", "a", "room"))
    cache.put(("prod", "d", "room"), pod(), link(), clock())
    found = [uid for uid in "abcd" if cache.get(("prod", uid, "room"))]

    assert (3, ["a", "c", "d"]) == (len(cache), found)


def test_pop_and_close(cache: LinkCache, clock: ManualClock) -> None:
    """Pop drops an entry and returns it if it had not ended; close drops all, and keeps none any more."""
    cache.put(KEY, pod(4), link(), clock())
    popped, again = cache.pop(KEY), cache.pop(KEY)
    cache.put(KEY, pod(4), link(), clock())
    clock.advance(100.0)
    ended = cache.pop(KEY)
    cache.put(KEY, pod(4), link(), clock())
    cache.close()
    cache.put(KEY, pod(4), link(), clock())

    assert popped is not None
    assert [4, None, None] == [popped.pod.pod_index, again, ended]
    assert 0 == len(cache)
