"""The proxies in front of the replicas: nginx and HAProxy, as Debian has them, told which replicas there are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks.web import processes
from benchmarks.web.processes import LOOPBACK
from benchmarks.web.raw import Connection, RawError, request_bytes
from stateful_route.web.proxies import printed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.web.processes import Program
    from stateful_route.web.proxies import Plan

_APPLIED = 10.0
_STEP = 0.02
_IN_A_ROW = 5
_SLOTS = 12
_GENERATION = "/_generation"

_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
{user}
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{
{servers}
{keepalive}
    }}
    server {{
        listen {host}:{port} backlog=2048;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_read_timeout 60s;
        location = {generation_path} {{ return 200 "{generation}"; }}
        location / {{ proxy_pass http://app; }}
{unbuffered}
    }}
}}
"""
_UNBUFFERED = """
        location {path} {{
            proxy_pass http://app;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
"""
_KEPT_ALIVE = "        keepalive 2000; keepalive_requests 1000000000;"

_HAPROXY = """
global
    maxconn 5000
    stats socket {folder}/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch
    retry-on all-retryable-errors
frontend web
    bind {host}:{port}
    default_backend app
backend app
    balance roundrobin
    http-request disable-l7-retry if METH_POST
    option httpchk GET /healthz
{sticky}
    default-server check inter 200ms fall 2 rise 1
{servers}
"""
COOKIE = "    cookie replica insert indirect nocache"
"""HAProxy puts a cookie with the name of the replica into the answer."""


def stick_table(header: str) -> str:
    """Return the lines with which HAProxy keeps a table of who was where, by that header of the requests."""
    return f"    stick-table type string len 64 size 100k expire 30m\n    stick on hdr({header})"


class Balancer(Protocol):
    """A proxy that runs."""

    @property
    def port(self) -> int:
        """Where it listens, on the loopback."""
        ...

    async def use(self, replicas: Sequence[Program]) -> None:
        """Send requests to those replicas, and to no others, from when this returns."""
        ...


def missing(name: str) -> str | None:
    """Return why that proxy cannot be used; ``None`` if it can."""
    return None if shutil.which(name) else f"not on the PATH: apt-get install {name}"


def versions(*names: str) -> list[str]:
    """Return name and version of those that are there: the first line that they say of themselves."""
    found = []
    for name in names:
        if missing(name) is None:
            said = subprocess.run([name, "-v"], capture_output=True, text=True, check=False)
            found.append((said.stdout or said.stderr).splitlines()[0].removeprefix("nginx version: "))
    return found


class Nginx:
    """nginx with one worker, round robin."""

    def __init__(self, folder: Path, *, keepalive: bool, unbuffered: Sequence[str] = ()) -> None:
        """Describe it; ``keepalive`` is of its connections to the replicas, ``unbuffered`` are beginnings of paths."""
        self.port = processes.free_port()
        self._folder = folder
        self._keepalive = keepalive
        self._unbuffered = unbuffered
        self._generation = 0
        self._program: Program | None = None

    async def use(self, replicas: Sequence[Program]) -> None:
        """Send requests to those replicas, and to no others, from when this returns."""
        self._generation += 1
        servers = [f"        server {replica.address} max_fails=0;" for replica in replicas]
        text = _NGINX.format(
            folder=self._folder,
            user="user root;" if os.geteuid() == 0 else "",  # else its worker could not read the folder
            servers="\n".join(servers or ["        server unix:/nowhere;"]),
            keepalive=_KEPT_ALIVE if self._keepalive else "",
            host=LOOPBACK,
            port=self.port,
            generation_path=_GENERATION,
            generation=self._generation,
            unbuffered="".join(_UNBUFFERED.format(path=path) for path in self._unbuffered),
        )
        (self._folder / "nginx.conf").write_text(text, encoding="utf-8")
        if self._program is None:
            command = ["nginx", "-p", str(self._folder), "-e", str(self._folder / "nginx-error.log")]
            command += ["-c", str(self._folder / "nginx.conf")]
            self._program = await processes.start("nginx", command, self._folder, port=self.port, env={})
        else:
            self._program.signal(signal.SIGHUP)
        await _eventually(self._is_applied, f"nginx does not apply what it was told: {self._program.tail()}")

    async def _is_applied(self) -> bool:
        """Whether no old worker takes connections any more, and several in a row reach the new one."""
        for _ in range(_IN_A_ROW):
            async with await Connection.open(LOOPBACK, self.port) as connection:
                said = await connection.send(request_bytes("GET", _GENERATION, LOOPBACK))
            if said.body != str(self._generation).encode():
                return False
        return len(self._accepting()) == 1  # the new one, which has answered

    def _accepting(self) -> list[int]:
        """Return the workers that take connections: one that is about to end has another title."""
        accepting = []
        for child in self.program.children():
            with contextlib.suppress(OSError):  # it has just ended
                title = Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0 ")
                if title == b"nginx: worker process":
                    accepting.append(child)
        return accepting

    @property
    def program(self) -> Program:
        """Its process."""
        assert self._program is not None
        return self._program


