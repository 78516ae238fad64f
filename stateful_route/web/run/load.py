"""How loaded a child is: what a pod publishes whose app is another process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from stateful_route._validation import check_capacity

if TYPE_CHECKING:
    from stateful_route.load import PodFacts
    from stateful_route.web.run.child import Child
    from stateful_route.web.upstream.app import Upstream


class OpenRequests:
    """How many requests and WebSockets are under way; so many of them fill a pod of capacity 1."""

    def __init__(self, upstream: Upstream, full: float = 100.0) -> None:
        """Count those of an app."""
        check_capacity("full", full)
        self._upstream = upstream
        self._full = full

    def __call__(self, _facts: PodFacts, /) -> float:
        """Return the load."""
        return 1000.0 * self._upstream.open / self._full


class ChildCpu:
    """The share of the processors that a child and what it has waited for have used since the last time."""

    def __init__(self, child: Child) -> None:
        """Look at that child; it needs ``psutil``."""
        import psutil  # noqa: PLC0415 - an extra

        self._psutil = psutil
        self._child = child
        self._before: tuple[int | None, float, float] = (None, 0.0, 0.0)
        self._share = 0.0

    def __call__(self, facts: PodFacts, /) -> float:
        """Return the load."""
        pid, now = self._child.pid, time.monotonic()
        try:
            used = 0.0 if pid is None else sum(self._psutil.Process(pid).cpu_times()[:4])
        except self._psutil.Error:
            return facts.load_at(self._share)
        known, before, at = self._before
        if pid != known or now - at < 0.05:  # noqa: PLR2004 - asked twice in one heartbeat
            self._before = self._before if pid == known else (pid, used, now)
            return facts.load_at(self._share)
        self._share = max(0.0, used - before) / (now - at) / (os.cpu_count() or 1)
        self._before = pid, used, now
        return facts.load_at(self._share)
