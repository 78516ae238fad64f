"""With ``durable`` a link that was answered is on a replica, in each topology; what is not is said to be unsure."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from stateful_route import (
    BaseConfig,
    Link,
    NotReplicatedError,
    StatefulRoute,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.links import Outcome
from stateful_route.store import LinkChange, LinkKey, PodLife
from stateful_route.testing import cluster, local_server
from tests.leaks import nothing_left
from tests.slots import ask, key_in_slot_of, slot_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.protocol import Store

OWNER = PodLife(0, 1)
DURABLE = BaseConfig(call_deadline=1.0, durable=True)
PATIENT = BaseConfig(call_deadline=5.0, durable=True)


@contextmanager
def primary_and_replica() -> Iterator[tuple[LocalServer, LocalServer]]:
    with local_server("--repl-diskless-sync-delay", "0", tcp=True) as primary:
        with local_server("--replicaof", "127.0.0.1", str(primary.port), tcp=True) as replica:
            deadline = time.monotonic() + 20.0
            while "master_link_status:up" not in replica.ask("INFO", "replication"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield primary, replica


@asynccontextmanager
async def store_at(url: str, config: BaseConfig) -> AsyncIterator[Store]:
    async with StatefulRoute(url, config) as route:
        yield route.store


def key_of(namespace: str, uid: str) -> LinkKey:
    return LinkKey(namespace, uid, "room")


async def test_answered_is_replicated(namespace: str) -> None:
    """A link that was placed, claimed or assigned is on the replica when the call returns; a released one is not."""
    with primary_and_replica() as (primary, replica):
        primary.ask("SCRIPT", "FLUSH")
        async with store_at(primary.url, PATIENT) as store, store_at(replica.url, BaseConfig()) as copy:
            for number in range(20):
                key = key_of(namespace, f"user-{number}")
                assert Outcome.CREATED is (await store.place(key, OWNER, 60.0)).outcome
                assert await copy.get_link(key) is not None
                claimed = await store.claim(key, OWNER)
                assert claimed.link == await copy.get_link(key)
                assigned = await store.assign(key, PodLife(1, 1))
                assert assigned.link == await copy.get_link(key)
                await store.release(key)
                assert await copy.get_link(key) is None
            placed = await store.place_links(namespace, [(f"many-{i}", OWNER) for i in range(300)], "room", 60.0)
            found = await copy.get_links(namespace, [f"many-{i}" for i in range(300)], "room")

    epochs = [change.link and change.link.epoch for change in placed if isinstance(change, LinkChange)]
    assert epochs == [isinstance(link, Link) and link.epoch for link in found]


async def test_replica_away(namespace: str) -> None:
    """Without a replica in time a change is an error that says maybe, also of what is there already; reads go on."""
    with primary_and_replica() as (primary, replica):
        async with store_at(primary.url, DURABLE) as store, store_at(primary.url, DURABLE) as other:
            await store.claim(key_of(namespace, "before"), OWNER)
            replica.pause()
            with pytest.raises(NotReplicatedError, match="no replica") as raised:
                await store.claim(key_of(namespace, "alice"), OWNER)
            with pytest.raises(NotReplicatedError, match="no replica"):  # it finds it there, and writes nothing
                await other.claim(key_of(namespace, "alice"), OWNER)
            waiting = asyncio.create_task(store.claim(key_of(namespace, "bob"), OWNER))
            await asyncio.sleep(0.05)  # until it is in flight
            link = await store.get_link(key_of(namespace, "alice"))
            still_waiting = not waiting.done()
            replica.resume()
            await asyncio.wait([waiting])
            waiting.exception()  # it may have been in time, or not
            again = await store.claim(key_of(namespace, "alice"), OWNER)

    assert ("claim", True, 0) == (raised.value.operation, raised.value.maybe_applied, raised.value.replicas)
    assert link is not None
    assert still_waiting
    assert Outcome.UNCHANGED is again.outcome


async def test_known_links_without_replica(namespace: str) -> None:
    """Without a replica what is not changed is answered, alone and in a batch; before, known links were errors too."""
    with local_server(tcp=True) as server:
        async with store_at(server.url, DURABLE) as store, store_at(server.url, BaseConfig()) as plain:
            for number in range(8):
                await plain.claim(key_of(namespace, f"known-{number}"), OWNER)
            await plain.place(key_of(namespace, "temporary"), OWNER, 60.0)
            found = await store.place(key_of(namespace, "known-0"), PodLife(1, 1), 60.0)
            refused = await store.claim(key_of(namespace, "known-0"), PodLife(1, 1))
            uids = [*(f"known-{i}" for i in range(8)), *(f"new-{i}" for i in range(8)), "temporary"]
            many = await store.place_links(namespace, [(uid, PodLife(1, 1)) for uid in uids], "room", 60.0)
            unsure = await asyncio.gather(
                store.place(key_of(namespace, "temporary"), OWNER, 60.0),  # it may repeat one that fell short
                store.claim(key_of(namespace, "known-0"), OWNER),
                store.release(key_of(namespace, "nobody's")),
                store.place(key_of(namespace, "known-1"), PodLife(1, 1), 60.0, dead=[OWNER]),
                return_exceptions=True,
            )

    assert (Outcome.UNCHANGED, OWNER) == (found.outcome, found.link and found.link.owner)
    assert Outcome.REFUSED is refused.outcome
    assert [Outcome.UNCHANGED] * 8 == [isinstance(answer, LinkChange) and answer.outcome for answer in many[:8]]
    assert {NotReplicatedError} == {type(answer) for answer in [*many[8:], *unsure]}
    assert all(isinstance(answer, StoreError) and answer.maybe_applied for answer in [*many[8:], *unsure])


async def test_wait_that_begins_late(namespace: str) -> None:
    """A call that has two fifths of its time left when it can ask for a replica has the answer in it."""
    with local_server(tcp=True) as server:
        async with store_at(server.url, BaseConfig(call_deadline=3.0, durable=True)) as store:
            with pytest.raises(NotReplicatedError):  # after it the server has the script, and the service
                await store.place(key_of(namespace, "before"), OWNER, 60.0)
            server.pause()
            placing = asyncio.create_task(store.place(key_of(namespace, "alice"), OWNER, 60.0))
            await asyncio.sleep(1.8)  # what is tested
            server.resume()
            with pytest.raises(NotReplicatedError, match="had it within") as raised:
                await placing

    assert raised.value.maybe_applied


async def test_many_without_replica(namespace: str) -> None:
    """Callers whose turn does not come, as those before wait for a replica, hear that; not that the store is late."""
    with local_server(tcp=True) as server:
        async with store_at(server.url, BaseConfig(call_deadline=3.0, durable=True)) as store:
            answers = await asyncio.gather(
                *(store.place(key_of(namespace, f"user-{i}"), OWNER, 60.0) for i in range(1500)), return_exceptions=True
            )

    assert {NotReplicatedError} == {type(answer) for answer in answers}
    assert {True, False} >= {answer.maybe_applied for answer in answers if isinstance(answer, StoreError)}


async def test_silent_server(namespace: str) -> None:
    """A server that says nothing is late, also if a moment ago it said that it has no replica."""
    config = BaseConfig(call_deadline=1.0, durable=True)
    with local_server(tcp=True) as server:
        async with store_at(server.url, config) as store:
            for change in (
                store.claim(key_of(namespace, "before"), OWNER),
                store.place(key_of(namespace, "placed"), OWNER, 60.0),
            ):
                with pytest.raises(NotReplicatedError):
                    await change
            server.pause()
            *claims, placed, many = await asyncio.gather(
                *(store.claim(key_of(namespace, f"user-{number}"), OWNER) for number in range(10)),
                store.place(key_of(namespace, "new"), OWNER, 60.0),
                store.place_links(namespace, [(f"many-{number}", OWNER) for number in range(9)], "room", 60.0),
                return_exceptions=True,
            )
            server.resume()
    sent = sum(isinstance(answer, StoreError) and answer.maybe_applied for answer in claims)

    assert isinstance(many, list)
    assert {StoreTimeoutError} == {type(answer) for answer in [*claims, placed, *many]}
    assert not any(isinstance(answer, StoreError) and answer.maybe_applied for answer in [placed, *many])
    assert sent == 10


async def test_warning_without_replica(caplog: pytest.LogCaptureFixture) -> None:
    """That no replica is connected is said when the route is opened, once, if it matters."""
    with local_server(tcp=True) as server, caplog.at_level(logging.WARNING, "stateful_route"):
        for config in (DURABLE, BaseConfig()):
            async with StatefulRoute(server.url, config):
                pass

    (record,) = caplog.records
    assert "no replica connected" in record.getMessage()


async def test_moving_slot(namespace: str) -> None:
    """Calls for other slots of the same primary are sure while one moves, which before failed those that went with it.

    A call for the moving one that was told to try again until its time was up has changed nothing, and says so.
    """
    with cluster(primaries=3, replicas=1) as nodes:
        first, second = nodes.nodes[:2]
        config = BaseConfig(call_deadline=2.0, durable=True)
        async with store_at(nodes.url, config) as store, store_at(nodes.url, config) as fresh:
            moving = key_in_slot_of(namespace, 99, range(5461))
            others = [key_in_slot_of(namespace, number, range(5461)) for number in range(8)]
            await asyncio.gather(*(store.claim(key, OWNER) for key in [*others, moving]))
            slot = str(slot_of(moving))
            to, of = await ask(second, "CLUSTER", "MYID"), await ask(first, "CLUSTER", "MYID")
            await ask(second, "CLUSTER", "SETSLOT", slot, "IMPORTING", of)
            await ask(first, "CLUSTER", "SETSLOT", slot, "MIGRATING", to)
            for key in (await ask(first, "CLUSTER", "GETKEYSINSLOT", slot, "10")).split():
                await ask(first, "MIGRATE", "127.0.0.1", str(second.port), "", "0", "5000", "KEYS", key)
            fresh._services.added[moving.namespace, moving.service_name] = math.inf  # type: ignore[attr-defined]
            # Place needs the two keys that are there on the other node, so it goes on; assign needs a third.
            found = await fresh.place(moving, PodLife(1, 1), 60.0, dead=[])
            answers = []
            for number, one in enumerate((store, fresh, store)):
                owner = PodLife(number + 1, 1)
                *sure, unsure = await asyncio.gather(
                    *(one.assign(key, owner) for key in [*others, moving]), return_exceptions=True
                )
                answers.append(({type(answer) for answer in sure}, unsure))

    assert Outcome.UNCHANGED is found.outcome
    assert [{LinkChange}] * 3 == [sure for sure, _ in answers]
    assert [(StoreUnavailableError, False)] * 3 == [
        (type(unsure), isinstance(unsure, StoreError) and unsure.maybe_applied) for _, unsure in answers
    ]


async def test_slot_that_arrives(namespace: str) -> None:
    """A placement that goes after its slot is sure there; the small write behind it is asked for as the script is."""
    with cluster(primaries=3, replicas=1) as nodes:
        first, second = nodes.nodes[:2]
        async with store_at(nodes.url, BaseConfig(call_deadline=2.0, durable=True)) as store:
            moving = key_in_slot_of(namespace, 99, range(5461))
            await store.place(moving, OWNER, 60.0)
            slot = str(slot_of(moving))
            to, of = await ask(second, "CLUSTER", "MYID"), await ask(first, "CLUSTER", "MYID")
            await ask(second, "CLUSTER", "SETSLOT", slot, "IMPORTING", of)
            await ask(first, "CLUSTER", "SETSLOT", slot, "MIGRATING", to)
            for key in (await ask(first, "CLUSTER", "GETKEYSINSLOT", slot, "10")).split():
                await ask(first, "MIGRATE", "127.0.0.1", str(second.port), "", "0", "5000", "KEYS", key)
            answers = [await store.place(moving, PodLife(1, 1), 60.0) for _ in range(2)]

    assert [Outcome.RENEWED] * 2 == [answer.outcome for answer in answers]


async def test_one_wait_for_many(namespace: str) -> None:
    """Calls of one moment share a WAIT: 2,000 claims need a small part of as many."""
    with primary_and_replica() as (primary, _):
        async with store_at(primary.url, PATIENT) as store:
            await asyncio.gather(*(store.claim(key_of(namespace, f"user-{i}"), OWNER) for i in range(2000)))
        stats = primary.ask("INFO", "commandstats").splitlines()

    waits = next(int(line.split("calls=")[1].split(",")[0]) for line in stats if line.startswith("cmdstat_wait:"))
    assert waits <= 100


async def test_cancelled(namespace: str) -> None:
    """A caller who is cancelled takes no other's answer, and those beside it have theirs."""
    with primary_and_replica() as (primary, _):
        async with store_at(primary.url, PATIENT) as store:
            tasks = [
                asyncio.create_task(store.claim(key_of(namespace, f"user-{i}"), PodLife(i, 1))) for i in range(300)
            ]
            for number, task in enumerate(tasks[::3]):
                asyncio.get_running_loop().call_later(0.0001 * (number % 50), task.cancel)
            await asyncio.wait(tasks)
            wrong = [
                number
                for number, task in enumerate(tasks)
                if not task.cancelled() and task.result().link.pod_index != number  # type: ignore[union-attr]  # its own
            ]

    assert [] == wrong


