"""The event loops that a case can run on."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from benchmarks.peers import missing_module

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("asyncio", "uvloop")


def missing(name: str) -> str | None:
    """Return why that loop cannot be used; ``None`` if it can."""
    return missing_module(name)


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes such a loop."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return made
