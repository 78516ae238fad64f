"""What the page asks and orders, over HTTP; who is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest

from stateful_route import BaseConfig, StatefulRoute, StoreUnavailableError
from stateful_route.dashboard.boards import MOST_BOARDS, MOST_VIEWERS
from stateful_route.dashboard.files import static_files
from stateful_route.dashboard.guard import HEADERS, Guard
from stateful_route.links import LinkKey
from stateful_route.ops import Operator
from stateful_route.pods import PodLife
from stateful_route.testing import ManualClock, MemoryStore, local_server
from tests.dashboard.conftest import SERVICE, TOKEN, Served, pod_of, served
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from stateful_route import ServerDriver
    from stateful_route.embedded.server import LocalServer
    from stateful_route.ops import PastChange

    Serve = Callable[..., AbstractAsyncContextManager[Served]]
    MakePod = Callable[..., ServerDriver]


async def messages(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


class TestReading:
    """What everybody may ask."""

    async def test_page(self, serve: Serve) -> None:
        """The page has its parts, each with the headers, and asks nobody else for anything."""
        async with serve() as dashboard:
            page = await dashboard.http.get("/")
            found = [await dashboard.http.get(f"/static/{name}") for name in static_files()]
            missing = [
                (await dashboard.http.get(path)).status_code for path in ("/static/app.py", "/static/..%2fapp.py", "/x")
            ]

        assert "text/html; charset=utf-8" == page.headers["content-type"]
        assert {200} == {answer.status_code for answer in (page, *found)}
        assert [404] * 3 == missing
        for answer in (page, *found):
            assert set(HEADERS.items()) <= set(answer.headers.items())

    def test_own_parts_only(self) -> None:
        """No part has a script, a style or a handler in the page, names another host, or makes markup of text."""
        for name, (content, _) in static_files().items():
            text = content.decode()
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), name
            for word in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=",
                "onclick=",
            ):
                assert word not in text, name
        assert "<script>" not in static_files()["index.html"][0].decode()

    async def test_services(self, serve: Serve, make_pod: MakePod) -> None:
        """The services are named, and what may be done."""
        async with serve(token=TOKEN) as dashboard, make_pod(0), make_pod(0, "hall"):
            await eventually(dashboard.boards.operator.services)
            answer = (await dashboard.http.get("/api/services")).json()

        assert (["hall", SERVICE], True, None) == (answer["services"], answer["changes"], answer["error"])

    async def test_first_service(self, serve: Serve, make_pod: MakePod) -> None:
        """A page that names no service shows one that has pods alive before one that has none any more."""
        async with serve() as dashboard, make_pod(0):
            async with make_pod(0, "hall"):
                await eventually(dashboard.boards.operator.services)
                before = (await dashboard.http.get("/api/services?first")).json()
            after = (await dashboard.http.get("/api/services?first")).json()
            unasked = (await dashboard.http.get("/api/services")).json()

        assert ["hall", SERVICE, None] == [before["first"], after["first"], unasked["first"]]
        assert ["hall", SERVICE] == after["services"]

    async def test_stream(self, serve: Serve, make_pod: MakePod, namespace: str) -> None:
        """The first message has all pods; the others say what changes, and what has happened."""
        async with serve() as dashboard, make_pod(0) as pod:
            async with dashboard.http.stream("GET", "/api/stream", params={"service": SERVICE}) as response:
                stream = messages(response)
                first = await anext(stream)
                await pod.claim("alice")
                async with make_pod(1):
                    happened: list[tuple[str, int | None]] = []
                    links = None
                    async for message in stream:
                        happened += [(event["kind"], event.get("podIndex")) for event in message["events"]]
                        links = next((row["links"] for row in message["changed"] if "links" in row), links)
                        if ("began", 1) in happened and links:
                            break
            await eventually(lambda: not dashboard.boards._boards[SERVICE].viewers)

        assert "text/event-stream; charset=utf-8" == response.headers["content-type"]
        assert (namespace, SERVICE, [0]) == (
            first["namespace"],
            first["serviceName"],
            [row["podIndex"] for row in first["pods"]],
        )

    async def test_ends(self, serve: Serve) -> None:
        """When the dashboard ends, so does what it sends."""
        async with serve() as dashboard:
            http = httpx.AsyncClient(base_url=dashboard.url, trust_env=False)
            request = http.build_request("GET", "/api/stream", params={"service": SERVICE})
            response = await http.send(request, stream=True)
            stream = messages(response)
            await anext(stream)
        async with asyncio.timeout(5):
            async for _ in stream:
                pass
        await http.aclose()

    async def test_where(self, serve: Serve, make_pod: MakePod) -> None:
        """A uid is found in all services, with its owner, kind and epoch; no history where none is kept."""
        async with serve() as dashboard, make_pod(0) as pod:
            owned = await pod.claim("álice & co")
            await eventually(dashboard.boards.operator.services)
            answer = (await dashboard.http.get("/api/where", params={"uid": "álice & co"})).json()
            nobody = (await dashboard.http.get("/api/where", params={"uid": "bob"})).json()

        (place,) = answer["places"]
        assert ("persistent", owned.epoch, 0, True) == (
            place["kind"],
            place["epoch"],
            place["podIndex"],
            place["alive"],
        )
        assert ([], {}) == (nobody["places"], nobody["histories"])

    async def test_history(self, shared_server: LocalServer, config: BaseConfig) -> None:
        """Where there is a history it is told, of a uid without a link too."""
        config = attrs.evolve(config, history=5)
        async with (
            StatefulRoute.from_url(shared_server.url, config) as route,
            route.server(pod_of(config.namespace, 0)) as pod,
            served(route.operator(), config.namespace) as dashboard,
        ):
            await (await pod.claim("alice")).release()
            asked = {"uid": "alice", "service": SERVICE}
            answer = (await dashboard.http.get("/api/where", params=asked)).json()

        assert [] == answer["places"]
        assert [(None, 0, "claimed"), (0, None, "released")] == [
            (change["fromPod"], change["toPod"], change["why"]) for change in answer["histories"][SERVICE]
        ]

    async def test_history_is_not_allowed(self, namespace: str) -> None:
        """Where the history may not be read a uid is found all the same."""
        store = MemoryStore(ManualClock())
        await store.claim(LinkKey(namespace, "alice", SERVICE), PodLife(0, 1))
        async with served(_Forgets(store, BaseConfig(namespace=namespace)), namespace) as dashboard:
            answer = (await dashboard.http.get("/api/where", params={"uid": "alice"})).json()

        assert (1, {}) == (len(answer["places"]), answer["histories"])

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("/api/where", "uid"),
            ("/api/where?uid=" + "x" * 513, "uid"),
            ("/api/stream", "service"),
            ("/api/stream?service=" + "x" * 513, "service"),
        ],
    )
    async def test_bad_input(self, serve: Serve, path: str, says: str) -> None:
        """What is no id is refused by its name."""
        async with serve() as dashboard:
            answer = await dashboard.http.get(path)

            assert (400, 0) == (answer.status_code, len(dashboard.boards))
        assert says in answer.json()["error"]

    async def test_redis_is_away(self, namespace: str) -> None:
        """While Redis is away each question is answered with what is wrong; the service that was named is there."""
        with local_server() as server:
            url = server.url
        config = BaseConfig(namespace=namespace, call_deadline=0.3)
        async with (
            StatefulRoute.from_url(url, config) as route,
            served(route.operator(), namespace, always=SERVICE, token=TOKEN) as dashboard,
        ):
            services = (await dashboard.http.get("/api/services")).json()
            where = await dashboard.http.get("/api/where?uid=alice")
            drain = await dashboard.order("drain", service=SERVICE, podIndex=0)
            async with dashboard.http.stream("GET", "/api/stream", params={"service": SERVICE}) as response:
                message = await anext(messages(response))

        assert [SERVICE] == services["services"]
        assert services["error"]
        assert (503, 503) == (where.status_code, drain.status_code)
        assert (False, True) == (message["seen"], bool(message["error"]))


class _Forgets(Operator):
    """An operator whose user may not read histories."""

    async def history(self, service_name: str, uid: str, *, namespace: str = "") -> list[PastChange]:
        raise StoreUnavailableError("no permission", operation="history", maybe_applied=False)


class TestOrders:
    """What only who has the token may do."""

    async def test_drain(self, serve: Serve, make_pod: MakePod) -> None:
        """A pod is drained, and takes new uids again."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            drained = await dashboard.order("drain", service=SERVICE, podIndex=0)
            state = await pod.get_routing_state()
            undrained = await dashboard.order("undrain", service=SERVICE, podIndex=0)

            assert "READY" == await pod.get_routing_state()
        assert (200, 0, "DENY_NEW_CALL") == (drained.status_code, drained.json()["left"], state)
        assert 200 == undrained.status_code

    async def test_drain_of_the_last(self, serve: Serve, make_pod: MakePod) -> None:
        """The last pod that takes uids is drained by force only."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod:
            await pod.claim("alice")
            refused = await dashboard.order("drain", service=SERVICE, podIndex=0)
            state = await pod.get_routing_state()
            forced = await dashboard.order("drain", service=SERVICE, podIndex=0, force=True)

        assert (409, "READY") == (refused.status_code, state)
        assert "Start or undrain another one first" in refused.json()["error"]
        assert (200, 0, 1, 0) == (forced.status_code, *(forced.json()[name] for name in ("left", "released", "lost")))

    async def test_move(self, serve: Serve, make_pod: MakePod) -> None:
        """A uid is handed off to the pod that is named."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            answer = await dashboard.order("move", service=SERVICE, uid="alice", podIndex=1)

        assert (200, 1) == (answer.status_code, answer.json()["podIndex"])

    async def test_not_possible(self, serve: Serve, make_pod: MakePod) -> None:
        """What the pods cannot do is said."""
        async with serve(token=TOKEN) as dashboard, make_pod(0):
            nobody = await dashboard.order("move", service=SERVICE, uid="nobody", podIndex=0)
            dead = await dashboard.order("drain", service=SERVICE, podIndex=7)

        assert (409, 409) == (nobody.status_code, dead.status_code)
        assert "has no link" in nobody.json()["error"]
        assert "is not alive" in dead.json()["error"]

    async def test_read_only(self, serve: Serve, make_pod: MakePod) -> None:
        """Without --allow-changes nobody changes anything."""
        async with serve() as dashboard, make_pod(0) as pod:
            answers = [
                (await dashboard.order("drain", token, service=SERVICE, podIndex=0)) for token in (TOKEN, "", None)
            ]

            assert "READY" == await pod.get_routing_state()
        assert [403] * 3 == [answer.status_code for answer in answers]

    async def test_token(self, serve: Serve, make_pod: MakePod) -> None:
        """Without the token, or with another one, nothing is changed."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod:
            answers = [
                await dashboard.order("drain", token, service=SERVICE, podIndex=0)
                for token in (None, "", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper())
            ]
            headers = {b"x-dashboard-token": "ü".encode("latin-1"), b"content-type": b"application/json"}
            answers.append(await dashboard.http.post("/api/drain", content=b"{}", headers=headers))

            assert "READY" == await pod.get_routing_state()
        assert {401} == {answer.status_code for answer in answers}

    async def test_other_sites(self, serve: Serve, make_pod: MakePod) -> None:
        """A form of another site changes nothing, even if it knew the token; and a browser is never told yes."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod:
            form = await dashboard.http.post("/api/drain", data={"service": SERVICE, "podIndex": "0"})
            text = await dashboard.http.post("/api/drain", content="{}", headers={"x-dashboard-token": TOKEN})
            site = await dashboard.http.post(
                "/api/drain",
                json={"service": SERVICE, "podIndex": 0},
                headers={"x-dashboard-token": TOKEN, "sec-fetch-site": "cross-site"},
            )
            asked = await dashboard.http.options(
                "/api/drain",
                headers={"origin": "https://other.example", "access-control-request-method": "POST"},
            )
            by_get = await dashboard.http.get("/api/drain", headers={"x-dashboard-token": TOKEN})

            assert "READY" == await pod.get_routing_state()
        assert [401, 415, 403, 405, 405] == [each.status_code for each in (form, text, site, asked, by_get)]
        assert not any(name.startswith("access-control") for name in asked.headers)

    @pytest.mark.parametrize(
        ("name", "body", "status"),
        [
            ("drain", b"", 400),
            ("drain", b"[]", 400),
            ("drain", b"[" * 10_000, 400),
            ("drain", b"{}", 400),
            ("drain", b'{"service": "room", "podIndex": "0"}', 400),
            ("drain", b'{"service": "room", "podIndex": true}', 400),
            ("drain", b'{"service": ["room"], "podIndex": 0}', 400),
            ("undrain", b'{"service": "room", "podIndex": -1}', 400),
            ("move", b'{"service": "room", "podIndex": 0}', 400),
            ("move", b'{"service": "room", "uid": "\\ud800", "podIndex": 0}', 400),
            ("move", b" " * 20_000, 413),
            ("flush", b"{}", 404),
        ],
    )
    async def test_bad_input(self, namespace: str, name: str, body: bytes, status: int) -> None:
        """What is no order is refused before anything is asked of the store."""
        store = MemoryStore(ManualClock())
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace, token=TOKEN) as dashboard:
            headers = {"x-dashboard-token": TOKEN, "content-type": "application/json"}
            answer = await dashboard.http.post(f"/api/{name}", content=body, headers=headers)

        assert status == answer.status_code
        assert 0 == store.operations.total()


