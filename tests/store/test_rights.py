"""The rights that a user of the server needs: these and no others, and what it hears if one is missing."""

from __future__ import annotations

import re
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from redis.asyncio import Redis, RedisCluster

from stateful_route import BaseConfig, RoutingState, ServerInfo, StatefulRoute, StoreError, StoreUnavailableError, store
from stateful_route.links import LinkKey
from stateful_route.pods import PodLife, Topic
from stateful_route.store import PodReport
from stateful_route.store.redis.store import RedisStore
from stateful_route.testing import cluster, local_server
from tests.store.cross_section import CrossSection
from tests.store.script_calls import connections_at
from tests.store.test_redis_store import kit_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from stateful_route import ClientDriver
    from stateful_route.embedded.server import LocalServer
    from stateful_route.ops import Operator
    from stateful_route.testing import StoreKit
    from stateful_route.testing.servers import Cluster

STORE = Path(store.__file__).parent
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"

# What a connection sends before the first call, besides AUTH and HELLO, which nobody needs a right for.
GREETING = {"client|setinfo"}
OF_THE_URL = {"client|setname", "select"}  # with a client name, with a database other than 0
OF_A_CLUSTER = {"asking", "cluster|slots"}
OF_DURABLE = {"wait"}
OF_HISTORY = {"lrange", "ltrim", "rpush"}
OF_AN_OPERATOR = {"scan"}

OF_SOME = OF_THE_URL | OF_A_CLUSTER | OF_DURABLE | OF_HISTORY | OF_AN_OPERATOR

SERVICE = "room"
LEASE, KEPT = 60.0, 3600.0


def in_scripts() -> set[str]:
    """Return the commands that the scripts call."""
    files = STORE.glob("redis/lua/**/*.lua")
    return {name.lower() for file in files for name in re.findall(r"redis\.p?call\('(\w+)'", file.read_text())}


def sent() -> set[str]:
    """Return the commands that the transports send."""
    words = re.compile(r'\("([A-Z]{3,})"(?:, "([A-Z]+)")?[,)]')
    found = [match for file in STORE.rglob("*.py") for match in words.findall(file.read_text())]
    return {f"{command}|{part}".lower() if part else command.lower() for command, part in found}


ON_ONE_SERVER = (in_scripts() - OF_HISTORY) | (sent() - OF_A_CLUSTER - OF_DURABLE - OF_AN_OPERATOR) | GREETING
EVERYWHERE = ON_ONE_SERVER | OF_THE_URL | OF_A_CLUSTER


def user(rights: Iterable[str]) -> tuple[str, ...]:
    """Return the command that makes a user with these rights, as the documentation has it."""
    grants = [f"+{name}" for name in sorted(rights)]
    keys, channels = ("resetkeys", "~sr2:*"), ("resetchannels", "&sr2:events:*")
    return "ACL", "SETUSER", "app", "reset", "on", ">secret", *keys, *channels, "nocommands", *grants


def allow(server: LocalServer, rights: Iterable[str]) -> None:
    assert "+OK" == server.ask(*user(rights))
    assert "+OK" == server.ask("ACL", "LOG", "RESET")


def url_of(server: LocalServer, rest: str = "") -> str:
    return f"redis://app:secret@127.0.0.1:{server.port}{rest}"


def denied(server: LocalServer) -> str:
    """Return what the server refused."""
    return server.ask("ACL", "LOG")


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalServer]:
    """Run a server with a user that has the rights that are needed on one server."""
    with local_server(tcp=True) as server:
        allow(server, ON_ONE_SERVER)
        yield server


@pytest.fixture(scope="module")
def guarded_for_operators() -> Iterator[LocalServer]:
    """Run a server with a user that has what an operator needs besides."""
    with local_server(tcp=True) as server:
        allow(server, ON_ONE_SERVER | OF_AN_OPERATOR)
        yield server


@asynccontextmanager
async def store_at(url: str, history: int = 0) -> AsyncIterator[RedisStore]:
    async with connections_at(url) as connections, aclosing(RedisStore(connections, history=history)) as store:
        yield store


