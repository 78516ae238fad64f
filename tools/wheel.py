"""Build the wheel, install it into a fresh environment, and try what users get: ``python -m tools.wheel``.

The tests run from the checkout, so they do not see what the wheel lacks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "stateful_route"
SMOKE = ROOT / "tools" / "smoke.py"


def main() -> None:
    """Build, compare, install and try; an error ends it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(folder, sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        _compare(wheel)
        _run(folder, sys.executable, "-m", "venv", folder / "venv")
        python, command = (folder / "venv" / "bin" / program for program in ("python", "stateful-route"))
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(folder, *install, wheel)
        _run(folder, python, "-I", SMOKE)
        assert "stateful-route[cli]" in _run(folder, command, "--version", status=2)
        _run(folder, *install, f"{wheel}[cli,embedded]")
        print(_run(folder, command, "--version"), end="")
        assert "demo" in _run(folder, command, "--help")
        _run(folder, python, "-I", SMOKE, "embedded")
        print(f"{wheel.name}: it has all files of the package, and works where it is installed")


def _run(folder: Path, *command: str | Path, status: int = 0) -> str:
    """Run a command outside of the checkout; return what it printed."""
    done = subprocess.run(command, cwd=folder, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def _compare(wheel: Path) -> None:
    """Look that the wheel has each file of the package, and nothing besides but its metadata."""
    files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and path.suffix != ".pyc")
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if packed != expected:
        raise SystemExit(f"{wheel.name} lacks {sorted(expected - packed)}, and has {sorted(packed - expected)} besides")


if __name__ == "__main__":
    main()
