"""The decision alone: what a proxy asks, and what it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig
from stateful_route.errors import ConfigError
from stateful_route.web import Path, SignedCookie, StickyDecide
from tests.web.clients import connected
from tests.web.proxies.fronts import decider, launch_pods
from tests.web.replicas import ENDED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.web.replicas import Replica, Replicas

SECRETS = ["a secret of the tests"]


async def question(
    app: StickyDecide,
    uri: str | None,
    *more: tuple[str, str],
    path: str = "/",
    method: str = "GET",
    names: tuple[str, str] = ("x-original-uri", "x-original-method"),
) -> tuple[int, dict[str, str], bytes]:
    """Ask an app that runs in this process; return status, headers and body."""
    said = [] if uri is None else [(names[0], uri), (names[1], method)]
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in (*said, *more)]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"]


@contextlib.asynccontextmanager
async def deciding(replicas: Replicas, **settings: Any) -> AsyncIterator[StickyDecide]:
    config = BaseConfig(namespace=replicas.namespace, heartbeat=0.2, lease=1.0, refresh=0.2)
    given: dict[str, Any] = {"service": "room", "uid": Path("/rooms/{uid}"), "redis": replicas.url, "config": config}
    given |= settings
    app = StickyDecide(**given)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def address_of(pod: Replica) -> str:
    return f"127.0.0.1:{pod.port}"


@pytest.mark.parametrize(
    ("asked_by", "names", "status"),
    [
        ("nginx", ("x-original-uri", "x-original-method"), 204),
        ("haproxy", ("x-original-uri", "x-original-method"), 204),
        ("caddy", ("x-forwarded-uri", "x-forwarded-method"), 200),
        ("traefik", ("x-forwarded-uri", "x-forwarded-method"), 200),
    ],
)
async def test_who_asks(replicas: Replicas, asked_by: str, names: tuple[str, str], status: int) -> None:
    """Each proxy says in its own headers what it was asked; those of the others are not read."""
    launch_pods(replicas, 1)
    async with deciding(replicas, asked_by=asked_by) as app:
        first = await question(app, "/rooms/a/x?y=1", names=names)
        again = await question(app, "/rooms/a", names=names)
        others = {"x-original-uri", "x-forwarded-uri"} - {names[0]}
        nothing = await question(app, None, *((other, "/rooms/a") for other in others))

    assert (status, address_of(replicas.all[0])) == (first[0], first[1]["x-pod-address"])
    assert first == again
    assert first[1]["x-pod-index"].isdecimal()
    assert int(first[1]["x-link-epoch"]) > 0
    assert 400 == nothing[0]
    assert names[0] in nothing[2].decode()


async def test_envoy_repeats_the_request(replicas: Replicas) -> None:
    """Envoy asks with method and path of the request itself, and what other proxies would say is not read."""
    launch_pods(replicas, 2)
    async with deciding(replicas, asked_by="envoy") as app:
        answers = [await question(app, "/rooms/other", path=f"/rooms/{number}") for number in range(30)]
        same = [await question(app, None, path="/rooms/1") for _ in range(3)]

    assert {200} == {status for status, _, _ in answers}
    assert [answers[1]] * 3 == same
    assert 2 == len({headers["x-pod-address"] for _, headers, _ in answers})


async def test_a_uri_with_a_host(replicas: Replicas) -> None:
    """A URI with a host in it is that of its path; of garbage without a uid it is said as well where it goes."""
    launch_pods(replicas, 2)
    async with deciding(replicas) as app:
        plain = await question(app, "/rooms/a%20b")
        whole = await question(app, "http://example.com/rooms/a%20b?x")
        garbage = [(await question(app, uri))[0] for uri in ("*", "://", "/x/\xff", "/%zz", "?", "/" * 5000)]

    assert plain == whole
    assert {204} == set(garbage)


async def test_a_template(replicas: Replicas) -> None:
    """An address may be made of the host of the pod, its index and its name, and no pod has to publish one."""
    replicas.start(1, environment={"HOSTNAME": "room-x"})
    async with deciding(replicas, address="{pod_name}.{host}.test:80{pod_index}0") as app:
        status, headers, _ = await question(app, "/rooms/a")

    assert (204, f"room-x.127.0.0.1.test:80{headers['x-pod-index']}0") == (status, headers["x-pod-address"])


async def test_no_address(replicas: Replicas, caplog: pytest.LogCaptureFixture) -> None:
    """If the pod publishes no address for proxies, it is a 503, and the log says what to do, not for each request."""
    replicas.start(1)
    async with deciding(replicas) as app:
        answers = [await question(app, "/rooms/a") for _ in range(3)]

    assert [503] * 3 == [status for status, _, _ in answers]
    assert "1" == answers[0][1]["retry-after"]
    assert 1 == caplog.text.count("http_address")


async def test_nobody_is_there(replicas: Replicas) -> None:
    """Without a pod a question is held for as long as it may, then it is a 503 that says when to come again."""
    async with deciding(replicas, patience=0.3) as app:
        loop = asyncio.get_running_loop()
        began = loop.time()
        status, headers, _ = await question(app, "/rooms/a")
        took = loop.time() - began

    assert (503, "1") == (status, headers["retry-after"])
    assert 0.2 < took < 3.0


async def test_a_pod_that_comes_meanwhile(replicas: Replicas) -> None:
    """A question that is held is answered once there is a pod."""
    async with deciding(replicas, patience=20.0) as app:
        asking = asyncio.ensure_future(question(app, "/rooms/a"))
        await asyncio.sleep(0.2)  # it waits
        assert not asking.done()
        (pod,) = await asyncio.to_thread(launch_pods, replicas, 1)
        status, headers, _ = await asking

    assert (204, address_of(pod)) == (status, headers["x-pod-address"])


async def test_without_a_uid_it_is_spread(replicas: Replicas) -> None:
    """Requests without a uid go to pods by turns of their load; nobody is to keep such an answer."""
    pods = launch_pods(replicas, 2)
    async with deciding(replicas) as app:
        answers = [await question(app, "/elsewhere") for _ in range(20)]
        placed = await question(app, "/rooms/a")

    assert {address_of(pod) for pod in pods} == {headers["x-pod-address"] for _, headers, _ in answers}
    assert {("0", "no-store")} == {(headers["x-link-epoch"], headers["cache-control"]) for _, headers, _ in answers}
    assert "cache-control" not in placed[1]


async def test_a_cookie_that_is_issued_again(replicas: Replicas) -> None:
    """A cookie that an older secret has signed is issued again, for the same uid, and so the pod gets it."""
    launch_pods(replicas, 1)
    old = SignedCookie("sr", secrets=SECRETS)
    new = SignedCookie("sr", secrets=["a newer secret of the tests", *SECRETS])
    async with deciding(replicas, uid=old) as app:
        _, first, _ = await question(app, "/")
    brought = first["set-cookie"].partition(";")[0]
    async with deciding(replicas, uid=new) as app:
        _, again, _ = await question(app, "/", ("Cookie", f"a=1; {brought}"))
        fresh = again["set-cookie"].partition(";")[0]
        _, third, _ = await question(app, "/", ("Cookie", fresh))

    assert first["x-pod-cookie"] == brought
    assert fresh != brought
    assert fresh.partition(".")[0] == brought.partition(".")[0]
    assert again["x-pod-cookie"] == f"{fresh}; a=1; {brought}"
    assert "set-cookie" not in third


async def test_a_pod_that_a_proxy_did_not_reach(replicas: Replicas) -> None:
    """Asked again about a pod that is there it says the same; of one that has died it waits for another."""
    pods = launch_pods(replicas, 2)
    async with deciding(replicas) as app:
        _, first, _ = await question(app, "/rooms/a")
        failed = "X-Pod-Failed", first["x-pod-address"]
        _, again, _ = await question(app, "/rooms/a", failed)
        owner = next(pod for pod in pods if address_of(pod) == first["x-pod-address"])
        owner.kill()
        _, other, _ = await question(app, "/rooms/a", failed)

    assert first == again
    assert address_of(replicas.other(owner)) == other["x-pod-address"]


async def test_a_websocket_is_no_question(replicas: Replicas) -> None:
    """A question that is a WebSocket, as a proxy sends it that does not drop the headers, is refused."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with deciding(replicas) as app:
        await app({"type": "websocket", "path": "/", "headers": [], "query_string": b""}, receive, send)

    assert "websocket.close" == sent[0]["type"]


