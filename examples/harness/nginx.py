"""nginx as it comes with Debian, as a round robin that knows nothing of sessions."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from examples.harness.processes import Server, free_port
from stateful_route.web.proxies import Plan, printed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

# Every connection of a client is for one request: nginx closes idle ones when it reloads, and a request could be on its
# way on one of them. One process of it will do for a few hundred requests a second.
_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_timeout 0;
    client_max_body_size 64m;

    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}

    upstream replicas {{ # each in turn
{servers}
    }}

    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off; # events of a stream go on as they come
            proxy_next_upstream error timeout; # a GET is tried at the next replica; a POST only if nothing was sent
        }}
    }}
}}
"""


def available() -> bool:
    """Return whether nginx is there: on PATH, or where Debian has it, which is not on the PATH of all users."""
    return _binary() is not None


def _binary() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def _user() -> str:
    return "user root;" if os.geteuid() == 0 else ""  # its workers write into a folder of ours


class Nginx:
    """A private nginx on a free port of the loopback; an async context manager that ends it and removes its folder."""

    def __init__(self, uid: str = "", decide: int = 0) -> None:
        """Describe it; it is not started yet. With the port of who decides it asks where a request goes, by its uid."""
        self._uid = uid
        self._decide = decide
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        binary = _binary() or "nginx"
        command = (binary, "-p", str(self._folder), "-e", "error.log", "-c", "nginx.conf")
        self._process = Server("nginx", command, {}, self._folder, port=self.port)

    @property
    def url(self) -> str:
        """Where the clients come to."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, ports: Sequence[int]) -> None:
        """Start it in front of these ports.

        Raises:
            ProcessError: if it does not start.

        """
        self._write(ports)
        await self._process.start()

    def balance(self, ports: Sequence[int]) -> None:
        """Take these ports from now on. What is open goes on with the processes it is open to."""
        self._write(ports)
        self._process.signal(signal.SIGHUP)

    def _write(self, ports: Sequence[int]) -> None:
        text = self._asking(ports) if self._decide else self._round_robin(ports)
        (self._folder / "nginx.conf").write_text(text)

    def _asking(self, ports: Sequence[int]) -> str:
        """Return what `stateful-route proxy-config nginx` prints, with what is of this folder."""
        plan = Plan(
            service="room",
            uid=self._uid,
            sources=[],
            mode="decide",
            listen=f"127.0.0.1:{self.port}",
            decide=f"127.0.0.1:{self._decide}",
            pods=[f"127.0.0.1:{port}" for port in ports],
            hold=6.0,
        )
        own = _CONFIG.format(user=_user(), servers="", port=0).partition("    client_max_body_size")[0]
        asking = printed("nginx", plan).partition("http {\n")[2]
        return own + asking

    def _round_robin(self, ports: Sequence[int]) -> str:
        servers = "\n".join(f"        server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;" for port in ports)
        return _CONFIG.format(user=_user(), servers=servers, port=self.port)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
