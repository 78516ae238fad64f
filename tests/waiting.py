"""Waiting for facts."""

from __future__ import annotations

import inspect
import itertools
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable


NOT_WITHIN = "not within "
"""How the message begins of what is not true in time."""


async def eventually(fact: Callable[[], object], within: float = 10.0) -> None:
    """Return once ``fact`` is true; fail if it is not within that many seconds.

    On a machine that stands still meanwhile it is looked at 20 times a second all the same, for five times as long.
    """
    began = time.monotonic()
    for looks in itertools.count():
        answer = fact()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        took = time.monotonic() - began
        assert took < within or (looks < 20 * within and took < 5 * within), f"{NOT_WITHIN}{within:g} s"
        await anyio.sleep(0.01)  # between two looks
