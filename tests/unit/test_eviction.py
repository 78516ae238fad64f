"""Second chance: what was used stays, nothing else is promised a place, and the bounds hold."""

from __future__ import annotations

import gc
from collections import OrderedDict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route.client.cache.eviction import USED, ClockMap, ShardedClockMap


def never(value: int) -> bool:
    return False


def nobody(key: str) -> None:
    """Take no notice."""


def two(passed: list[str] | None = None) -> ClockMap:
    return ClockMap(2, never, nobody if passed is None else passed.append)


class TestClockMap:
    def test_order(self) -> None:
        """What was not used goes in the order in which it came, and nobody is told."""
        passed: list[str] = []
        entries = two(passed)
        for key in "abcd":
            entries[key] = 2

        assert ["c", "d"] == list(entries)
        assert [] == passed

    def test_used(self) -> None:
        """What was used goes to the end once, counts as not used from there on, and its key is told."""
        passed: list[str] = []
        entries = two(passed)
        entries["a"], entries["b"] = 2 | USED, 4
        entries["c"] = 6

        assert [("a", 2), ("c", 6)] == list(entries.items())
        assert ["a"] == passed

    def test_all_used(self) -> None:
        """If all were used the one that came first goes, after a bounded number of looks."""
        passed: list[str] = []
        entries = ClockMap(1000, never, passed.append)
        for number in range(1000):
            entries[str(number)] = USED
        entries["new"] = 0

        assert 1000 == len(entries)
        assert 65 == len(passed)
        assert "64" not in entries

    def test_ended_first(self) -> None:
        """What has ended has no second chance."""
        entries = ClockMap(2, lambda value: value < 10, nobody)
        entries["a"], entries["b"] = 4 | USED, 40
        entries["c"] = 40

        assert ["b", "c"] == list(entries)

    def test_drop_ended(self) -> None:
        """Of the first entries those are dropped that have ended, so many at most, and up to one that has not."""
        entries = ClockMap(10, lambda value: value < 10, nobody)
        dropped = []
        for values in ([], [4, 4, 4], [40, 4], [4, 40]):
            entries.clear()
            entries.update({str(place): value for place, value in enumerate(values)})
            dropped.append((entries.drop_ended(2), len(entries)))

        assert [(0, 0), (2, 1), (0, 2), (1, 1)] == dropped

    def test_empty(self) -> None:
        """There is nothing to drop in an empty map."""
        with pytest.raises(KeyError):
            two().popitem()


class TestShards:
    @pytest.mark.parametrize("size", [1, 3, 1024, 1025, 5000])
    def test_exact_size(self, size: int) -> None:
        """All entries that there is room for are kept, however they are spread, and never more."""
        entries = ShardedClockMap(size, never, nobody)
        for number in range(size):
            entries.add(str(number), 2)
        kept = sum(str(number) in entries.shard(str(number)) for number in range(size))
        for number in range(size, 2 * size):
            entries.add(str(number), 2)

            assert size == len(entries)

        assert size == kept
        assert size == sum(map(len, entries._shards))

    def test_even_maps(self) -> None:
        """However the keys are spread, the maps come to hold the same, so that none of them is large."""
        entries = ShardedClockMap(4096, never, nobody)
        for number in range(30_000):
            entries.add(str(number), 2)

        assert [1024] * 4 == [len(shard) for shard in entries._shards]

    def test_room_of_what_ended(self) -> None:
        """While there is something that has ended in any of them, nothing else has to go."""
        ended: set[int] = set()
        entries = ShardedClockMap(5000, ended.__contains__, nobody)
        for number in range(5000):
            entries.add(f"old-{number}", 2)
        ended.add(2)
        for number in range(4900):
            entries.add(f"new-{number}", 4)

        assert 4900 == sum(f"new-{number}" in entries.shard(f"new-{number}") for number in range(4900))
        assert 4900 == len(entries)

    @given(st.lists(st.tuples(st.sampled_from("apd"), st.integers(0, 9)), max_size=60), st.integers(1, 5))
    def test_any_steps(self, steps: list[tuple[str, int]], size: int) -> None:
        """Whatever is added, put and deleted, the length is right, the bound holds, and values are those last put."""
        entries = ShardedClockMap(size, never, nobody)
        values: dict[str, int] = {}
        for number, (step, uid) in enumerate(steps, 1):
            key, value = str(uid), number << 1
            shard = entries.shard(key)
            if key not in shard and step == "a":
                entries.add(key, value)
                values[key] = value
            elif key in shard and step == "p":
                shard[key] = values[key] = value
            elif key in shard and step == "d":
                entries.delete(key)

            assert len(entries) == sum(map(len, entries._shards)) <= size
            assert all(values[key] == shard[key] & ~USED for shard in entries._shards for key in shard)

    def test_drop_all(self) -> None:
        """All is dropped shard by shard."""
        entries = ShardedClockMap(3000, never, nobody)
        for number in range(3000):
            entries.add(str(number), 2)
        steps = sum(1 for _ in entries.drop_all())

        assert (4, 0) == (steps, len(entries))

    def test_hot_key(self) -> None:
        """A key that is used again and again outlasts any number of others."""
        entries = ShardedClockMap(100, never, nobody)
        entries.add("hot", 2)
        for number in range(10_000):
            entries.add(str(number), 2)
            entries.shard("hot")["hot"] |= USED

        assert "hot" in entries.shard("hot")

    def test_share_of_hits(self) -> None:
        """Of a skewed trace about as much is found as by an exact LRU of the same size."""
        random = Random(7)
        trace = [str(int(random.paretovariate(0.6))) for _ in range(60_000)]
        lru: OrderedDict[str, None] = OrderedDict()
        entries = ShardedClockMap(2000, never, nobody)
        exact = found = 0
        for key in trace:
            if key in lru:
                exact += 1
                lru.move_to_end(key)
            else:
                lru[key] = None
                if len(lru) > 2000:
                    lru.popitem(last=False)
            shard = entries.shard(key)
            if key in shard:
                found += 1
                shard[key] |= USED
            else:
                entries.add(key, 2)

        assert found > 0.99 * exact

    def test_nothing_for_the_collector(self) -> None:
        """An entry is no object for the garbage collector: there are as many with 50,000 entries as with one."""
        entries = ShardedClockMap(50_000, never, nobody)
        entries.add("first", 2)
        gc.collect()
        before = len(gc.get_objects())
        for number in range(50_000):
            entries.add(f"1:{number}", (number << 100) | 2)

        assert len(gc.get_objects()) - before < 100
