"""init, start and stop of both drivers, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import LifecycleError, RoutingState, StoreUnavailableError
from stateful_route._lifecycle import Driver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer


class Recorder(Driver):
    """A driver that notes what it was told to do."""

    def __init__(self, start: Callable[[], Awaitable[object]] | None = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.stopping: asyncio.Event | None = None
        self._on_start = start

    async def _start(self) -> None:
        self.calls.append("start")
        if self._on_start is not None:
            await self._on_start()

    async def _stop(self) -> None:
        self.calls.append("stop")
        if self.stopping is not None:
            await self.stopping.wait()
        self.calls.append("stopped")

    async def call(self) -> str:
        self._check_running()
        return "done"


async def fail() -> None:
    raise StoreUnavailableError("away", operation="register", maybe_applied=False)


async def test_hooks() -> None:
    """A framework may call init, start and stop, each once and in this order."""
    driver = Recorder()
    await driver.init()
    await driver.start()
    answer = await driver.call()
    await driver.stop()

    assert "done" == answer
    assert ["start", "stop", "stopped"] == driver.calls


async def test_block() -> None:
    """A block does all of it."""
    async with Recorder() as driver:
        assert "done" == await driver.call()

    assert ["start", "stop", "stopped"] == driver.calls


async def test_twice() -> None:
    """Init and start are refused the second time, and after stop."""
    driver = Recorder()
    await driver.init()
    with pytest.raises(LifecycleError, match="initialized"):
        await driver.init()
    await driver.start()
    with pytest.raises(LifecycleError, match="running"):
        await driver.start()
    await driver.stop()
    with pytest.raises(LifecycleError, match="stopped"):
        await driver.start()

    assert ["start", "stop", "stopped"] == driver.calls


async def test_outside() -> None:
    """A call before start or after stop is refused, saying what to do."""
    driver = Recorder()
    with pytest.raises(LifecycleError, match="not started: call start"):
        await driver.call()
    await driver.init()
    with pytest.raises(LifecycleError, match="initialized: call start"):
        await driver.call()
    async with driver:
        pass
    with pytest.raises(LifecycleError, match=r"is stopped for good: make a new driver$"):
        await driver.call()
    with pytest.raises(LifecycleError, match=r"it is stopped for good: make a new driver$"):
        await driver.start()


async def test_call_while_starting() -> None:
    """A call while the driver starts is refused, and not with the advice to start it."""
    driver = Recorder(asyncio.Event().wait)
    start = asyncio.create_task(driver.start())
    await asyncio.sleep(0)  # so that it begins
    with pytest.raises(LifecycleError, match=r"is starting: wait until start\(\) has returned$"):
        await driver.call()
    start.cancel()
    await asyncio.wait([start])


async def test_stop_before_start() -> None:
    """stop() of what never started does nothing, and start() after it says that it is stopped."""
    driver, initialized = Recorder(), Recorder()
    await driver.stop()
    await initialized.init()
    await initialized.stop()
    with pytest.raises(LifecycleError, match="stopped"):
        await driver.start()

    assert [[], []] == [driver.calls, initialized.calls]


async def test_stop_is_idempotent() -> None:
    """A second stop() does nothing, and one at the same time waits for the first."""
    driver = Recorder()
    driver.stopping = asyncio.Event()
    await driver.start()
    first, second = asyncio.create_task(driver.stop()), asyncio.create_task(driver.stop())
    done, _ = await asyncio.wait([first, second], timeout=0.01)
    driver.stopping.set()
    await asyncio.gather(first, second)
    await driver.stop()

    assert set() == done
    assert ["start", "stop", "stopped"] == driver.calls


async def test_failing_start() -> None:
    """A start that fails stops what it began, and raises its error."""
    driver = Recorder(fail)
    with pytest.raises(StoreUnavailableError):
        await driver.start()

    assert ["start", "stop", "stopped"] == driver.calls


async def test_cancelled_start() -> None:
    """A start that is cancelled stops what it began."""
    driver = Recorder(asyncio.Event().wait)
    start = asyncio.create_task(driver.start())
    await asyncio.sleep(0)  # so that it begins
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    assert ["start", "stop", "stopped"] == driver.calls


async def test_cancelled_stop() -> None:
    """A stop that is cancelled does its work all the same."""
    driver = Recorder()
    driver.stopping = asyncio.Event()
    await driver.start()
    stop = asyncio.create_task(driver.stop())
    await asyncio.sleep(0)  # so that it begins
    stop.cancel()
    await asyncio.sleep(0)
    driver.stopping.set()
    await asyncio.wait([stop])

    assert ["start", "stop", "stopped"] == driver.calls


def test_other_event_loop() -> None:
    """A driver belongs to the event loop that started it."""
    driver = Recorder()
    asyncio.run(driver.start())
    with pytest.raises(LifecycleError, match="another event loop"):
        asyncio.run(driver.call())
    with pytest.raises(LifecycleError, match="another event loop"):
        asyncio.run(driver.stop())


async def test_drivers_refuse(make_client: MakeClient, make_server: MakeServer, store: MemoryStore) -> None:
    """Both drivers refuse a call outside their block, and ask the store nothing."""
    client, server = make_client(), make_server()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.compute_linked_pod("", "alice", "room"),
        lambda: client.get_linked_in_cache("", "alice", "room"),
        lambda: client.set_cache("", "alice", "room", 0),
        lambda: client.batch_get_linked_pod("", ["alice"], "room"),
        lambda: client.get_link_service("", "alice"),
        lambda: client.pods("", "room"),
        lambda: server.claim("alice"),
        lambda: server.set_load_state(1),
        server.get_load_state,
        lambda: server.set_routing_state(RoutingState.READY),
        server.get_routing_state,
        lambda: server.set_linked_pod("", "alice", "room", 0),
        lambda: server.remove_linked_pod("", "alice", "room"),
    ]
    for call in calls:
        with pytest.raises(LifecycleError):
            await call()

    assert {} == store.operations


async def test_no_task_is_left(make_client: MakeClient, make_server: MakeServer) -> None:
    """The drivers leave no task behind."""
    async with make_server(), make_client() as client:
        await client.compute_linked_pod("", "alice", "room")

    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_stopped_while_starting(make_server: MakeServer, store: MemoryStore) -> None:
    """A server driver that is stopped while it starts leaves no task, and no pod that is READY."""
    server = make_server()
    store.hold("register", answers=True)
    start = asyncio.create_task(server.start())
    await store.wait_held()
    stop = asyncio.create_task(server.stop())
    await asyncio.sleep(0)  # so that it begins
    store.release_held()
    await asyncio.wait([start, stop])
    (pod,) = (await store.read_pods("prod", "room")).pods
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()

    assert set() == left
    assert RoutingState.SHUTDOWN is pod.report.routing_state


async def test_claim_while_starting(make_server: MakeServer, store: MemoryStore) -> None:
    """A call before the pod has its incarnation is refused: a link of no life would be inherited later."""
    server = make_server()
    store.hold("register")
    start = asyncio.create_task(server.start())
    await store.wait_held()
    with pytest.raises(LifecycleError):
        await server.claim("alice")
    store.release_held()
    await start
    await server.stop()
