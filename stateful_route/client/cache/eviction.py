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
    """One such map: a cache of cachetools with this policy, over a dict that may be looked at without a call."""

    def __init__(self, maxsize: int, ended: Callable[[int], bool], passed: Callable[[str], None]) -> None:
        """Hold up to ``maxsize`` entries.

        ``ended`` says of a value that its entry is of no use any more. ``passed`` is told each key that came up first
        and was used: its entry was dropped, or counts as not used from here on.
        """
        super().__init__(maxsize)
        self.entries: dict[str, int] = {}
        """To read; and to write the value of a key that is there."""
        self._ended = ended
        self._passed = passed

    def __getitem__(self, key: str) -> int:
        return self.entries[key]

    def __setitem__(self, key: str, value: int) -> None:
        if len(self.entries) >= self.maxsize and key not in self.entries:
            self.popitem()
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<ClockMap of {len(self.entries)} entries, {self.maxsize:g} at most>"

    def clear(self) -> None:
        """Drop all entries."""
        self.entries.clear()

    @property
    def currsize(self) -> float:
        """How many entries there are."""
        return len(self.entries)

    def popitem(self) -> tuple[str, int]:
        """Drop the first entry that has ended or was not used since it came up last."""
        entries, chances = self.entries, _CHANCES
        if not entries:
            raise KeyError("the map is empty")
        key = next(iter(entries))
        value = entries.pop(key)
        while value & USED:
            self._passed(key)
            if not chances or self._ended(value):
                break
            chances -= 1
            entries[key] = value ^ USED
            key = next(iter(entries))
            value = entries.pop(key)
        return key, value

    def drop_ended(self, most: int) -> int:
        """Drop what has ended of the first entries, up to one that has not; return how many."""
        entries = self.entries
        ended: list[str] = []
        for key, value in entries.items():
            if len(ended) == most or not self._ended(value):
                break
            ended.append(key)
        for key in ended:
            if entries.pop(key) & USED:
                self._passed(key)
        return len(ended)


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

    def shard(self, key: str) -> dict[str, int]:
        """Return the dict in which a key is, if it is there: to read, and to write a key that is in it."""
        return self._shards[hash(key) & self._mask].entries

    def add(self, key: str, value: int) -> int | None:
        """Add an entry, unless there is one for the key: return that."""
        shard = self._shards[hash(key) & self._mask]
        before = shard.entries.get(key)
        if before is not None:
            return before
        self._added += 1
        if self._added % _SWEEP == 0:
            self._length -= self._next().drop_ended(2 * _SWEEP)
        if self._length < self._size:
            self._length += 1
        else:
            full = shard if len(shard.entries) >= self._share else self._next_full()
            full.popitem()
        shard.entries[key] = value
        return None

    def delete(self, key: str) -> None:
        """Delete an entry that is there."""
        del self._shards[hash(key) & self._mask].entries[key]
        self._length -= 1

    def drop_all(self) -> Iterator[None]:
        """Drop all entries, a map at each step. With the last one the memory goes back, which takes the longest."""
        while self._shards:
            self._length -= len(self._shards.pop())
            yield

    def _next_full(self) -> ClockMap:
        """Return the next map in turn that has its share of the entries, or more."""
        while len((shard := self._next()).entries) < self._share:
            pass
        return shard

    def _next(self) -> ClockMap:
        self._turn = (self._turn + 1) & self._mask
        return self._shards[self._turn]
