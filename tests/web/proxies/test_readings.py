"""What a proxy carries is what ``decide`` is asked about: an app is told the epoch of the uid that it sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
import re
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
import uvicorn
from starlette.requests import Request

from stateful_route import BaseConfig, ServerInfo, StatefulRoute
from stateful_route.cli.shortcut import shortcut
from stateful_route.web import StickyDecide
from stateful_route.web.proxies import Plan, printed
from stateful_route.web.uids.normal import normalised
from stateful_route.web.uids.spelled import sources_from
from tests.web.proxies.fronts import ON_THE_PAGE, on_the_page, start_proxy
from tests.web.replicas import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.web.replicas import Replicas

UID = "path:/rooms/{uid},query:id,cookie:sid,header:x-id"
_PATH = re.compile("/rooms/([^/]+)(?=/|$)")

FAIR = [
    ("/rooms/a",),
    ("/rooms/b?id=a",),
    ("/x?id=a",),
    ("/x?id=b&t=1",),
    ("/x?t=1%20+;&id=b",),
    ("/x", "Cookie: sid=a"),
    ("/x", "Cookie: other=1; sid=b; _x=y"),
    ("/x", "X-Id: a"),
    ("/x?t=%20", "X-Id: b"),
]
# What is odd, and has nothing to do with the uid: an app may want all of that.
HARMLESS = [
    ("/rooms/a//x",),
    ("/rooms/a/x/../y",),
    ("/rooms/a/files/x%2Fy;z",),
    ("/rooms/a?x=1&x=2",),
    ("/rooms/a", "Cookie: sid=b; sid=c"),
    ("//x/y?id=a",),
    ("/x/.%2e/y?id=b&x=1&x=2",),
    ("/x?id=a&id=a",),
    ("/x?next=https://example.org//x",),
    ("/x", "Cookie: other=1; other=2; sid=a"),
    ("/x", "Cookie: SID=a; sid=b"),
    ("/x?ID=a&id=b",),
    ("/x", "X-Id: a", "Accept: x, y", "Accept: z"),
]
# What is about the uid, and may be read as another one.
ODD = [
    ("/rooms/a#z",),
    ("/rooms/a?x#/rooms/b",),
    ("/x?id=a#z",),
    ("/rooms/a%2Fb",),
    ("/rooms/a%2fb/c",),
    ("/rooms/a%5Cb",),
    ("/rooms/a\\b",),
    ("/rooms/a;b",),
    ("/rooms/a;x/y",),
    ("//rooms/a",),
    ("/rooms//a",),
    ("//rooms/a?id=b",),
    ("/./rooms/a?id=b",),
    ("/x/../rooms/a?id=b",),
    ("/x/%2e%2e/rooms/a?id=b",),
    ("/x/..%2frooms/a?id=b",),
    ("/rooms/./a",),
    ("/rooms/a/../b",),
    ("/rooms/a/..%2Fb",),
    ("/rooms/a/..;/b",),
    ("/rooms;x/a?id=b",),
    ("/rooms/a\x00b",),
    ("/rooms/a\x01b",),
    ("/rooms/a\x7fb",),
    ("/rooms/\xe9",),
    ("/rooms/\xc3\xa9",),
    ("/rooms/a%00",),
    ("/rooms/a%",),
    ("/rooms/a%zz",),
    ("/rooms/%61",),
    ("/rooms/a%2562",),
    ("/rooms/a?/rooms/b",),
    ("http://other/rooms/a",),
    ("http://other//rooms/a?id=b",),
    ("HTTP://a#/rooms/b",),
    ("/x?id=a&id=b",),
    ("/x?id=b&id=a",),
    ("/x?id=b&%69d=a",),
    ("/x?%69d=a&id=b",),
    ("/x?id=a;id=b",),
    ("/x?t=1;id=b",),
    ("/x?id=a%26id=b",),
    ("/x?id=\xe9",),
    ("/x?id",),
    ("/x?id=&id=a",),
    ("/x?id=a+b",),
    ("/x?id=a%20b",),
    ("/x", "Cookie: sid=a; sid=b"),
    ("/x", "Cookie: sid=b;sid=a"),
    ("/x", "Cookie: sid=b; sid =a"),
    ("/x", "Cookie: sid=a", "Cookie: sid=b"),
    ("/x", 'Cookie: sid="a"; x=1'),
    ("/x", 'Cookie: sid="a;sid=b"'),
    ("/x", "Cookie: sid=a, sid=b"),
    ("/x", "Cookie: sid=; sid=a"),
    ("/x", "X-Id: a", "X-Id: b"),
    ("/x", "X-Id: b", "X-Id: a"),
    ("/x", "X-Id: a, b"),
    ("/x", "X-Id: a,b"),
    ("/x", "X-Id: \xe9"),
    ("/x", "X-Id: a", "X_Id: b"),
    ("/x", "X-Id:", "X-Id: a"),
    ("/x?id=a", "X-Link-Epoch: 99"),
    ("/x", "X-Id: a", "X-Link-Epoch: 99", "Connection: X-Link-Epoch"),
    ("/x", "X-Id: a", "Connection: X-Id"),
    ("/x", "Cookie: sid=a", "Connection: close, Cookie"),
    ("/x", "X-Original-URI: /rooms/b", "X-Forwarded-Uri: /rooms/b"),
    ("/rooms/a", "X-Original-URI: /rooms/b", "X-Forwarded-Uri: /rooms/b"),
    ("*",),
]


def as_starlette(target: str, headers: list[tuple[str, str]]) -> str | None:
    """Return the uid that an app in Starlette sees, as uvicorn hands the request over."""
    target = target.partition("#")[0]
    if "://" in target.partition("?")[0]:
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "path": unquote(path), "query_string": query.encode("latin-1"), "headers": encoded}
    return _first(unquote(path), (Request(scope).query_params.get("id"), Request(scope).cookies.get("sid")), headers, 0)


def as_others(target: str, headers: list[tuple[str, str]]) -> str | None:
    """Return the uid that an app sees which cleans paths and takes the first of a name, as many in other languages."""
    target = target.partition("#")[0]
    if "://" in target.partition("?")[0]:
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    parts = [part.partition("=") for part in query.replace(";", "&").split("&")]
    values = [unquote(value.replace("+", " ")) for name, _, value in parts if unquote(name) == "id"]
    cookies = [
        SimpleCookie(piece.strip())["sid"].value if '"' in piece else piece.partition("=")[2].strip()
        for name, value in headers
        if name.lower() == "cookie"
        for piece in value.split(";")
        if piece.partition("=")[0].strip() == "sid"
    ]
    cleaned = "/" + posixpath.normpath(unquote(path)).lstrip("/")
    return _first(cleaned, (next(iter(values), None), next(iter(cookies), None)), headers, -1)


def _first(path: str, others: tuple[str | None, ...], headers: list[tuple[str, str]], which: int) -> str | None:
    match = _PATH.match(path)
    named = [value.strip() for name, value in headers if name.lower() == "x-id"]
    found = [match and match[1], *others, *([named[which]] if named else [])]
    return next((uid for one in found if one and (uid := normalised(one))), None)


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Serve what a pod would: the head that arrived, as JSON; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = json.dumps(head).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def deciding(app: StickyDecide) -> AsyncIterator[int]:
    """Run ``decide`` with the protocol of its command; yield the port."""
    port = free_port()
    settings: dict[str, Any] = {"http": shortcut(app), "ws": "none", "lifespan": "on", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, proxy_headers=False, **settings))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment] # they are pytest's
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)  # uvicorn has no event for that
    try:
        yield port
    finally:
        server.should_exit = True
        await running


async def carried(port: int, target: str, *lines: str) -> tuple[int, str, list[tuple[str, str]]]:
    """Send a request; return the status of its answer, and the target and the headers that reached the pod."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (
        f"GET {target} HTTP/1.1",
        "Host: a",
        *lines,
        *(() if "Connection" in str(lines) else ("Connection: close",)),
    )
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while (b"\r\n\r\n" not in answer or not _is_whole(answer)) and (part := await reader.read(65536)):
                answer += part
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12] or 0)
    if status != 200:
        return status, "", []
    first, *rest = json.loads(body).strip().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest)]
    return status, first.removeprefix("GET ").rpartition(" ")[0], headers


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])


