"""Build sdist and wheel, install the wheel into fresh environments, and try what users get: ``python -m tools.wheel``.

The tests run from the checkout, so they do not see what the wheel lacks. It is tried with each supported Python that is
on PATH, among those of pyenv, or named (``--python``). ``--extras`` tries each extra alone instead, with one of them:
what it is for is in ``tools/extras.py``; that takes some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools import extras, interpreters, packed

if TYPE_CHECKING:
    from tools.interpreters import Interpreter

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tools" / "smoke.py"
# The first that knows --group: the one of a fresh environment may be older.
_PIP_WITH_GROUPS = "pip>=25.1"
EXTRAS = ROOT / "tools" / "extras.py"


def main() -> None:
    """Build, compare, install and try; an error ends it."""
    options = _options()
    pythons = interpreters.found(options.python)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = _built(folder)
        if options.extras is not None:
            _try_extras(folder, sdist, wheel, next(iter(pythons.values())), options.extras)
            return
        for version in interpreters.supported():
            if version in pythons:
                _try(folder / version, wheel, pythons[version])
            else:
                print(f"Python {version}: not found, so it was not tried", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.wheel", description="Try what users get.")
    parser.add_argument("--python", type=Path, action="append", default=[], help="one more interpreter to try it with")
    parser.add_argument(
        *("--extras", "-e"), nargs="*", metavar="NAME", help="try these extras instead, each alone; without a name all"
    )
    options = parser.parse_args()
    if unknown := set(options.extras or ()) - set(extras.TRIED):
        parser.error(f"there is no extra {', '.join(sorted(unknown))}: there are {', '.join(extras.TRIED)}")
    return options


def _built(folder: Path) -> tuple[Path, Path]:
    """Build an sdist, and the wheel from what is in it; compare both with the checkout."""
    _run(folder, sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    for file, files in [(sdist, packed.compare_sdist(sdist)), (wheel, packed.compare_wheel(wheel))]:
        print(f"{file.name}: {files} files, {file.stat().st_size / 1e6:.1f} MB", flush=True)
    packed.check_metadata(sdist, wheel)
    return sdist, wheel


def _try(folder: Path, wheel: Path, python: Interpreter) -> None:
    """Install the wheel with nothing but what it depends on, then with two extras, and use it both times."""
    began = time.monotonic()
    program = _environment(folder, python)
    _install(folder, wheel)
    _run(folder, program, "-I", SMOKE)
    command = program.with_name("stateful-route")
    assert "stateful-route[cli]" in _run(folder, command, "--version", status=2)
    _install(folder, f"{wheel}[cli,embedded]")
    assert wheel.name.split("-")[1] in _run(folder, command, "--version")
    assert "doctor" in _run(folder, command, "--help")
    _run(folder, program, "-I", SMOKE, "embedded")
    print(f"Python {python.version}: it works where it is installed ({time.monotonic() - began:.0f} s)", flush=True)


def _try_extras(folder: Path, sdist: Path, wheel: Path, python: Interpreter, chosen: list[str]) -> None:
    """Install the wheel with one extra, or one dependency group, at a time, and do what it is for."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (tree,) = (folder / "sdist").iterdir()
    for name in chosen or extras.TRIED:
        began = time.monotonic()
        here = folder / f"extra-{name}"
        program = _environment(here, python)
        if name in extras.GROUPS:
            _install(here, _PIP_WITH_GROUPS)
            _install(here, wheel, "--group", f"{tree / 'pyproject.toml'}:{name}")
        else:
            _install(here, f"{wheel}[{name}]")
        _run(here, program, "-I", EXTRAS, name, tree)
        print(f"extra {name}: it brings what it is for ({time.monotonic() - began:.0f} s)", flush=True)


def _environment(folder: Path, python: Interpreter) -> Path:
    """Make a fresh environment; return its interpreter."""
    folder.mkdir()
    _run(folder, python.path, "-m", "venv", folder / "venv")
    return folder / "venv" / "bin" / "python"


def _install(folder: Path, *what: str | Path) -> None:
    _run(folder, folder / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *what)


def _run(folder: Path, *command: str | Path, status: int = 0) -> str:
    """Run a command outside of the checkout; return what it printed."""
    done = subprocess.run(command, cwd=folder, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
