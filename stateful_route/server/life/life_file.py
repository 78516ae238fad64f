"""The file that says which life this process has, for a supervisor that sees the process end."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from stateful_route import _processes
from stateful_route._log import log
from stateful_route.errors import ConfigError
from stateful_route.lives import SUFFIX, LifeRecord

if TYPE_CHECKING:
    from stateful_route.lives import Life

_SETTING = "life_dir"


class LifeFile:
    """One file in a folder, of one driver; it is there from the first life on until the goodbye.

    It is written in one piece, and synchronously: a hundred bytes, before anything can be claimed in the new life.
    """

    def __init__(self, folder: str | None, lease: float) -> None:
        """Write into ``folder``, or nothing if that is ``None``. ``lease`` is in seconds."""
        self._folder = None if folder is None else Path(folder)
        self._lease = lease
        self._path: Path | None = None
        self._pid = self._started = 0
        self._host = ""
        self._failed = False

    def open(self) -> None:
        """Find out which process this is, and whether the folder will do.

        Raises:
            ConfigError: if the folder is not there, or cannot be written to, or the system does not tell of processes.

        """
        folder = self._folder
        if folder is None:
            return
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise ConfigError(_SETTING, str(folder), "a folder that exists, and that this process may write to")
        self._pid = os.getpid()
        try:
            self._host, started = _processes.here(), _processes.started(self._pid)
        except OSError:
            started = None
        if started is None:
            raise ConfigError(_SETTING, str(folder), "nothing, where there is no /proc as on Linux")
        self._started = started
        self._path = folder / f"{self._pid}-{secrets.token_hex(8)}{SUFFIX}"

    def write(self, life: Life | None) -> None:
        """Say that this process has that life from now on; of ``None``, for not knowing one, it says nothing."""
        path = self._path
        if path is None or life is None:
            return
        record = LifeRecord(life=life, lease=self._lease, pid=self._pid, started=self._started, host=self._host)
        beside = path.with_suffix(".new")
        try:
            beside.write_text(record.to_json(), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            if not self._failed:
                log.warning(
                    "life_file_not_written",
                    "%(path)s cannot be written, so who sees this process end cannot end its life: %(error)s",
                    path=path,
                    error=error,
                )
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """Say nothing any more: the life has ended."""
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
