"""What the doctor finds: each finding says what to do, and nothing that is wrong with Redis is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import BaseConfig, InvalidArgumentError, RoutingState, StatefulRoute, StoreUnavailableError, store
from stateful_route.ops import Finding, Level, Operator, PodSeen, PodsSeen, doctor
from stateful_route.pods import PodLife, PodReport
from stateful_route.store.operators import ServerFacts, StoreFacts
from stateful_route.testing import ManualClock, MemoryStore, cluster, local_server, sentinel_group
from tests.ops.conftest import SERVICE, pod_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route import ServerDriver
    from stateful_route.embedded.server import LocalServer

LUA = Path(store.__file__).parent / "redis" / "lua"


def found(findings: list[Finding], level: Level) -> list[str]:
    """Return what was found of that level."""
    return [finding.what for finding in findings if finding.level is level]


def the(findings: list[Finding], text: str) -> Finding:
    """Return the one finding that says so."""
    (one,) = [finding for finding in findings if text in finding.what]
    return one


async def diagnosed(url: str, config: BaseConfig) -> list[Finding]:
    async with StatefulRoute.from_url(url, config) as route:
        return await route.operator().doctor()


class TestRedis:
    """What is wrong with a server, on real ones."""

    async def test_well(self, own_server: LocalServer, config: BaseConfig) -> None:
        """Where all is well nothing is bad; all that is looked at is told, and nothing is left behind."""
        config = attrs.evolve(config, heartbeat=1.0, lease=5.0, call_deadline=1.0, address="http://room-0.example:80")
        async with StatefulRoute.from_url(own_server.url, config) as route:
            async with route.server(pod_of(config.namespace, 0)) as pod:
                await pod.claim("alice")
                await eventually(route.operator().services)
                size = own_server.ask("DBSIZE")
                findings = await route.operator().doctor()
                after = own_server.ask("DBSIZE")

        assert [] == found(findings, Level.BAD)
        (persistence,) = [finding for finding in findings if finding.level is Level.WARN]
        assert "keeps no append-only file: an outage longer than a lease loses" in persistence.what
        for text in (
            "is valkey 9",
            "no replica",
            "evicts nothing",
            "append-only",
            "in its cache",
            "room for",
            "clock of",
        ):
            the(findings, text)
        for text in ("answers in", "no keys of another layout", "has the rights", "can be heard", "1 pod alive"):
            the(findings, text)
        assert size == after
        assert "OK" == json.loads(findings[0].to_json())["level"]

    async def test_elsewhere(self, own_server: LocalServer, config: BaseConfig) -> None:
        """What is in another namespace or another database is named, as one of them may have been meant."""
        for namespace in ("prod", "dev", "a:b"):
            async with StatefulRoute.from_url(own_server.url, attrs.evolve(config, namespace=namespace)) as route:
                async with route.server(pod_of(namespace, 0)) as pod:
                    await pod.claim("alice")
                    await eventually(route.operator().services)
        own_server.ask("SET", "sr2:pods:nonsense", "x")
        address = f"{own_server.url}{'&' if '?' in own_server.url else '?'}db=3"
        here = await diagnosed(own_server.url, attrs.evolve(config, namespace="prdo"))
        there = await diagnosed(address, config)

        assert "there are other namespaces: 'a:b', 'dev', 'prod'" == the(here, "other namespaces").what
        assert "--namespace" in the(here, "other namespaces").advice
        assert [] == [one for one in here if "others of this Redis" in one.what]
        assert the(there, "others of this Redis").what.startswith(
            "this is database 3; others of this Redis have keys too: 0 ("
        )
        assert [] == [one for one in there if "namespaces" in one.what]

    def test_many_elsewhere(self) -> None:
        """Of many namespaces some are named; and it is said if not all keys were looked at."""
        names = tuple(f"n{number:02}" for number in range(25))
        server = ServerFacts(address="redis:6379", namespaces=names, looked_at_all=False)
        (finding,) = doctor.others("n00", StoreFacts(servers=(server,)))

        assert finding.what.startswith("there are other namespaces: 'n01', 'n02', ")
        assert finding.what.endswith("'n20' and 4 more, as far as was looked: not all keys were looked at")

    async def test_away(self, config: BaseConfig) -> None:
        """A Redis that is not there is one finding."""
        with local_server() as server:
            url = server.url
        (finding,) = await diagnosed(url, config)

        assert (Level.BAD, True) == (finding.level, finding.what.startswith("Redis cannot be asked: "))
        assert "start it, or mend the URL" in finding.advice

    async def test_stands_still(self, own_server: LocalServer, config: BaseConfig) -> None:
        """So is one that does not answer, within the deadline of a call."""
        own_server.pause()
        (finding,) = await diagnosed(own_server.url, config)
        own_server.resume()

        assert "within 0.5 s" in finding.what

    async def test_replica(self, config: BaseConfig) -> None:
        """A replica takes no changes: the primary is to be named."""
        with sentinel_group() as group:
            of_replica = await diagnosed(group.replica.url, config)
            of_primary = await diagnosed(group.url, config)

        assert "name its primary" in the(of_replica, "is a replica").advice
        assert "replica" in the(of_replica, "a change is refused").advice
        assert [] == found(of_primary, Level.BAD)
        the(of_primary, "is a primary with 1 replica")

    async def test_what_a_failover_loses(self, config: BaseConfig) -> None:
        """It warns of a primary that writes alone, and says that too few sentinels answer to tell which one it is."""
        with sentinel_group() as group:
            before = await diagnosed(group.url, config)
            group.primary.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            after = await diagnosed(group.url, config)
            async with StatefulRoute.from_url(group.url, config) as route:
                await route.operator().pods(SERVICE)  # it is connected, and stays so
                for sentinel in group.sentinels[1:]:
                    sentinel.pause()
                alone = await route.operator().doctor()
                for sentinel in group.sentinels[1:]:
                    sentinel.resume()

        assert Level.WARN is the(before, "takes changes that no replica has").level
        assert not any("takes changes that no replica has" in finding.what for finding in after)
        assert Level.BAD is the(alone, "nobody can tell which server is the primary").level

    async def test_rights(self, config: BaseConfig) -> None:
        """A right that is missing is named, be it of the scripts or of the operator, and so is a wrong password."""
        with local_server(tcp=True) as server:
            url = f"redis://app:secret@127.0.0.1:{server.port}"
            findings = {}
            for name, rights in (
                ("zadd", "+@all -zadd -hset -info"),
                ("scan", "+@all -scan"),
                ("eval", "+@all -eval -evalsha"),
                ("ping", "+@all -ping"),
                ("subscribe", "+@all -subscribe"),
            ):
                user = ("ACL", "SETUSER", "app", "reset", "on", ">secret", "~sr2:*", "&sr2:events:*", *rights.split())
                assert "+OK" == server.ask(*user)
                findings[name] = await diagnosed(url, config)
            findings["password"] = await diagnosed(url.replace("secret", "other"), config)
            denied = ("ACL", "SETUSER", "app", "reset", "on", ">secret", "~other:*", "&other:*", "+@all")
            assert "+OK" == server.ask(*denied)
            findings["keys"] = await diagnosed(url, config)

        assert "+hset +info +zadd" in the(findings["zadd"], "the user may not run hset, info, zadd").advice
        assert "+info" in the(findings["zadd"], "could not be asked all").what
        assert "+scan" in the(findings["scan"], "could not be asked all").what
        assert "+eval" in the(findings["eval"], "a change is refused").what
        assert "rights of the user" in the(findings["ping"], "cannot be asked").advice
        the(findings["subscribe"], "can be heard: ")
        assert "mend the user and the password" in the(findings["password"], "cannot be asked").advice
        assert [Level.BAD] == sorted({finding.level for finding in findings["keys"]} - {Level.OK, Level.WARN})
        assert not any("secret" in finding.what + finding.advice for some in findings.values() for finding in some)

    @pytest.mark.parametrize("missing", ["rpush", "ltrim", "lrange"])
    async def test_rights_of_histories(self, own_server: LocalServer, config: BaseConfig, missing: str) -> None:
        """Where histories are kept, the rights for them are tried; where none are, nobody needs those."""
        own_server.ask("ACL", "SETUSER", "default", f"-{missing}")
        findings = await diagnosed(own_server.url, attrs.evolve(config, history=10))
        without = await diagnosed(own_server.url, config)

        assert missing in the(findings, "may not run").what
        assert f"+{missing} " in the(findings, "may not run").advice
        assert [] == found(without, Level.BAD)
        assert ":0" == own_server.ask("DBSIZE")

    async def test_right_to_the_sha(self, own_server: LocalServer, config: BaseConfig) -> None:
        """A user who may send scripts, and not run them by their SHA-1, is found: each second call fails."""
        own_server.ask("ACL", "SETUSER", "default", "-evalsha")
        findings = await diagnosed(own_server.url, config)

        assert "evalsha" in the(findings, "a change is refused").what

    async def test_memory(self, config: BaseConfig) -> None:
        """A server that evicts keys, and one whose memory is full, are bad."""
        with local_server("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
            evicts = await diagnosed(server.url, config)
        with local_server("--maxmemory", "1mb") as server:
            server.ask("SET", "large", "x" * 1_000_000)
            full = await diagnosed(server.url, config)

        assert Level.BAD is the(evicts, "maxmemory-policy allkeys-lru").level
        assert Level.WARN is the(evicts, "million links more").level
        assert "its memory is full" in the(full, "a change is refused").advice

    async def test_other_layout(self, own_server: LocalServer, config: BaseConfig) -> None:
        """Keys of another generation of the layout are told."""
        own_server.ask("SET", "sr1:link:{prod:alice}:room", "p 0 1 1")
        own_server.ask("SET", "sr:something", "else")
        findings = await diagnosed(own_server.url, config)

        assert Level.WARN is the(findings, "keys of another layout: sr1:").level

    async def test_bounded_look(self, own_server: LocalServer, config: BaseConfig) -> None:
        """However many keys there are, the look for other layouts is bounded."""
        fill = "for i = 1, 60000 do redis.call('SET', KEYS[1] .. i, '') end"
        own_server.ask("EVAL", fill, "1", "some-")
        own_server.ask("CONFIG", "RESETSTAT")
        await diagnosed(own_server.url, config)

        assert 10 == int(own_server.ask("INFO", "commandstats").split("cmdstat_scan:calls=")[1].split(",")[0])

    async def test_scripts(self, own_server: LocalServer, config: BaseConfig) -> None:
        """An application that makes a script for each call is told of."""
        for number in range(501):
            own_server.ask("SCRIPT", "LOAD", f"return {number}")

        assert Level.WARN is the(await diagnosed(own_server.url, config), "in its cache").level

    async def test_cluster(self, config: BaseConfig) -> None:
        """Each primary of a cluster is looked at; who names one of them as if it were all is told."""
        with cluster() as nodes:
            findings = await diagnosed(nodes.url, config)
            of_one = await diagnosed(nodes.nodes[0].url, config)

        assert [] == found(findings, Level.BAD)
        assert 3 == len([finding for finding in findings if "answers in" in finding.what])
        assert "redis+cluster://" in the(of_one, "is a node of a cluster").advice

    async def test_durable(self, own_server: LocalServer, config: BaseConfig) -> None:
        """With durable a replica is needed."""
        findings = await diagnosed(own_server.url, attrs.evolve(config, durable=True))

        assert Level.BAD is the(findings, "has no replica, and durable is set").level

    def test_all_rights(self) -> None:
        """The commands that are tried are all that the scripts call."""
        texts = [path.read_text() for path in LUA.glob("**/*.lua") if path.stem != "rights"]
        called = {name for text in texts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
        tried = set(re.findall(r"\{ '([A-Z]+)'", (LUA / "rights.lua").read_text()))

        assert called == tried


SAID = {
    "redis_version": "7.2.4",
    "role": "master",
    "connected_slaves": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "0",
    "used_memory": "1000000",
    "maxmemory": "0",
    "total_system_memory": "8000000000",
    "number_of_cached_scripts": "12",
    "connected_clients": "10",
    "maxclients": "10000",
}


def judged(**more: Any) -> list[Finding]:
    """Return what is found with a server that says so besides, or of which these facts were measured."""
    said = {name: value for name, value in more.items() if name in SAID or isinstance(value, str)}
    facts = ServerFacts(address="redis:6379", said=SAID | said, **{k: v for k, v in more.items() if k not in said})
    return doctor.of_store(StoreFacts(servers=(facts,), generation=2), BaseConfig())


class TestFacts:
    """What is judged, by what a server says."""

    @pytest.mark.parametrize(
        ("said", "level"),
        [
            ({"redis_version": "7.0.15"}, Level.OK),
            ({"redis_version": "8.0.1"}, Level.OK),
            ({"redis_version": "6.2.14"}, Level.BAD),
            ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, Level.OK),
            ({"redis_version": "7.2.4", "server_name": "other"}, Level.WARN),
            ({"redis_version": ""}, Level.WARN),
            ({"redis_version": "unstable"}, Level.WARN),
        ],
    )
    def test_version(self, said: dict[str, str], level: Level) -> None:
        """A version that is too old is bad, and one that nobody has tried is told."""
        finding = judged(**said)[0]

        assert level is finding.level
        assert (level is Level.OK) == (not finding.advice)

    @pytest.mark.parametrize(
        ("said", "level", "text"),
        [
            ({"loading": "1"}, Level.BAD, "loads its data"),
            ({"maxmemory_policy": "volatile-ttl", "evicted_keys": "1"}, Level.BAD, "has evicted 1 key"),
            ({"rdb_last_bgsave_status": "err"}, Level.BAD, "could not write its snapshot"),
            ({"aof_last_write_status": "err"}, Level.BAD, "could not write its append-only file"),
            ({"aof_enabled": "1"}, Level.OK, "keeps an append-only file"),
            ({"aof_enabled": "0"}, Level.WARN, "an outage longer than a lease loses what only pods have in memory"),
            ({"evicted_scripts": "3"}, Level.WARN, "has evicted 3"),
            ({"maxmemory": "100000000"}, Level.WARN, "0.7 million links more"),
            ({"connected_clients": "9500"}, Level.WARN, "9500 of 10000 connections"),
        ],
    )
    def test_said(self, said: dict[str, str], level: Level, text: str) -> None:
        """What a server says of itself is judged."""
        assert level is the(judged(**said), text).level

    @pytest.mark.parametrize(
        ("measured", "level", "text"),
        [
            ({"clock_ahead": 0.2, "clock_within": 0.01}, Level.OK, "within 200.0 ms"),
            ({"clock_ahead": -7.0, "clock_within": 0.01}, Level.WARN, "7.0 s behind that of this machine"),
            ({"clock_ahead": 7.0, "clock_within": 0.01}, Level.WARN, "7.0 s ahead of"),
            ({"clock_ahead": 7.0, "clock_within": 8.0}, Level.OK, "is that of this machine"),
            ({"latency": 0.001, "slowest": 0.002}, Level.OK, "answers in 1.00 ms"),
            ({"latency": 0.02, "slowest": 0.03}, Level.WARN, "answers in 20.00 ms"),
            ({"latency": 0.02, "slowest": 0.6}, Level.BAD, "at the slowest in 600.00 ms"),
            ({"generations": (1, 2, 3)}, Level.WARN, "sr1:, sr3:"),
            ({"generations": (2,)}, Level.OK, "no keys of another layout"),
            ({"faults": ("no right",)}, Level.WARN, "could not be asked all: no right"),
        ],
    )
    def test_measured(self, measured: dict[str, Any], level: Level, text: str) -> None:
        """What was measured is judged."""
        assert level is the(judged(**measured), text).level

    def test_says_nothing(self) -> None:
        """A server that says nothing, or not all, is no error."""
        nothing = ServerFacts(address="redis:6379", said={"redis_version": "7.2.4"})
        silent = ServerFacts(address="redis:6379")

        assert doctor.of_store(StoreFacts(servers=(nothing, silent)), BaseConfig())


async def seen(*reports: PodReport, leases: tuple[float, ...] = (), after: float = 0.0) -> PodsSeen:
    """Return pods that say so, some time later."""
    clock = ManualClock()
    own = MemoryStore(clock)
    for index, report in enumerate(reports):
        lease = leases[index] if leases else 5.0
        await own.register(pod_of("prod", index), report, lease, 3600.0)
    clock.advance(after)
    return await Operator(own, BaseConfig(namespace="prod")).pods(SERVICE)


def said(**more: Any) -> PodReport:
    return PodReport(**({"address": "http://room:8000"} | more))


class TestPods:
    """What is wrong with pods, by what they publish."""

    async def test_all_on_one_machine(self) -> None:
        """An address of the loopback is fine if Redis and all pods are on one machine, as far as is known."""
        local, other = said(address="tcp://127.0.0.1:80"), said(address="http://room-1:80")
        both = [doctor.of_pods(SERVICE, await seen(*reports), near=True) for reports in ([local], [local, other])]
        servers = [ServerFacts(address=name) for name in ("unix:///run/valkey.sock", "127.0.0.1:6379", "[::1]:6379")]

        assert [False, True] == [any("its own machine" in one.what for one in findings) for findings in both]
        assert doctor.is_near(StoreFacts(servers=tuple(servers)))
        assert not doctor.is_near(StoreFacts(servers=(*servers, ServerFacts(address="redis:6379"))))

    @pytest.mark.parametrize(
        ("reports", "more", "level", "text"),
        [
            (
                [said()],
                {"after": 4.0},
                Level.WARN,
                "pod 0 of 'room': the last heartbeat is older than half of the lease",
            ),
            ([said()], {"after": 6.0}, Level.WARN, "pod 0 of 'room': no heartbeat for its lease, for 6.0 s by now"),
            ([said()], {"after": 6.0}, Level.BAD, "no pod of 'room' is alive"),
            ([said(pod_name="a", links=6)], {"after": 6.0}, Level.WARN, "pod 0 (a) of 'room': no heartbeat"),
            ([said(links=6)], {"after": 6.0}, Level.WARN, "for 6.0 s by now, with 6 links"),
            ([said()], {"leases": (0.5,)}, Level.WARN, "a lease of 0.5 s"),
            (
                [said(routing_state="SHUTDOWN")] * 2,
                {"after": 600.0},
                Level.WARN,
                "no pod of 'room' is alive: all have said goodbye, the last one 10 min ago",
            ),
            ([said(), said()], {"leases": (5.0, 9.0)}, Level.WARN, "have leases of 5 to 9 s"),
            ([said(address=None)], {}, Level.OK, "publish no address"),
            ([said(), said(address=None)], {}, Level.BAD, "pod 1 of 'room': no address"),
            ([said()] * 9, {}, Level.BAD, "pods 0, 1, 2, 3, 4 and 4 more of 'room': the same address"),
            ([said(address="http://127.0.0.1:80")], {}, Level.WARN, "an address of its own machine"),
            ([said(address="localhost:80")], {}, Level.WARN, "an address of its own machine"),
            ([said(address="tcp://[::1]:80")], {}, Level.WARN, "an address of its own machine"),
            ([said(address="0.0.0.0:80")], {}, Level.WARN, "an address of its own machine"),
            ([said(draining=True, routing_state="DENY_NEW_CALL")], {}, Level.WARN, "it drains"),
            ([said(routing_state="DENY_NEW_CALL")], {}, Level.WARN, "it takes no new uids"),
            ([said(routing_state="DENY_NEW_CALL")], {}, Level.BAD, "no pod of 'room' takes new uids"),
            ([said(links=7, max_links=7)], {}, Level.WARN, "it is full"),
            ([said(links=7, max_links=7)], {}, Level.BAD, "are full"),
            ([said(reclaiming=True)], {}, Level.WARN, "it claims again"),
            ([said(), said(refused_new=3)], {}, Level.WARN, "pod 1 of 'room': 3 new uids refused with 429"),
            ([said(version="1"), said(version="2")], {}, Level.OK, "have 2 versions: 1, 2"),
            ([said(adopts=True), said()], {}, Level.WARN, "pod 1 of 'room': it takes no states"),
            ([said(load=100), said(load=10), said(load=10)], {}, Level.WARN, "pod 0 of 'room' has 2.5 times the mean"),
            ([], {}, Level.WARN, "'room' has no pods"),
        ],
    )
    async def test_found(self, reports: list[PodReport], more: dict[str, Any], level: Level, text: str) -> None:
        """What is wrong with the settings of a pod is seen in what it publishes, and there is something to do."""
        finding = the(doctor.of_pods(SERVICE, await seen(*reports, **more)), text)

        assert level is finding.level
        assert finding.advice

    async def test_well(self) -> None:
        """Pods that are well are told with their links."""
        pods = [said(address=f"http://room-{index}:80", links=3, load=20 + index) for index in range(3)]
        findings = doctor.of_pods(SERVICE, await seen(*pods))

        assert [Finding(Level.OK, "'room' has 3 pods alive, with 9 links")] == findings

    async def test_dead(self) -> None:
        """Pods that died without a goodbye are told, with the links that they had; those that left are not."""
        own = MemoryStore(ManualClock())
        reports = [said(links=links, pod_name=f"room-{links}") for links in (9, 6, 1, 0)]
        lives = [await own.register(pod_of("prod", at), report, 5.0, 60.0) for at, report in enumerate(reports)]
        gone = said(links=4, pod_name="left", routing_state="SHUTDOWN")
        left = await own.register(pod_of("prod", 4), gone, 5.0, 60.0)
        for at in (1, 2, 3):
            assert await own.end_life("prod", SERVICE, PodLife(at, lives[at].incarnation), 60.0)
        assert await own.confirm_death("prod", SERVICE, PodLife(4, left.incarnation), 60.0)
        findings = doctor.of_pods(SERVICE, await Operator(own, BaseConfig(namespace="prod")).pods(SERVICE))

        assert found(findings, Level.WARN) == [
            "pods 1 (room-6), 2 (room-1) of 'room': dead without a goodbye, 0 s ago, with 7 links when last heard"
        ]

    @pytest.mark.parametrize("address", ["http://[", "room", "::", "http://room:port", "\x1b[31m<b>"])
    async def test_any_address(self, address: str) -> None:
        """An address may be anything."""
        assert doctor.of_pods(SERVICE, await seen(said(address=address)))

    async def test_unreadable(self, namespace: str) -> None:
        """An entry that cannot be read is bad."""
        own = MemoryStore(ManualClock())
        own.poison_pod(namespace, SERVICE, 0)
        findings = await Operator(own, BaseConfig(namespace=namespace)).doctor([SERVICE])

        assert Level.BAD is the(findings, "1 pod of 'room' cannot be read").level

    async def test_thousands(self) -> None:
        """A thousand pods that have one fault are one finding."""
        one = (await seen(said())).pods[0]
        pods = tuple(attrs.evolve(one, pod_index=index, state="SILENT", alive=False) for index in range(1000))
        findings = doctor.of_pods(SERVICE, PodsSeen(at=0.0, pods=pods))

        assert 2 == len(findings)
        assert "and 995 more" in the(findings, "no heartbeat").what

    async def test_on_a_server(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """The pods of all services of the namespace are looked at, or of those that are named."""
        operator = route.operator()
        nothing = await operator.doctor()
        async with make_pod(0, "room") as room, make_pod(0, "hall"):
            await room.set_routing_state(RoutingState.DENY_NEW_CALL)
            await eventually(lambda: both(operator))
            of_all = await operator.doctor()
            of_one = await operator.doctor(["hall"])

        the(nothing, "has no services")
        the(of_all, "no pod of 'room' takes new uids")
        the(of_all, "'hall' has 1 pod alive")
        assert not [finding for finding in of_one if "'room'" in finding.what]

    async def test_cannot_be_read(self, namespace: str) -> None:
        """Pods that cannot be read are a finding, and no error."""
        own = MemoryStore(ManualClock())
        own.deafen()
        own.fail_with(store_error(), "read_pods")
        findings = await Operator(own, BaseConfig(namespace=namespace)).doctor([SERVICE])

        assert [Level.BAD, Level.BAD] == [
            the(findings, text).level for text in ("that is announced can be heard", "cannot be read")
        ]

    async def test_bad_input(self) -> None:
        """A name that is none is an error, and nothing is asked."""
        own = MemoryStore()
        name: Any
        for name in ("room", [" "], [7]):
            with pytest.raises(InvalidArgumentError):
                await Operator(own, BaseConfig()).doctor(name)

        assert 0 == own.operations.total()


async def both(operator: Operator) -> bool:
    return len(await operator.services()) == 2


def store_error() -> Any:
    return StoreUnavailableError("it is away", operation="read_pods", maybe_applied=False)


def test_seen_is_full() -> None:
    """A pod without a limit is never full."""
    fields: dict[str, Any] = {field.name: None for field in attrs.fields(PodSeen)}

    assert not PodSeen(**fields | {"links": 5}).full
    assert PodSeen(**fields | {"links": 5, "max_links": 5}).full
