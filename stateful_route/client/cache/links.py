"""The cache in front of the store: bounded, least recently used out first, and no entry outlives its link."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from stateful_route.client.cache.eviction import USED, ShardedClockMap
from stateful_route.client.cache.hot import HotCache
from stateful_route.client.cache.overtaken import Overtaken
from stateful_route.links import Link, LinkKind
from stateful_route.statistics import ClientCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stateful_route.client.cache.hot import CachedPod, HotService

MARGIN = 1.0
"""Seconds before the end of its link at which an entry expires, if the link lives for long."""
# An entry is one int: the number of its holder, its epoch, the millisecond in which it ends, and the bit ``USED``.
_EXPIRES = 1
_EXPIRES_BITS = 48
_EPOCH = _EXPIRES + _EXPIRES_BITS
_EPOCH_BITS = 64
_HOLDER = _EPOCH + _EPOCH_BITS
_EXPIRES_MASK = (1 << _EXPIRES_BITS) - 1
_EPOCH_MASK = (1 << _EPOCH_BITS) - 1

# With so many holders those are sought of which all links have ended.
_FEW_HOLDERS = 1000
# So many of a service stay after a flush, for their links as hints. Each was the life of a pod.
_MOST_FLUSHED = 4096

_PERSISTENT = LinkKind.PERSISTENT

_Life: TypeAlias = "tuple[CachedPod, int, LinkKind | None]"


class _Holder:
    """A life of a pod that holds links of one kind: what all these links have in common."""

    __slots__ = ("expires", "flushed", "incarnation", "kind", "number", "pod")

    def __init__(self, number: int, pod: CachedPod, incarnation: int, kind: LinkKind | None) -> None:
        self.number = number
        self.pod = pod
        self.incarnation = incarnation
        self.kind = kind
        """``None`` if only the pod is known: the entry was put there by hand."""
        self.expires = 0
        """The millisecond in which the last of its links ends."""
        self.flushed = False
        """Whether its links are no more than hints."""


class LinkCache:
    """The cached links of all services, which share its room.

    An entry that has ended is dropped when it comes up for eviction, a few of them as others are added; and those of a
    service end all at once because their holders are flushed: no sweep holds up the event loop. Until its own end such
    an entry still tells where its uid was.
    """

    def __init__(
        self,
        size: int,
        ttl: float,
        margin: float,
        clock: Callable[[], float] = time.monotonic,
        namespace: str = "",
        answer_time: float = 1.0,
    ) -> None:
        """Hold up to ``size`` links, each for ``ttl`` seconds or until ``margin`` seconds before its own end.

        ``namespace`` is the one that an empty string means in the hot cache. The store answers within ``answer_time``
        seconds, or not at all.
        """
        self.ttl = ttl
        self.margin = margin
        self.clock = clock
        self.answer_time = answer_time
        self.entries = ShardedClockMap(size, self.has_ended, self._passed)
        self.holders: dict[int, _Holder] = {}
        self._hot_cache = HotCache(ttl, clock, namespace)
        self._services: dict[tuple[str, str], ServiceLinks] = {}
        self._by_prefix: dict[str, ServiceLinks] = {}
        self._numbers = itertools.count(1)
        self._most_holders = _FEW_HOLDERS
        self._closed = False
        self.counts = ClientCounts()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def hot(self) -> dict[str, dict[str, HotService]]:
        """The links that a hit finds at once, by namespace, service and uid: to read only."""
        return self._hot_cache.services

    def service(self, namespace: str, service_name: str) -> ServiceLinks:
        """Return the links of a service."""
        links = self._services.get((namespace, service_name))
        if links is None:
            prefix = f"{next(self._numbers)}:"
            links = ServiceLinks(self, self._hot_cache, prefix, self._hot_cache.service(namespace, service_name))
            self._services[namespace, service_name] = self._by_prefix[prefix] = links
            if self._closed:
                links.close()
        return links

    def drop(self, namespace: str, service_name: str) -> None:
        """Forget a service: its entries have ended, and none is kept for it any more."""
        links = self._services.pop((namespace, service_name), None)
        if links is not None:
            del self._by_prefix[links.prefix]
            self._hot_cache.remove(namespace, service_name)
            links.close()

    def close(self) -> Iterator[None]:
        """End all entries, and keep none any more: an answer may come after the end.

        Return steps in which to let go of them: with a million entries, that takes a tenth of a second in all.
        """
        self._closed = True
        self._hot_cache.close()
        for links in self._services.values():
            links.close()
        self._services.clear()
        self._by_prefix.clear()
        self.holders.clear()
        entries, self.entries = self.entries, ShardedClockMap(1, self.has_ended, self._passed)
        return entries.drop_all()

    def has_ended(self, entry: int) -> bool:
        """Whether an entry is of no use any more, not even as a hint."""
        return entry >> _HOLDER not in self.holders or (entry >> _EXPIRES & _EXPIRES_MASK) <= self.clock() * 1000

    def new_holder(self, life: _Life) -> _Holder:
        """Return a holder for the links of one kind of a life of a pod."""
        if len(self.holders) >= self._most_holders:
            self._tidy()
        holder = _Holder(next(self._numbers), *life)
        self.holders[holder.number] = holder
        return holder

    def _passed(self, entry_key: str) -> None:
        """Take a link out of the hot cache that counts as not used any more, or is gone."""
        prefix, colon, uid = entry_key.partition(":")
        links = self._by_prefix.get(prefix + colon)
        if links is not None:
            self._hot_cache.discard(links.hot, uid)

    def _tidy(self) -> None:
        """Forget the holders of which all links have ended."""
        now = self.clock() * 1000
        for links in self._services.values():
            links.tidy(now)
        self._most_holders = max(_FEW_HOLDERS, 2 * len(self.holders))


class ServiceLinks:
    """The cached links of one service, by uid."""

    def __init__(self, cache: LinkCache, hot_cache: HotCache, prefix: str, hot: HotService) -> None:
        """Begin with none. ``LinkCache.service`` makes them."""
        self._cache = cache
        self._hot_cache = hot_cache
        self._clock = cache.clock
        self.prefix = prefix
        self.hot = hot
        self._by_life: dict[_Life, _Holder] = {}
        self._latest: dict[CachedPod, _Holder] = {}
        """The holder of each pod that was put last, which is most often that of the next one."""
        self._flushed = deque[_Holder]()
        """Those whose links were flushed, and tell where their uids were; the oldest first."""
        self._flushed_at = -math.inf
        self._overtaken = Overtaken(cache.answer_time)
        self.has_hints = False
        """Whether there may be entries that were flushed, and tell where a uid was."""

    def pod(self, uid: str) -> CachedPod | None:
        """Return the pod of a link that has not ended, if the pod may be used."""
        entry_key = self.prefix + uid
        if entry_key not in self._cache.entries.shard(entry_key):  # a miss: spare it the next call
            return None
        entry = self._use(uid)
        return self._cache.holders[entry >> _HOLDER].pod if entry else None

    def link(self, uid: str) -> Link | None:
        """Return a link that has not ended, if its pod may be used, and more than that is known.

        ``ttl`` is how long it is cached for yet, which is less than the link has left. The same link is in the hot
        cache from then on.
        """
        entry = self._use(uid)
        if not entry:
            return None
        holder = self._cache.holders[entry >> _HOLDER]
        if holder.kind is None:
            return None
        epoch = entry >> _EPOCH & _EPOCH_MASK
        ttl = None
        if holder.kind is not _PERSISTENT:
            ttl = (entry >> _EXPIRES & _EXPIRES_MASK) / 1000 - self._clock()
        link = Link(holder.pod.pod_index, holder.incarnation, epoch, holder.kind, ttl)
        if uid in self.hot.slots:
            self.hot.known[uid] = link
        return link

    def put(self, uid: str, pod: CachedPod, link: Link, asked_at: float) -> None:
        """Keep a link that the store told; ``asked_at`` is when it was asked, on the clock of the cache.

        What is stale is not kept: a link of a lower epoch than the one that is there, or one that was invalidated since
        it was asked for.
        """
        self.put_all(((uid, pod, link),), asked_at)

    def put_all(self, found: Iterable[tuple[str, CachedPod, Link]], asked_at: float) -> None:
        """Keep links that the store told together, as ``put`` does one: each with its uid and its pod."""
        overtaken, latest = self._overtaken, self._latest
        if asked_at < overtaken.since:
            return
        may_be_stale = asked_at <= overtaken.heard_at
        longest, margin = self._cache.ttl, self._cache.margin
        for uid, pod, link in found:
            epoch, kind, ttl = link.epoch, link.kind, link.ttl
            if asked_at < pod.kept_from or (may_be_stale and overtaken.has(uid, epoch, asked_at)):
                continue
            lasting = longest
            if kind is _PERSISTENT:
                if link.incarnation < pod.incarnation:
                    continue  # of an older life: it may be taken over without a word
            elif ttl is not None and ttl < longest + margin:
                lasting = ttl - margin
                if lasting <= 0:
                    self._drop(uid, epoch - 1)
                    continue
            holder = latest.get(pod)
            if holder is None or holder.kind is not kind or holder.incarnation != link.incarnation:
                holder = self._holder((pod, link.incarnation, kind))
            self._write(uid, holder, epoch, int((asked_at + lasting) * 1000))

    def put_by_hand(self, uid: str, pod: CachedPod) -> CachedPod | None:
        """Keep that a uid is on a pod, of which nothing else is known; return the pod that it was on, as ``pop``."""
        before, now = self.pop(uid), self._clock()
        if now >= self._overtaken.since and now >= pod.kept_from:
            self._write(uid, self._holder((pod, 0, None)), 0, int((now + self._cache.ttl) * 1000))
        return before

    def invalidate(self, uid: str, epoch: int) -> None:
        """Drop the entry if its link is of that epoch or an earlier one, and such an answer that is in flight."""
        self._cache.counts.invalidated += 1
        self._overtaken.invalidate(uid, epoch, self._clock())
        self._drop(uid, epoch)

    def flush(self) -> None:
        """End all entries, and drop the answers that are in flight.

        The entries are dropped as they come up, and are hints until then; it takes a moment for each pod, not for each
        of them.
        """
        self._flushed_at = self._clock()
        self._overtaken.flush(self._flushed_at)
        for holder in self._by_life.values():
            holder.flushed = self.has_hints = True
        self._flushed.extend(self._by_life.values())
        self._by_life.clear()
        self._latest.clear()
        self._limit_flushed()
        self._hot_cache.drop(self.hot)

    def flush_pod(self, pod: CachedPod) -> None:
        """End all entries that lead to a pod, as ``flush`` does."""
        for life in [life for life in self._by_life if life[0] is pod]:
            holder = self._by_life.pop(life)
            holder.flushed = self.has_hints = True
            self._flushed.append(holder)
        self._latest.pop(pod, None)
        self._limit_flushed()
        self._hot_cache.forget(pod)

    def drop_hints(self) -> None:
        """Forget where uids were whose links were flushed; those of pods that were never seen stay."""
        kept = deque[_Holder]()
        for holder in self._flushed:
            if holder.pod.state is None:
                kept.append(holder)
            else:
                del self._cache.holders[holder.number]
        self._flushed = kept
        self.has_hints = bool(kept)

    def hint(self, uid: str) -> CachedPod | None:
        """Return the pod of an entry that has not ended, be it flushed and its pod usable or not.

        What was put by hand is no hint.
        """
        entry = self._find(uid)
        if not entry or self._cache.has_ended(entry):
            if self.has_hints and self._clock() > self._flushed_at + self._cache.ttl:
                self.has_hints = False
            return None
        holder = self._cache.holders[entry >> _HOLDER]
        return None if holder.kind is None else holder.pod

    def pop(self, uid: str) -> CachedPod | None:
        """Drop the entry; return its pod if it had not ended."""
        entry = self._find(uid)
        if not entry:
            return None
        pod = self._cache.holders[entry >> _HOLDER].pod if self._is_usable(entry) else None
        self._delete(uid)
        return pod

    def tidy(self, now_ms: float) -> None:
        """Forget the holders of which all links have ended at that millisecond."""
        for life in [life for life, holder in self._by_life.items() if holder.expires <= now_ms]:
            del self._cache.holders[self._by_life.pop(life).number]
            self._latest.pop(life[0], None)
        for holder in self._flushed:
            if holder.expires <= now_ms:
                del self._cache.holders[holder.number]
        self._flushed = deque(holder for holder in self._flushed if holder.expires > now_ms)

    def close(self) -> None:
        """End all entries, and keep none any more."""
        self._overtaken.flush(math.inf)
        self.tidy(math.inf)

    def _use(self, uid: str) -> int:
        """Return the entry if it may be used, and note that it was; or else 0."""
        entry_key = self.prefix + uid
        shard = self._cache.entries.shard(entry_key)
        entry = shard.get(entry_key)
        if entry is None:
            return 0
        holder = self._cache.holders.get(entry >> _HOLDER)
        if holder is None or holder.flushed or not holder.pod.usable:
            return 0
        expires = (entry >> _EXPIRES & _EXPIRES_MASK) / 1000
        now = self._clock()
        if expires <= now:
            return 0
        if not entry & USED:
            shard[entry_key] = entry | USED
        slot = self.hot.slots.get(uid)
        if slot is None or not slot.usable:
            self._hot_cache.put(self.hot, uid, holder.pod, expires, now)
        return entry

    def _write(self, uid: str, holder: _Holder, epoch: int, expires: int) -> None:
        """Write the entry of a link that ends in that millisecond, unless the one that is there is of a later epoch."""
        if holder.expires < expires:  # noqa: PLR1730 - a fifth of the time that max() takes
            holder.expires = expires
        entry = (holder.number << _EPOCH_BITS | epoch) << _EPOCH | expires << _EXPIRES
        entry_key, entries = self.prefix + uid, self._cache.entries
        before = entries.add(entry_key, entry)
        if before is None:
            return
        if epoch >= (before >> _EPOCH & _EPOCH_MASK) or not self._is_usable(before):
            entries.shard(entry_key)[entry_key] = entry | USED
            self._hot_cache.discard(self.hot, uid)

    def _is_usable(self, entry: int) -> bool:
        holder = self._cache.holders.get(entry >> _HOLDER)
        return holder is not None and not holder.flushed and holder.pod.usable and not self._cache.has_ended(entry)

    def _drop(self, uid: str, epoch: int) -> None:
        """Drop the entry if its link is of that epoch or an earlier one."""
        entry = self._find(uid)
        if entry and (entry >> _EPOCH & _EPOCH_MASK) <= epoch:
            self._delete(uid)

    def _find(self, uid: str) -> int:
        """Return the entry, whether it may be used or not; 0 if there is none."""
        entry_key = self.prefix + uid
        return self._cache.entries.shard(entry_key).get(entry_key, 0)

    def _delete(self, uid: str) -> None:
        self._cache.entries.delete(self.prefix + uid)
        self._hot_cache.discard(self.hot, uid)

    def _holder(self, life: _Life) -> _Holder:
        """Return the holder of the links of one kind of a life of a pod, or of what was put by hand."""
        holder = self._by_life.get(life)
        if holder is None:
            holder = self._by_life[life] = self._cache.new_holder(life)
        self._latest[life[0]] = holder
        return holder

    def _limit_flushed(self) -> None:
        while len(self._flushed) > _MOST_FLUSHED:
            del self._cache.holders[self._flushed.popleft().number]
