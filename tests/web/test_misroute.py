"""What a pod answers to a request of a uid that another pod has, if it does not forward it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import websockets

from stateful_route.client.targets import There
from stateful_route.errors import ConfigError
from stateful_route.web import Header, StickyMiddleware
from stateful_route.web.forward.misroute import Misroute
from stateful_route.web.request.inbound import Inbound
from tests.web.clients import ask, websocket
from tests.web.conftest import Pair, pair_of
from tests.web.proxies.fronts import launch_pods
from tests.web.replicas import SHORTCUT

if TYPE_CHECKING:
    from tests.web.replicas import Replicas


@pytest.fixture(params=["asyncio", SHORTCUT])
def replicas(replicas: Replicas, request: pytest.FixtureRequest) -> Replicas:
    """Provide replicas that answer by the app, or by the shortcut where it can."""
    replicas.loop = request.param
    return replicas


async def misrouting(replicas: Replicas, app: str = "tests.web.apps:rooms", **more: Any) -> Pair:
    """Start two replicas, and return a uid that one of them owns."""
    launch_pods(replicas, app=app, **more)
    for number in range(50):  # a new one may have been placed elsewhere, and so is misdirected
        uid = f"room-{number}"
        answer = await ask(replicas.ports[0], f"/rooms/{uid}/count", headers=[("X-Sticky-Replayed", "1")])
        if answer.status == 200:
            owner = replicas.by_pid(answer.json()["pid"])
            return Pair(replicas, uid, owner, replicas.other(owner))
    raise AssertionError([pod.text() for pod in replicas.all])


async def refused(port: int, target: str) -> websockets.Response:
    """Open a WebSocket that is not accepted, and return what is answered instead."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websocket(port, target):
            pass
    return caught.value.response


async def test_accel(replicas: Replicas) -> None:
    """It tells nginx which named location to go to, and the address, the index and the epoch of the owner."""
    pair = await misrouting(replicas, misroute="accel")
    answer = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x" * 100_000)
    by_socket = await refused(pair.edge.port, f"{pair.room}/ws")

    assert (200, b"") == (answer.status, answer.body)
    assert "@owner" == answer.header("x-accel-redirect") == by_socket.headers["x-accel-redirect"]
    address = f"127.0.0.1:{pair.owner.port}"
    assert address == answer.header("x-pod-address") == by_socket.headers["x-pod-address"]
    assert (answer.header("x-pod-index"), answer.header("x-link-epoch")) != (None, None)
    assert 1 == len(replicas.events("served"))


async def test_one_that_was_misdirected_before_is_forwarded(replicas: Replicas) -> None:
    """A request that was repeated once is never told to go elsewhere again."""
    pair = await misrouting(replicas, misroute="accel")
    for header in ("X-Sticky-Replayed", "Fly-Replay-Src"):
        answer = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x", [(header, "1")])
        assert (200, pair.owner.pid) == (answer.status, answer.json()["pid"])
        async with websocket(pair.edge.port, f"{pair.room}/ws", additional_headers={header: "1"}) as socket:
            await socket.send("hello")
            assert f"{pair.owner.pid} hello" == await socket.recv()


async def test_redirect(replicas: Replicas) -> None:
    """A client is sent to the public address of the owner, with path and query as they were, once."""
    pair = await misrouting(replicas, misroute="redirect", public_address="http://{host}.test:{pod_index}/")
    answer = await ask(pair.edge.port, f"{pair.room}/a%2Fb%20/count?a=%2F&b")
    bare = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x")
    location = answer.header("location") or ""
    again = await ask(pair.edge.port, location.partition("test:")[2].partition("/")[2].join(["/", ""]))

    assert (307, 307) == (answer.status, bare.status)
    assert location.startswith("http://127.0.0.1.test:")
    assert location.endswith(f"{pair.room}/a%2Fb%20/count?a=%2F&b&sticky-replayed=1")
    assert (bare.header("location") or "").endswith(f"{pair.room}/count?sticky-replayed=1")
    assert (200, pair.owner.pid) == (again.status, again.json()["pid"])


