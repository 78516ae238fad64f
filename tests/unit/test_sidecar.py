"""A sidecar ends the lives of processes that are surely gone, and of no others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import Life, StoreTimeoutError, StoreUnavailableError, _processes
from stateful_route.lives import LifeRecord
from stateful_route.sidecar import sidecar as module
from stateful_route.sidecar import watch
from stateful_route.sidecar.folder import LivesFolder
from stateful_route.sidecar.sidecar import Sidecar
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
OPEN = Path("/proc/self/fd")
LIFE = Life("prod", "room", 0, 7)
AWAY = StoreUnavailableError("away", operation="end_life", maybe_applied=False)
LOST = StoreTimeoutError("no answer", operation="end_life", maybe_applied=True)


class Lives:
    """What is asked to be ended, and what is answered: the answers in their order, the last one again and again."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers or (True,))
        self.asked: list[Life] = []
        self.rehearsed: list[Life] = []
        self.away: Exception | None = None

    async def end(self, life: Life) -> bool:
        if life.incarnation == module.NO_LIFE:
            self.rehearsed.append(life)
            if self.away is not None:
                raise self.away
            return True
        self.asked.append(life)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def start() -> Iterator[Callable[[], int]]:
    """Give what starts a process that does nothing, and returns its id; all are ended, and reaped, in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> int:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1].pid

    yield begin
    for process in started:
        process.kill()
        process.wait()


def record_of(pid: int, life: Life = LIFE, **more: Any) -> LifeRecord:
    record = LifeRecord(life=life, lease=5.0, pid=pid, started=_processes.started(pid) or 1, host=_processes.here())
    return attrs.evolve(record, **more)


def write(folder: Path, record: LifeRecord, name: str = "a") -> Path:
    path = folder / f"{name}.life"
    beside = folder / f"{name}.new"
    beside.write_text(record.to_json())
    beside.replace(path)
    return path


@contextlib.asynccontextmanager
async def watching(folder: Path, lives: Lives) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(lives.end, LivesFolder(folder))
    running = asyncio.create_task(sidecar.run())
    try:
        yield sidecar
    finally:
        running.cancel()
        await asyncio.wait([running])


async def looked(times: int = 2) -> None:
    """Return once the folder was looked at: there is no other sign of it."""
    await asyncio.sleep(times * module._LOOK + 0.1)


def is_watched(sidecar: Sidecar, count: int = 1) -> Callable[[], bool]:
    return lambda: len(sidecar._watched) == count


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("told", [True, False], ids=["pidfd", "looks"])
async def test_a_death(
    tmp_path: Path, start: Callable[[], int], signum: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life is ended within milliseconds of its process, and once; its file is gone."""
    if not told:
        monkeypatch.delattr(os, "pidfd_open")
    pid, lives = start(), Lives()
    path = write(tmp_path, record_of(pid))
    async with watching(tmp_path, lives) as sidecar:
        await eventually(is_watched(sidecar))
        await looked()
        assert [] == lives.asked
        killed = time.monotonic()
        os.kill(pid, signum)
        await eventually(lambda: lives.asked)
        took = time.monotonic() - killed
        await eventually(lambda: not path.exists())
        await looked()

        assert [LIFE] == lives.asked
        assert took < 1.0
        assert 1 == sidecar.ended


async def test_gone_before(tmp_path: Path, start: Callable[[], int]) -> None:
    """At its start it ends the lives of processes that are gone: of another start of an id that is used again, too."""
    gone, alive, lives = start(), start(), Lives()
    write(tmp_path, record_of(gone, Life("prod", "room", 1, 4)), "gone")
    used_again = record_of(alive, Life("prod", "room", 2, 2))
    write(tmp_path, attrs.evolve(used_again, started=used_again.started - 1), "used-again")
    write(tmp_path, record_of(alive, Life("prod", "room", 3, 3)), "alive")
    os.kill(gone, signal.SIGKILL)
    os.waitpid(gone, 0)
    async with watching(tmp_path, lives):
        await eventually(lambda: len(lives.asked) == 2)
        await looked()

    assert [1, 2] == sorted(life.pod_index for life in lives.asked)
    assert ["alive.life"] == [path.name for path in tmp_path.iterdir()]


async def test_the_life_that_it_had_last(tmp_path: Path, start: Callable[[], int]) -> None:
    """What counts is what the file says when the process ends, be it a millisecond old."""
    pid, lives = start(), Lives()
    write(tmp_path, record_of(pid))
    async with watching(tmp_path, lives) as sidecar:
        await eventually(is_watched(sidecar))
        write(tmp_path, record_of(pid, Life("prod", "room", 4, 9)))
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: lives.asked)

    assert [Life("prod", "room", 4, 9)] == lives.asked


async def test_a_goodbye(tmp_path: Path, start: Callable[[], int]) -> None:
    """A process whose file is gone has said goodbye: nothing is ended when it ends, and it is watched no more."""
    pid, lives = start(), Lives()
    path = write(tmp_path, record_of(pid))
    async with watching(tmp_path, lives) as sidecar:
        await eventually(is_watched(sidecar))
        path.unlink()
        await eventually(is_watched(sidecar, 0))
        write(tmp_path, record_of(pid), "b")
        await eventually(is_watched(sidecar))
        (tmp_path / "b.life").unlink()
        os.kill(pid, signal.SIGKILL)
        await looked()

    assert [] == lives.asked


