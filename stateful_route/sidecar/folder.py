"""The folder in which each process has a file with the name of its life."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TypeAlias

from stateful_route.errors import InvalidArgumentError
from stateful_route.lives import SUFFIX, LifeRecord

# A record has a few hundred bytes, with the longest names some thousands.
_MOST_BYTES = 16_384

Version: TypeAlias = tuple[int, int, int]
"""What is another one for each file that takes the place of another: inode, time of the last change, size."""


class LivesFolder:
    """Reads what the processes write. Whatever else is there is no file of a life."""

    def __init__(self, path: str | Path) -> None:
        """Read that folder, which need not be there yet."""
        self.path = Path(path)

    def look(self) -> dict[str, Version]:
        """Return the names of the files, each with its version.

        Raises:
            OSError: if the folder cannot be read.

        """
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        seen = entry.stat(follow_symlinks=False)
                        found[entry.name] = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        return found

    def read(self, name: str) -> LifeRecord | None:
        """Return what a file says; ``None`` if it is there no more.

        Raises:
            OSError: if it cannot be read.
            InvalidArgumentError: if it is no record.

        """
        try:  # a pipe must not hold up the reader, nor a link lead elsewhere
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgumentError("life", name, "a file")
            text = os.read(descriptor, _MOST_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(text) > _MOST_BYTES:
            raise InvalidArgumentError("life", name, f"a file of at most {_MOST_BYTES} bytes")
        return LifeRecord.from_json(text)

    def remove(self, name: str) -> None:
        """Remove a file, if that is allowed."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink()
