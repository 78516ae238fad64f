"""The Pythons of this machine that the package says it runs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
_CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")
# It can make an environment with a pip in it: on Debian that is a package of its own, python3-venv.
_PROBE = "import ensurepip, sys, venv; print(sys.version.split()[0]); print(sys.executable)"
_ANSWERS_WITHIN = 20.0


@attrs.frozen
class Interpreter:
    """A Python that runs.

    Attributes:
        path: the program.
        version: all of its version, as ``3.11.7``.

    """

    path: Path
    version: str

    @property
    def minor(self) -> str:
        """The version as the classifiers have it: ``3.11``."""
        return ".".join(self.version.split(".")[:2])


def supported() -> list[str]:
    """Return the versions that the classifiers of ``pyproject.toml`` name, the oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    matches = (_CLASSIFIER.fullmatch(classifier) for classifier in project["classifiers"])
    return [match[1] for match in matches if match]


def found(more: Iterable[Path] = ()) -> dict[str, Interpreter]:
    """Return one interpreter for each version that is there: of those that are given, on PATH, of pyenv, or this one.

    Raises:
        SystemExit: one of those that are given does not run, or is of a version that is not supported.

    """
    there: dict[str, Interpreter] = {}
    for path in more:
        each = _asked(path)
        if each is None or each.minor not in supported():
            raise SystemExit(f"{path} is no Python of {', '.join(supported())} that can make an environment")
        there.setdefault(each.minor, each)
    for version in supported():
        for path in _candidates(version):
            if version not in there and (each := _asked(path)) and each.minor == version:
                there[version] = each
    return there


def _candidates(version: str) -> Iterator[Path]:
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for folder in sorted(pyenv.glob(f"{version}.*"), key=_numbers, reverse=True):
        yield folder / "bin" / "python"
    yield Path(sys.base_prefix) / "bin" / "python3"


def _numbers(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _asked(path: Path) -> Interpreter | None:
    """Ask a program for its version; ``None`` if it is no Python that can make an environment, as a shim may not be."""
    command = (path, "-I", "-c", _PROBE)
    try:
        asked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_ANSWERS_WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode:
        return None
    version, program = asked.stdout.splitlines()
    return Interpreter(Path(program), version)
