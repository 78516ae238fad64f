"""Stalls of the machine: a test that fails by one is run once more, and listed as rerun in the summary.

Our deadlines are fractions of a second, so that the tests of faults are quick. On a machine that many share, a
processor may stand still for longer than that, for us or for a server that we started. A process of its own measures
this: it has a thread on each processor, which sleeps for 10 ms, over and over, and writes down when it woke up late.
It does not see that many processes wait for a processor, as who slept is served first; so a test that failed as a
deadline passed runs once more too. What is wrong rather than late is no stall, and fails at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from stateful_route.errors import StoreTimeoutError
from tests import stall_watch
from tests.stall_watch import NAP, STALL
from tests.waiting import NOT_WITHIN

if TYPE_CHECKING:
    from pathlib import Path


class Stalls:
    """Knows of the stalls of this machine, from its start to ``stop()``."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / f"stalls-{os.getpid()}"
        self._log.touch()
        self._since = time.monotonic()
        # It ends when its standard input does, so also if we are killed.
        self.watcher = subprocess.Popen([sys.executable, stall_watch.__file__, self._log], stdin=subprocess.PIPE)

    def begin(self) -> None:
        """Note that a test begins: what happened before is no excuse for it."""
        self._since = time.monotonic()

    def longest(self) -> float:
        """Return how many seconds the longest stall since the last ``begin()`` took; 0.0 if there was none."""
        time.sleep(2 * NAP)  # for one that is just over
        stalls = [line.split() for line in self._log.read_text().splitlines()]
        return max((float(length) for ended, length in stalls if float(ended) > self._since), default=0.0)

    def excuse(self, error: BaseException | None) -> bool:
        """Return whether the machine stalled since the last ``begin()``, or the error is that something was late."""
        return self.longest() >= STALL or (error is not None and is_lateness(error))

    def stop(self) -> None:
        """Stop watching."""
        self.watcher.communicate()
        self._log.unlink()


def is_lateness(error: BaseException | None) -> bool:
    """Return whether a deadline that passed is the error, or its cause."""
    if error is None:
        return False
    if isinstance(error, BaseExceptionGroup) and any(is_lateness(one) for one in error.exceptions):
        return True
    late = isinstance(error, TimeoutError | StoreTimeoutError) or str(error).startswith(NOT_WITHIN)
    return late or is_lateness(error.__cause__ or error.__context__)
