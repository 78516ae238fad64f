"""Bounded maps from strings to ints that drop what was not used for long, at any size without a stall.

The policy is second chance, also known as CLOCK (F. J. Corbato, "A Paging Experiment with the Multics System", 1968): a
queue in the order of insertion, in which an entry that was used since it came up last goes to the end again instead of
being dropped. A use sets one bit, where an LRU moves the entry; what is kept is much the same.

Nothing here is a container for each entry, and strings and ints are not the concern of the garbage collector: a full
collection takes as long with a million entries as with none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USED = 1
"""The bit of a value that says that its entry was used since it came up first."""

# Entries of one map. A dict keeps the order, and is the queue; but it is rebuilt now and then, and walks over what was
# deleted to find its first key. With so many that takes some microseconds.
_SHARD = 1024
# Entries in a row that are kept because they were used: if all were, one goes all the same.
_CHANCES = 64
# Each time that so many entries were added, one map is rid of up to twice as many that have ended: so these get less.
_SWEEP = 8


class ClockMap(Cache[str, int]):
    """One such map."""

    def __init__(self, maxsize: int, ended: Callable[[int], bool], passed: Callable[[str], None]) -> None:
        """Hold up to ``maxsize`` entries.

        ``ended`` says of a value that its entry is of no use any more. ``passed`` is told each key that came up first:
        its entry was dropped, or counts as not used from here on.
        """
        super().__init__(maxsize)
        self._ended = ended
        self._passed = passed

    def popitem(self) -> tuple[str, int]:
        """Drop the first entry that has ended or was not used since it came up last."""
        chances = _CHANCES
        while True:
            key, value = self._first()
            del self[key]
            self._passed(key)
            if not value & USED or not chances or self._ended(value):
                return key, value
            chances -= 1
            self[key] = value ^ USED

    def drop_ended(self, most: int) -> int:
        """Drop what has ended of the first entries, up to one that has not; return how many."""
        dropped = 0
        while self and dropped < most:
            key, value = self._first()
            if not self._ended(value):
                break
            del self[key]
            self._passed(key)
            dropped += 1
        return dropped

    def _first(self) -> tuple[str, int]:
        for key in self:
            return key, self[key]
        raise KeyError("the map is empty")


class ShardedClockMap:
    """Many such maps that are one to the outside: up to ``size`` entries in all."""

    def __init__(self, size: int, ended: Callable[[int], bool], passed: Callable[[str], None]) -> None:
        """Make the maps; see ``ClockMap``."""
        count = 1
        while count * _SHARD < size:
            count *= 2
        self._size = size
        self._share = size // count
        self._shards = [ClockMap(size, ended, passed) for _ in range(count)]
        self._mask = count - 1
        self._length = 0
        self._added = 0
        self._turn = 0

    def __len__(self) -> int:
        return self._length

    def shard(self, key: str) -> ClockMap:
        """Return the map in which a key is, if it is there: to read, and to write a key that is in it."""
        return self._shards[hash(key) & self._mask]

    def add(self, key: str, value: int) -> None:
        """Add an entry that is not there."""
        shard = self._shards[hash(key) & self._mask]
        self._added += 1
        if self._added % _SWEEP == 0:
            self._length -= self._next().drop_ended(2 * _SWEEP)
        if self._length < self._size:
            self._length += 1
        else:
            self._fullest(shard).popitem()
        shard[key] = value

    def delete(self, key: str) -> None:
        """Delete an entry that is there."""
        del self._shards[hash(key) & self._mask][key]
        self._length -= 1

    def drop_all(self) -> Iterator[None]:
        """Drop all entries, a map at each step. With the last one the memory goes back, which takes the longest."""
        while self._shards:
            self._length -= len(self._shards.pop())
            yield

    def _fullest(self, shard: ClockMap) -> ClockMap:
        """Return a shard that has its share of the entries, or more: that one, or else the next in turn."""
        while len(shard) < self._share:
            shard = self._next()
        return shard

    def _next(self) -> ClockMap:
        self._turn = (self._turn + 1) & self._mask
        return self._shards[self._turn]
