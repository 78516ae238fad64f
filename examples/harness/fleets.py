"""The processes of an app: replicas behind nginx, as in a Deployment, or the workers of one uvicorn."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, Self

import anyio
import psutil

from examples.harness.nginx import Nginx
from examples.harness.processes import ProcessError, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from examples.harness.example import Example

REPLICAS = 3
_ROUTERS = 2
# What an orchestrator gives a process between SIGTERM and SIGKILL is 30 s; an example needs far less.
_GONE_BY = 30.0
_UP_BY = 30.0
_LOOK = 0.02
# For nginx to read its configuration again; in Kubernetes a preStop hook waits as long for the proxies.
_TOLD = 0.3
# Streams and WebSockets that are open when uvicorn stops: it would wait for them for ever.
_GRACEFUL = "3"
# Seconds after which a session counts as idle, under ``run``: longer than any pause of a user.
_LINGER = "2"
# A new worker that does not serve within this makes uvicorn give up its restart: 5 s are few on a machine that is busy.
_HEALTHY = "30"


class Fleet(Protocol):
    """The processes that serve one app."""

    @property
    def url(self) -> str:
        """Where the users come to."""
        ...

    def pids(self) -> list[int]:
        """Return the process ids of those that serve."""
        ...

    async def kill(self, pid: int) -> None:
        """Kill one with -9, and wait until as many serve again."""
        ...

    async def restart(self) -> None:
        """Restart all of them, one by one: first a new one, then the old one ends by SIGTERM."""
        ...

    async def __aenter__(self) -> Self:
        """Start them; they serve."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        ...


def fleet_of(example: Example, environment: Mapping[str, str]) -> Fleet:
    """Return how this example runs; it is not started yet."""
    if example.command and environment["STICKY"] == "1":
        return Runs(example, environment)
    return (Workers if example.workers else Replicas)(example, environment)


def _app(example: Example, environment: Mapping[str, str]) -> Server:
    """Return an app that is not ours, by itself."""
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in example.command]
    return Server(f"{example.name} at {port}", command, {**environment, "PORT": str(port)}, example.path, port=port)


def _run(example: Example, environment: Mapping[str, str]) -> Server:
    """Return an app that is not ours under ``stateful-route run``."""
    port = free_port()
    options = ["--service", example.folder, "--uid", example.uid, "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "stateful_route.cli", "run", *options, "--linger-idle", _LINGER]
    command += ["--stop-timeout", _GRACEFUL, "--", *example.command]
    return Server(f"{example.name} at {port}", command, environment, example.path, port=port)


def _uvicorn(example: Example, app: str, environment: Mapping[str, str], *options: str) -> Server:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--port",
        str(port),
        "--timeout-graceful-shutdown",
        _GRACEFUL,
        *options,
    ]
    own = {**environment, "STATEFUL_ROUTE_HTTP_ADDRESS": f"127.0.0.1:{port}"}  # for nginx, if it asks
    return Server(f"{app} of {example.name} at {port}", command, own, example.path, port=port)


def _decider(example: Example, environment: Mapping[str, str]) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "stateful_route.cli", "decide", "--service", "room", "--uid", example.decide]
    return Server("decide", [*command, "--restores", "--port", str(port)], environment, example.path, port=port)


