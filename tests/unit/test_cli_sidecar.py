"""``stateful-route sidecar`` says in one line what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route import _processes
from stateful_route.cli import main

if TYPE_CHECKING:
    from pathlib import Path

USAGE = 2


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATEFUL_ROUTE_LIFE_DIR", "STATEFUL_ROUTE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redis", "redis://localhost"], "--lives"),
        (["--lives", "."], "--redis"),
        (["--lives", "./nowhere", "--redis", "redis://localhost"], "nowhere"),
        (["--lives", ".", "--redis", "nowhere"], "begins with one of redis"),
    ],
)
def test_what_it_lacks(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder that is there, or a URL that can be one, it ends with status 2."""
    assert USAGE == main(["sidecar", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folder and URL come from the environment too; where no process can be looked at it says so."""
    monkeypatch.setenv("STATEFUL_ROUTE_LIFE_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setattr(_processes, "_PROC", tmp_path)

    assert USAGE == main(["sidecar"])
    assert "/proc" in capsys.readouterr().err
