"""How loaded a child is."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from stateful_route.load import PodFacts
from stateful_route.web.run.load import ChildCpu, OpenRequests

if TYPE_CHECKING:
    from stateful_route.web.run.child import Child
    from stateful_route.web.upstream.app import Upstream

pytest.importorskip("psutil")


class _Process:
    def __init__(self, pid: int | None) -> None:
        self.pid = pid


def test_cpu() -> None:
    """A child that is busy is loaded by its share of all processors; one that is gone keeps what it had."""
    child = _Process(os.getpid())
    load = ChildCpu(cast("Child", child))
    assert load(PodFacts()) == 0
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    busy = load(PodFacts(capacity=2.0))

    assert 0 < busy <= 2000
    assert load(PodFacts(capacity=2.0)) == busy  # asked again at once
    child.pid = None
    load(PodFacts())


def test_open_requests() -> None:
    """So many open requests fill a pod."""
    upstream: Any = type("Upstream", (), {"open": 25})()

    assert OpenRequests(cast("Upstream", upstream), full=50.0)(PodFacts()) == 500