async def printed_nginx(name: str, folder: Path, plan: Plan, *, first: str = "") -> Program:
    """Start nginx with one worker and the configuration that ``stateful-route proxy-config`` prints.

    With ``first`` it begins at that pod, always.
    """
    own = folder / name
    own.mkdir()
    kinds = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"
    paths = "".join(f"    {kind}_temp_path {own}/{kind};\n" for kind in kinds)
    text = printed("nginx", plan)
    for ours, benchmarked in (
        ("worker_processes auto;", "worker_processes 1; worker_rlimit_nofile 20000;"),
        ("worker_connections 4096;", "worker_connections 10000;"),
        ("http {\n", f"http {{\n    access_log off;\n    keepalive_requests 1000000000;\n{paths}"),
    ):
        assert ours in text
        text = text.replace(ours, benchmarked)
    text = text.replace("/dev/shm/stateful_route", str(own / "kept"))  # noqa: S108 - it is not that folder which is used
    if first:
        text = "".join(
            line
            for line in text.splitlines(keepends=True)
            if not line.startswith("        server ") or f" {first} " in line
        )
    (own / "nginx.conf").write_text(text, encoding="utf-8")
    rights = "user root;" if os.geteuid() == 0 else ""
    command = ["nginx", "-p", str(own), "-e", str(own / "error.log"), "-c", str(own / "nginx.conf")]
    command += ["-g", f"daemon off; pid {own}/pid; error_log {own}/error.log warn; {rights}"]
    program = await processes.start(name, command, folder, port=plan.listen_port, env={})
    await processes.until_open(program)
    return program


class HAProxy:
    """HAProxy, with slots for replicas that are filled while it runs."""

    def __init__(self, folder: Path, sticky: str) -> None:
        """Describe it; ``sticky`` are the lines that make it sticky."""
        self.port = processes.free_port()
        self._folder = folder
        self._sticky = sticky
        self._slots: dict[str, Program] = {}
        self._next = 0

    async def start(self) -> Program:
        """Start it with no replica."""
        servers = "\n".join(f"    server s{n} {LOOPBACK}:1 cookie s{n} disabled" for n in range(_SLOTS))
        text = _HAPROXY.format(folder=self._folder, host=LOOPBACK, port=self.port, sticky=self._sticky, servers=servers)
        file = self._folder / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        command = ["haproxy", "-db", "-f", str(file)]
        program = await processes.start("haproxy", command, self._folder, port=self.port, env={})
        await processes.until_open(program)
        return program

    async def use(self, replicas: Sequence[Program]) -> None:
        """Send requests to those replicas, and to no others, from when this returns."""
        for replica in replicas:
            if replica not in self._slots.values():
                # A new one each time: a user who comes with the name of a slot that is gone is sent to another.
                slot = f"s{self._next % _SLOTS}"
                self._next += 1
                self._slots[slot] = replica
                await self._tell(f"set server app/{slot} addr {LOOPBACK} port {replica.port}")
                await self._tell(f"set server app/{slot} state ready")
        for slot, replica in list(self._slots.items()):
            if replica not in replicas:
                del self._slots[slot]
                await self._tell(f"set server app/{slot} state maint")
        await _eventually(self._are_up, "HAProxy does not take a replica for up")

    async def _are_up(self) -> bool:
        lines = (await self._tell("show servers state app")).splitlines()
        fields = next(line for line in lines if line.startswith("# ")).removeprefix("# ").split()
        states = [dict(zip(fields, line.split(), strict=False)) for line in lines if line and line[0] != "#"]
        up = {one["srv_name"] for one in states if one.get("srv_op_state") == "2"}
        return up >= self._slots.keys()

    async def _tell(self, order: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self._folder / "haproxy.sock"))
        writer.write(f"{order}\n".encode())
        said = (await reader.read()).decode().strip()
        writer.close()
        await writer.wait_closed()
        assert not any(word in said.lower() for word in ("unknown", "error", "invalid", "failed to")), (
            f"{order}: {said}"
        )
        return said


@contextlib.asynccontextmanager
async def round_robin(folder: Path) -> AsyncIterator[Balancer]:
    """Run nginx, with a connection to a replica for each request."""
    nginx = Nginx(folder, keepalive=False)
    await nginx.use([])
    async with processes.ending(nginx.program):
        yield nginx


def haproxy(sticky: str) -> Callable[[Path], AbstractAsyncContextManager[Balancer]]:
    """Return what runs an HAProxy that is sticky in that way."""

    @contextlib.asynccontextmanager
    async def run(folder: Path) -> AsyncIterator[Balancer]:
        proxy = HAProxy(folder, sticky)
        async with processes.ending(await proxy.start()):
            yield proxy

    return run


async def _eventually(fact: Callable[[], object], failure: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_APPLIED):
            while True:
                with contextlib.suppress(OSError, RawError):
                    if await fact():  # type: ignore[misc]
                        return
                await asyncio.sleep(_STEP)
    raise processes.ProgramError(failure)
