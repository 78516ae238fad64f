"""Replicas of an app: web servers in processes of their own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import psutil

from tests.waiting import eventually
from tests.zygote import Forked, begin

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

ROOT = Path(__file__).parents[2]
HEARTBEAT, LEASE = 0.2, 1.0
SHORTCUT = "shortcut"
"""In the place of an event loop: uvloop, and our protocol on uvicorn's."""
LOOPS = "asyncio", "uvloop", SHORTCUT
ENDED = {0, -signal.SIGTERM}
"""Codes of a process that ended as it was told to: uvicorn lets the signal through at its end."""
_STARTS_WITHIN = 30.0
_ENDS_WITHIN = 20.0
_PORTS = range(23_000, 32_000)  # below those of outgoing connections, beside those of the tests' servers of Redis
_reserving: collections.deque[socket.socket] = collections.deque(maxlen=256)
_FAULTS = "Traceback (most recent call last)", "was never retrieved", "was never awaited", "was destroyed but"


@attrs.define(eq=False)
class Replica:
    """One process, on a port of the loopback."""

    arguments: list[str]
    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | Forked
    in_rotation: bool = True
    """Whether a balancer sends requests there."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it with -9, and what it has started; it is gone when this returns."""
        if self.running:
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(_ENDS_WITHIN)

    def memory(self) -> int:
        """Return its resident bytes."""
        size: int = psutil.Process(self.pid).memory_info().rss
        return size

    def listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def ended(self, within: float = _ENDS_WITHIN) -> int:
        """Return its code once it has ended."""
        await eventually(lambda: not self.running, within)
        code = self.process.returncode
        assert code is not None
        return code


