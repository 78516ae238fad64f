"""The recipes run as they stand."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import shlex
import sqlite3
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ClientDriver, NotOwnerError, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.store import PodReport
from stateful_route.testing import LocalCarrier, MemoryStore
from stateful_route.web import Sticky
from tests.docs.two_processes import two_processes_of
from tests.waiting import eventually

if TYPE_CHECKING:
    import httpx

    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CONFIG = BaseConfig(index_is_exclusive=True)


def snippet(section: str) -> str:
    """Return the Python of a recipe."""
    (found,) = re.findall(r"^( *)```python\n(.*?)^ *```", SECTIONS[section], re.DOTALL | re.MULTILINE)
    return textwrap.dedent(found[1])


def defined(section: str) -> dict[str, Any]:
    """Run the Python of a recipe, and return what it defines."""
    names: dict[str, Any] = {}
    exec(snippet(section), names)  # noqa: S102 - our own page
    return names


def info(pod_index: int) -> ServerInfo:
    return ServerInfo(namespace="default", service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)


class Route:
    """All that the recipes ask of a route."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def server(self, pod_index: int = 0, **settings: Any) -> ServerDriver:
        return ServerDriver(self.store, info(pod_index), CONFIG, **settings)

    def client(self, **settings: Any) -> ClientDriver:
        return ClientDriver(self.store, **settings)


def test_each_recipe_has_code_that_is_run() -> None:
    """Each recipe has one piece of Python, and one of the tests below runs it; the table has all recipes."""
    tests = Path(__file__).read_text(encoding="utf-8")

    assert [] == [name for name in SECTIONS if f'("{name}")' not in tests]
    assert len(SECTIONS) == PAGE.count("```python") == 9
    for name in SECTIONS:
        assert f"(#{name.lower().replace(' ', '-')})" in PAGE.partition("\n## ")[0]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_deploy(own_server: LocalServer, tmp_path: Path) -> None:
    """The app of the page, started by its command, has all that was written into a room in one list."""
    console = SECTIONS["Deploy"].partition("```console\n")[2].partition("```")[0]
    exported, command = (line.removeprefix("$ ") for line in console.splitlines())
    assert "STATEFUL_ROUTE_SECRET" in exported
    (tmp_path / "app.py").write_text(snippet("Deploy"), encoding="utf-8")
    assert ["uvicorn", "app:app", "--workers", "4"] == shlex.split(command)[:4]
    async with two_processes_of(tmp_path, own_server.url, command, STATEFUL_ROUTE_SECRET="x" * 32) as two:
        for number in range(12):
            answer = await two.request("POST", f"/rooms/r{number % 3}?text={number}")

            assert [str(earlier) for earlier in range(number % 3, number + 1, 3)] == answer.json()


async def test_drain() -> None:
    """A pod that is drained has no uids, and gets some again afterwards."""
    store = MemoryStore()
    async with Route(store).server() as server:
        await server.claim("lobby")
        await defined("Drain a pod")["serviced"](server)
        gone = server.owned("lobby")
        async with ClientDriver(store) as client:
            placed = await client.service("room").pod_of("lobby")

    assert gone is None
    assert 0 == placed


async def test_hand_state_over() -> None:
    """What a room has travels to the other pod, and is loaded there before it is owned."""
    names = defined("Hand state over")
    route, carrier = Route(MemoryStore()), LocalCarrier()
    there: dict[str, list[str]] = {}

    async def load(uid: str, data: bytes, epoch: int) -> None:
        await asyncio.sleep(0)
        there[uid] = json.loads(data)

    await names["serve"](route, carrier)
    names["rooms"]["lobby"] = 5, ["hello"]
    async with (
        route.server(0, hand_off=names["save"], adopt=names["load"], carrier=carrier) as first,
        route.server(1, hand_off=names["save"], adopt=load, carrier=carrier) as second,
    ):
        await first.claim("lobby")
        await first.move("lobby", 1)
        await eventually(lambda: second.owned("lobby") is not None)
        await names["load"]("bar", b'["hi"]', 5)

    assert {"lobby": ["hello"]} == there
    assert (5, ["hi"]) == names["rooms"]["bar"]
    assert None is await names["save"]("nowhere")


