"""What the scripts leave in Redis: things that the port does not show, and that must be right in the long run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stateful_route.links import LinkKey, Outcome
from stateful_route.pods import HeartbeatOutcome, PodLife, PodReport, RoutingState, ServerInfo
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_client
from tests.waiting import eventually

KEYS = KeySpace()
OWNER, OTHER = PodLife(0, 5), PodLife(1, 7)
AHEAD = 2**53 - 10  # microseconds, in the year 2255


def server_of(namespace: str, pod_index: int = 0) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)


class TestScriptsLinks:
    async def test_nothing_is_left_behind(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """When a link is gone nothing is left of it but a mark that it was released, for a minute."""
        await store.claim(LinkKey(namespace, "alice", "room"), OWNER)
        await store.claim(LinkKey(namespace, "alice", "doc"), OWNER)
        await store.release(LinkKey(namespace, "alice", "room"))
        await store.release(LinkKey(namespace, "alice", "doc"), grace=0.001)
        await asyncio.sleep(0.01)  # for the grace to end
        kept = await redis.keys(f"*{namespace}:*")
        left = {key: await redis.pttl(key) for key in kept}

        marks = {KEYS.of_links(namespace, service).link_and_ended("alice")[1] for service in ("room", "doc")}
        assert marks == left.keys()
        assert all(59_000 < left_ms <= 60_001 for left_ms in left.values())

    async def test_epochs_are_the_clock(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A new epoch is the clock of Redis in microseconds, also in the first tenth of a second."""

        async def now() -> int:
            seconds, microseconds = await redis.time()
            return int(seconds) * 1_000_000 + int(microseconds)

        async def a_second_begins() -> bool:
            return await now() % 1_000_000 < 50_000

        await eventually(a_second_begins)
        before = await now()
        placed = await store.place(LinkKey(namespace, "alice", "room"), OWNER, 60.0)
        claimed = await store.claim(LinkKey(namespace, "bob", "room"), OWNER)
        after = await now()

        assert placed.link is not None
        assert claimed.link is not None
        assert before <= placed.link.epoch <= claimed.link.epoch <= after

    async def test_services_of_a_namespace(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A service is known from its first link on, also to others, for a day if it has no pod."""
        key = KEYS.services(namespace)
        async with redis.client() as client:
            await store.claim(LinkKey(namespace, "alice", "room"), OWNER)
            await store.claim(LinkKey(namespace, "alice", "a doc"), OWNER)

            async def both() -> bool:  # they are added beside the links
                return bool(await client.scard(key) == 2)

            await eventually(both)
            kept, left = await client.smembers(key), await client.pttl(key)
        listed = await store.get_services(namespace, "alice")

        assert {"room", "a%20doc"} == {name.decode() if isinstance(name, bytes) else name for name in kept}
        assert 80_000_000 < left <= 86_400_000
        assert {"room": 0, "a doc": 0} == listed

    async def test_services_of_another_type(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """What is no set is taken for none, and replaced; the link is made all the same."""
        await redis.set(KEYS.services(namespace), "not a set")
        change = await store.claim(LinkKey(namespace, "alice", "room"), OWNER)

        assert Outcome.CREATED is change.outcome
        assert {"room": 0} == await store.get_services(namespace, "alice")

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "t",
            "p 0 1",
            "x 0 1 1",
            "p -1 1 1",
            "p 0 1 1.5",
            "p 0 1 1x",
            "p 99999999999 1 1",
            f"p 0 1 {2**53}",
            f"p 0 1 {10**17}",
            f"p 0 {10**17} 1",
            "t 0 1 1",
        ],
    )
    async def test_values_that_cannot_be_read(self, redis: Any, store: RedisStore, namespace: str, value: str) -> None:
        """A value that is no link, or a temporary link without an end, cannot be read, and is overwritten."""
        key = LinkKey(namespace, "alice", "room")
        await redis.set(KEYS.link(namespace, "alice", "room"), value)
        released = await store.release(key)
        placed = await store.place(key, OWNER, 60.0)

        assert Outcome.UNREADABLE is released.outcome
        assert Outcome.OVERWRITTEN is placed.outcome

    async def test_fields_of_a_newer_release(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """Fields that a newer release appended are kept while the owner stays, and dropped with it."""
        key, name = LinkKey(namespace, "alice", "room"), KEYS.link(namespace, "alice", "room")
        await redis.set(name, "t 0 5 9 new=1", px=60_000)
        await store.claim(key, OWNER)
        confirmed = await redis.get(name)
        await store.assign(key, OTHER)
        assigned = await redis.get(name)

        assert "p 0 5 9 new=1" == confirmed
        assert assigned.startswith("p 1 7 ")
        assert "new=1" not in assigned

    async def test_a_clock_that_went_back(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """An epoch that is ahead of the clock of the server rises by one with a change of owner."""
        await redis.set(KEYS.link(namespace, "alice", "room"), f"p 0 5 {AHEAD}")
        change = await store.assign(LinkKey(namespace, "alice", "room"), OTHER)

        assert change.link is not None
        assert AHEAD + 1 == change.link.epoch

    async def test_generations_side_by_side(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """Two generations of the layout on one server do not see each other's links and pods."""
        other = RedisStore(open_client(redis, Limits(5.0, 8)), keys=KeySpace(generation=3))
        key = LinkKey(namespace, "alice", "room")
        await store.claim(key, OWNER)
        await store.register(server_of(namespace), PodReport(), 5.0, 60.0)
        await other.claim(key, OTHER)
        link = await store.get_link(key)

        assert link is not None
        assert OWNER == link.owner
        assert {"room": 1} == await other.get_services(namespace, "alice")
        assert () == (await other.read_pods(namespace, "room")).pods
        await other.aclose()


class TestScriptsPods:
    async def test_the_hash_ends(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """The pods of a service that is gone are forgotten after the retention, which heartbeats renew."""
        name, *others = KEYS.pod_keys(namespace, "room")
        life = await store.register(server_of(namespace), PodReport(), 5.0, 60.0)
        registered = await redis.pttl(name)
        await store.heartbeat(server_of(namespace), life.incarnation, 1, PodReport(), 5.0, 100.0)

        assert 50_000 < registered <= 60_000
        assert 90_000 < await redis.pttl(name) <= 100_000
        assert [True, True] == [90_000 < await redis.pttl(other) <= 100_000 for other in others]

    async def test_old_pods_are_dropped(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A pod that said nothing for the retention is dropped when another registers; what cannot be read stays."""
        name = KEYS.pods(namespace, "room")
        await redis.hset(name, mapping={"7": "1 1 1000 1000 READY 1 0 0 0 p 0 {}", "8": "of a newer release"})
        await store.register(server_of(namespace), PodReport(), 5.0, 60.0)

        assert {"0", "8", "table"} == set(await redis.hkeys(name))

    async def test_pods_of_another_type(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """Pods that are no hash are unknown to a heartbeat, and replaced by a registration."""
        await redis.set(KEYS.pods(namespace, "room"), "not a hash")
        beat = await store.heartbeat(server_of(namespace), 1, 1, PodReport(), 5.0, 60.0)
        await store.register(server_of(namespace), PodReport(), 5.0, 60.0)

        assert HeartbeatOutcome.UNKNOWN is beat
        assert 1 == len((await store.read_pods(namespace, "room")).pods)

    async def test_a_clock_that_went_back(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """An incarnation that is ahead of the clock of the server rises by one with the next life."""
        await redis.hset(KEYS.pods(namespace, "room"), "0", f"{AHEAD} 1 1000 1000 READY 1 0 0 0 p 0 {{}}")
        life = await store.register(server_of(namespace), PodReport(), 5.0, 60.0)

        assert (AHEAD + 1, AHEAD) == (life.incarnation, life.previous_incarnation)

    async def test_a_death_is_final(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A life that was marked dead is refused, and the next one has nothing to wait for."""
        life = await store.register(server_of(namespace), PodReport(), 5.0, 60.0)
        name = KEYS.pods(namespace, "room")
        await redis.hset(name, "0", (await redis.hget(name, "0")).replace(" READY ", " DEAD ", 1))
        beat = await store.heartbeat(server_of(namespace), life.incarnation, 1, PodReport(), 5.0, 60.0)
        table = await store.read_pods(namespace, "room")
        again = await store.register(server_of(namespace), PodReport(), 5.0, 60.0)

        assert HeartbeatOutcome.DEAD is beat
        assert table.pods[0].dead
        assert 0.0 == again.previous_left
        assert again.incarnation > life.incarnation

    async def test_events(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A life and a change of its routing state are announced; a heartbeat that says the same is not."""
        server = ServerInfo(namespace=namespace, service_name="a room", pod_name="p", pod_index=3)
        async with redis.pubsub() as listener:
            await listener.subscribe(KEYS.events(namespace, "a room"))
            life = await store.register(server, PodReport(), 5.0, 60.0)
            states = [RoutingState.READY, RoutingState.DENY_NEW_CALL, RoutingState.DENY_NEW_CALL, RoutingState.SHUTDOWN]
            for sequence, state in enumerate(states, 1):
                await store.heartbeat(server, life.incarnation, sequence, PodReport(routing_state=state), 5.0, 60.0)
            heard = []
            while (message := await listener.get_message(timeout=0.2)) is not None:
                heard.append(message["data"])

        said = [f"pod 3 {life.incarnation} {state}" for state in ("READY", "DENY_NEW_CALL", "SHUTDOWN")]
        assert [1, *said] == heard
