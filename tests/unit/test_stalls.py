"""What the tests know of stalls of the machine."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from stateful_route import StoreTimeoutError, StoreUnavailableError
from tests.stall_watch import STALL
from tests.stalls import Stalls, is_lateness
from tests.waiting import eventually

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
    assert stalls.excuse(None)
    stalls.begin()
    assert stalls.longest() < 2 * STALL  # 0.0, unless the machine does stall


LATE = StoreTimeoutError("no answer", operation="place", maybe_applied=True)
AWAY = StoreUnavailableError("refused", operation="place", maybe_applied=False)


@pytest.mark.parametrize(
    ("error", "late"),
    [
        (LATE, True),
        (TimeoutError(), True),
        (AWAY, False),
        (AssertionError("1 != 2"), False),
        (ExceptionGroup("", [AWAY, ExceptionGroup("", [LATE])]), True),
        (ExceptionGroup("", [AWAY]), False),
        (None, False),
    ],
)
def test_lateness(error: BaseException | None, late: bool) -> None:
    assert late == is_lateness(error)


async def test_lateness_of_a_fact() -> None:
    with pytest.raises(AssertionError) as caught:
        await eventually(lambda: False, 0.01)
    assert is_lateness(caught.value)


def test_lateness_of_a_cause() -> None:
    error = AWAY.with_traceback(None)
    error.__cause__ = TimeoutError()
    assert is_lateness(error)
    error.__cause__ = None