async def test_what_is_old_is_not_used() -> None:
    """What a process has of a room is used at its epoch, and not at that of a later tenure after another pod's."""
    names = defined("Hand state over")
    route = Route(MemoryStore())
    async with route.server(0) as first, route.server(1) as second:
        sticky = Sticky(first, "lobby", await first.claim("lobby"))
        names["room_of"](sticky).append("hello")
        again = names["room_of"](sticky)
        await first.remove_linked_pod("", "lobby", first.server_info.service_name)
        await (await second.claim("lobby")).release()
        later = Sticky(first, "lobby", await first.claim("lobby"))

        assert ["hello"] == again
        assert [] == names["room_of"](later)


def test_fence_a_write() -> None:
    """A later owner writes over what an earlier one wrote, and the earlier one is refused from then on."""
    names = defined("Fence a write")
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE rooms (id TEXT PRIMARY KEY, state TEXT, epoch INTEGER)")
    for state, epoch in [("first", 1), ("again", 1), ("later", 2)]:
        names["write"](database, "lobby", state, epoch)
    with pytest.raises(names["LostError"]):
        names["write"](database, "lobby", "too late", 1)
    found = database.execute("SELECT state, epoch FROM rooms").fetchall()
    database.close()

    assert [("later", 2)] == found


async def test_choose_a_strategy() -> None:
    """New uids go to the newest version in the zone, though another pod has less load."""
    store = MemoryStore()
    pods = [("eu-2", "v1", 0), ("eu-1", "v1", 1), ("eu-1", "v2", 1), ("eu-2", "v2", 9)]
    for pod_index, (zone, version, load) in enumerate(pods):
        report = PodReport(load=load, links=load, zone=zone, version=version)
        await store.register(info(pod_index), report, lease=60.0, retention=60.0)

    assert 2 == await defined("Choose a strategy")["place"](Route(store), "lobby")


async def test_operate(own_server: LocalServer) -> None:
    """It says who has a room, and has it moved; one that nobody has is not placed."""
    names = defined("Operate")
    async with (
        StatefulRoute.from_url(own_server.url, CONFIG) as route,
        route.server(info(0)) as first,
        route.server(info(1)),
    ):
        ownership = await first.claim("lobby")
        said = [await names["where"](route, uid) for uid in ("lobby", "bar", "bar")]
        await names["relieve"](route, "lobby", 1)
        moved = await names["where"](route, "lobby")

    assert re.fullmatch(f"room: pod 0, .*, epoch {ownership.epoch}, 0 s", said[0], re.IGNORECASE)
    assert ["nobody has it"] * 2 == said[1:]
    assert moved.startswith("room: pod 1, ")


def test_tune() -> None:
    """The settings that follow from a heartbeat are those of the page; those that it names are there."""
    defined("Tune")
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", SECTIONS["Tune"], re.MULTILINE)
    named = re.findall(r"`(\w+?)(?:=[\w.]+)?`", " ".join(rows))

    assert {name for name in named if not hasattr(BaseConfig(), name)} == {"movable"}


async def test_test() -> None:
    """The test that the page shows passes, and finds out a pod that keeps what it should have let go."""
    names = defined("Test")
    await names["test_a_room_goes_to_the_other_pod"]()

    class Keeps(ServerDriver):
        async def drain(self, *, keep_until_idle: float | None = None) -> None:
            """Do nothing."""

    names["ServerDriver"] = Keeps
    with pytest.raises((AssertionError, NotOwnerError)):
        await names["test_a_room_goes_to_the_other_pod"]()


@pytest.mark.timeout(120)
async def test_migrate(own_server: LocalServer, tmp_path: Path) -> None:
    """Who has logged in at one process is served by either; an id that the app never made is nobody's."""
    (tmp_path / "board.py").write_text(snippet("Migrate from sticky cookies"), encoding="utf-8")
    command = "uvicorn board:app --port 8000"
    async with two_processes_of(tmp_path, own_server.url, command) as two:
        for _ in range(2):
            login = await two.request("POST", "/login")
            cookie = {"cookie": f"session={login.cookies['session']}"}
            ask = functools.partial(two.request, "POST", headers=cookie)
            boards = [(await ask(f"/board?text={number}")).json() for number in range(4)]
            assert [[str(number) for number in range(count)] for count in range(1, 5)] == boards
            next(two.turns)  # the other way round
        garbage: httpx.Response = await two.request("POST", "/board?text=x", headers={"cookie": "session=garbage"})

    assert 404 == garbage.status_code
