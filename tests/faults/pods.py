"""Pods that are processes of their own, and a client that looks at them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Self

import attrs

from stateful_route import BaseConfig, Link, StatefulRoute
from tests.insides import directory_of, unbroken
from tests.waiting import eventually
from tests.zygote import start

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator
    from types import TracebackType

    from stateful_route import ServiceView
    from tests.zygote import Process

HEARTBEAT, LEASE = 0.1, 0.5
PATIENCE = 20.0
UIDS = [f"user-{number}" for number in range(40)]


class PodProcess:
    """A pod in a process of its own, which ends with the block."""

    def __init__(self, url: str, config: BaseConfig, environment: dict[str, str] | None = None) -> None:
        self.incarnation = 0
        self.handed_off: list[str] = []
        self._arguments = (sys.executable, "-m", "tests.faults.pod_process", url, config.to_json())
        self._environment = os.environ | (environment or {})
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def __aenter__(self) -> Self:
        self._process = await start(self._arguments, self._environment, stdin=True, stderr=False)
        self.incarnation = (await self.hear("ready"))["ready"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.communicate()

    async def hear(self, word: str) -> dict[str, Any]:
        """Return the next line with that word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stdout.readline():
                heard: dict[str, Any] = json.loads(line)
                if "hand_off" in heard:
                    self.handed_off.append(heard["hand_off"])
                if word in heard:
                    return heard
        raise AssertionError(f"the pod ended and did not say {word!r}")

    async def tell(self, *words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{' '.join(words)}\n".encode())
        await self.process.stdin.drain()

    async def claim(self, *uids: str) -> dict[str, tuple[bool, int, bool]]:
        """Make the pod claim uids; return whether it owns each, the epoch, and whether it inherited it."""
        await self.tell("claim", *uids)
        return {uid: tuple(answer) for uid, answer in (await self.hear("claimed"))["claimed"].items()}

    async def owned(self) -> list[str]:
        """Return which of the uids that it has claimed it owns now."""
        await self.tell("owned")
        heard = await self.hear("owned")
        self.incarnation = heard["incarnation"]
        return list(heard["owned"])

    async def ended(self) -> int:
        """Return the code of the process once it has ended, with all that it said taken in."""
        with contextlib.suppress(AssertionError):
            await self.hear("nothing that it says")
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def settings(namespace: str, pod_index: int | None = None, **more: Any) -> BaseConfig:
    config = BaseConfig(
        namespace=namespace, heartbeat=HEARTBEAT, lease=LEASE, refresh=0.1, call_deadline=LEASE / 2, listen_patience=0.2
    )
    if pod_index is not None:
        config = attrs.evolve(config, service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)
    return attrs.evolve(config, **more)


@contextlib.asynccontextmanager
async def pods(url: str, namespace: str, count: int, **more: Any) -> AsyncIterator[list[PodProcess]]:
    async with contextlib.AsyncExitStack() as stack:
        started = [PodProcess(url, settings(namespace, index, **more)) for index in range(count)]
        await asyncio.gather(*(stack.enter_async_context(pod) for pod in started))
        yield started


@contextlib.asynccontextmanager
async def rooms_of(url: str, namespace: str, **more: Any) -> AsyncIterator[ServiceView]:
    """Run a client that has looked at the pods."""
    async with StatefulRoute.from_url(url, settings(namespace, **more)) as route, route.client() as client:
        rooms = client.service("room")
        await rooms.pods()
        yield rooms


async def routes(rooms: ServiceView, uids: list[str] = UIDS) -> dict[str, Link]:
    return dict(zip(uids, await asyncio.gather(*(rooms.route(uid) for uid in uids)), strict=True))


async def viewed_for_a_lease(rooms: ServiceView, lease: float = LEASE) -> None:
    """Return once the client has seen the pods for long enough to confirm a death."""
    table = directory_of(rooms.driver).peek(rooms.namespace, rooms.service_name)
    await eventually(lambda: unbroken(table) >= lease)


async def incarnations(rooms: ServiceView) -> dict[int, tuple[int, bool]]:
    table = await rooms.driver._store.read_pods(rooms.namespace, rooms.service_name)
    return {pod.pod_index: (pod.incarnation, pod.dead) for pod in table.pods}
