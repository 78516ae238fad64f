"""What the tests know of stalls of the machine."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.stalls import STALL, Stalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stalls(tmp_path: Path) -> Iterator[Stalls]:
    watched = Stalls(tmp_path)
    yield watched
    watched.stop()
    assert not list(tmp_path.iterdir())


def test_stall(stalls: Stalls) -> None:
    time.sleep(0.5)  # for it to start
    stalls.watcher.send_signal(signal.SIGSTOP)
    time.sleep(3 * STALL)
    stalls.watcher.send_signal(signal.SIGCONT)
    time.sleep(0.1)
    assert 2 * STALL < stalls.longest()
    assert stalls.excuse()
    stalls.begin()
    assert stalls.longest() < 2 * STALL  # 0.0, unless the machine does stall
