"""A real proxy with a configuration that is printed, or of the page about proxies, in front of replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tests.web.clients import ask
from tests.web.replicas import Replica, Replicas, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ON_THE_PAGE = {"caddy": "caddyfile", "envoy": "yaml"}
"""Proxies whose configuration is one of docs/proxies.md, and the language there."""
_PAGE = Path(__file__).parents[3] / "docs" / "proxies.md"
UID = "path:/rooms/{uid},header:x-session-id"
_BESIDE_PYTHON = Path(sys.executable).parent
LUA = "/etc/haproxy/stateful_route.lua"
_CLI = [sys.executable, "-m", "stateful_route.cli"]


def found(name: str) -> str | None:
    """Return the path of a program: of ``TEST_CADDY`` and the like, on the PATH, or beside the Python that runs."""
    named = os.environ.get(f"TEST_{name.upper()}")
    return named or shutil.which(name) or shutil.which(name, path=f"{_BESIDE_PYTHON}:/usr/sbin")


@attrs.frozen
class Front:
    """A proxy in front of replicas."""

    replicas: Replicas
    pods: list[Replica]
    decide: Replica | None
    proxy: Replica
    name: str

    @property
    def repeats(self) -> bool:
        """Whether the proxy asks again when a pod is not reached, or dies; the others do once that is known."""
        return self.name in {"nginx", "caddy"}

    @property
    def falls_back(self) -> bool:
        """Whether the proxy goes to any pod while nobody decides."""
        return self.decide is not None and self.name != "envoy"

    async def kill(self, pod: Replica) -> None:
        """Kill a pod, and if the proxy does not ask again, wait until it may be known."""
        pod.kill()
        if not self.repeats:
            await asyncio.sleep(0.2)  # the connection of who decides is closed, which takes milliseconds

    @property
    def port(self) -> int:
        return self.proxy.port

    async def owner(self, uid: str) -> Replica:
        """Have a uid placed, and return who owns it."""
        answer = await ask(self.port, f"/rooms/{uid}/count")
        assert answer.status == 200, (answer, self.proxy.text())
        return self.replicas.by_pid(answer.json()["pid"])

    def other(self, owner: Replica) -> Replica:
        return next(pod for pod in self.pods if pod is not owner)


def launch_pods(replicas: Replicas, count: int = 2, app: str = "tests.web.apps:rooms", **more: Any) -> list[Replica]:
    """Start replicas that proxies reach, and return once they serve."""
    ports = [free_port() for _ in range(count)]
    settings: dict[str, Any] = {"http_address": ":{port}"} | more
    pods = []
    for port in ports:
        own = settings | {"http_address": settings["http_address"].format(port=port)}
        pods.append(replicas.launch(app, port=port, **own))
    for pod in pods:
        replicas.wait(pod)
    return pods


def decider(replicas: Replicas, proxy: str, *more: str, uid: str = UID, port: int | None = None) -> Replica:
    """Run ``stateful-route decide``."""
    port = free_port() if port is None else port
    command = [*_CLI, "decide", "--for", proxy, "--service", "room", "--uid", uid, "--port", str(port), *more]
    return replicas.wait(replicas.run(command, port, STATEFUL_ROUTE_COOKIE_SECRETS="a secret of the tests"))


def printed(proxy: str, *options: str, uid: str = UID) -> str:
    """Return the configuration that is printed."""
    command = [*_CLI, "proxy-config", proxy, "--service", "room", "--uid", uid, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def on_the_page(proxy: str, *, port: int, decide: int, pods: Sequence[int], patience: int) -> str:
    """Return the configuration of the page, with these ports for those that it names."""
    fences = _PAGE.read_text(encoding="utf-8").split(f"```{ON_THE_PAGE[proxy]}\n")
    assert len(fences) == 2
    text = fences[1].partition("```")[0]
    addresses = " ".join(f"127.0.0.1:{pod}" for pod in pods)
    named = {
        "caddy": {
            "http://:8080 {\n": f"http://:{port} {{\n    bind 127.0.0.1\n",
            "127.0.0.1:7950": f"127.0.0.1:{decide}",
            "timeout 11s": f"timeout {patience + 5}s",
            "10.0.0.7:8000 10.0.0.8:8000": addresses,
        },
        "envoy": {
            '"0.0.0.0", port_value: 8080': f'"127.0.0.1", port_value: {port}',
            '"127.0.0.1", port_value: 7950': f'"127.0.0.1", port_value: {decide}',
            "timeout: 11s": f"timeout: {patience + 5}s",
        },
    }[proxy]
    if proxy == "caddy" and not pods:  # nobody else to go to, as without --pods of the proxies that are printed
        text, count = re.subn(
            r"        # Nobody decides.*?\n        }\n(?=        handle \{)", "", text, flags=re.DOTALL
        )
        assert count == 1
        del named["10.0.0.7:8000 10.0.0.8:8000"]
    for said, here in named.items():
        assert text.count(said) == 1
        text = text.replace(said, here)
    return text


def start_proxy(replicas: Replicas, proxy: str, text: str, port: int, lua: str = "") -> Replica:
    """Run a proxy with a configuration."""
    folder = replicas.folder / f"{proxy}-{port}"
    folder.mkdir()
    if proxy == "haproxy":
        text = text.replace(LUA, str(folder / "stateful_route.lua"))
        (folder / "stateful_route.lua").write_text(lua)
    return replicas.wait(replicas.run(_COMMANDS[proxy](text, folder), port, HOME=str(folder)))


def _nginx(text: str, folder: Path) -> list[str]:
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = re.sub(r"(proxy_cache_path) \S+", rf"\1 {folder}/kept", text)
    (folder / "nginx.conf").write_text(text.replace("http {\n", f"http {{\n    access_log off;\n{temporary}"))
    rights = "user root;" if os.geteuid() == 0 else ""  # else its workers could not write into the folder
    own = f"daemon off; pid {folder}/pid; error_log stderr warn; {rights}"
    return [found("nginx") or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", own]


def _haproxy(text: str, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return [found("haproxy") or "haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(text: str, folder: Path) -> list[str]:
    (folder / "Caddyfile").write_text(text)
    return [found("caddy") or "caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _envoy(text: str, folder: Path) -> list[str]:
    (folder / "envoy.yaml").write_text(text)
    command = [found("envoy") or "envoy", "--config-path", str(folder / "envoy.yaml"), "--use-dynamic-base-id"]
    return [*command, "--concurrency", "1", "--log-level", "warning"]


_COMMANDS = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy, "envoy": _envoy}


def front_of(
    replicas: Replicas,
    proxy: str,
    mode: str = "decide",
    *,
    app: str = "tests.web.apps:rooms",
    uid: str = UID,
    **middleware: Any,
) -> Front:
    """Start two replicas, a decider if the mode takes one, and a proxy in front of them."""
    more = {"misroute": "accel"} if mode == "replay" else {}
    keep = 1 if mode == "decide, kept" else 0
    mode = mode.partition(",")[0]
    pods = launch_pods(replicas, app=app, **more | middleware)
    port = free_port()
    decide = decider(replicas, proxy, "--patience", "5", uid=uid) if mode == "decide" else None
    if proxy in ON_THE_PAGE:
        assert decide is not None
        text = on_the_page(proxy, port=port, decide=decide.port, pods=[pod.port for pod in pods], patience=5)
        return Front(replicas, pods, decide, start_proxy(replicas, proxy, text, port), proxy)
    options = ["--mode", mode, "--listen", f"127.0.0.1:{port}", "--patience", "5", "--keep", str(keep)]
    options += ["--pods", ",".join(f"127.0.0.1:{pod.port}" for pod in pods)]
    if decide is not None:
        options += ["--decide", f"127.0.0.1:{decide.port}"]
    lua = printed("haproxy-lua", *options, uid=uid) if proxy == "haproxy" else ""
    running = start_proxy(replicas, proxy, printed(proxy, *options, uid=uid), port, lua)
    return Front(replicas, pods, decide, running, proxy)


@contextlib.contextmanager
def listening_trap() -> Iterator[tuple[int, list[bytes]]]:
    """Listen on a port where nobody may come, and yield it with what came nevertheless."""
    import socket  # noqa: PLC0415
    import threading  # noqa: PLC0415

    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as trap:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = trap.accept()
                    with connection:
                        came.append(connection.recv(1000))

        threading.Thread(target=take, daemon=True).start()
        yield trap.getsockname()[1], came
        trap.shutdown(socket.SHUT_RDWR)
