"""What an extra, or a dependency group, is for, tried where the wheel is installed with that alone.

``tools.wheel --extras`` runs this. Arguments: its name, and the folder of the unpacked sdist, for the groups, which
serve a checkout.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

GROUPS = {"demo", "dev", "docs", "bench", "examples", "kubernetes", "proxies"}
"""Those of ``TRIED`` that are dependency groups (PEP 735)."""
BIN = Path(sys.prefix) / "bin"
OF_OTHER_EXTRAS = {"run", "gateway", "decide", "shortcut", "dashboard"}
"""Modules of the command line that need more than ``cli``."""


def cli(_: Path) -> None:
    """Each command of operators has a help; a server that is not there is told in one line."""
    everything("stateful_route.cli", besides=OF_OTHER_EXTRAS)
    for command in ("pods", "show", "top", "move", "release", "drain", "doctor"):
        assert "Usage" in run("stateful-route", command, "--help")
    for command in OF_OTHER_EXTRAS - {"decide", "shortcut"}:
        assert "Usage" in run("stateful-route", command, "--help")
    told = run("stateful-route", "pods", "--service", "room", "--redis", "redis://127.0.0.1:1", status=3)
    assert 1 == told.count("\n"), told


def cpu(_: Path) -> None:
    """The CPU of this process can be measured."""
    from stateful_route.load import CpuUsage  # noqa: PLC0415 - each function imports what its extra brings

    CpuUsage()


def embedded(_: Path) -> None:
    """A server starts and answers."""
    from stateful_route import StatefulRoute  # noqa: PLC0415

    async def ask() -> None:
        async with StatefulRoute.from_url("embedded://") as route, route.client() as client:
            assert {} == await client.get_link_service("", "alice")

    asyncio.run(ask())


def web(_: Path) -> None:
    """The middleware is there, and tokens are verified."""
    from stateful_route import web  # noqa: PLC0415

    for name in web.__all__:
        getattr(web, name)
    web.Jwt("sub", key="k" * 32, algorithms=["HS256"])


def gateway(_: Path) -> None:
    """All of the web part is imported, and the commands that serve have a help."""
    everything("stateful_route.cli", besides={"dashboard"})
    everything("stateful_route.web", besides={"starlette"})
    for command in ("run", "gateway", "decide", "proxy-config", "sidecar"):
        assert "Usage" in run("stateful-route", command, "--help")


def metrics(_: Path) -> None:
    """What collects for Prometheus and for OpenTelemetry is imported."""
    everything("stateful_route.metrics")


def proxies(_: Path) -> None:
    """The programs run."""
    assert "v2" in run("caddy", "version")
    assert "version" in run("envoy", "--version")


def dashboard(_: Path) -> None:
    """All of it is imported, and its command has a help."""
    everything("stateful_route.dashboard")
    assert "Usage" in run("stateful-route", "dashboard", "--help")


def demo(tree: Path) -> None:
    """It runs, in peace."""
    run("python", "-m", "examples.demo", "--no-chaos", "--users", "20", "--requests", "200", folder=tree)


def testing(tree: Path) -> None:
    """All of it is imported, and a store passes the suite."""
    everything("stateful_route.testing")
    options = ("-q", "--noconftest", "-c", os.devnull, "-o", "asyncio_mode=auto", "-p", "no:cacheprovider")
    run("pytest", *options, "-k", "TestConformance", tree / "tests" / "store" / "test_memory_store.py")


def bench(tree: Path) -> None:
    """All benchmarks are imported."""
    sys.path.insert(0, str(tree))
    everything("benchmarks")


def examples(tree: Path) -> None:
    """All examples are imported, each from its own folder, as they are run."""
    os.environ["CART_SECRET"] = "of no account: nothing is served"  # noqa: S105 - what it says
    sys.path.insert(0, str(tree))
    everything("examples")
    for file in sorted(tree.glob("examples/*/*.py")):
        if file.parent.name != "harness":
            sys.path.insert(0, str(file.parent))
            runpy.run_path(str(file), run_name="imported")
            sys.path.pop(0)


def kubernetes(_: Path) -> None:
    """What reads manifests is imported."""
    for name in ("kubernetes_validate", "yaml"):
        importlib.import_module(name)


def docs(tree: Path) -> None:
    """The site is built."""
    run("python", "-m", "tools.site", folder=tree)


def dev(tree: Path) -> None:
    """The tests of a checkout are collected, and the programs of ``make lint`` run."""
    for program in ("ruff", "mypy", "twine"):
        run(program, "--version")
    run("lint-imports", "--no-logo", folder=tree)
    run("pytest", "--collect-only", "-q", "-p", "no:cacheprovider", folder=tree)


def everything(package: str, besides: Collection[str] = ()) -> None:
    """Import all modules of a package, but what is run and not imported."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if module.name.rpartition(".")[2] not in {"__main__", *besides}:
            importlib.import_module(module.name)


def run(program: str, *arguments: str | Path, folder: Path | None = None, status: int = 0) -> str:
    """Run a program of this environment; return what it printed."""
    done = subprocess.run(
        [BIN / program, *arguments], cwd=folder, check=False, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, f"{program} {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


TRIED: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        *(cli, cpu, embedded, web, gateway, metrics, proxies, dashboard, testing),
        *(bench, demo, examples, kubernetes, docs, dev),
    )
}
"""By the name of the extra, or of the group; a new one needs a line."""

if __name__ == "__main__":
    TRIED[sys.argv[1]](Path(sys.argv[2]))