class TestGuard:
    """Whose requests are answered at all."""

    @pytest.mark.parametrize(
        ("loopback", "host", "allowed"),
        [
            (True, "localhost", True),
            (True, "LOCALHOST.:7960", True),
            (True, "127.0.0.1:7960", True),
            (True, "127.8.9.1", True),
            (True, "[::1]:7960", True),
            (True, "dash.example:443", True),
            (True, "192.0.2.1", False),
            (True, "evil.example", False),
            (True, "localhost.evil.example", False),
            (True, "127.0.0.1.evil.example", False),
            (True, "evil.example:7960", False),
            (True, "localhost:80:80", False),
            (True, "localhost:x", False),
            (True, "[::1", False),
            (True, "[::1]x", False),
            (True, "", False),
            (True, "2130706433", False),
            (False, "192.0.2.1:80", True),
            (False, "[2001:db8::1]", True),
            (False, "localhost", True),
            (False, "evil.example", False),
        ],
    )
    def test_hosts(self, loopback: bool, host: str, allowed: bool) -> None:
        """A host is an address, this machine, or a name that was allowed: no name of somebody else."""

        async def app(*_: object) -> None:
            raise AssertionError

        assert allowed == Guard(app, loopback=loopback, names=["dash.example"]).allows(host)

    async def test_rebinding(self, serve: Serve) -> None:
        """A page whose name was bound to this address reads nothing."""
        async with serve() as dashboard:
            answers = [
                await dashboard.http.get(path, headers={"host": "evil.example"})
                for path in ("/", "/api/services", "/api/where?uid=alice", "/static/main.js")
            ]

        assert {403} == {answer.status_code for answer in answers}
        assert all(HEADERS.items() <= dict(answer.headers).items() for answer in answers)

    async def test_links_to_it(self, serve: Serve) -> None:
        """A link to the page may be anywhere; what it asks may not."""
        async with serve() as dashboard:
            other = {"sec-fetch-site": "cross-site"}
            answers = [await dashboard.http.get(path, headers=other) for path in ("/", "/api/services")]

        assert [200, 403] == [answer.status_code for answer in answers]


