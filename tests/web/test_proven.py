"""A process that is killed beside a sidecar: its death is proven, so nobody waits for its lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.replicas import ROOT, Replica
from tests.web.test_kill import served_by_two

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.web.replicas import Replicas

LEASE = 20.0
UIDS = [f"room-{number}" for number in range(30)]


def _hears_of_ctrl_c() -> None:
    """Undo what a shell does to a job in the background, as the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@attrs.define(eq=False)
class Beside:
    """A sidecar, and the folder that it watches."""

    folder: Path
    log: Path
    url: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "STATEFUL_ROUTE_LIFE_DIR": str(self.folder),
            "STATEFUL_ROUTE_HEARTBEAT": "1",
            "STATEFUL_ROUTE_LEASE": str(LEASE),
        }

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "stateful_route.cli", "sidecar", "--lives", str(self.folder)]
        command += ["--redis", self.url]
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=_hears_of_ctrl_c,  # noqa: PLW1509 - no other thread of the tests holds a lock
            )
        return self.process

    def said(self, text: str) -> int:
        return self.log.read_text().count(text) if self.log.exists() else 0

    async def watches(self, count: int) -> None:
        await eventually(lambda: self.said("has the life") == count)

    def lives(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def beside(replicas: Replicas, tmp_path: Path) -> Iterator[Beside]:
    folder = tmp_path / "lives"
    folder.mkdir()
    one = Beside(folder, tmp_path / "sidecar.log", replicas.url)
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.wait()
        assert not one.said("Traceback")


async def owners(replicas: Replicas) -> dict[str, Replica]:
    """Have each uid placed, and return who owns it."""
    answers = await asyncio.gather(*(ask(replicas.ports[0], f"/rooms/{uid}/count") for uid in UIDS))
    return {uid: replicas.by_pid(answer.json()["pid"]) for uid, answer in zip(UIDS, answers, strict=True)}


async def test_under_load(replicas: Replicas, beside: Beside) -> None:
    """After a kill -9 each uid is served elsewhere long before the lease has ended, and nothing by two owners."""
    replicas.start(3, environment=beside.environment)
    beside.start()
    await beside.watches(3)
    owned = await owners(replicas)
    victim = owned[UIDS[0]]
    others = [replica for replica in replicas.all if replica is not victim]
    mine = [uid for uid in UIDS if owned[uid] is victim]
    again: dict[str, float] = {}
    killed = 0.0

    async def use(number: int, uid: str) -> None:
        """Send requests for a uid all the time, until it is served by another one."""
        while uid not in again:
            answer = await ask(others[number % 2].port, f"/rooms/{uid}/count")
            assert answer.status == 200, answer
            if answer.json()["pid"] != victim.pid:
                again[uid] = time.monotonic() - killed
            await asyncio.sleep(0.005)

    using = [asyncio.ensure_future(use(number, uid)) for number, uid in enumerate(mine)]
    await asyncio.sleep(0.5)
    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    async with asyncio.timeout(LEASE / 2):
        await asyncio.gather(*using)
    answers = await asyncio.gather(*(ask(others[0].port, f"/rooms/{uid}/count") for uid in UIDS))

    assert set(mine) == set(again)
    assert max(again.values()) < LEASE / 10, sorted(again.values())  # some 10 ms on an idle machine
    assert {200} == {answer.status for answer in answers}
    assert [] == served_by_two(replicas)
    assert 1 == beside.said("is ended")
    assert 2 == len(beside.lives())


async def test_held_requests_go_on(replicas: Replicas, beside: Beside) -> None:
    """What is held for an owner that was dead before the sidecar came goes on as soon as that has said so."""
    replicas.start(2, environment=beside.environment | {"WEB_PAUSE": "30"})
    owned = await owners(replicas)
    victim = owned[UIDS[0]]
    mine = [uid for uid in UIDS if owned[uid] is victim]
    other = replicas.other(victim)
    victim.kill()
    held = [asyncio.ensure_future(ask(other.port, f"/rooms/{uid}/count")) for uid in mine]
    await asyncio.sleep(2.0)  # by now they would look again after many seconds
    assert not any(task.done() for task in held)
    beside.start()
    await eventually(lambda: beside.said("is ended"))
    ended = time.monotonic()
    answers = await asyncio.gather(*held)
    took = time.monotonic() - ended

    assert {(200, other.pid)} == {(answer.status, answer.json()["pid"]) for answer in answers}
    assert took < LEASE / 20


async def test_a_stop_and_a_restart(replicas: Replicas, beside: Beside) -> None:
    """A process that says goodbye takes its file along; one that stands still is not ended; the next has its own."""
    replicas.start(2, environment=beside.environment, drain="release", stop_after=0)
    beside.start()
    await beside.watches(2)
    first, second = replicas.all
    second.send(signal.SIGSTOP)
    first.send(signal.SIGTERM)
    await first.ended()
    assert 1 == len(beside.lives())
    second.send(signal.SIGCONT)
    replicas.again(first)
    await beside.watches(3)

    assert 0 == beside.said("is ended")
    assert 2 == len(beside.lives())


async def test_workers(replicas: Replicas, beside: Beside) -> None:
    """Each worker of a server has a file of its own, and one that is killed is followed by another."""
    replicas.start(1, environment=beside.environment, more=("--workers", "3"))
    await eventually(lambda: len(beside.lives()) == 3)
    beside.start()
    await beside.watches(3)
    worker = int(beside.lives()[0].partition("-")[0])
    os.kill(worker, signal.SIGKILL)
    await eventually(lambda: beside.said("is ended") == 1)
    await beside.watches(4)

    assert all(not name.startswith(f"{worker}-") for name in beside.lives())


@pytest.mark.parametrize("how", ["nobody is left", "twice", "interrupted"])
async def test_the_end_of_the_sidecar(replicas: Replicas, beside: Beside, how: str) -> None:
    """At SIGTERM it stays as long as somebody is there who may die, and a second one, or Ctrl-C, ends it at once."""
    replicas.start(1, environment=beside.environment)
    process = beside.start()
    await beside.watches(1)
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
        assert 130 == await asyncio.to_thread(process.wait, 10)
        return
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 0.7)
    assert None is process.poll()
    if how == "twice":
        process.send_signal(signal.SIGTERM)
    else:
        replicas.all[0].kill()
    assert 0 == await asyncio.to_thread(process.wait, 10)
    assert (how == "nobody is left") == (beside.said("is ended") == 1)
