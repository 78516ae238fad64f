"""Waiting for facts."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def eventually(fact: Callable[[], bool | Awaitable[bool]], within: float = 10.0) -> None:
    """Return once ``fact`` is true; fail if it is not within that many seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = fact()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await anyio.sleep(0.01)  # between two looks
