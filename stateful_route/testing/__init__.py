"""Helpers for tests, as a product: a store in memory, a clock, servers, faults, and the suite that every store passes.

``StoreConformance`` and ``StoreKit`` need pytest and pytest-asyncio, ``link_machine`` needs Hypothesis: these names are
imported when they are first asked for, so that the rest works without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from stateful_route.testing.carrier import LocalCarrier
from stateful_route.testing.clock import ManualClock
from stateful_route.testing.memory.store import MemoryStore
from stateful_route.testing.proxy import FaultProxy
from stateful_route.testing.servers import cluster, local_server, sentinel_group

if TYPE_CHECKING:
    from stateful_route.testing.conformance import StoreConformance, StoreKit
    from stateful_route.testing.instances import Fleet, fleet
    from stateful_route.testing.model import link_machine

__all__ = [
    "FaultProxy",
    "Fleet",
    "LocalCarrier",
    "ManualClock",
    "MemoryStore",
    "StoreConformance",
    "StoreKit",
    "cluster",
    "fleet",
    "link_machine",
    "local_server",
    "sentinel_group",
]

_CONFORMANCE = "stateful_route.testing.conformance"
_FLEET = "stateful_route.testing.instances"
_WHERE = {
    "Fleet": _FLEET,
    "StoreConformance": _CONFORMANCE,
    "StoreKit": _CONFORMANCE,
    "fleet": _FLEET,
    "link_machine": "stateful_route.testing.model",
}


def __getattr__(name: str) -> object:
    """Import what needs a test framework."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _WHERE[name] == _CONFORMANCE:
        import pytest  # noqa: PLC0415 - only who asks for the suite needs it

        pytest.register_assert_rewrite(_CONFORMANCE)  # before its import, so that its failures show values
    return getattr(importlib.import_module(_WHERE[name]), name)