class Replicas:
    """Three processes behind nginx, or behind two routers behind nginx."""

    def __init__(self, example: Example, environment: Mapping[str, str]) -> None:
        """Describe them; they are not started yet."""
        self._example = example
        self._environment = environment
        asks = bool(example.decide) and environment["STICKY"] == "1"
        self._decider = _decider(example, environment) if asks else None
        self._nginx = Nginx() if self._decider is None else Nginx(example.decide, self._decider.port)
        self._stack = AsyncExitStack()
        self._routed = bool(example.router) and environment["STICKY"] == "1"
        self._replicas: list[Server] = []
        self._routers: list[Server] = []

    @property
    def url(self) -> str:
        """Where nginx listens."""
        return self._nginx.url

    def pids(self) -> list[int]:
        """Return the process ids of the replicas."""
        return [replica.pid for replica in self._replicas]

    async def kill(self, pid: int) -> None:
        """Kill a replica with -9, and start it again on its port, as a kubelet starts a container again."""
        (replica,) = (replica for replica in self._replicas if replica.pid == pid)
        replica.signal(signal.SIGKILL)
        await replica.wait(_GONE_BY)
        await replica.start(_UP_BY)

    async def restart(self) -> None:
        """Restart all of them as a Deployment does: a new one serves, nginx is told, the old one gets SIGTERM."""
        await self._restart(self._replicas, self._example.app)
        await self._restart(self._routers, self._example.router)

    async def _restart(self, servers: list[Server], app: str) -> None:
        for number, old in enumerate(tuple(servers)):
            servers[number] = await self._started(app)
            self._nginx.balance(self._ports())
            await anyio.sleep(_TOLD)
            old.signal(signal.SIGTERM)
            await old.wait(_GONE_BY)

    def _replica(self, app: str) -> Server:
        if self._example.command:
            return _app(self._example, self._environment)
        return _uvicorn(self._example, app, self._environment, "--log-level", "warning")

    async def _started(self, app: str) -> Server:
        replica = self._replica(app)
        self._stack.push_async_callback(replica.stop)
        await replica.start(_UP_BY)
        return replica

    def _ports(self) -> list[int]:
        """Return the ports that nginx takes in turn."""
        return [server.port for server in self._routers or self._replicas]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._stack = stack
            # Two at a time would be faster, if the machine had the cores for it: an app may take seconds to import.
            self._replicas = [await self._started(self._example.app) for _ in range(REPLICAS)]
            self._routers = [await self._started(self._example.router) for _ in range(_ROUTERS * self._routed)]
            if self._decider is not None:
                stack.push_async_callback(self._decider.stop)
                await self._decider.start(_UP_BY)
            await stack.enter_async_context(self._nginx)
            await self._nginx.start(self._ports())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


class Runs(Replicas):
    """Three apps that are not ours under ``stateful-route run``, behind nginx; what is killed is the app."""

    def pids(self) -> list[int]:
        """Return the process ids of the apps."""
        return [child.pid for replica in self._replicas for child in psutil.Process(replica.pid).children()]

    async def kill(self, pid: int) -> None:
        """Kill an app with -9; its supervisor starts another one."""
        parent = psutil.Process(pid).ppid()
        (replica,) = (replica for replica in self._replicas if replica.pid == parent)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _GONE_BY
        while not replica.times_said("the app is there again"):
            if time.monotonic() > deadline:
                raise ProcessError(f"{replica.name} does not have its app; it said: {replica.said()}")
            await anyio.sleep(_LOOK)

    def _replica(self, app: str) -> Server:  # noqa: ARG002 - it has a command
        return _run(self._example, self._environment)


class Workers:
    """One ``uvicorn --workers N``: its processes accept connections of one socket, whichever is first."""

    def __init__(self, example: Example, environment: Mapping[str, str]) -> None:
        """Describe them; they are not started yet."""
        self._count = example.workers
        options = ("--workers", str(self._count), "--timeout-worker-healthcheck", _HEALTHY)
        self._uvicorn = _uvicorn(example, example.app, environment, *options, "--log-level", "info", "--no-access-log")

    @property
    def url(self) -> str:
        """Where uvicorn listens."""
        return f"http://127.0.0.1:{self._uvicorn.port}"

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        children = psutil.Process(self._uvicorn.pid).children()
        return [child.pid for child in children if _is_worker(child)]

    async def kill(self, pid: int) -> None:
        """Kill a worker with -9; uvicorn starts another one within a second."""
        started = self._started
        os.kill(pid, signal.SIGKILL)
        await self._until(lambda: self._started > started)

    async def restart(self) -> None:
        """Have uvicorn restart its workers one by one: each gets SIGTERM when the next one serves."""
        before = set(self.pids())
        self._uvicorn.signal(signal.SIGHUP)
        await self._until(lambda: before.isdisjoint(self.pids()))

    @property
    def _started(self) -> int:
        """How many workers have come so far that they serve."""
        return self._uvicorn.times_said("Application startup complete")

    async def _until(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _GONE_BY * self._count
        while not fact():
            if time.monotonic() > deadline or not self._uvicorn.running:
                raise ProcessError(f"{self._uvicorn.name} does not have its workers; it said: {self._uvicorn.said()}")
            await anyio.sleep(_LOOK)

    async def __aenter__(self) -> Self:
        try:
            await self._uvicorn.start(_UP_BY)
            # It listens before them. Who comes then finds the first one only, which would get all sessions.
            await self._until(lambda: self._started == self._count)
        except BaseException:
            await self._uvicorn.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._uvicorn.stop()


def _is_worker(child: psutil.Process) -> bool:
    """Return whether a child of uvicorn serves: there is one more, which tracks resources."""
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        return False