async def test_an_app_is_told_the_epoch_of_the_uid_that_it_sees(way: tuple[str, str], replicas: Replicas) -> None:
    """Whatever a request looks like, the epoch that arrives with it is that of the uid in what arrives, for any app."""
    proxy, mode = way
    if mode == "replay":
        pytest.skip("there is no epoch")
    config = BaseConfig(namespace=replicas.namespace, refresh=0.2)
    info = ServerInfo(namespace=replicas.namespace, service_name="room", pod_name="room-0", pod_index=0)
    sources = sources_from(UID)
    wrong, refused = [], set()
    async with (
        echo() as pod,
        StatefulRoute.from_url(replicas.url, config) as route,
        route.server(info),
        route.client() as client,
        deciding(
            StickyDecide(
                service="room",
                uid=sources,
                asked_by=proxy,  # type: ignore[arg-type] # one of them
                address=f"127.0.0.1:{pod}",
                redis=replicas.url,
                config=config,
            )
        ) as decide,
    ):
        port, keep = free_port(), 30 if "kept" in mode else 0
        plan = Plan(
            service="room",
            uid=UID,
            sources=sources,
            mode="decide",
            listen=f"127.0.0.1:{port}",
            decide=f"127.0.0.1:{decide}",
            pods=[],
            hold=5,
            keep=keep,
        )
        if proxy in ON_THE_PAGE:
            text = on_the_page(proxy, port=port, decide=decide, pods=[], patience=5)
        else:
            text = printed(proxy, plan)
        lua = printed("haproxy-lua", plan) if proxy == "haproxy" else ""
        await asyncio.to_thread(start_proxy, replicas, proxy, text, port, lua)
        rooms = client.service("room")
        for request in [*ODD, *FAIR, *HARMLESS, *ODD] * (2 if keep else 1):
            status, target, headers = await carried(port, *request)
            if status != 200:
                refused.add(request)
                continue
            told = [value for name, value in headers if name.lower() == "x-link-epoch"]
            seen = {as_starlette(target, headers), as_others(target, headers)}
            links = [await rooms.find(uid) if uid else None for uid in seen]
            epochs = {str(link.epoch if link else 0) for link in links}
            if {*told} != epochs:
                wrong.append((request, target, seen, told, epochs))

    assert [] == wrong
    assert set() == refused & {*FAIR, *HARMLESS}
    assert {("/rooms/a%2Fb",), ("/x?id=a&id=b",), ("/x", "Cookie: sid=a; sid=b")} <= refused