# The command ----------------------------------------------------------------------------------------------------------


async def asked_raw(port: int, *requests: bytes) -> list[bytes]:
    """Send what is given in one piece, and return as many answers."""
    answers = []
    async with connected(port) as http:
        http.writer.write(b"".join(requests))
        for _ in requests:
            head = await http.reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b": 0")
            answers.append(head + await http.reader.readexactly(int(length.partition(b":")[2])))
    return answers


def raw(uri: bytes, *more: bytes, name: bytes = b"X-Original-URI") -> bytes:
    return b"\r\n".join([b"GET /_where HTTP/1.1", b"Host: x", name + b": " + uri, *more, b"", b""])


async def test_the_short_way_says_the_same(replicas: Replicas) -> None:
    """What is answered without a task is what the app answers, also in the middle of others, in their order."""
    launch_pods(replicas, 2)
    decide = decider(replicas, "nginx", uid="path:/rooms/{uid},header:x-id")
    short = raw(b"/rooms/a")
    parsed = raw(b"/rooms/a", name=b"x-original-uri")
    by_header = raw(b"/", b"X-Id: a")
    with_body = raw(b"/rooms/a", b"Content-Length: 5")[:-4] + b"\r\n\r\nhello"
    first = (await asked_raw(decide.port, short))[0]
    answers: list[bytes] = []
    for each in (short, parsed, by_header):
        answers += await asked_raw(decide.port, each)
    answers += await asked_raw(decide.port, short, parsed, by_header, short, parsed)

    assert [first] * 8 == answers
    assert first.startswith(b"HTTP/1.1 204")
    assert [first, first] == await asked_raw(decide.port, with_body, parsed)
    twice = await asked_raw(decide.port, raw(b"/rooms/a", b"X-Original-URI: /rooms/b"))
    assert twice[0].startswith(b"HTTP/1.1 204")


async def test_it_ends_at_sigterm(replicas: Replicas) -> None:
    """The command ends at SIGTERM, while a proxy keeps connections to it."""
    launch_pods(replicas, 1)
    decide = decider(replicas, "nginx")
    async with connected(decide.port) as http:
        http.writer.write(raw(b"/rooms/a"))
        await http.reader.readuntil(b"\r\n\r\n")
        decide.send(signal.SIGTERM)

        assert await decide.ended() in ENDED


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("asked_by", {"asked_by": "squid"}),
        ("address", {"address": "{port}"}),
        ("address", {"address": "{host!r}"}),
        ("uid", {"uid": []}),
        ("redis", {"redis": None}),
    ],
)
def test_wrong_settings(setting: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is wrong or missing is named."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("STATEFUL_ROUTE_URL", raising=False)
    given: dict[str, Any] = {"service": "room", "uid": Path("/{uid}"), "redis": "redis://"} | settings
    app = StickyDecide(**given)
    with pytest.raises(ConfigError) as caught:
        app.check()

    assert setting == caught.value.setting
