"""The cache in front of the store: bounded, least recently used out first, and no entry outlives its link."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from stateful_route.client.cache.eviction import USED, ShardedClockMap
from stateful_route.client.cache.hot import HotCache
from stateful_route.models import Link, LinkKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from stateful_route.client.cache.hot import HotService
    from stateful_route.client.pods.pod import Pod

CacheKey = tuple[str, str, str]
"""Namespace, uid and service, as in a ``LinkKey``."""

# An entry is one int: the number of its holder, its epoch, the millisecond in which it ends, and the bit ``USED``.
_EXPIRES = 1
_EXPIRES_BITS = 48
_EPOCH = _EXPIRES + _EXPIRES_BITS
_EPOCH_BITS = 64
_HOLDER = _EPOCH + _EPOCH_BITS
_EXPIRES_MASK = (1 << _EXPIRES_BITS) - 1
_EPOCH_MASK = (1 << _EPOCH_BITS) - 1

# So many holders may be there before those are sought of which all links have ended.
_FEW_HOLDERS = 1000
# So many of a service stay after a flush, for their links as hints. Each was the life of a pod.
_MOST_FLUSHED = 4096


_Life: TypeAlias = "tuple[Pod, int, LinkKind | None]"


class _Service:
    """What is cached of one service."""

    __slots__ = ("flushed", "holders", "hot", "latest", "prefix")

    def __init__(self, prefix: str, hot: HotService) -> None:
        self.prefix = prefix
        self.hot = hot
        self.holders: dict[_Life, _Holder] = {}
        self.latest: dict[Pod, _Holder] = {}
        """The holder of each pod that was put last, which is most often that of the next one."""
        self.flushed = deque[_Holder]()
        """Those whose links were flushed, and tell where their uids were; the oldest first."""


class _Holder:
    """A life of a pod that holds links of one kind: what all these links have in common."""

    __slots__ = ("expires", "flushed", "incarnation", "kind", "number", "pod")

    def __init__(self, number: int, pod: Pod, incarnation: int, kind: LinkKind | None) -> None:
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
    """A cache whose entries end with their links.

    An entry that has ended is dropped when it comes up for eviction, a few of them as others are added; and those of a
    namespace end all at once because their holders are flushed: no sweep holds up the event loop. Until its own end
    such an entry still tells where its uid was.
    """

    def __init__(
        self,
        size: int,
        ttl: float,
        margin: float,
        clock: Callable[[], float] = time.monotonic,
        namespace: str = "",
    ) -> None:
        """Hold up to ``size`` links, each for ``ttl`` seconds or until ``margin`` seconds before its own end.

        ``namespace`` is the one that an empty string means in the hot cache.
        """
        self._ttl = ttl
        self._margin = margin
        self._clock = clock
        self._entries = ShardedClockMap(size, self._has_ended, self._passed)
        self._hot = HotCache(ttl, clock, namespace)
        self._services: dict[tuple[str, str], _Service] = {}
        self._by_prefix: dict[str, _Service] = {}
        self._holders: dict[int, _Holder] = {}
        self._numbers = itertools.count(1)
        self._most_holders = _FEW_HOLDERS
        # How many questions for a key are under way, and up to which epoch their answers are not so any more.
        self._asked: dict[CacheKey, int] = {}
        self._outdated: dict[CacheKey, int] = {}
        self._flushed_at = -math.inf
        self.has_hints = False
        """Whether there may be entries that were flushed, and tell where a uid was."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def hot(self) -> dict[str, dict[str, HotService]]:
        """The links that a hit finds at once, by namespace, service and uid: to read only."""
        return self._hot.services

    def pod(self, key: CacheKey) -> Pod | None:
        """Return the pod of a link that has not ended, if the pod may be used."""
        entry = self._use(key)
        return self._holders[entry >> _HOLDER].pod if entry else None

    def link(self, key: CacheKey) -> Link | None:
        """Return a link that has not ended, if its pod may be used, and more than that is known.

        ``ttl`` is how long it is cached for yet, which is less than the link has left. The same link is in the hot
        cache from then on.
        """
        entry = self._use(key)
        if not entry:
            return None
        holder = self._holders[entry >> _HOLDER]
        if holder.kind is None:
            return None
        epoch = entry >> _EPOCH & _EPOCH_MASK
        ttl = None
        if holder.kind is not LinkKind.PERSISTENT:
            ttl = (entry >> _EXPIRES & _EXPIRES_MASK) / 1000 - self._clock()
        link = Link(holder.pod.pod_index, holder.incarnation, epoch, holder.kind, ttl)
        hot = self._services[key[0], key[2]].hot
        if key[1] in hot.slots:
            hot.known[key[1]] = link
        return link

    def put(self, key: CacheKey, pod: Pod, link: Link | None, asked_at: float) -> None:
        """Keep a link that the store told; ``asked_at`` is when it was asked, on the clock of the cache.

        Old news is not kept: a link of a lower epoch than the one that is there, or one of which it was announced
        while it was under way that it is not so any more. With ``None`` for a link the pod is all that is known.
        """
        if asked_at < self._flushed_at or asked_at < pod.kept_from:
            return
        epoch, lasting = 0, self._ttl
        if link is not None:
            epoch = link.epoch
            if epoch <= self._outdated.get(key, -1):
                return
            if link.incarnation < pod.incarnation and link.kind is LinkKind.PERSISTENT:
                return  # of an older life: it may be taken over without a word
            if link.ttl is not None:
                lasting = min(lasting, link.ttl - self._margin)
        expires = int((asked_at + lasting) * 1000)
        if lasting <= 0:
            self.outdate(key, epoch - 1)
            return
        service = self._service(key)
        entry_key = service.prefix + key[1]
        shard = self._entries.shard(entry_key)
        known = entry_key in shard
        if known and link is not None:
            before = shard[entry_key]
            if epoch < (before >> _EPOCH & _EPOCH_MASK) and self._is_usable(before):
                return
        number = self._holder(service, pod, link, expires).number
        entry = (number << _EPOCH_BITS | epoch) << _EPOCH | expires << _EXPIRES
        if known:
            shard[entry_key] = entry | USED
            self._hot.discard(service.hot, key[1])
        else:
            self._entries.add(entry_key, entry)

    def ask(self, key: CacheKey) -> None:
        """Note from here on what is announced of a key: the store is asked for it. ``answered`` ends that."""
        self._asked[key] = self._asked.get(key, 0) + 1

    def answered(self, key: CacheKey) -> None:
        """End what ``ask`` began; the answer was put, if there was one."""
        questions = self._asked[key]
        if questions > 1:
            self._asked[key] = questions - 1
        else:
            del self._asked[key]
            self._outdated.pop(key, None)

    @contextlib.contextmanager
    def asking(self, keys: Sequence[CacheKey]) -> Iterator[Sequence[CacheKey]]:
        """Do both for many keys."""
        for key in keys:
            self.ask(key)
        try:
            yield keys
        finally:
            for key in keys:
                self.answered(key)

    def outdate(self, key: CacheKey, epoch: int) -> None:
        """Drop the entry if its link is of that epoch or an earlier one, and such an answer that is under way."""
        if key in self._asked:
            self._outdated[key] = max(self._outdated.get(key, -1), epoch)
        entry = self._find(key)
        if entry and (entry >> _EPOCH & _EPOCH_MASK) <= epoch:
            self._delete(key)

    def flush(self, namespace: str, service_name: str) -> None:
        """End all entries of a service, and drop the answers that are in flight.

        The entries are dropped as they come up, and are hints until then; it takes a moment for each pod, not for each
        of them.
        """
        self._flushed_at = self._clock()
        service = self._services.get((namespace, service_name))
        if service is None:
            return
        for holder in service.holders.values():
            holder.flushed = self.has_hints = True
        service.flushed.extend(service.holders.values())
        service.holders.clear()
        service.latest.clear()
        self._tidy_flushed(service)
        self._hot.drop(service.hot)

    def flush_pod(self, namespace: str, service_name: str, pod: Pod) -> None:
        """End all entries that lead to a pod, as ``flush`` does."""
        service = self._services.get((namespace, service_name))
        if service is None:
            return
        for life in [life for life in service.holders if life[0] is pod]:
            holder = service.holders.pop(life)
            holder.flushed = self.has_hints = True
            service.flushed.append(holder)
        service.latest.pop(pod, None)
        self._tidy_flushed(service)
        self._hot.forget(pod)

    def drop_hints(self, namespace: str, service_name: str) -> None:
        """Forget where uids of a service were whose links were flushed; those of pods that were never seen stay."""
        service = self._services.get((namespace, service_name))
        if service is None or not service.flushed:
            return
        kept = deque[_Holder]()
        for holder in service.flushed:
            if holder.pod.state is None:
                kept.append(holder)
            else:
                del self._holders[holder.number]
        service.flushed = kept
        self.has_hints = any(other.flushed for other in self._services.values())

    def hint(self, key: CacheKey) -> int | None:
        """Return the pod index of an entry that has not ended, be it flushed and its pod usable or not.

        What was put by hand is no hint.
        """
        entry = self._find(key)
        if not entry or self._has_ended(entry):
            if self.has_hints and self._clock() > self._flushed_at + self._ttl:
                self.has_hints = False
            return None
        holder = self._holders[entry >> _HOLDER]
        return None if holder.kind is None else holder.pod.pod_index

    def pop(self, key: CacheKey) -> Pod | None:
        """Drop the entry; return its pod if it had not ended."""
        entry = self._find(key)
        if not entry:
            return None
        pod = self._holders[entry >> _HOLDER].pod if self._is_usable(entry) else None
        self._delete(key)
        return pod

    def close(self) -> Iterator[None]:
        """End all entries, and keep none any more: an answer may come after the end.

        Return steps in which to let go of them: with a million entries, that takes a tenth of a second in all.
        """
        self._ttl = 0.0
        self._hot.close()
        self._services.clear()
        self._by_prefix.clear()
        self._holders.clear()
        entries, self._entries = self._entries, ShardedClockMap(1, self._has_ended, self._passed)
        return entries.drop_all()

    def _use(self, key: CacheKey) -> int:
        """Return the entry if it may be used, and note that it was; or else 0."""
        namespace, uid, service_name = key
        service = self._services.get((namespace, service_name))
        if service is None:
            return 0
        entry_key = service.prefix + uid
        shard = self._entries.shard(entry_key)
        if entry_key not in shard:
            return 0
        entry = shard[entry_key]
        holder = self._holders.get(entry >> _HOLDER)
        if holder is None or holder.flushed or not holder.pod.usable:
            return 0
        expires = (entry >> _EXPIRES & _EXPIRES_MASK) / 1000
        now = self._clock()
        if expires <= now:
            return 0
        if not entry & USED:
            shard[entry_key] = entry | USED
        slot = service.hot.slots.get(uid)
        if slot is None or not slot.usable:
            self._hot.put(service.hot, uid, holder.pod, expires, now)
        return entry

    def _is_usable(self, entry: int) -> bool:
        holder = self._holders.get(entry >> _HOLDER)
        return holder is not None and not holder.flushed and holder.pod.usable and not self._has_ended(entry)

    def _has_ended(self, entry: int) -> bool:
        return entry >> _HOLDER not in self._holders or (entry >> _EXPIRES & _EXPIRES_MASK) <= self._clock() * 1000

    def _passed(self, entry_key: str) -> None:
        """Take a link out of the hot cache that counts as not used any more, or is gone."""
        prefix, colon, uid = entry_key.partition(":")
        service = self._by_prefix.get(prefix + colon)
        if service is not None:
            self._hot.discard(service.hot, uid)

    def _find(self, key: CacheKey) -> int:
        """Return the entry, whether it may be used or not; 0 if there is none."""
        namespace, uid, service_name = key
        service = self._services.get((namespace, service_name))
        if service is None:
            return 0
        entry_key = service.prefix + uid
        return self._entries.shard(entry_key).get(entry_key, 0)

    def _delete(self, key: CacheKey) -> None:
        namespace, uid, service_name = key
        service = self._services[namespace, service_name]
        self._entries.delete(service.prefix + uid)
        self._hot.discard(service.hot, uid)

    def _service(self, key: CacheKey) -> _Service:
        namespace, _, service_name = key
        service = self._services.get((namespace, service_name))
        if service is None:
            prefix = f"{next(self._numbers)}:"
            service = _Service(prefix, self._hot.service(namespace, service_name))
            self._services[namespace, service_name] = self._by_prefix[prefix] = service
        return service

    def _holder(self, service: _Service, pod: Pod, link: Link | None, expires: int) -> _Holder:
        """Return the holder of a link that ends in that millisecond, or of a pod that was put by hand."""
        incarnation, kind = (0, None) if link is None else (link.incarnation, link.kind)
        holder = service.latest.get(pod)
        if holder is None or holder.kind is not kind or holder.incarnation != incarnation:
            life = pod, incarnation, kind
            holder = service.holders.get(life)
            if holder is None:
                holder = service.holders[life] = _Holder(next(self._numbers), *life)
                self._holders[holder.number] = holder
            service.latest[pod] = holder
        holder.expires = max(holder.expires, expires)
        if len(self._holders) > self._most_holders:
            self._tidy()
        return holder

    def _tidy_flushed(self, service: _Service) -> None:
        while len(service.flushed) > _MOST_FLUSHED:
            del self._holders[service.flushed.popleft().number]

    def _forget(self, service: _Service, lives: Iterable[_Life]) -> None:
        for life in lives:
            del self._holders[service.holders.pop(life).number]
            service.latest.pop(life[0], None)

    def _tidy(self) -> None:
        """Forget the holders of which all links have ended, and the services that have no holder left."""
        now = self._clock() * 1000
        for (namespace, service_name), service in tuple(self._services.items()):
            self._forget(service, [life for life, holder in service.holders.items() if holder.expires <= now])
            for holder in service.flushed:
                if holder.expires <= now:
                    del self._holders[holder.number]
            service.flushed = deque(holder for holder in service.flushed if holder.expires > now)
            if not service.holders and not service.flushed:
                self._hot.remove(namespace, service_name)
                del self._services[namespace, service_name]
                del self._by_prefix[service.prefix]
        self._most_holders = max(_FEW_HOLDERS, 2 * len(self._holders))