class TestMany:
    """More pages and services than are allowed."""

    async def test_services(self, namespace: str) -> None:
        """Of services that no page shows any more the oldest one gives way; if all are shown, no other one is."""
        store = MemoryStore(ManualClock())
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace, always="it") as dashboard:
            boards = dashboard.boards
            for number in range(2 * MOST_BOARDS):
                with boards.shown(f"service-{number}"):
                    pass
            left = (len(boards), "it" in boards._boards)
            shown = [boards.shown(f"shown-{number}") for number in range(MOST_BOARDS - 1)]
            for each in shown:
                each.__enter__()
            refused = await dashboard.http.get("/api/stream?service=other")

        assert (MOST_BOARDS, True) == left
        assert 429 == refused.status_code

    async def test_pages(self, namespace: str) -> None:
        """So many pages may be open, and no more."""
        store = MemoryStore(ManualClock())
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace) as dashboard:
            shown = [dashboard.boards.shown(SERVICE) for _ in range(MOST_VIEWERS)]
            for each in shown:
                each.__enter__()
            refused = await dashboard.http.get(f"/api/stream?service={SERVICE}")

        assert 429 == refused.status_code

    async def test_nobody_looks(self, namespace: str) -> None:
        """A service that nobody has looked at for a while is not asked for any more."""
        store = MemoryStore(ManualClock())
        operator = Operator(store, BaseConfig(namespace=namespace))
        async with served(operator, namespace, kept=0.2, always="it") as dashboard:
            with dashboard.boards.shown(SERVICE):
                await asyncio.sleep(0.5)  # longer than it is kept
                both = len(dashboard.boards)
            await eventually(lambda: 1 == len(dashboard.boards))

        assert 2 == both
        assert ["it"] == [board.service_name for board in dashboard.boards._boards.values()] or not len(
            dashboard.boards
        )


def test_files() -> None:
    """All files of the folder are served, so that none is forgotten."""
    folder = Path(__file__).parents[2] / "stateful_route" / "dashboard" / "static"

    assert {path.name for path in folder.iterdir()} == set(static_files())
