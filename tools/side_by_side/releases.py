"""The two releases: that of this checkout, and another one, which is made to run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
KEPT = "d5f286cb804c388db2ce22fde914f6ae66d0cff4"
"""Whom this release is tried with by the tests: the release before it.

None was before 0.1.0. This is the last commit before histories, metrics and the requests of operators, and has all else
that two processes say to each other: links of generation 2, the protocol ``stateful_route/1``, states that travel.
"""
_EXTRA = "gateway"  # uvicorn, for the processes of the middleware
_INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


class NoReleaseError(Exception):
    """There is no such release here."""


@attrs.frozen
class Release:
    """A release that can be run.

    Attributes:
        name: what people call it.
        python: the interpreter that runs it.
        path: a folder to import it from, ahead of what that interpreter has; ``None``: it is installed there.

    """

    name: str
    python: Path
    path: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables of a process of this release, without settings that it would read by accident."""
        ours = "STATEFUL_ROUTE_", "REDIS", "HOSTNAME", "PYTHON"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        return inherited | ({"PYTHONPATH": str(self.path)} if self.path else {})


def today() -> Release:
    """Return that of this checkout."""
    return Release("today", Path(sys.executable), ROOT)


def is_there(revision: str) -> bool:
    """Tell whether this clone has a revision: a shallow one, or an unpacked sdist, has not."""
    return _git("cat-file", "-e", f"{revision}^{{commit}}") is not None


def prepared(what: str, folder: Path, *, installed: bool) -> Release:
    """Return another release, made to run.

    Args:
        what: the folder of a virtual environment, a wheel, or a revision of git.
        folder: an empty one, for what is made.
        installed: whether a revision is installed into an environment of its own, with what it depends on, as a wheel
            is. Otherwise it runs with the dependencies that are here, which takes no time.

    Raises:
        NoReleaseError: there is none of that name, or it cannot be installed.

    """
    path = Path(what)
    if (path / "bin" / "python").exists():
        return Release(what, path.absolute() / "bin" / "python")
    if path.suffix == ".whl" and path.is_file():
        return Release(path.stem, _environment(folder, f"{path.absolute()}[{_EXTRA}]"))
    archive = _git("archive", "--format=tar", what, "stateful_route", "pyproject.toml", "README.md", "LICENSE")
    if archive is None:
        raise NoReleaseError(f"{what} is no virtual environment, no wheel, and no revision that this clone has")
    tree = folder / "tree"
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tree, filter="data")
    name = what[:12]
    return (
        Release(name, _environment(folder, f"{tree}[{_EXTRA}]")) if installed else Release(name, today().python, tree)
    )


def _environment(folder: Path, requirement: str) -> Path:
    """Install a release into an environment of its own; return its interpreter."""
    python = folder / "venv" / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", str(folder / "venv")], [str(python), *_INSTALL, requirement]):
        done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise NoReleaseError(f"{requirement} cannot be installed:\n{done.stdout}")
    return python


def _git(*arguments: str) -> bytes | None:
    """Return what git prints; ``None`` if it fails, or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True)  # noqa: S607 - on PATH
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
