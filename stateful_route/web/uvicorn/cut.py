"""Keeps uvicorn from calling it an error of the app when an answer is cut off on purpose, which has its own line."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import Any

_CUT: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn tells what is not known: it logs in the task of the request."""
    if record.msg != "ASGI callable returned without completing response.":
        return True
    return asyncio.current_task() not in _CUT


def cut_off() -> None:
    """Note that the answer of this task ends here, without its end: the web server closes the connection."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)  # once: it is the same
    task = asyncio.current_task()
    if task is not None:
        _CUT.add(task)