@pytest.mark.parametrize(
    "what",
    ["stopped", "another host", "half", "empty", "another name", "a folder", "a pipe", "a link", "large", "a number"],
)
async def test_nothing_is_ended(tmp_path: Path, start: Callable[[], int], what: str) -> None:
    """A process that stands still lives; and a file that is no record of this machine proves nothing."""
    pid, lives = start(), Lives()
    record = record_of(pid)
    path = tmp_path / "a.life"
    if what == "stopped":
        write(tmp_path, record)
        os.kill(pid, signal.SIGSTOP)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if what == "another host":
        write(tmp_path, attrs.evolve(record, host=record.host.replace("pid:[", "pid:[1")))
    elif what == "another name":
        (tmp_path / "a.life.new").write_text(record.to_json())
    elif what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a link":
        (tmp_path / "elsewhere").write_text(record.to_json())
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "a number":  # of which Python makes no int
        path.write_text(record.to_json().replace("/7", "/" + "7" * 5000))
    elif what in {"half", "empty", "large"}:
        path.write_text({"half": record.to_json()[:-9], "empty": "", "large": record.to_json() + " " * 20_000}[what])
    before = len(list(OPEN.iterdir()))
    async with watching(tmp_path, lives) as sidecar:
        for _ in range(3):
            await looked()
            sidecar._ignored.clear()  # as if it had been another file
        await looked()
        assert len(list(OPEN.iterdir())) <= before + 1  # of who watches the one that is stopped
        write(tmp_path, record_of(start()), "b")
        await eventually(lambda: "b.life" in sidecar._watched)  # it goes on

    assert [] == lives.asked


async def test_a_file_that_is_whole_later(tmp_path: Path, start: Callable[[], int]) -> None:
    """A file that could not be read is read again once it is another one."""
    pid, lives = start(), Lives()
    (tmp_path / "a.life").write_text("{")
    async with watching(tmp_path, lives) as sidecar:
        await looked()
        write(tmp_path, record_of(pid))
        await eventually(is_watched(sidecar))
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: lives.asked)


@pytest.mark.parametrize("answers", [(AWAY, LOST, True), (False, False, True)], ids=["away", "beside an older life"])
async def test_it_tries_again(tmp_path: Path, start: Callable[[], int], answers: tuple[bool | Exception, ...]) -> None:
    """If Redis does not answer, or cannot say yes yet, it asks again."""
    pid, lives = start(), Lives(*answers)
    path = write(tmp_path, record_of(pid))
    os.kill(pid, signal.SIGKILL)
    async with watching(tmp_path, lives) as sidecar:
        await eventually(lambda: sidecar.ended)
        await eventually(lambda: not path.exists())

    assert [LIFE] * 3 == lives.asked


async def test_until_the_lease_has_ended(
    tmp_path: Path, start: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """It gives up once the lease has ended by itself, says so, and forgets the file."""
    pid, lives = start(), Lives(AWAY)
    path = write(tmp_path, record_of(pid, lease=0.3))
    os.kill(pid, signal.SIGKILL)
    async with watching(tmp_path, lives) as sidecar:
        await eventually(lambda: not path.exists())
        tried = len(lives.asked)
        await looked()

        assert tried == len(lives.asked) > 2
        assert 0 == sidecar.ended
    assert "ends with its lease" in caplog.text


async def test_many(tmp_path: Path, start: Callable[[], int]) -> None:
    """Many processes that end at once are ended at once, each with its own life."""
    pids, lives = [start() for _ in range(30)], Lives()
    for number, pid in enumerate(pids):
        write(tmp_path, record_of(pid, Life("prod", "room", number, 9)), str(number))
    async with watching(tmp_path, lives) as sidecar:
        await eventually(is_watched(sidecar, 30))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(lives.asked) == 30)

    assert list(range(30)) == sorted(life.pod_index for life in lives.asked)


async def test_rehearsals(
    tmp_path: Path, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It tries, of each service, and again and again, whether it could end a life; if not it says so once."""
    monkeypatch.setattr(module, "_REHEARSES", 0.02)
    lives, names = Lives(), ["room", "room", "cart"]
    for number, name in enumerate(names):
        write(tmp_path, record_of(start(), Life("prod", name, number, 9)), str(number))
    async with watching(tmp_path, lives):
        await eventually(lambda: len(lives.rehearsed) > 4)
        lives.away = AWAY
        tried = len(lives.rehearsed)
        await eventually(lambda: len(lives.rehearsed) > tried + 4)

    assert {"room", "cart"} == {life.service_name for life in lives.rehearsed}
    assert 1 == caplog.text.count("could not be ended")
    assert [] == lives.asked


async def test_leave(tmp_path: Path, start: Callable[[], int]) -> None:
    """Told to leave, it stays as long as a process is there that is watched."""
    pid, lives = start(), Lives()
    write(tmp_path, record_of(pid))
    sidecar = Sidecar(lives.end, LivesFolder(tmp_path))
    running = asyncio.create_task(sidecar.run())
    await eventually(is_watched(sidecar))
    sidecar.leave()
    await looked()
    assert not running.done()
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(running, 5.0)

    assert [LIFE] == lives.asked


async def test_the_folder_is_away(tmp_path: Path, start: Callable[[], int], caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be read is said once, and ends nothing; when it is back all goes on."""
    pid, lives = start(), Lives()
    folder = tmp_path / "lives"
    folder.mkdir()
    write(folder, record_of(pid))
    async with watching(folder, lives) as sidecar:
        await eventually(is_watched(sidecar))
        folder.rename(tmp_path / "away")
        await looked(3)
        assert 1 == caplog.text.count("cannot be read")
        (tmp_path / "away").rename(folder)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: lives.asked)


async def test_an_id_that_is_used_again_meanwhile(start: Callable[[], int]) -> None:
    """If the id is another process's by the time it is watched, the one before is gone."""
    pid = start()
    started = _processes.started(pid)
    assert started is not None
    async with asyncio.timeout(1.0):
        await watch.until_gone(pid, started - 1)
    waiting = asyncio.create_task(watch.until_gone(pid, started))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
