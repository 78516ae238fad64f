"""The chart of examples/kubernetes, as the program ``helm`` prints it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.kubernetes.rendered import EXAMPLE, Manifest, documents, templates

CHART = EXAMPLE / "chart"
VALUES = CHART / "values"
WITHOUT = "helm is not there: the extra kubernetes brings it on Linux on x86_64, or TEST_HELM names it"
_OFFLINE = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "KUBECONFIG": os.devnull}


class Refused(Exception):  # noqa: N818 - what a test expects
    """Helm refused the values, or the chart; its text says why."""


@functools.cache
def found() -> str | None:
    """Return where ``helm`` is: the program that TEST_HELM names, on the PATH, or beside the Python that runs."""
    named = os.environ.get("TEST_HELM")
    return named or shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))


def helm(*arguments: str | Path) -> str:
    """Run it without a network, a cluster or a home; return what it prints.

    Raises:
        Refused: with what it says.

    """
    program = found()
    assert program is not None
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **_OFFLINE}
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    assert "" == done.stderr
    return done.stdout


def printed(*files: str, release: str = "room", chart: Path = CHART, values: dict[str, Any] | None = None) -> str:
    """Return what the chart prints with files of its folder ``values``, and ``values`` on top, by their paths."""
    arguments: list[str | Path] = ["template", release, chart]
    for name in files:
        arguments += ["--values", VALUES / f"{name}.yaml"]
    for name, value in (values or {}).items():
        arguments += ["--set-json", f"{name}={json.dumps(value)}"]
    return helm(*arguments)


def rendered(*files: str, release: str = "room", values: dict[str, Any] | None = None) -> list[Manifest]:
    """Return its manifests, with the names that those of ``base`` have."""
    text = printed(*files, release=release, values=values)
    manifests: list[Manifest] = _renamed(documents(text), _names(release))
    for container in templates(manifests)["room"]["spec"]["containers"]:
        container["name"] = {"app": "room"}[container["name"]]
    return manifests


def _names(release: str) -> dict[str, str]:
    """Return the names in ``base`` of what the chart names after the release."""
    parts = {f"{release}-{part}": part for part in ("gateway", "valkey", "scaler")}
    # The headless Service has another name here, as the one in front has that of the release if the gateway is off.
    return {release: "room", f"{release}-pods": "room", f"app={release}": "app=room", **parts}


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value
