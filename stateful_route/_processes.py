"""Processes of this machine as Linux tells of them: which one has an id, and whether that is gone."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_BOOT = _PROC / "sys/kernel/random/boot_id"
# Behind the name of the program in a line of /proc/PID/stat: its state, and when it was started.
_STATE, _STARTED = 0, 19
_ENDED = frozenset("ZXx")


def here() -> str:
    """Return what an id and a time of a start mean something in: this boot, and the namespaces of pids and of times.

    Processes that share them, as containers do that share a process namespace, get the same.

    Raises:
        OSError: if the system does not tell: it is no Linux, or there is no ``/proc``, or that of other namespaces.

    """
    if (_PROC / "self").readlink() != Path(str(os.getpid())):
        raise OSError("/proc is that of other processes")
    boot = _BOOT.read_text(encoding="ascii").strip()
    pids = (_PROC / "self/ns/pid").readlink()
    try:
        times = str((_PROC / "self/ns/time").readlink())
    except FileNotFoundError:  # a kernel before 5.6 has one for all
        times = ""
    return f"{boot} {pids} {times}".strip()


def started(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; ``None`` if it cannot be told."""
    fields = _stat(pid)
    return None if fields is None else int(fields[_STARTED])


def is_gone(pid: int, started_at: int) -> bool:
    """Whether the process that had this id, and was started then, is surely gone.

    If nothing can be told, as who looks may not see it, it may be there.
    """
    try:
        os.kill(pid, 0)  # it sees those too that /proc hides
    except ProcessLookupError:
        return True
    except OSError:
        pass
    fields = _stat(pid)
    if fields is None:
        return False
    return int(fields[_STARTED]) != started_at or (fields[_STATE] in _ENDED and not _runs_on(pid))


def _runs_on(pid: int) -> bool:
    """Whether a process whose first thread has ended may have other threads."""
    try:
        return [str(pid)] != [thread.name for thread in (_PROC / str(pid) / "task").iterdir()]
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _stat(pid: int) -> list[str] | None:
    try:
        line = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()  # the name of a program may have spaces and brackets
    return fields if len(fields) > _STARTED and fields[_STARTED].isdecimal() else None