async def test_cluster(namespace: str) -> None:
    """In a cluster the replica that counts is that of the slot: where it is away calls are unsure, elsewhere not."""
    with cluster(primaries=3, replicas=1) as nodes:
        async with store_at(nodes.url, DURABLE) as store:
            keys = [key_of(namespace, f"user-{i}") for i in range(60)]
            before = await asyncio.gather(*(store.claim(key, OWNER) for key in keys))
            nodes.nodes[3].pause()
            answers = await asyncio.gather(*(store.assign(key, PodLife(1, 1)) for key in keys), return_exceptions=True)
            nodes.nodes[3].resume()
        sure = sum(not isinstance(answer, BaseException) for answer in answers)

    assert {Outcome.CREATED} == {answer.outcome for answer in before}
    assert 20 < sure < 60
    assert {NotReplicatedError} == {type(answer) for answer in answers if isinstance(answer, BaseException)}
    assert all(answer.maybe_applied for answer in answers if isinstance(answer, StoreError))


async def test_cluster_with_a_silent_primary(namespace: str) -> None:
    """Where the primary is silent calls hear that it is late; those to another one hear that its replica is away."""
    with cluster(primaries=3, replicas=1) as nodes:
        async with store_at(nodes.url, DURABLE) as store:
            slots = (range(5461), range(5461, 10923), range(10923, 16384))
            keys = [[key_in_slot_of(namespace, number, some) for number in range(8)] for some in slots]
            await asyncio.gather(*(store.claim(key, OWNER) for some in keys for key in some))
            nodes.nodes[3].pause()
            with pytest.raises(NotReplicatedError):
                await store.assign(keys[0][0], PodLife(1, 1))
            nodes.nodes[1].pause()
            answers = await asyncio.gather(
                *(store.assign(key, PodLife(2, 1)) for some in keys for key in some), return_exceptions=True
            )
            nodes.nodes[1].resume()
            nodes.nodes[3].resume()
    kinds = [{type(answer) for answer in answers[begin : begin + 8]} for begin in (0, 8, 16)]

    assert [{NotReplicatedError}, {StoreTimeoutError}, {LinkChange}] == kinds
    assert all(answer.maybe_applied for answer in answers if isinstance(answer, StoreError))


