"""The program that measures stalls: see ``stalls``. It imports nothing else, so it starts at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

NAP = 0.01  # seconds
STALL = 0.1  # seconds: less than half of the shortest deadline that tests leave at its default, 0.25 s


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