class TestConformance(CrossSection):
    """The store does all that every store has to with these rights only, and asks for no others."""

    @pytest.fixture
    async def store_kit(self, guarded_for_operators: LocalServer) -> AsyncIterator[StoreKit]:
        """Provide the store of a user with few rights; it keeps no histories, and may read those that there are."""
        server = guarded_for_operators
        allow(server, ON_ONE_SERVER | OF_AN_OPERATOR | {"lrange"})
        async with store_at(url_of(server)) as store, Redis.from_url(f"unix://{server.socket}") as redis:
            yield kit_of(store, redis)
        assert "" == denied(server)


async def test_operator(guarded_for_operators: LocalServer, guarded: LocalServer, namespace: str) -> None:
    """An operator needs one right more than a pod, for the search for links alone, and a pod none to be asked."""
    for server, may_search in ((guarded_for_operators, True), (guarded, False)):
        async with StatefulRoute.from_url(url_of(server), config_of(namespace)) as route:
            first, second = (route.server(pod(namespace, index)) for index in range(2))
            operator = route.operator()
            async with first, second:
                await first.claim("alice")
                await eventually(operator.services)
                place = await operator.move(SERVICE, "alice", 1)
                drained = await operator.drain(SERVICE, 0)
                await operator.undrain(SERVICE, 0)
                found = [uid async for some in links_of(operator, may_search=may_search) for uid in some]
                assert (1, 0) == (place.pod_index, drained.left)
                assert (["alice"] if may_search else []) == found
        assert ("" == denied(server)) is may_search
        assert "+OK" == server.ask("ACL", "LOG", "RESET")


async def links_of(operator: Operator, *, may_search: bool) -> AsyncIterator[list[str]]:
    """Yield the uids of the service, unless the user has no right to search."""
    if may_search:
        async for some in operator.links(SERVICE):
            yield [link.uid for link in some]
        return
    with pytest.raises(StoreUnavailableError, match=r"ACL SETUSER app \+scan"):
        await anext(operator.links(SERVICE))


def test_documented() -> None:
    """The page on deploying has the command that makes such a user, and what is needed besides."""
    page = DEPLOY.read_text(encoding="utf-8").replace("\\|", "|")
    line = " ".join(user(ON_ONE_SERVER)).replace("app reset on", "app on").replace(">secret", ">PASSWORD")

    assert line in page
    assert [] == [name for name in OF_SOME if f"+{name}" not in page]


def pod(namespace: str, pod_index: int) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)