async def test_no_right_to_wait(namespace: str) -> None:
    """A user who may not WAIT hears which right is missing, and that the link may be there."""
    with local_server(tcp=True) as server:
        server.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-wait")
        async with store_at(f"redis://app:secret@127.0.0.1:{server.port}", DURABLE) as store:
            with pytest.raises(StoreUnavailableError, match=r"\+wait") as raised:
                await store.claim(key_of(namespace, "alice"), OWNER)

    assert raised.value.maybe_applied


async def test_closed_while_waiting(namespace: str) -> None:
    """A route that is closed while calls wait for a replica ends them in time, and leaves no task and no socket."""
    with primary_and_replica() as (primary, replica):
        async with nothing_left():
            async with store_at(primary.url, DURABLE) as store:
                await store.claim(key_of(namespace, "first"), OWNER)
                replica.pause()
                claims = [asyncio.ensure_future(store.claim(key_of(namespace, str(i)), OWNER)) for i in range(200)]
                await asyncio.sleep(0.05)  # until they are in flight
                began = time.monotonic()
            took = time.monotonic() - began
            answers = await asyncio.gather(*claims, return_exceptions=True)
        replica.resume()

    assert all(isinstance(answer, StoreError) and answer.maybe_applied for answer in answers)
    assert took < 5.0