async def test_refuse(replicas: Replicas) -> None:
    """A misdirected request is refused with 421, a WebSocket as well, and the owner serves."""
    pair = await misrouting(replicas, misroute="refuse")
    answer = await ask(pair.edge.port, f"{pair.room}/count")
    by_socket = await refused(pair.edge.port, f"{pair.room}/ws")
    served = await ask(pair.owner.port, f"{pair.room}/count")

    assert (421, 421, 200) == (answer.status, by_socket.status_code, served.status)


async def test_fly(replicas: Replicas) -> None:
    """Fly is told the machine of the owner; a body that it would not repeat is forwarded."""
    pods = launch_pods(replicas, 1, misroute="fly-replay", environment={"FLY_MACHINE_ID": "m1"})
    pods += launch_pods(replicas, 1, misroute="fly-replay", environment={"FLY_MACHINE_ID": "m2"})
    pair = await pair_by(replicas)
    answer = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x" * 1_000_000)
    large = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"x" * 1_000_001)

    assert f"instance=m{1 + pods.index(pair.owner)}" == answer.header("fly-replay")
    assert (200, pair.owner.pid) == (large.status, large.json()["pid"])


async def pair_by(replicas: Replicas) -> Pair:
    """Return a uid, its owner, and the other one, by a request that is forwarded in any case."""
    answer = await ask(replicas.ports[0], "/rooms/room/count", headers=[("X-Sticky-Replayed", "1")])
    owner = replicas.by_pid(answer.json()["pid"])
    return Pair(replicas, "room", owner, replicas.other(owner))


async def test_a_function(replicas: Replicas) -> None:
    """A function says what is answered, or that the request is to be forwarded."""
    pair = await misrouting(replicas, "tests.web.apps:teapot")
    answer = await ask(pair.edge.port, f"{pair.room}/count")
    forwarded = await ask(pair.edge.port, f"{pair.room}/scope")

    assert 418 == answer.status
    assert (answer.header("x-owner") or "").startswith("peer://127.0.0.1:")
    assert (200, pair.owner.pid) == (forwarded.status, forwarded.json()["pid"])


async def test_without_an_address(replicas: Replicas) -> None:
    """A request whose owner publishes no address for proxies is forwarded."""
    replicas.start(2, misroute="accel")
    pair = await pair_of(replicas)
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert (200, pair.owner.pid) == (answer.status, answer.json()["pid"])


async def test_one_that_is_given_its_id(replicas: Replicas) -> None:
    """A request whose client is given an id just now is forwarded: repeated, it would be given another one."""
    launch_pods(replicas, app="tests.web.apps:cookies", misroute="accel")
    pids: set[int] = set()
    for _ in range(200):  # until the first one knows the second
        answer = await ask(replicas.ports[0], "/count")
        assert (200, 1) == (answer.status, len(answer.all("set-cookie")))
        pids.add(answer.json()["pid"])

    assert 2 == len(pids)


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("misroute", {"misroute": "elsewhere"}),
        ("misroute", {"misroute": None}),
        ("public_address", {"misroute": "redirect"}),
        ("public_address", {"misroute": "redirect", "public_address": "{port}"}),
        ("public_address", {"misroute": "redirect", "public_address": "http://{"}),
        ("public_address", {"public_address": "http://{host}"}),
        ("http_address", {"http_address": "host"}),
        ("http_address", {"http_address": "host:70000"}),
        ("http_address", {"http_address": "http://host:80"}),
        ("http_address", {"http_address": ":"}),
        ("http_address", {"http_address": 8000}),
    ],
)
def test_wrong_settings(setting: str, settings: dict[str, Any]) -> None:
    """A setting that is wrong, missing or without effect is named."""
    middleware = StickyMiddleware(lambda *_: None, service="room", uid=Header("x-id"), redis="redis://", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        middleware.check()

    assert setting == caught.value.setting


@pytest.mark.parametrize("target", ["@example.com/", ".example.com", "http://example.com/", ":81/", "*"])
async def test_a_target_that_is_no_path(target: str) -> None:
    """A redirect leads to the owner and to nobody else: what would be a part of the host behind it is forwarded."""
    misroute = Misroute("redirect", "https://room-{pod_index}.test")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": target, "raw_path": target.encode(), "headers": []}

    assert not await misroute.answered(There(1, 1, 1, None), Inbound(scope, receive, send))
    assert [] == sent
