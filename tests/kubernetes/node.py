"""A node of a cluster, as far as one machine can be it: runs the containers of the manifests as processes on loopback.

What is changed of a container is only where things are: ports, 0.0.0.0, folders, the names of the programs, the host of
Redis. Its command, its environment, its probes, its grace period and its Secrets are those of the manifests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Self

import attrs
import yaml

from stateful_route.embedded.binary import find_server
from tests.kubernetes.rendered import EXAMPLE, ROOT, Manifest, containers, templates
from tests.waiting import eventually
from tests.web.replicas import free_port

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_PROGRAMS = {
    "uvicorn": [sys.executable, "-m", "uvicorn"],
    "stateful-route": [sys.executable, "-m", "stateful_route.cli"],
    "valkey-server": [find_server()],
}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TOLD = {0, -signal.SIGTERM}
"""Codes of a process that ended as it was told to."""


@attrs.define(eq=False)
class Container:
    """A container that runs as a process."""

    name: str
    manifest: Manifest
    grace: float
    ports: dict[str, int]
    log: Path
    process: subprocess.Popen[bytes]

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    def passes(self, kind: str) -> bool:
        """Look once, as the kubelet does: a status from 200 to 399, or a connection."""
        probe = self.manifest[kind]
        within = probe.get("timeoutSeconds", 1)
        if "tcpSocket" in probe:
            return self.listens(probe["tcpSocket"]["port"], within)
        get = probe["httpGet"]
        url = f"http://127.0.0.1:{self.ports[get['port']]}{get['path']}"
        try:
            with _OPENER.open(url, timeout=within) as answer:
                return bool(200 <= answer.status < 400)
        except OSError:
            return False

    def listens(self, port: str, within: float = 1.0) -> bool:
        """Whether it takes connections at a port with this name."""
        with socket.socket() as looking:
            looking.settimeout(within)
            return looking.connect_ex(("127.0.0.1", self.ports[port])) == 0

    async def started(self, kind: str = "startupProbe") -> Self:
        """Return once it has started, within what its probe allows."""
        probe = self.manifest[kind]
        within = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)

        def looked() -> bool:
            assert self.process.poll() is None, self.text()
            return self.passes(kind)

        await eventually(looked, max(within, 20.0))
        return self

    async def terminated(self) -> float:
        """End it as the kubelet does after its preStop hook, within its grace period; return how long that took."""
        waited = self.manifest.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await eventually(lambda: self.process.poll() is not None, self.grace - waited)
        assert self.process.returncode in TOLD, self.text()
        return time.monotonic() - began

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Node:
    """Runs containers, and ends them with its block."""

    def __init__(self, folder: Path, manifests: list[Manifest]) -> None:
        """Make the Secrets by the script of the example, and the working folder by the Dockerfile."""
        self.folder = folder
        self.templates = templates(manifests)
        self.secrets = make_secrets(folder)
        self.redis = free_port()
        self.all: list[Container] = []
        self.image = folder / "srv"
        self.image.mkdir()
        for source in copied():
            shutil.copy(ROOT / source, self.image)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in reversed(self.all):
            with contextlib.suppress(ProcessLookupError):
                container.process.send_signal(signal.SIGCONT)
            container.kill()
            if kind is None:
                assert "Traceback" not in container.text(), container.text()

    def start(self, workload: str, container: str | None = None, host: str = "", **environment: str) -> Container:
        """Start a container of a pod of a workload, by default the one with its name; ``host`` is that of the pod."""
        template = self.templates[workload]
        name = container or workload
        (manifest,) = (each for each in containers(template) if each["name"] == name)
        ports = {each["name"]: free_port() for each in manifest.get("ports", ())}
        if "redis" in ports:
            ports["redis"] = self.redis
        moved = {str(each["containerPort"]): str(ports[each["name"]]) for each in manifest.get("ports", ())}
        command = [self._placed(moved.get(word, word)) for word in manifest["command"]]
        command = [*_PROGRAMS[command[0]], *command[1:]]
        for at, word in enumerate(command):
            if word in {"uvicorn", "stateful-route"} and command[at - 1] == "--":  # what `run` starts
                command[at : at + 1] = _PROGRAMS[word]
        variables = {each["name"]: self._value(each, moved) for each in manifest.get("env", ())}
        own = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOSTNAME": host or f"{workload}-5d8f7c9b6-x{len(self.all)}k2z",
        }
        log = self.folder / f"{len(self.all)}-{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env={**own, **variables, **environment}, stdout=file, stderr=file, cwd=self.image
            )
        grace = template["spec"].get("terminationGracePeriodSeconds", 30)
        begun = Container(name, manifest, grace, ports, log, process)
        self.all.append(begun)
        return begun

    async def redis_started(self) -> Container:
        return await self.start("valkey").started("readinessProbe")

    def _placed(self, word: str) -> str:
        word = word.replace("0.0.0.0", "127.0.0.1").replace("/etc/valkey/", f"{self.folder}/valkey-")  # noqa: S104
        word = re.sub(r"(?<=[@/])valkey$", f"127.0.0.1:{self.redis}", word)
        return re.sub(r"^/lives$", str(self.lives), word)

    @property
    def lives(self) -> Path:
        folder = self.folder / "lives"
        folder.mkdir(exist_ok=True)
        return folder

    def _value(self, variable: Manifest, moved: dict[str, str]) -> str:
        if "value" in variable:
            value = self._placed(variable["value"])
            return re.sub(r"(?<=:)\d+$", lambda port: moved.get(port[0], port[0]), value)
        reference = variable["valueFrom"]["secretKeyRef"]
        return self._placed(self.secrets[reference["name"]][reference["key"]])

    @property
    def url(self) -> str:
        """Where Redis is, for the user of the pods."""
        return self._placed(self.secrets["room"]["redis-url"])


def copied() -> list[str]:
    """Return which files of the tree the Dockerfile puts into the working folder of the image."""
    (line,) = re.findall(
        r"^COPY (examples/.*) \./$", (EXAMPLE / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return str(line).split()


def make_secrets(folder: Path, *release: str) -> dict[str, dict[str, str]]:
    """Run secrets.sh with a kubectl that keeps what it is given; files are laid as Kubernetes mounts them."""
    tools, given = folder / "tools", folder / "applied"
    tools.mkdir()
    kubectl = tools / "kubectl"
    kubectl.write_text(f'#!/bin/sh\n[ "$*" = "create -f -" ] && cat > {given}\n')
    kubectl.chmod(0o700)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["/bin/sh", str(EXAMPLE / "secrets.sh"), *release], check=True, env={"PATH": path})
    made = {each["metadata"]["name"]: each["stringData"] for each in yaml.safe_load_all(given.read_text())}
    for key, text in made["-".join([*release, "valkey"])].items():
        (folder / f"valkey-{key}").write_text(text)
    return made
