"""Stalls of the machine: a test that fails during one is run once more, and listed as rerun in the summary.

Our deadlines are fractions of a second, so that the tests of faults are quick. On a machine that many share, a
processor may stand still for longer than that, for us or for a server that we started. A process of its own measures
this: it has a thread on each processor, which sleeps for 10 ms, over and over, and writes down when it woke up late.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

NAP = 0.01  # seconds
STALL = 0.1  # seconds: less than half of the shortest deadline that tests leave at its default, 0.25 s


class Stalls:
    """Knows of the stalls of this machine, from its start to ``stop()``."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / f"stalls-{os.getpid()}"
        self._log.touch()
        self._since = time.monotonic()
        # It ends when its standard input does, so also if we are killed.
        self.watcher = subprocess.Popen([sys.executable, __file__, self._log], stdin=subprocess.PIPE)

    def begin(self) -> None:
        """Note that a test begins: what happened before is no excuse for it."""
        self._since = time.monotonic()

    def longest(self) -> float:
        """Return how many seconds the longest stall since the last ``begin()`` took; 0.0 if there was none."""
        time.sleep(2 * NAP)  # for one that is just over
        stalls = [line.split() for line in self._log.read_text().splitlines()]
        return max((float(length) for ended, length in stalls if float(ended) > self._since), default=0.0)

    def excuse(self) -> bool:
        """Return whether the machine stalled since the last ``begin()``."""
        return self.longest() >= STALL

    def stop(self) -> None:
        """Stop watching."""
        self.watcher.communicate()
        self._log.unlink()


def watch(log: Path, processor: int | None) -> None:
    """Append a line for each stall of a processor: when it ended, and how long it took."""
    if processor is not None:
        os.sched_setaffinity(0, {processor})  # of this thread
    while True:
        due = time.monotonic() + NAP
        time.sleep(NAP)
        woke = time.monotonic()
        if woke - due >= STALL:
            with log.open("a") as lines:
                lines.write(f"{woke} {woke - due}\n")


def main() -> None:
    """Watch each processor that we may use, until the standard input ends."""
    processors = list(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    for processor in processors:
        threading.Thread(target=watch, args=(Path(sys.argv[1]), processor), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
