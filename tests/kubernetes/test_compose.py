"""The Dockerfile and the compose file of examples/kubernetes: they say the same as the manifests, and run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from tests.kubernetes.node import Node, copied
from tests.kubernetes.rendered import EXAMPLE, ROOT, Manifest, read, render, templates
from tests.kubernetes.serving import said, say, served
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.node import Container

pytestmark = pytest.mark.slow

DOCKERFILE = re.sub(r" *\\\n *", " ", (EXAMPLE / "Dockerfile").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
(COMPOSE,) = read(EXAMPLE / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
BASE = templates(render(EXAMPLE / "base"))
SECRET = "of all processes of the service"  # noqa: S105 - of a test


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def healthcheck() -> list[str]:
    """Return the command of the image's health check."""
    (line,) = instructions("HEALTHCHECK")
    found: list[str] = json.loads(line.split(" CMD ")[1])
    return found


# The image ----------------------------------------------------------------------------------------------------------


def test_stages() -> None:
    """The image has two stages of one pinned minor of Python that we support, and the user of the manifests."""
    (minor,) = instructions("ARG")
    (user,) = instructions("USER")
    spec = BASE["room"]["spec"]["securityContext"]

    assert ["python:${PYTHON}-slim AS build", "python:${PYTHON}-slim"] == instructions("FROM")
    assert f"Programming Language :: Python :: {minor.removeprefix('PYTHON=')}" in PROJECT["classifiers"]
    assert f"{spec['runAsUser']}:{spec['runAsGroup']}" == user
    assert f"--uid {spec['runAsUser']} " in DOCKERFILE
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nCMD ")
    assert ["SIGTERM"] == instructions("STOPSIGNAL")
    assert not re.search("secret|password|token|://[a-z]*:[^/]*@", DOCKERFILE, re.IGNORECASE)


def test_command() -> None:
    """The image runs the app as the Deployment does, in exec form, and exposes its ports."""
    (command,) = (line for line in instructions("CMD") if line.startswith('["uvicorn"'))
    (pod,) = BASE["room"]["spec"]["containers"]
    (exposed,) = instructions("EXPOSE")

    assert json.loads(command) == pod["command"]
    assert exposed.split() == [str(port["containerPort"]) for port in pod["ports"]]
    assert {pod["image"]} == {SERVICES[name]["image"] for name in ("room", "gateway")}


