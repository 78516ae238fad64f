"""The cache against a model of a few lines: it never serves what the model forbids, however its steps are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stateful_route.client.cache.links import CacheKey, LinkCache
from stateful_route.client.pods.service import ServicePods
from stateful_route.models import Link, LinkKind
from stateful_route.testing import ManualClock

if TYPE_CHECKING:
    from stateful_route.client.pods.pod import Pod

TTL, MARGIN = 10.0, 1.0
KEYS = [(namespace, uid, service) for namespace in ("p", "t") for uid in ("a", "b") for service in ("x", "y")]
# The cache rounds the end of an entry down to milliseconds.
ROUNDING = 0.002


@attrs.frozen
class Entry:
    """What the model keeps of a link."""

    pod: Pod
    link: Link | None
    ends: float


class CacheMachine(RuleBasedStateMachine):
    """Puts, drops and asks while time passes and pods come and go. There is room for all keys."""

    size = len(KEYS)

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1000.0)
        self.cache = LinkCache(self.size, TTL, MARGIN, self.clock)
        self.tables = {(ns, svc): ServicePods(ns, svc, 1.0) for ns in ("p", "t") for svc in ("x", "y")}
        self.entries: dict[CacheKey, Entry] = {}
        self.asked: dict[CacheKey, tuple[float, int]] = {}
        self.flushed_at = 0.0

    def live(self, key: CacheKey) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.pod.usable and self.clock() < entry.ends else None

    def pod(self, key: CacheKey, pod_index: int) -> Pod:
        return self.tables[key[0], key[2]].pod(pod_index)

    def held(self, key: CacheKey) -> Entry | None:
        """Return what an older epoch may not replace: what lives, and was not evicted."""
        return self.live(key) if self.cache.pod(key) is not None else None

    def take(self, key: CacheKey, before: Entry | None, entry: Entry) -> None:
        if before is None or before.link is None or entry.link is None or before.link.epoch <= entry.link.epoch:
            self.entries[key] = entry

    @rule(key=st.sampled_from(KEYS))
    def ask(self, key: CacheKey) -> None:
        if key not in self.asked:
            self.cache.ask(key)
            self.asked[key] = (self.clock(), -1)

    @precondition(lambda self: self.asked)
    @rule(
        data=st.data(),
        pod_index=st.integers(0, 2),
        epoch=st.integers(0, 5),
        incarnation=st.integers(0, 2),
        kind=st.sampled_from([LinkKind.TEMPORARY, LinkKind.PERSISTENT]),
        ttl=st.sampled_from([0.5, 1.0, 1.005, 1.1, 3.0, 11.0, 50.0]),
    )
    def answer(
        self, data: st.DataObject, pod_index: int, epoch: int, incarnation: int, kind: LinkKind, ttl: float
    ) -> None:
        key = data.draw(st.sampled_from(sorted(self.asked)))
        asked_at, outdated = self.asked.pop(key)
        link = Link(pod_index, incarnation, epoch, kind, ttl if kind is LinkKind.TEMPORARY else None)
        before = self.held(key)
        self.cache.put(key, self.pod(key, pod_index), link, asked_at)
        self.cache.answered(key)
        lasting = TTL if link.ttl is None else min(TTL, link.ttl - MARGIN)
        if asked_at < self.flushed_at or epoch <= outdated:
            return
        if lasting > 0:
            self.take(key, before, Entry(self.pod(key, pod_index), link, asked_at + lasting))
        else:  # it cannot be kept, but ends what it replaces
            self.drop_up_to(key, epoch - 1)

    @rule(key=st.sampled_from(KEYS), pod_index=st.integers(0, 2))
    def put_by_hand(self, key: CacheKey, pod_index: int) -> None:
        self.cache.put(key, self.pod(key, pod_index), None, self.clock())
        self.take(key, None, Entry(self.pod(key, pod_index), None, self.clock() + TTL))

    @rule(key=st.sampled_from(KEYS), epoch=st.integers(0, 5))
    def outdate(self, key: CacheKey, epoch: int) -> None:
        self.cache.outdate(key, epoch)
        if key in self.asked:
            asked_at, outdated = self.asked[key]
            self.asked[key] = (asked_at, max(outdated, epoch))
        self.drop_up_to(key, epoch)

    def drop_up_to(self, key: CacheKey, epoch: int) -> None:
        entry = self.entries.get(key)
        if entry is not None and epoch >= (0 if entry.link is None else entry.link.epoch):
            del self.entries[key]

    @rule(key=st.sampled_from(KEYS))
    def pop(self, key: CacheKey) -> None:
        live = self.live(key)
        popped = self.cache.pop(key)

        assert popped is None or (live is not None and live.pod is popped)

        self.entries.pop(key, None)

    @rule(namespace=st.sampled_from("pt"), service=st.sampled_from("xy"))
    def flush(self, namespace: str, service: str) -> None:
        self.cache.flush(namespace, service)
        self.flushed_at = self.clock()
        self.entries = {key: entry for key, entry in self.entries.items() if key[::2] != (namespace, service)}

    @rule(seconds=st.sampled_from([0.001, 0.009, 0.1, 0.5, 0.89, 1.0, 3.0, 9.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=st.sampled_from(KEYS), pod_index=st.integers(0, 2), available=st.booleans())
    def pod_changes(self, key: CacheKey, pod_index: int, *, available: bool) -> None:
        pod = self.pod(key, pod_index)
        pod.available = available
        pod.settle()

    @rule(key=st.sampled_from(KEYS), serves=st.booleans())
    def hearing_changes(self, key: CacheKey, *, serves: bool) -> None:
        self.tables[key[0], key[2]].serve_cached(serves)

    @rule(key=st.sampled_from(KEYS))
    def use(self, key: CacheKey) -> None:
        live, found, link = self.live(key), self.cache.pod(key), self.cache.link(key)

        assert found is None or (live is not None and live.pod is found)
        if link is not None:
            assert live is not None
            assert live.link is not None
            assert attrs.evolve(live.link, ttl=link.ttl) == link
            assert link.ttl is None or link.ttl <= live.ends - self.clock() + 1e-6
        if self.size >= len(KEYS) and live is not None and self.clock() < live.ends - ROUNDING:
            assert found is live.pod
            assert (link is None) is (live.link is None)

    @invariant()
    def front_serves_only_what_lives(self) -> None:
        for key in KEYS:
            hot = self.cache.hot.get(key[0], {}).get(key[2])
            slot = None if hot is None else hot.slots.get(key[1])
            if slot is not None and slot.usable:
                live = self.live(key)

                assert live is not None
                assert live.pod is slot.pod
                assert hot is not None
                if (known := hot.known.get(key[1])) is not None:
                    assert live.link is not None
                    assert attrs.evolve(live.link, ttl=known.ttl) == known

    @invariant()
    def bounds(self) -> None:
        parts = [hot for name, services in self.cache.hot.items() if name for hot in services.values()]

        assert all(hot.known.keys() <= hot.slots.keys() for hot in parts)
        assert len(self.cache._hot) == sum(len(hot.slots) for hot in parts) <= len(self.cache) <= self.size


class SmallCacheMachine(CacheMachine):
    """The same with less room than there are keys."""

    size = 3


_SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = _SETTINGS
TestSmallCacheMachine = SmallCacheMachine.TestCase
TestSmallCacheMachine.settings = _SETTINGS
