"""The file that says which life a process has: there before anything is claimed, and gone after the goodbye."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stateful_route import ConfigError, LifecycleError, StoreUnavailableError, _processes
from stateful_route.lives import Life, LifeRecord
from tests.insides import beat_once
from tests.unit.conftest import NAMESPACE, SERVICE
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from stateful_route import ServerDriver
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeServer

AWAY = StoreUnavailableError("away", operation="heartbeat", maybe_applied=False)


def read(folder: Path) -> list[LifeRecord]:
    """Return what the files say; there is no other file."""
    assert {".life"} >= {path.suffix for path in folder.iterdir()}
    return [LifeRecord.from_json(path.read_text()) for path in folder.iterdir()]


async def test_from_start_to_stop(make_server: MakeServer, tmp_path: Path) -> None:
    """It names the life and this process, and the lease; after the goodbye it is gone."""
    async with make_server(life_dir=str(tmp_path)) as server:
        (record,) = read(tmp_path)
        (path,) = tmp_path.iterdir()

        assert Life(NAMESPACE, SERVICE, 0, server.incarnation) == record.life == server.life
        assert (500.0, os.getpid(), _processes.here()) == (record.lease, record.pid, record.host)
        assert record.started == _processes.started(os.getpid())
        assert path.name.startswith(f"{os.getpid()}-")
    assert [] == read(tmp_path)


async def test_each_life(make_server: MakeServer, store: MemoryStore, tmp_path: Path) -> None:
    """It names each life from the moment at which that may claim; the uids are claimed again after that."""
    async with make_server(life_dir=str(tmp_path)) as server:
        await server.claim("alice")
        for lose in (store.lose_all, lambda: store.mark_dead(NAMESPACE, SERVICE, 0)):
            store.hold("claim")
            lose()
            await beat_once(server)
            await store.wait_held()

            assert [server.life] == [record.life for record in read(tmp_path)]
            store.hold_no_more()
            store.release_held()


async def test_several_drivers(make_server: MakeServer, tmp_path: Path) -> None:
    """Each driver of a process has a file of its own."""
    async with make_server(0, life_dir=str(tmp_path)) as first, make_server(1, life_dir=str(tmp_path)) as second:
        assert {first.life, second.life} == {record.life for record in read(tmp_path)}


async def test_no_goodbye(make_server: MakeServer, store: MemoryStore, tmp_path: Path) -> None:
    """If the goodbye fails it stays: who sees the process end ends the life."""
    server = make_server(life_dir=str(tmp_path), stop_deadline=0.1)
    await server.start()
    store.fail_with(AWAY, "heartbeat")
    await server.stop()

    assert [server.life] == [record.life for record in read(tmp_path)]


async def test_beside_an_older_life(make_server: MakeServer, tmp_path: Path) -> None:
    """A life that waits for an older one says no goodbye, and its file stays."""
    older = make_server()
    await older.start()
    waiting = make_server(life_dir=str(tmp_path))
    await waiting.start()
    await waiting.stop()

    assert [waiting.life] == [record.life for record in read(tmp_path)]
    await older.stop()


async def test_ended(make_server: MakeServer, store: MemoryStore, tmp_path: Path) -> None:
    """It is gone once the life was ended, and stays if that failed."""
    server = make_server(life_dir=str(tmp_path))
    await server.start()
    await server.end()
    assert [] == read(tmp_path)

    server = make_server(life_dir=str(tmp_path), stop_deadline=0.05)
    await server.start()
    store.fail_with(AWAY, "end_life")
    await server.end()
    assert [server.life] == [record.life for record in read(tmp_path)]


@pytest.mark.parametrize("kind", ["absent", "a file", "read-only"])
async def test_no_folder(make_server: MakeServer, store: MemoryStore, tmp_path: Path, kind: str) -> None:
    """A folder that will not do is a ConfigError at the start, before there is a life."""
    folder = tmp_path / "lives"
    if kind == "a file":
        folder.touch()
    if kind == "read-only":
        if os.getuid() == 0:
            pytest.skip("root may write anywhere")
        folder.mkdir(mode=0o500)
    server = make_server(life_dir=str(folder))
    with pytest.raises(ConfigError, match="life_dir"):
        await server.start()

    assert not store.operations["register"]
    with pytest.raises(LifecycleError):
        await server.claim("alice")


async def test_a_full_disk(
    make_server: MakeServer, store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it cannot be written later the pod goes on, and the log says so once; the file before stays as it was."""
    folder = tmp_path / "lives"
    folder.mkdir()
    async with make_server(life_dir=str(folder)) as server:
        folder.rename(tmp_path / "away")
        for _ in range(2):
            store.lose_all()
            await beat_once(server)
        warnings = [record for record in caplog.records if "cannot be written" in record.getMessage()]
        (tmp_path / "away").rename(folder)

        assert 1 == len(warnings)
        assert (await server.claim("alice")).is_owned()
        store.lose_all()
        await beat_once(server)
        assert [server.life] == [record.life for record in read(folder)]


async def test_a_fork(make_server: MakeServer, tmp_path: Path) -> None:
    """A process that is forked leaves the file to the one that has the life."""
    server: ServerDriver
    async with make_server(life_dir=str(tmp_path)) as server:
        server._after_fork()
        await server.stop()

        assert 1 == len(read(tmp_path))


def test_processes() -> None:
    """A process that is there, another start with its id, and one that has ended are told from each other."""
    pid = os.getpid()
    started = _processes.started(pid)
    assert started is not None
    assert not _processes.is_gone(pid, started)
    assert _processes.is_gone(pid, started - 1)
    assert not _processes.is_gone(1, _processes.started(1) or 0)


async def test_a_zombie_is_gone() -> None:
    """A process that has ended is gone, also before anybody has reaped it; one that stands still is not."""
    child = os.fork()
    if not child:
        os._exit(0)
    try:
        started = _processes.started(child) or 0
        await eventually(lambda: _processes.is_gone(child, started))
    finally:
        os.waitpid(child, 0)
    assert _processes.is_gone(child, started)
    assert None is _processes.started(child)


def test_a_process_that_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process of which nothing can be told, as /proc hides it, is not held for gone."""
    monkeypatch.setattr(_processes, "_PROC", tmp_path)

    assert not _processes.is_gone(os.getpid(), 1)
    assert None is _processes.started(os.getpid())


def test_another_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A /proc that is that of another process namespace tells nothing here."""
    (tmp_path / "self").symlink_to("1")
    monkeypatch.setattr(_processes, "_PROC", tmp_path)
    with pytest.raises(OSError, match="other processes"):
        _processes.here()
