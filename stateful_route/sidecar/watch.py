"""Waits for the end of a process that is no child of this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from stateful_route import _processes

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds between two looks at a process of which the kernel does not tell the end.
_LOOK = 0.05


async def until_gone(pid: int, started_at: int) -> None:
    """Return once the process that has this id, and was started then, is surely gone; at once if it was before."""
    with _descriptor_of(pid) as descriptor:
        # The descriptor is of whoever has the id by now. If that was started then, it is the process; if not, that is
        # gone. Where it is not told when it was started, the process is that one too, or is gone.
        if _processes.is_gone(pid, started_at):
            return
        if descriptor is not None:
            await _until_readable(descriptor)
            return
        while not _processes.is_gone(pid, started_at):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_LOOK)


@contextlib.contextmanager
def _descriptor_of(pid: int) -> Iterator[int | None]:
    """Give a descriptor that becomes readable when the process ends; ``None`` if there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):  # it is gone; or a kernel before 5.3, a sandbox, too many files, no Linux
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _until_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
