"""The cache against a model of a few lines: it never serves what the model forbids, however its steps are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stateful_route.client.cache.links import LinkCache, ServiceLinks
from stateful_route.client.pods.service import ServicePods
from stateful_route.links import Link, LinkKind
from stateful_route.testing import ManualClock

if TYPE_CHECKING:
    from stateful_route.client.pods.pod import Pod

TTL, MARGIN, ANSWER_TIME = 10.0, 1.0, 1.0
Key = tuple[str, str, str]
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
        self.cache = LinkCache(self.size, TTL, MARGIN, self.clock, answer_time=ANSWER_TIME)
        self.tables = {(ns, svc): ServicePods(ns, svc, 1.0) for ns in ("p", "t") for svc in ("x", "y")}
        self.entries: dict[Key, Entry] = {}
        self.asked: dict[Key, float] = {}
        self.invalidated: list[tuple[Key, int, float]] = []
        self.flushed_at = dict.fromkeys(self.tables, 0.0)

    def links(self, key: Key) -> ServiceLinks:
        return self.cache.service(key[0], key[2])

    def live(self, key: Key) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.pod.usable and self.clock() < entry.ends else None

    def pod(self, key: Key, pod_index: int) -> Pod:
        return self.tables[key[0], key[2]].pod(pod_index)

    def held(self, key: Key) -> Entry | None:
        """Return what an older epoch may not replace: what lives, and was not evicted."""
        return self.live(key) if self.links(key).pod(key[1]) is not None else None

    def take(self, key: Key, before: Entry | None, entry: Entry) -> None:
        if before is None or before.link is None or entry.link is None or before.link.epoch <= entry.link.epoch:
            self.entries[key] = entry

    @rule(key=st.sampled_from(KEYS))
    def ask(self, key: Key) -> None:
        self.asked.setdefault(key, self.clock())

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
        asked_at = self.asked.pop(key)
        if self.clock() > asked_at + ANSWER_TIME:
            return  # too late for an answer
        heard = [(until, at) for other, until, at in self.invalidated if other == key and asked_at <= at]
        stale = any(epoch <= until for until, _ in heard)
        if heard and not stale and any(epoch <= until for other, until, _ in self.invalidated if other == key):
            return  # it may be held for stale, as an older invalidation goes further than a later one
        link = Link(pod_index, incarnation, epoch, kind, ttl if kind is LinkKind.TEMPORARY else None)
        before = self.held(key)
        self.links(key).put(key[1], self.pod(key, pod_index), link, asked_at)
        lasting = TTL if link.ttl is None else min(TTL, link.ttl - MARGIN)
        if asked_at < self.flushed_at[key[0], key[2]] or stale:
            return
        if lasting > 0:
            self.take(key, before, Entry(self.pod(key, pod_index), link, asked_at + lasting))
        else:  # it cannot be kept, but ends what it replaces
            self.drop_up_to(key, epoch - 1)

    @rule(key=st.sampled_from(KEYS), pod_index=st.integers(0, 2))
    def put_by_hand(self, key: Key, pod_index: int) -> None:
        self.links(key).put_by_hand(key[1], self.pod(key, pod_index))
        self.take(key, None, Entry(self.pod(key, pod_index), None, self.clock() + TTL))

    @rule(key=st.sampled_from(KEYS), epoch=st.integers(0, 5))
    def invalidate(self, key: Key, epoch: int) -> None:
        self.links(key).invalidate(key[1], epoch)
        self.invalidated.append((key, epoch, self.clock()))
        self.drop_up_to(key, epoch)

    def drop_up_to(self, key: Key, epoch: int) -> None:
        entry = self.entries.get(key)
        if entry is not None and epoch >= (0 if entry.link is None else entry.link.epoch):
            del self.entries[key]

    @rule(key=st.sampled_from(KEYS))
    def pop(self, key: Key) -> None:
        live = self.live(key)
        popped = self.links(key).pop(key[1])

        assert popped is None or (live is not None and live.pod is popped)

        self.entries.pop(key, None)

    @rule(namespace=st.sampled_from("pt"), service=st.sampled_from("xy"))
    def flush(self, namespace: str, service: str) -> None:
        self.cache.service(namespace, service).flush()
        self.flushed_at[namespace, service] = self.clock()
        self.entries = {key: entry for key, entry in self.entries.items() if key[::2] != (namespace, service)}

    @rule(seconds=st.sampled_from([0.001, 0.009, 0.1, 0.5, 0.89, 1.0, 3.0, 9.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=st.sampled_from(KEYS), pod_index=st.integers(0, 2), available=st.booleans())
    def pod_changes(self, key: Key, pod_index: int, *, available: bool) -> None:
        pod = self.pod(key, pod_index)
        pod.available = available
        pod.settle()

    @rule(key=st.sampled_from(KEYS), serves=st.booleans())
    def hearing_changes(self, key: Key, *, serves: bool) -> None:
        self.tables[key[0], key[2]].serve_cached(serves)

    @rule(key=st.sampled_from(KEYS))
    def use(self, key: Key) -> None:
        live, found, link = self.live(key), self.links(key).pod(key[1]), self.links(key).link(key[1])

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
        assert len(self.cache._hot_cache) == sum(len(hot.slots) for hot in parts) <= len(self.cache) <= self.size


class SmallCacheMachine(CacheMachine):
    """The same with less room than there are keys."""

    size = 3


_SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = _SETTINGS
TestSmallCacheMachine = SmallCacheMachine.TestCase
TestSmallCacheMachine.settings = _SETTINGS
