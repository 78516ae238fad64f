"""What the page on semantics says is so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ClientDriver, NotOwnerError, ServerDriver, ServerInfo
from stateful_route.store import PodReport
from stateful_route.testing import MemoryStore
from tests.insides import beat_once
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route import StatefulRoute

PAGE = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text(encoding="utf-8")


def example(word: str) -> dict[str, Any]:
    """Run the example that has that word in it, and return its names."""
    text = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if word in text)
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - our own page
    return names


def pod(store: MemoryStore, pod_index: int, **settings: Any) -> ServerDriver:
    info = ServerInfo(namespace="default", service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)
    return ServerDriver(store, info, BaseConfig(index_is_exclusive=True), **settings)


async def test_own_load_source() -> None:
    """The load source that the page shows runs as it stands, under a driver: half of the slots is half of full."""
    store = MemoryStore()
    info = ServerInfo(namespace="default", service_name="llm", pod_name="llm-0", pod_index=0)

    class Route:
        def server(self, **settings: Any) -> ServerDriver:
            return ServerDriver(store, info, **settings)

    names = example("load_source=")
    names["sessions"].update({str(number): object() for number in range(names["SLOTS"] // 2)})
    route: StatefulRoute = Route()  # type: ignore[assignment]  # all that the example asks of it
    await names["serve"](route)
    table = await store.read_pods("default", "llm")

    assert [500] == [pod.load_state.value for pod in table.pods]


async def test_own_strategy() -> None:
    """The strategy that the page shows runs as it stands: the fullest pod with room gets the uid, the rest is even."""
    store = MemoryStore()
    for pod_index, links in enumerate((3, 79, 80)):
        info = ServerInfo(namespace="default", service_name="room", pod_name="room", pod_index=pod_index)
        await store.register(info, PodReport(load=links, links=links, max_links=100), lease=60.0, retention=60.0)

    class Route:
        def client(self, **settings: Any) -> ClientDriver:
            return ClientDriver(store, **settings)

    names = example("strategy=")
    route: StatefulRoute = Route()  # type: ignore[assignment]  # all that the example asks of it

    assert (await names["place"](route, "alice")).pod_index == 1


async def test_state_and_epoch() -> None:
    """State is loaded again after another pod had the uid, and not after this pod began another life."""
    store = MemoryStore()
    loaded: list[str] = []
    names = example("states: dict")

    async def load(uid: str) -> dict[str, int]:
        await asyncio.sleep(0)
        loaded.append(uid)
        return {"loaded": len(loaded)}

    names["load"] = load
    async with pod(store, 0) as first, pod(store, 1) as second:
        states = await asyncio.gather(*(names["state_of"](first, "alice") for _ in range(2)))
        store.mark_dead("default", "room", 0)
        life = first.incarnation
        await beat_once(first)
        await eventually(lambda: first.incarnation > life and first.owned("alice") is not None)
        states.append(await names["state_of"](first, "alice"))
        await second.set_linked_pod("", "alice", "room", 1)
        await eventually(lambda: first.owned("alice") is None)
        with pytest.raises(NotOwnerError):
            await names["state_of"](first, "alice")
        await first.set_linked_pod("", "alice", "room", 0)
        states.append(await names["state_of"](first, "alice"))

    assert [1, 1, 1, 2] == [state["loaded"] for state in states]


async def test_nothing_is_accepted_after_the_copy() -> None:
    """With the lock that the page shows, what is accepted while a uid is handed off is in the copy, or is refused."""
    store, saved = MemoryStore(), dict[str, list[str]]()
    names = example("chats: defaultdict")

    class Database:
        async def store(self, uid: str, messages: list[str]) -> None:
            copy = list(messages)
            for _ in range(10):  # turns in which others come
                await asyncio.sleep(0)
            saved[uid] = copy

    names["database"] = Database()
    accepted: list[str] = []

    async def post_while_it_drains(server: ServerDriver) -> None:
        draining: asyncio.Task[None] | None = None
        try:
            for number in range(100):
                await names["post"](server, "alice", str(number))
                accepted.append(str(number))
                draining = draining or asyncio.create_task(server.drain())
                await asyncio.sleep(0)
        finally:
            assert draining is not None
            await draining

    async with pod(store, 0, hand_off=names["save"]) as server:
        with pytest.raises(NotOwnerError):
            await post_while_it_drains(server)

    assert accepted == saved["alice"]


async def test_a_long_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """What the page shows for a long connection runs as it stands, and hears that the uid has moved."""
    store = MemoryStore()
    async with pod(store, 0) as first, pod(store, 1) as second, ClientDriver(store) as client:
        await first.claim("alice")
        holding = asyncio.create_task(example("now.epoch == link.epoch")["hold"](client.service("room"), "alice"))
        await eventually(lambda: client.statistics().misses == 1)
        await second.set_linked_pod("", "alice", "room", 1)
        async with asyncio.timeout(5.0):
            await holding

    assert "alice is on pod 1\n" == capsys.readouterr().out
