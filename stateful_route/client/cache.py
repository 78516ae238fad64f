"""The cache in front of the store: bounded, least recently used out first, and no entry outlives its link."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stateful_route.client.routing import Pod
    from stateful_route.models import Link

CacheKey = tuple[str, str, str]
"""Namespace, uid and service."""


class CachedLink:
    """A link in the cache, pointing at the pod as the routing table knows it."""

    __slots__ = ("expires", "link", "pod")

    def __init__(self, pod: Pod, link: Link | None, expires: float) -> None:
        """Hold a link until ``expires``, on the clock of the cache; ``None`` if only the pod is known."""
        self.pod = pod
        self.link = link
        self.expires = expires


class _Asked:
    """How many questions for a key are under way, and up to which epoch their answers are not so any more."""

    __slots__ = ("outdated_epoch", "questions")

    def __init__(self) -> None:
        self.questions = 0
        self.outdated_epoch = -1


class LinkCache:
    """An LRU cache whose entries end with their links.

    An entry that has ended is dropped when it is met, or when it is the least recently used: there is no sweep that
    would hold up the event loop when many entries end together.
    """

    def __init__(self, size: int, ttl: float, margin: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Hold up to ``size`` links, each for ``ttl`` seconds or until ``margin`` seconds before its own end."""
        self._ttl = ttl
        self._margin = margin
        self._clock = clock
        self._entries: LRUCache[CacheKey, CachedLink] = LRUCache(size)
        self._asked: dict[CacheKey, _Asked] = {}
        self._flushed_at = -math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> CachedLink | None:
        """Return the entry if it has not ended and its pod may be used."""
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        if entry.pod.usable and self._clock() < entry.expires:
            return entry
        return None

    def put(self, key: CacheKey, pod: Pod, link: Link | None, asked_at: float) -> None:
        """Keep a link that the store told; ``asked_at`` is when it was asked, on the clock of the cache.

        Old news is not kept: a link of a lower epoch than the one that is there, or one of which it was announced
        while it was under way that it is not so any more.
        """
        if asked_at < self._flushed_at:
            return
        asked = self._asked.get(key)
        if asked is not None and link is not None and link.epoch <= asked.outdated_epoch:
            return
        lasting = self._ttl
        if link is not None and link.ttl is not None:
            lasting = min(lasting, link.ttl - self._margin)
        if lasting <= 0:
            return
        before = self.get(key)
        if before is None or before.link is None or link is None or before.link.epoch <= link.epoch:
            self._entries[key] = CachedLink(pod, link, asked_at + lasting)

    @contextlib.contextmanager
    def asking(self, keys: Iterable[CacheKey]) -> Iterator[None]:
        """Note what is announced of these keys while the store is asked for them."""
        keys = list(keys)
        for key in keys:
            self._asked.setdefault(key, _Asked()).questions += 1
        try:
            yield
        finally:
            for key in keys:
                asked = self._asked[key]
                asked.questions -= 1
                if not asked.questions:
                    del self._asked[key]

    def outdate(self, key: CacheKey, epoch: int) -> None:
        """Drop the entry if its link is of that epoch or an earlier one, and such an answer that is under way."""
        asked = self._asked.get(key)
        if asked is not None:
            asked.outdated_epoch = max(asked.outdated_epoch, epoch)
        entry = self._entries.get(key)
        if entry is not None and (entry.link is None or entry.link.epoch <= epoch):
            del self._entries[key]

    def flush(self, namespace: str) -> None:
        """Drop all entries of a namespace, and the answers that are under way."""
        self._flushed_at = self._clock()
        for key in [key for key in self._entries if key[0] == namespace]:
            del self._entries[key]

    def pop(self, key: CacheKey) -> CachedLink | None:
        """Drop the entry; return it if it had not ended."""
        entry = self.get(key)
        self._entries.pop(key, None)
        return entry

    def close(self) -> None:
        """Drop all entries, and keep none any more: an answer may come after the end."""
        self._ttl = 0.0
        self._entries.clear()