class Replicas:
    """Those of a test, which end with the block; the logs have no traceback then, unless ``may_fail``."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.url = url
        self.namespace = namespace
        self.folder = folder
        self.may_fail = False
        self.loop = "asyncio"
        """Of those that are launched without saying which."""
        self.all: list[Replica] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self.all:
            if replica.running:
                replica.send(signal.SIGCONT)
            replica.kill()
        if kind is None and not self.may_fail:
            for replica in self.all:
                assert not self.faults(replica), replica.text()

    def faults(self, replica: Replica) -> list[str]:
        text = replica.text()
        return [fault for fault in _FAULTS if fault in text]

    def launch(
        self,
        app: str = "tests.web.apps:rooms",
        *,
        port: int | None = None,
        loop: str | None = None,
        lifespan: str = "auto",
        server: str = "uvicorn",
        more: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        **middleware: Any,
    ) -> Replica:
        """Start a replica, and do not wait until it serves."""
        port = free_port() if port is None else port
        command = _COMMANDS[server](app, port, loop or self.loop, lifespan)
        own = {"STATEFUL_ROUTE_POD_INDEX": "leased", "WEB_MIDDLEWARE": json.dumps(middleware)} | (environment or {})
        return self.run([*command, *more], port, **own)

    def run(self, command: list[str], port: int, **environment: str) -> Replica:
        """Start something else that belongs to the service, with the settings that all of it has."""
        settings = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "STATEFUL_ROUTE_URL": self.url,
            "STATEFUL_ROUTE_NAMESPACE": self.namespace,
            "STATEFUL_ROUTE_HEARTBEAT": str(HEARTBEAT),
            "STATEFUL_ROUTE_LEASE": str(LEASE),
            "STATEFUL_ROUTE_REFRESH": "0.2",
            "STATEFUL_ROUTE_DRAIN_DEADLINE": "5",
            "WEB_FOLDER": str(self.folder),
        } | environment
        return self._run(command, {key: value for key, value in settings.items() if value}, port)

    def _run(self, command: list[str], environment: dict[str, str], port: int) -> Replica:
        log, whole = self.folder / f"{len(self.all)}.log", _inherited() | environment
        with log.open("wb") as file:
            process = begin(command, whole, self.folder, file)
        replica = Replica(command, environment, port, log, process)
        self.all.append(replica)
        return replica

    def again(self, replica: Replica) -> Replica:
        """Start one anew that has ended, on its port, and return it once it serves."""
        return self.wait(self._run(replica.arguments, replica.environment, replica.port))

    def wait(self, replica: Replica) -> Replica:
        """Return the replica once it serves."""
        deadline = time.monotonic() + _STARTS_WITHIN
        while not replica.listens():
            assert replica.running, f"it ended with {replica.process.returncode}:\n{replica.text()}"
            assert time.monotonic() < deadline, f"it does not serve:\n{replica.text()}"
            time.sleep(0.02)  # between two looks
        return replica

    async def serves(self, replica: Replica) -> Replica:
        """Return the replica once it serves, and let the event loop run meanwhile."""
        return await asyncio.to_thread(self.wait, replica)

    def start(self, count: int, app: str = "tests.web.apps:rooms", *, loop: str | None = None, **more: Any) -> None:
        """Start so many, the loops by turns unless one is given, and return once all of them serve."""
        begun = [self.launch(app, loop=loop or LOOPS[number % 2], **more) for number in range(count)]
        for replica in begun:
            self.wait(replica)

    @property
    def ports(self) -> list[int]:
        return [replica.port for replica in self.all if replica.running]

    def by_pid(self, pid: int) -> Replica:
        return next(replica for replica in self.all if replica.pid == pid)

    def other(self, replica: Replica) -> Replica:
        """Return one that runs and is another one."""
        return next(each for each in self.all if each is not replica and each.running)

    def events(self, kind: str | None = None, **facts: Any) -> list[dict[str, Any]]:
        """Return what the apps have noted, in its order."""
        file = self.folder / "events"
        lines = file.read_text().splitlines() if file.exists() else []
        noted = [json.loads(line) for line in lines]
        return [
            event
            for event in noted
            if (kind is None or event["event"] == kind) and all(event.get(key) == fact for key, fact in facts.items())
        ]

    async def noted(self, kind: str, within: float = 10.0, **facts: Any) -> dict[str, Any]:
        """Return the first event of that kind, once there is one."""
        await eventually(lambda: bool(self.events(kind, **facts)), within)
        return self.events(kind, **facts)[0]


def _inherited() -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("STATEFUL_ROUTE_", "REDIS", "HOSTNAME"))
    }


def free_port() -> int:
    """Return a port that nobody has, and keep it from those who ask after us, in other processes too.

    A socket that is bound and does not listen is in the way of another ``free_port()``, and not of a server: both of
    them say SO_REUSEADDR then.
    """
    while True:
        reserving = socket.socket()
        try:
            reserving.bind(("127.0.0.1", random.SystemRandom().choice(_PORTS)))
        except OSError:
            reserving.close()
            continue
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(_reserving) == _reserving.maxlen:
            _reserving.popleft().close()
        _reserving.append(reserving)
        port: int = reserving.getsockname()[1]
        return port


def _uvicorn(app: str, port: int, loop: str, lifespan: str) -> list[str]:
    http = "auto"
    if loop == SHORTCUT:
        loop, http = "uvloop", "stateful_route.web.uvicorn:StickyProtocol"
    options = ["--host", "127.0.0.1", "--port", str(port), "--loop", loop, "--http", http, "--lifespan", lifespan]
    return [sys.executable, "-m", "uvicorn", app, *options, "--factory", "--no-access-log"]


def _hypercorn(app: str, port: int, loop: str, lifespan: str) -> list[str]:
    options = ["--bind", f"127.0.0.1:{port}", "--worker-class", loop, "--workers", "0"]
    return [sys.executable, "-m", "hypercorn", f"{app}()", *options]


def _granian(app: str, port: int, loop: str, lifespan: str) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(port), "--interface", "asgi", "--loop", loop, "--factory"]
    return [sys.executable, "-m", "granian", app, *options]


def _daphne(app: str, port: int, loop: str, lifespan: str) -> list[str]:
    return [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), app]


_COMMANDS = {"uvicorn": _uvicorn, "hypercorn": _hypercorn, "granian": _granian, "daphne": _daphne}