def test_what_is_copied() -> None:
    """What is copied is in the tree and in the context of the build, and the context has nothing else."""
    sources = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    ignored = (EXAMPLE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    admitted = [line.removeprefix("!") for line in ignored if line.startswith("!")]

    assert "*" == ignored[0]
    assert sorted(admitted) == sorted(source.removeprefix("./") for source in sources)
    assert all((ROOT / source).exists() for source in sources)


def test_what_is_installed() -> None:
    """What the programs of the image import is installed in it."""
    (install,) = (line for line in instructions("RUN") if "pip install" in line)
    extras = re.findall(r"'\.\[([a-z,]+)\]'", install)[0].split(",")
    wanted = [re.split(r"[>=;\[]", each)[0] for each in re.findall(r"'([a-z][^']*)'", install)]
    declared = [
        *PROJECT["dependencies"],
        *(each for extra in extras for each in PROJECT["optional-dependencies"][extra]),
    ]
    installed = {re.split(r"[>=;\[ ]", each)[0] for each in declared} | set(wanted) | {"stateful_route"}
    for program in copied():
        text = (ROOT / program).read_text(encoding="utf-8")
        imported = set(re.findall(r"^ *(?:from|import) (\w+)", text, re.MULTILINE))

        assert imported - set(sys.stdlib_module_names) <= installed
    assert {"uvicorn", "fastapi", "websockets"} <= installed


# Compose ------------------------------------------------------------------------------------------------------------


def compose() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    return ["docker", "compose"] if shutil.which("docker") else None


@pytest.mark.skipif(compose() is None, reason="docker-compose is not there: apt-get install docker-compose")
@pytest.mark.parametrize(("secret", "said"), [(SECRET, ""), ("", "openssl rand -hex 32")])
def test_compose_reads_it(secret: str, said: str) -> None:
    """Compose takes the file, and says what to do without a secret."""
    command = [*(compose() or ()), "-f", str(EXAMPLE / "compose.yaml"), "config", "--quiet"]
    environment = {**os.environ, "STATEFUL_ROUTE_SECRET": secret}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (not secret) == bool(done.returncode)
    assert said in done.stderr
    assert secret != SECRET or "" == done.stderr


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_as_the_manifests() -> None:
    """Commands, images and times are those of the manifests; nothing stands in the way of several rooms."""
    for name in ("gateway", "valkey"):
        (container,) = BASE[name]["spec"]["containers"]

        assert container["image"] == SERVICES[name]["image"]
        assert set(SERVICES[name]["command"]) <= set(container["command"])
    for name in ("room", "gateway"):
        service, grace = SERVICES[name], BASE[name]["spec"]["terminationGracePeriodSeconds"]
        assert grace == seconds(service["stop_grace_period"])
        assert service["read_only"]
        assert ["ALL"] == service["cap_drop"]
    assert not {"container_name", "ports", "hostname", "command"} & set(SERVICES["room"])
    assert COMPOSE["networks"]["inside"]["internal"]
    assert ["inside"] == SERVICES["room"]["networks"] == SERVICES["valkey"]["networks"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gateway"]["ports"])


def as_manifests() -> list[Manifest]:
    """Return the services in the form in which a node runs them."""
    found: list[Manifest] = []
    for name, service in SERVICES.items():
        (like,) = BASE[name]["spec"]["containers"]
        variables = {
            key: value.partition("${")[0] or SECRET if "${" in value else value
            for key, value in service.get("environment", {}).items()
        }
        container = {
            "name": name,
            "command": service.get("command", like["command"]),
            "env": [{"name": key, "value": value} for key, value in variables.items()],
            "ports": [port for port in like["ports"] if port["name"] != "peers"],
        }
        spec = {
            "containers": [container],
            "terminationGracePeriodSeconds": seconds(service.get("stop_grace_period", "10s")),
        }
        found.append({"kind": "Deployment", "metadata": {"name": name}, "spec": {"template": {"spec": spec}}})
    return found


async def healthy(container: Container, test: list[str]) -> None:
    """Wait for a health check, run as its command says."""
    command = [sys.executable, *(word.replace("8000", str(container.ports["http"])) for word in test[1:])]

    async def passes() -> bool:
        assert container.process.poll() is None, container.text()
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    assert "python" == test[0]
    await eventually(passes, 30.0)


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")
async def test_scaled(tmp_path: Path) -> None:
    """Three of the app, a gateway, as ``--scale room=3`` starts them: healthy, one room for all; all end in time."""
    with Node(tmp_path, as_manifests()) as node:
        redis = node.start("valkey")
        await eventually(lambda: "Ready to accept connections" in redis.text())
        rooms = [node.start("room") for _ in range(3)]
        for room in rooms:
            await healthy(room, healthcheck())
        gateway = node.start("gateway")
        await healthy(gateway, SERVICES["gateway"]["healthcheck"]["test"][1:])
        talking = asyncio.create_task(say(gateway, "tea", "hello"))
        await eventually(lambda: said(gateway, "tea", 1))
        pids = {(await served(each, "tea"))["pid"] for each in (*rooms, gateway)}
        owner = next(room for room in rooms if room.process.pid in pids)
        await owner.terminated()
        after = await served(gateway, "tea")

        assert 1 == len(pids)
        assert 1012 == await talking
        assert [{"text": "hello"}] == after["history"]
        for each in (gateway, *(room for room in rooms if room is not owner)):
            await each.terminated()
