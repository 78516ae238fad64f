"""A cluster that changes under load: slots move with their links, and a replica takes over on order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, StatefulRoute, StoreError
from stateful_route.store import LinkKey, PodLife
from stateful_route.testing import cluster
from tests.leaks import nothing_left
from tests.slots import ask, key_in_slot_of, slot_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.protocol import Store
    from tests.faults.conftest import Measured

UIDS = 60
CALLERS = 12


class Load:
    """Callers who claim and read links for ever, and look at each answer."""

    def __init__(self, store: Store, keys: list[LinkKey]) -> None:
        self.store, self.keys = store, keys
        self.done = 0
        self.errors: list[StoreError] = []
        self.wrong: list[str] = []
        self.epochs: dict[LinkKey, int] = {}

    async def call(self, number: int) -> None:
        while True:
            for place in range(number, len(self.keys), CALLERS):
                key, owner = self.keys[place], PodLife(place % 3, 1)
                try:
                    answer = (await self.store.claim(key, owner)).link
                    read = await self.store.get_link(key)
                except StoreError as error:
                    self.errors.append(error)
                    continue
                if answer is None or read is None or read.owner != owner or answer.owner != owner:
                    self.wrong.append(f"{key}: {answer}, {read}")
                elif self.epochs.setdefault(key, answer.epoch) != answer.epoch or read.epoch != answer.epoch:
                    self.wrong.append(f"{key}: the epoch was {self.epochs[key]}, and is {read.epoch}")
                self.done += 1
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.call(number)) for number in range(CALLERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def move_slot(slot: int, source: LocalServer, target: LocalServer, nodes: tuple[LocalServer, ...]) -> int:
    """Move a slot as redis-cli does, key by key; return how many keys went."""
    to, of = await ask(target, "CLUSTER", "MYID"), await ask(source, "CLUSTER", "MYID")
    assert "+OK" == await ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", of)
    assert "+OK" == await ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", to)
    moved = 0
    while keys := (await ask(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "1")).split("\n"):
        if keys == [""]:
            break
        answer = await ask(source, "MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *keys)
        assert answer in {"+OK", "+NOKEY"}
        moved += answer == "+OK"
        await asyncio.sleep(0.005)  # between two keys of one link there are calls: TRYAGAIN
    for node in (target, source, *nodes):
        await ask(node, "CLUSTER", "SETSLOT", str(slot), "NODE", to)  # a replica refuses, and hears of it
    return moved


@pytest.mark.scenario(5)
async def test_slots_move_under_load(namespace: str, measured: Measured) -> None:
    """While slots move to another node under load, with ASK and TRYAGAIN, no call fails and no answer is wrong."""
    with cluster(primaries=3) as nodes:
        first, second, _ = nodes.nodes
        keys = [key_in_slot_of(namespace, number, range(5461)) for number in range(UIDS)]
        async with nothing_left():
            async with StatefulRoute.from_url(nodes.url, BaseConfig(call_deadline=10.0)) as route:
                load = Load(route.store, keys)
                async with load.running():
                    await eventually(lambda: load.done >= 5 * UIDS, within=20.0)
                    moved = 0
                    for slot in sorted({slot_of(key) for key in keys})[:25]:
                        moved += await move_slot(slot, first, second, nodes.nodes)
                    before = load.done
                    await eventually(lambda: load.done >= before + 2 * UIDS, within=20.0)

    measured(f"{moved} keys moved, {load.done} calls, {len(load.errors)} errors, {len(load.wrong)} wrong")
    assert 25 <= moved
    assert [] == load.errors
    assert [] == load.wrong


@pytest.mark.scenario(5)
async def test_replica_takes_over_on_order(namespace: str, measured: Measured) -> None:
    """After CLUSTER FAILOVER the calls go to the new primary, in node-timeout + 2 s, with the same answers."""
    with cluster(primaries=3, replicas=1) as nodes:
        keys = [key_in_slot_of(namespace, number, range(5461)) for number in range(UIDS)]
        async with nothing_left():
            async with StatefulRoute.from_url(nodes.url, BaseConfig(call_deadline=1.0)) as route:
                load = Load(route.store, keys)
                async with load.running():
                    await eventually(lambda: load.done >= 5 * UIDS, within=20.0)
                    ordered = time.monotonic()
                    assert "+OK" == await ask(nodes.nodes[3], "CLUSTER", "FAILOVER")
                    replica = nodes.nodes[3]
                    while "role:master" not in await ask(replica, "INFO", "replication"):
                        await asyncio.sleep(0.01)
                        assert time.monotonic() < ordered + 20.0
                    before = load.done
                    await eventually(lambda: load.done >= before + UIDS, within=20.0)
                    took = time.monotonic() - ordered

    measured(f"back {took:.2f} s after the order, {len(load.errors)} errors, {len(load.wrong)} wrong")
    assert took < 2.0 + 2.0 + 2.0  # node-timeout, as the figure says, and a busy machine
    assert [] == load.wrong
    assert all(isinstance(error, StoreError) for error in load.errors)
