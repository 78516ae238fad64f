"""A pod is killed with -9 beside a sidecar: how long until each of its uids is served elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import SERVICE
from benchmarks.goals import Ceiling
from benchmarks.harness import Case, Goal, Variant
from benchmarks.statistics import quantile
from benchmarks.web import processes
from benchmarks.web.apps import REDIS
from benchmarks.web.raw import Connection, request_bytes
from stateful_route import BaseConfig, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.harness import Lab, Round
    from benchmarks.web.processes import Program
    from stateful_route import ClientDriver

_UIDS = [f"user-{number}" for number in range(200)]
_USERS = 32
_MOST_MS = 50.0
_JUDGED = 0.99
_SETTLED = 0.6
"""Seconds without an announcement of a pod, as after a minute of peace."""
_PAUSE = 0.005
_APP = "benchmarks.web.sticky_apps:sticky"

# The pod that is killed: it claims its uids, says so, and lives until then.
_POD = """
import asyncio, sys
from stateful_route import BaseConfig, ServerInfo, StatefulRoute

async def main(url, namespace, service, uids, folder):
    config = BaseConfig(namespace=namespace, life_dir=folder)
    info = ServerInfo(namespace=namespace, service_name=service, pod_name="killed", pod_index=0)
    async with StatefulRoute.from_url(url, config) as route, route.server(info) as server:
        for number in range(uids):
            await server.claim(f"user-{number}")
        print("ready", flush=True)
        await asyncio.sleep(60)

url, namespace, service, uids, folder = sys.argv[1:]
asyncio.run(main(url, namespace, service, int(uids), folder))
"""


@attrs.frozen
class _Sidecar:
    """The sidecar of all pods, and the folder that it watches."""

    folder: Path
    program: Program

    @property
    def watched(self) -> int:
        """How many lives it has seen."""
        return self.program.log.read_text(encoding="utf-8").count("has the life")


@contextlib.asynccontextmanager
async def _open(lab: Lab) -> AsyncIterator[list[Variant]]:
    url = lab.server().url
    with tempfile.TemporaryDirectory(prefix="proven-") as name:
        folder = Path(name)
        lives = folder / "lives"
        lives.mkdir()
        command = [sys.executable, "-m", "stateful_route.cli", "sidecar", "--lives", str(lives), "--redis", url]
        sidecar = _Sidecar(lives, await processes.start("sidecar", command, folder, env={}))
        try:
            judged = (Ceiling(_MOST_MS, quantile=_JUDGED),)
            async with _web(url, folder, sidecar) as served:
                yield [
                    Variant(
                        f"a client that is asked for {len(_UIDS)} uids all the time",
                        _routed(url, sidecar),
                        _bound,
                        goals=judged,
                    ),
                    Variant(f"{_USERS} users of an app with the middleware", served, _bound, goals=judged),
                ]
        finally:
            await sidecar.program.kill()


async def _bound() -> float:
    return _MOST_MS


def _routed(url: str, sidecar: _Sidecar) -> Round:
    """Return the milliseconds from the kill until 99 of 100 uids are routed elsewhere by a client."""

    async def measure() -> float:
        config = BaseConfig(namespace=f"bench-{uuid.uuid4().hex}")
        other = ServerInfo(namespace=config.namespace, service_name=SERVICE, pod_name="other", pod_index=1)
        arguments = [url, config.namespace, SERVICE, str(len(_UIDS)), str(sidecar.folder)]
        watched = sidecar.watched
        async with StatefulRoute.from_url(url, config) as route, route.server(other), route.client() as client:
            command = [sys.executable, "-c", _POD, *arguments]
            pod = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            try:
                assert pod.stdout is not None
                assert await pod.stdout.readline() == b"ready\n"
                await _until(lambda: sidecar.watched > watched)
                await client.batch_compute_linked_pod("", _UIDS, SERVICE)
                await asyncio.sleep(_SETTLED)
                return await _until_moved(client, pod.kill)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    pod.kill()
                await pod.wait()

    return measure


async def _until_moved(client: ClientDriver, kill: Callable[[], None]) -> float:
    """Let a caller for each uid ask for it all the time, and kill their pod meanwhile."""
    took: list[float] = []
    killed = 0.0

    async def ask(uid: str) -> None:
        while await client.compute_linked_pod("", uid, SERVICE) == 0:  # noqa: ASYNC110 - requests come all the time
            await asyncio.sleep(_PAUSE)
        took.append(time.perf_counter() - killed)

    asking = [asyncio.create_task(ask(uid)) for uid in _UIDS]
    await asyncio.sleep(_PAUSE)
    killed = time.perf_counter()
    kill()
    await asyncio.gather(*asking)
    return quantile(took, _JUDGED) * 1000


@contextlib.asynccontextmanager
async def _web(url: str, folder: Path, sidecar: _Sidecar) -> AsyncIterator[Round]:
    """Run a replica that is not killed, and give what measures the death of another one."""
    env = {
        REDIS: url,
        "STATEFUL_ROUTE_NAMESPACE": f"bench-{uuid.uuid4().hex}",
        "STATEFUL_ROUTE_LIFE_DIR": str(sidecar.folder),
        "STATEFUL_ROUTE_SECRET": secrets.token_hex(32),
    }
    numbers, rounds = itertools.count(), itertools.count()

    async def start() -> Program:
        watched = sidecar.watched
        replica = await processes.start_app(f"replica-{next(numbers)}", _APP, folder, env)
        await processes.until_answers(replica)
        await _until(lambda: sidecar.watched > watched)
        return replica

    stays = await start()

    async def measure() -> float:
        victim = await start()
        number = next(rounds)
        try:
            await asyncio.sleep(1.0)  # the other replica knows it by then
            return await _until_served(stays, victim, [f"round-{number}-{user}" for user in range(4 * _USERS)])
        finally:
            await victim.kill()

    try:
        yield measure
    finally:
        await stays.kill()


async def _until_served(edge: Program, victim: Program, uids: list[str]) -> float:
    """Let users whose uids the victim has ask the other replica without a pause, and kill it meanwhile."""
    took: list[float] = []
    killed = 0.0
    async with contextlib.AsyncExitStack() as stack:
        connections: dict[str, Connection] = {}
        for uid in uids:
            connection = await stack.enter_async_context(await Connection.open(processes.LOOPBACK, edge.port))
            if len(connections) < _USERS and await _served_by(connection, edge, uid) == victim.pid:
                connections[uid] = connection

        async def ask(uid: str) -> None:
            while await _served_by(connections[uid], edge, uid) == victim.pid:  # noqa: ASYNC110 - the same
                await asyncio.sleep(_PAUSE)
            took.append(time.perf_counter() - killed)

        asking = [asyncio.create_task(ask(uid)) for uid in connections]
        await asyncio.sleep(_SETTLED)
        killed = time.perf_counter()
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.gather(*asking)
    assert took
    return quantile(took, _JUDGED) * 1000


async def _served_by(connection: Connection, edge: Program, uid: str) -> int:
    answer = await connection.send(request_bytes("GET", f"/whoami?uid={uid}", edge.address))
    assert answer.is_success, answer
    return int(answer.body)


async def _until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not fact():  # noqa: ASYNC110 - another process comes to it
            await asyncio.sleep(0.01)


PROVEN = Case(
    name="proven",
    title="kill -9 of a pod beside a sidecar, until its uids are served elsewhere",
    reference=f"the goal, {_MOST_MS:g} ms; the lease is 5 s",
    versus="goal",
    unit="ms",
    goal=Goal(1.0),
    rounds=30,
    quick_rounds=2,
    warm_up=False,
    open=_open,
)
