"""Redis loses what it has acknowledged: in a failover before the replica had it, and on the wrong side of a cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.soak.checker import Database
from stateful_route import (
    BaseConfig,
    Link,
    NotReplicatedError,
    ServerInfo,
    StatefulRoute,
    StoreError,
)
from stateful_route.store import LinkKey, PodLife
from stateful_route.testing import FaultProxy, local_server
from tests.faults.deployments import system_redis
from tests.faults.pods import settings
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.protocol import Store
    from tests.faults.conftest import Measured

LINKS = 500
OLD, NEW = PodLife(0, 1), PodLife(1, 1)
PATIENT = BaseConfig(call_deadline=10.0)


def keys_of(namespace: str) -> list[LinkKey]:
    return [LinkKey(namespace, f"user-{number}", "room") for number in range(LINKS)]


@contextlib.asynccontextmanager
async def behind_a_cut(
    *arguments: str, binary: str | None = None
) -> AsyncIterator[tuple[LocalServer, LocalServer, FaultProxy]]:
    """Run a primary, and a replica in sync with it by a way that can be cut.

    What a replica that stands still has not read yet it reads when it goes on; what a cut has swallowed is lost.
    """
    with local_server("--repl-diskless-sync-delay", "0", *arguments, tcp=True, binary=binary) as primary:
        async with FaultProxy(primary) as cut:
            port = cut.url.rpartition(":")[2].partition("/")[0]
            with local_server("--replicaof", "127.0.0.1", port, tcp=True, binary=binary) as replica:
                await eventually(lambda: "master_link_status:up" in replica.ask("INFO", "replication"), within=30.0)
                yield primary, replica, cut


def promote(primary: LocalServer, replica: LocalServer) -> None:
    """Fail over by hand, as the fastest of all watchers would."""
    primary.kill()
    assert "+OK" == replica.ask("REPLICAOF", "NO", "ONE")


async def fenced_after_it(rows: Database, store: Store, old: list[Link], namespace: str) -> tuple[int, int]:
    """Place the uids anew, and write for both owners; return how many epochs rose, and how many old writes passed."""
    risen = passed = 0
    for key, before in zip(keys_of(namespace), old, strict=True):
        rows.answer(f"open {key.uid} {before.epoch} x")
        assert "ok" == rows.answer(f"write {key.uid} {before.epoch} 1 old")
        placed = await store.place(key, NEW, 60.0)
        assert placed.link is not None
        risen += placed.link.epoch > before.epoch
        assert "ok 1" == rows.answer(f"open {key.uid} {placed.link.epoch} x")
        passed += rows.answer(f"write {key.uid} {before.epoch} 2 old") == "ok"
    return risen, passed


@pytest.mark.scenario(3)
async def test_acknowledged_links_lost(namespace: str, measured: Measured) -> None:
    """Links that a failover lost are placed at a higher epoch each, and a database that fences takes no older write."""
    async with behind_a_cut() as (primary, replica, cut):
        async with StatefulRoute.from_url(primary.url, PATIENT) as route:
            cut.black_hole()
            claimed = [(await route.store.claim(key, OLD)).link for key in keys_of(namespace)]
        promote(primary, replica)
        async with StatefulRoute.from_url(replica.url, PATIENT) as route:
            found = [await route.store.get_link(key) for key in keys_of(namespace)]
            links = [link for link in claimed if link is not None]
            risen, passed = await fenced_after_it(Database(), route.store, links, namespace)

    lost = found.count(None)
    measured(f"{lost} of {LINKS} links lost; epoch risen for {risen}; {passed} writes of an older epoch accepted")
    assert LINKS == lost == risen
    assert 0 == passed


@pytest.mark.scenario(3)
async def test_durable(namespace: str, measured: Measured) -> None:
    """With ``durable`` a failover loses no link that was acknowledged; those that it loses were reported as unsure."""
    async with behind_a_cut() as (primary, replica, cut):
        config = BaseConfig(call_deadline=2.0, durable=True)
        async with StatefulRoute.from_url(primary.url, config) as route:

            async def claim(key: LinkKey) -> bool | None:
                try:
                    return (await route.store.claim(key, OLD)).done
                except NotReplicatedError:
                    return None

            half = keys_of(namespace)[: LINKS // 2]
            before = await asyncio.gather(*map(claim, half))
            cut.black_hole()
            after = await asyncio.gather(*map(claim, keys_of(namespace)[LINKS // 2 :]))
            again = await asyncio.gather(*map(claim, keys_of(namespace)[LINKS // 2 :]))  # it finds them: still unsure
        promote(primary, replica)
        async with StatefulRoute.from_url(replica.url, PATIENT) as reading:
            found = [await reading.store.get_link(key) for key in keys_of(namespace)]

    sure = [*before, *after]
    lost = sum(answer is True and link is None for answer, link in zip(sure, found, strict=True))
    measured(f"{lost} of {sure.count(True)} acknowledged links lost; {sure.count(None)} reported as unsure")
    assert 0 == lost
    assert before.count(True) == LINKS // 2
    assert True not in {*after, *again}


@pytest.mark.scenario(3)
async def test_pod_that_held_them(namespace: str, measured: Measured) -> None:
    """A pod whose links a failover lost, and another took, owns none of them soon after, and has the older epochs."""
    lease = 2.0
    config = settings(namespace, 0, lease=lease, heartbeat=0.3, call_deadline=0.5)
    room = ServerInfo(namespace=namespace, service_name="room", pod_name="other", pod_index=1)
    async with behind_a_cut() as (primary, replica, cut):
        async with contextlib.AsyncExitStack():
            address = _Switch(primary, replica)
            async with _Relay(address) as relay, StatefulRoute.from_url(relay, config) as route:
                async with route.server() as pod, route.server(room) as other:
                    await eventually(lambda: "slave0" in primary.ask("INFO", "replication"))
                    await asyncio.sleep(0.5)  # the pods are on the replica too
                    cut.black_hole()
                    handles = [await pod.claim(f"user-{i}") for i in range(50)]
                    promote(primary, replica)
                    address.to_second = True
                    up = time.monotonic()
                    taken: dict[str, int | None] = {}
                    while len(taken) < 50 and time.monotonic() < up + 10:
                        for i in range(50):
                            with contextlib.suppress(StoreError):
                                mine = await other.claim(f"user-{i}")
                                if mine.is_owned():
                                    taken[mine.uid] = mine.epoch
                        await asyncio.sleep(0.02)
                    both = [uid for uid in taken if pod.owned(uid) and other.owned(uid)]
                    overlap_ends = time.monotonic()
                    while both and overlap_ends < up + 10:
                        both = [uid for uid in taken if pod.owned(uid) and other.owned(uid)]
                        overlap_ends = time.monotonic()
                        await asyncio.sleep(0.01)
                    owned = [sum(each.owned(f"user-{i}") is not None for i in range(50)) for each in (pod, other)]

    measured(f"two owners until {overlap_ends - up:.2f} s after the failover, at a lease of {lease:g} s")
    assert [] == both
    assert overlap_ends - up < 2 * lease + 1.0
    assert 50 == sum(owned)
    assert all(handle.epoch is not None and handle.epoch < taken.get(handle.uid, 1 << 62) for handle in handles)  # type: ignore[operator]  # known


class _Switch:
    """Two servers, and which of them is the primary."""

    def __init__(self, first: LocalServer, second: LocalServer) -> None:
        self.first, self.second, self.to_second = first, second, False

    def port(self) -> int:
        port = (self.second if self.to_second else self.first).port
        assert port is not None
        return port


class _Relay:
    """An address that stays, as that of a service in front of Redis: new connections go to the primary of the day."""

    def __init__(self, to: _Switch) -> None:
        self._to = to
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, mine = await asyncio.open_connection("127.0.0.1", self._to.port())
        except OSError:
            writer.transport.abort()
            return
        try:
            pumps = [asyncio.create_task(_pump(reader, mine)), asyncio.create_task(_pump(theirs, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        finally:
            writer.transport.abort()
            mine.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@pytest.mark.scenario(6)
@pytest.mark.parametrize("binary", ["Valkey", "Redis"])
async def test_split_brain(namespace: str, measured: Measured, binary: str) -> None:
    """A primary that is cut off from its replica refuses writes after max-lag; what it took before loses by epoch."""
    max_lag = 1
    guarding = (
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        str(max_lag),
        "--repl-ping-replica-period",
        "1",
    )
    program = system_redis() if binary == "Redis" else None
    async with behind_a_cut(*guarding, binary=program) as (primary, replica, cut):
        async with StatefulRoute.from_url(primary.url, PATIENT) as route:
            await eventually(lambda: _accepts(route.store, namespace), within=30.0)
            cut.black_hole()
            began, accepted, number = time.monotonic(), dict[LinkKey, Link](), 0
            refused: StoreError | None = None
            while refused is None and time.monotonic() < began + 20.0:
                key = LinkKey(namespace, f"user-{number}", "room")
                number += 1
                try:
                    link = (await route.store.claim(key, OLD)).link
                except StoreError as error:
                    refused = error
                else:
                    assert link is not None
                    accepted[key] = link
                await asyncio.sleep(0.02)
            window = time.monotonic() - began
        assert "+OK" == replica.ask("REPLICAOF", "NO", "ONE")
        replica.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        async with StatefulRoute.from_url(replica.url, PATIENT) as route:
            placed = {key: (await route.store.place(key, NEW, 60.0)).link for key in accepted}

    measured(f"writes accepted for {window:.1f} s at a max-lag of {max_lag} s, {len(accepted)} links lost")
    assert refused is not None
    assert not refused.maybe_applied
    assert "NOREPLICAS" in str(refused)
    assert window < max_lag + 4.0  # the server counts whole seconds, on a busy machine
    assert all(link is not None and link.epoch > accepted[key].epoch for key, link in placed.items())


async def _accepts(store: Store, namespace: str) -> bool:
    try:
        await store.claim(LinkKey(namespace, "first", "room"), OLD)
    except StoreError:
        return False
    return True