def operations(store: RedisStore, namespace: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what makes the store use all its commands, in this order."""
    lives = [PodLife(index, 1_700_000_000_000_000 + index) for index in range(3)]
    alice, hall = (LinkKey(namespace, "alice", service) for service in (SERVICE, "hall"))
    uids = [(f"user-{i}", lives[0]) for i in range(8)]

    async def heartbeats() -> None:
        for index in range(6):
            begun = await store.register(pod(namespace, index), PodReport(), LEASE, KEPT)
            for load in range(3):
                await store.heartbeat(
                    pod(namespace, index), begun.incarnation, load + 1, PodReport(load=load), LEASE, KEPT
                )

    async def changed() -> None:
        table = await store.read_pods(namespace, SERVICE)
        await store.register(pod(namespace, 0), PodReport(), LEASE, KEPT)
        await store.read_pods(namespace, SERVICE, since=table.version)

    async def death() -> None:
        begun = await store.register(pod(namespace, 7), PodReport(), 0.001, KEPT)
        life = PodLife(7, begun.incarnation)
        await eventually(lambda: store.confirm_death(namespace, SERVICE, life, KEPT))

    async def pruned() -> None:
        await store.register(pod(namespace + "-old", 0), PodReport(), 0.001, KEPT)
        await anyio.sleep(0.01)  # longer than entries are kept from then on
        await store.register(pod(namespace + "-old", 1), PodReport(), LEASE, 0.005)

    async def listened() -> None:
        async with store.listen(Topic(namespace, "room"), 0.01) as events:
            async with store.listen(Topic(namespace + "-left", "room"), 1.0):
                pass
            await anext(events)

    return {
        "info": store.info,
        "place": lambda: store.place(alice, lives[0], LEASE),
        "renewed": lambda: store.place(alice, lives[0], 2 * LEASE),
        "get": lambda: store.get_link(alice),
        "second service": lambda: store.place(hall, lives[0], LEASE),
        "claim": lambda: store.claim(alice, lives[0]),
        "claim of another": lambda: store.claim(hall, lives[1], steal_temporary=True),
        "assign": lambda: store.assign(alice, lives[2]),
        "move": lambda: store.move(alice, lives[2], 1, lives[0], name="m1"),
        "services": lambda: store.get_services(namespace, "alice"),
        "grace": lambda: store.release(hall, grace=LEASE),
        "released": lambda: store.release(alice),
        "only claim": lambda: store.claim(hall, lives[1], steal_temporary=True),
        "place many": lambda: store.place_links(namespace, uids, SERVICE, LEASE),
        "get many": lambda: store.get_links(namespace, [uid for uid, _ in uids], SERVICE),
        "heartbeats": heartbeats,
        "changed": changed,
        "leases": lambda: store.read_pods(namespace, SERVICE, since=None),
        "no pods": lambda: store.read_pods(namespace + "-none", SERVICE),
        "death": death,
        "pruned": pruned,
        "listened": listened,
    }


async def run_all(store: RedisStore, namespace: str) -> dict[str, StoreError]:
    """Run all operations; return the errors, those of one uid of many too."""
    errors: dict[str, StoreError] = {}
    for name, run in operations(store, namespace).items():
        errors |= await failed(name, run)
    return errors


async def failed(name: str, run: Callable[[], Awaitable[Any]]) -> dict[str, StoreError]:
    """Return the error of an operation by its name, if it is one; that of a uid of many is one too."""
    try:
        answer = await run()
    except StoreError as error:
        return {name: error}
    first = answer[0] if isinstance(answer, list) and answer else None
    return {name: first} if isinstance(first, StoreError) else {}


async def test_all_of_them_are_used(namespace: str) -> None:
    """On one server the rights are those for the commands that it is sent, and no others."""
    with local_server(tcp=True) as server:
        allow(server, ON_ONE_SERVER | OF_THE_URL)
        assert "+OK" == server.ask("CONFIG", "RESETSTAT")
        async with store_at(url_of(server, "/3?client_name=a-pod")) as store:
            errors = await run_all(store, namespace)
        used = set(re.findall(r"cmdstat_([^:]+):calls=[1-9]", server.ask("INFO", "commandstats")))

        assert ({}, "") == (errors, denied(server))
        assert ON_ONE_SERVER | OF_THE_URL == used - {"auth", "config|resetstat"} | {"info"}


async def changed_often(store: RedisStore, key: LinkKey, times: int) -> dict[str, StoreError]:
    """Change a link so often, and read its history; return the errors."""
    errors: dict[str, StoreError] = {}
    for index in range(times):
        errors |= await failed(f"claim {index}", lambda: store.claim(key, PodLife(0, 1)))
        errors |= await failed(f"release {index}", lambda: store.release(key))
    return errors | await failed("history", lambda: store.history(key))


async def test_history(own_server_on_tcp: LocalServer, namespace: str) -> None:
    """A store that keeps histories needs three rights more, and no others."""
    server = own_server_on_tcp
    allow(server, ON_ONE_SERVER | OF_HISTORY)
    async with store_at(url_of(server), history=2) as store:
        errors = await run_all(store, namespace)
        errors |= await changed_often(store, LinkKey(namespace, "bob", SERVICE), 3)

    assert ({}, "") == (errors, denied(server))


@pytest.mark.parametrize(
    ("missing", "expected", "maybe_applied"),
    [
        ("rpush", {"claim 0", "claim 1", "claim 2"}, False),
        ("ltrim", {"claim 1", "claim 2"}, True),
        ("lrange", {"history"}, False),
    ],
)
async def test_history_is_refused(
    own_server_on_tcp: LocalServer, namespace: str, missing: str, expected: set[str], *, maybe_applied: bool
) -> None:
    """Without one of them an operation fails that needs it, before the link is changed, and says what to grant."""
    server, key = own_server_on_tcp, LinkKey(namespace, "alice", SERVICE)
    allow(server, (ON_ONE_SERVER | OF_HISTORY) - {missing})
    assert "+OK" == server.ask("SCRIPT", "FLUSH")
    async with store_at(url_of(server), history=2) as store:
        errors = await changed_often(store, key, 3)
        link = await store.get_link(key)

    assert link is None
    assert expected == errors.keys()
    assert {maybe_applied} == {error.maybe_applied for error in errors.values()}
    assert all(f"ACL SETUSER app +{missing}" in str(error) for error in errors.values())


@pytest.mark.parametrize(
    ("config", "missing", "names"),
    [
        ({"history": 5}, {"rpush", "ltrim"}, "'rpush', 'ltrim' commands, which the setting history needs"),
        ({"history": 5}, {"ltrim"}, "'ltrim' command, which the setting history needs"),
        ({"durable": True}, {"wait"}, "'wait' command, which the setting durable needs"),
        (
            {"history": 5, "durable": True},
            {"wait", "rpush"},
            "'rpush', 'wait' commands, which the setting history or durable",
        ),
    ],
)
async def test_a_setting_without_its_rights(
    own_server_on_tcp: LocalServer, namespace: str, config: dict[str, Any], missing: set[str], names: str
) -> None:
    """Drivers are refused at the start whose settings need what the user may not do; an operator may look."""
    server, kept = own_server_on_tcp, attrs.evolve(config_of(namespace), **config)
    rights = ON_ONE_SERVER | OF_HISTORY | OF_DURABLE
    for granted, opens in ((rights, True), (rights - missing, False)):
        allow(server, granted)
        async with StatefulRoute.from_url(url_of(server), kept) as route:
            for make in (route.client, lambda: route.server(pod(namespace, 0))):
                if opens:
                    make()
                    continue
                with pytest.raises(StoreUnavailableError) as caught:
                    make()
                assert f"user app has no permissions to run the {names}" in str(caught.value)
                assert all(f"+{name}" in str(caught.value) for name in missing)
                assert caught.value.refused
            assert [] == await route.operator().services()


async def test_rights_that_nobody_asks_for(own_server_on_tcp: LocalServer, namespace: str) -> None:
    """Without these settings nothing is tried."""
    allow(own_server_on_tcp, ON_ONE_SERVER)
    async with StatefulRoute.from_url(url_of(own_server_on_tcp), config_of(namespace)) as route:
        route.client()

    assert "" == denied(own_server_on_tcp)


async def snapshot(redis: Redis, namespace: str) -> dict[bytes | str, Any]:
    """Return the keys of this test with their values: those of others may just end."""
    values = {key: await redis.dump(key) for key in await redis.keys(f"*{namespace}*")}
    return {key: value for key, value in values.items() if b"services" not in key}  # which are added beside calls


@pytest.mark.parametrize("missing", sorted(ON_ONE_SERVER - GREETING - {"publish", "sadd", "unsubscribe"}))
async def test_one_is_missing(own_server_on_tcp: LocalServer, namespace: str, missing: str) -> None:
    """Without one of the rights an operation fails, by an error that says what to grant, and that tells the truth.

    Where it says that nothing was changed, nothing was.
    """
    server = own_server_on_tcp
    allow(server, ON_ONE_SERVER)
    async with Redis.from_url(f"unix://{server.socket}") as redis, store_at(url_of(server)) as store:
        await run_all(store, namespace)
        allow(server, ON_ONE_SERVER - {missing})
        assert "+OK" == server.ask("SCRIPT", "FLUSH")
        errors: dict[str, StoreError] = {}
        for name, run in operations(store, namespace).items():
            before = await snapshot(redis, namespace)
            errors |= await failed(name, run)
            after = await snapshot(redis, namespace)
            if name in {"heartbeats", "changed", "death", "pruned"}:  # more than one call
                continue

            assert name not in errors or errors[name].maybe_applied or before == after
    known = [error for error in errors.values() if f"+{missing}" in str(error)]

    assert {StoreUnavailableError} == {type(error) for error in errors.values()}
    assert len(known) == len(errors)


@pytest.fixture(scope="module")
def own_server_on_tcp() -> Iterator[LocalServer]:
    """Run a server whose user has one right less in each test."""
    with local_server(tcp=True) as server:
        yield server


async def test_it_is_told_apart(own_server_on_tcp: LocalServer, namespace: str) -> None:
    """Who may not read a link does not take it for one that cannot be read, and leaves it as it is."""
    server, alice = own_server_on_tcp, LinkKey(namespace, "alice", SERVICE)
    allow(server, ON_ONE_SERVER)
    async with store_at(url_of(server)) as store:
        claimed = await store.claim(alice, PodLife(0, 1_700_000_000_000_000))
        allow(server, ON_ONE_SERVER - {"get"})
        with pytest.raises(StoreUnavailableError, match=r"ACL SETUSER app \+get") as raised:
            await store.place(alice, PodLife(1, 1_700_000_000_000_001), LEASE)
        allow(server, ON_ONE_SERVER)

        assert not raised.value.maybe_applied
        assert claimed.link == await store.get_link(alice)


async def round_trip(route: StatefulRoute, namespace: str) -> None:
    """Do with both drivers what an application does: a pod drains, and one dies."""
    first, second, third = (route.server(pod(namespace, index)) for index in range(3))
    uids = [f"user-{i}" for i in range(100)]
    async with first, route.client() as client:
        await second.start()
        placed = await client.batch_compute_linked_pod("", uids, SERVICE)
        owned = [await (first, second)[index].claim(some[0]) for index, some in placed.items()]
        await owned[0].release(grace=LEASE)
        await client.get_link_service("", uids[0])
        await first.claim("moves")
        await first.drain()
        await eventually(lambda: hears_of_the_drain(client))  # or it might place the uid there once more
        await eventually(lambda: is_at(client, "moves", 1))
        async with third:
            await second._invalidations.stop()  # as if it were killed: it does not hear of its death, and beats no more
            await second._beating.stop()
            await eventually(lambda: is_at(client, "moves", 2))
        await second.stop()


async def hears_of_the_drain(client: ClientDriver) -> bool:
    return (await client.pods("", SERVICE))[0].report.routing_state is RoutingState.DENY_NEW_CALL


async def is_at(client: ClientDriver, uid: str, pod_index: int) -> bool:
    return pod_index == await client.compute_linked_pod("", uid, SERVICE)


async def test_drivers(guarded: LocalServer, namespace: str) -> None:
    """Both drivers work with these rights, and ask for no others; what is announced is heard."""
    async with StatefulRoute.from_url(url_of(guarded), config_of(namespace)) as route:
        await round_trip(route, namespace)

    assert "" == denied(guarded)


@pytest.mark.parametrize("client", ["from a URL", "of redis-py"])
async def test_cluster(cluster_with_a_user: Cluster, namespace: str, client: str) -> None:
    """On a cluster two more rights are needed, and no more by the settings of a client of redis-py."""
    nodes = cluster_with_a_user.nodes
    for node in nodes:
        allow(node, ON_ONE_SERVER | OF_A_CLUSTER)
    source: str | RedisCluster = cluster_with_a_user.url.replace("://", "://app:secret@")
    if client == "of redis-py":
        source = RedisCluster.from_url(url_of(nodes[0]))
    async with StatefulRoute(source, config_of(namespace)) as route:
        await round_trip(route, namespace)

    assert [""] * len(nodes) == [denied(node) for node in nodes]


@pytest.fixture(scope="module")
def cluster_with_a_user() -> Iterator[Cluster]:
    """Run a cluster."""
    with cluster() as nodes:
        yield nodes


def config_of(namespace: str) -> BaseConfig:
    return BaseConfig(namespace=namespace, heartbeat=0.05, lease=1.0, refresh=0.05)
