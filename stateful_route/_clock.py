"""The clock by which a pod counts its lease: it never goes back, and goes on while the machine is suspended."""

from __future__ import annotations

import functools
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _lease_clock() -> Callable[[], float]:
    # ``time.monotonic`` stands still meanwhile on both, and a pod that wakes up would believe in a lease that others
    # have seen end.
    name = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, "")
    number = getattr(time, name, None)
    if number is None:
        return time.monotonic
    clock = functools.partial(time.clock_gettime, number)
    try:
        clock()
    except OSError:  # a kernel, or a sandbox, that does not know it
        return time.monotonic
    return clock


lease_clock: Callable[[], float] = _lease_clock()
"""Seconds since some time in the past."""
