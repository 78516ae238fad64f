"""What the tools of a release look at is what there is; ``make wheel-test`` does the rest."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import stateful_route
from tools import extras, interpreters, packed

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_each_extra_is_tried() -> None:
    """No extra, and no dependency group, is without something that it is for."""
    assert set(PROJECT["optional-dependencies"]) == set(extras.TRIED) - extras.GROUPS
    assert set(PYPROJECT["dependency-groups"]) == extras.GROUPS


def test_pythons() -> None:
    """The classifiers name this Python, and CI and the docs name the same ones."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    supported = interpreters.supported()
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"{sys.version_info.major}.{sys.version_info.minor}" in supported
    assert supported == re.findall(r"\d\.\d+", matrix)
    assert f"Python {supported[0]} to {supported[-1]}" in changelog
    assert f">={supported[0]}" == PROJECT["requires-python"]


def test_interpreters() -> None:
    """One that is given counts ahead of what is on PATH; what is no Python is refused, and named."""
    found = interpreters.found([Path(sys.executable)])

    assert Path(sys.executable) == found[f"{sys.version_info.major}.{sys.version_info.minor}"].path
    with pytest.raises(SystemExit, match="/bin/false"):
        interpreters.found([Path("/bin/false")])


def test_version_of_the_changelog() -> None:
    """A release has a heading in the changelog, with its day."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)

    assert "dev" in stateful_route.__version__ or stateful_route.__version__ == headings[0]


def test_a_file_too_many(tmp_path: Path) -> None:
    """An sdist that has something besides, and a wheel that lacks something, are refused, and the files named."""
    sdist, wheel = tmp_path / "x.tar.gz", tmp_path / "x.whl"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(__file__, "x/notes.txt")
    with zipfile.ZipFile(wheel, "w") as wheel_archive:
        wheel_archive.writestr("x.dist-info/licenses/LICENSE", "")

    with pytest.raises(SystemExit, match=r"x\.whl lacks \[.*'stateful_route/py\.typed'"):
        packed.compare_wheel(wheel)
    if (ROOT / ".git").exists():
        with pytest.raises(SystemExit, match=r"x\.tar\.gz lacks .* and has \['notes\.txt'\] besides"):
            packed.compare_sdist(sdist)
