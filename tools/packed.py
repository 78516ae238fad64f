"""What is in an sdist and in a wheel: all that belongs there, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "stateful_route"
OF_THE_CHECKOUT = (
    ".editorconfig",
    ".gitattributes",
    ".github/ISSUE_TEMPLATE/",
    ".github/pull_request_template.md",
)
"""What git has and no packager needs."""
LARGEST = {".gz": 4_000_000, ".whl": 1_500_000}
"""Bytes of an sdist and of a wheel: twice what they had with 0.1.0. Who gets over it looks what has come in."""


def compare_sdist(sdist: Path) -> int:
    """Look that an sdist has the files that git has, and return how many it has.

    Raises:
        SystemExit: it lacks one, or has one besides, or is too large.

    """
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO"}
    listed = ("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, check=True, text=True, stdout=subprocess.PIPE).stdout.split("\0")
    there = {name for name in names if name and (ROOT / name).is_file() and not name.startswith(OF_THE_CHECKOUT)}
    return _compare(sdist, packed, there)


def compare_wheel(wheel: Path) -> int:
    """Look that a wheel has each file of the package, and nothing besides but its metadata; return how many files.

    Raises:
        SystemExit: as with an sdist.

    """
    files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and path.suffix != ".pyc")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    if not licences:
        raise SystemExit(f"{wheel.name} has no LICENSE")
    return _compare(wheel, packed, {path.relative_to(ROOT).as_posix() for path in files})


def check_metadata(*files: Path) -> None:
    """Let twine look whether an index would take the metadata, and could show the README.

    Raises:
        SystemExit: it would not.

    """
    twine = [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)]
    done = subprocess.run(twine, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(done.stdout)


def _compare(file: Path, packed: set[str], there: set[str]) -> int:
    if packed != there:
        raise SystemExit(f"{file.name} lacks {sorted(there - packed)}, and has {sorted(packed - there)} besides")
    size = file.stat().st_size
    if size > LARGEST[file.suffix]:
        raise SystemExit(f"{file.name} has {size:,} bytes, which is more than {LARGEST[file.suffix]:,}")
    return len(packed)
