"""The vectors of ``vectors.py`` at each of our fronts, and at nginx before plain uvicorn: no front is more lenient.

``pytest -v -s tests/web/test_vectors.py`` prints a table of how many each front has refused and served.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.web.replicas import SHORTCUT, Replicas, free_port
from tests.web.runs import COMMAND
from tests.web.vectors import REFUSED, SERVED, VECTORS

if TYPE_CHECKING:
    from collections.abc import Iterator

for needed in ("uvicorn", "httptools", "h11", "websockets"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.timeout(180)  # all fronts start with the first test
_QUIET = 1.5
"""Seconds without a byte after which nothing more is expected: the server waits for the rest of a request."""
_AT_ONCE = 24
_FORGED_EPOCH = 9007199254740991
_UID = "path:/rooms/{uid}"
_STRICT = "gateway", "run", "shortcut"
"""Whose web server is ours."""
FRONTS = *_STRICT, "httptools", "h11"
_ECHO = re.compile(rb"<echo>(.*?)</echo>")
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})")
_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.err; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_set_header Host $http_host; }}
  }}
}}
"""
# nginx takes no tab for white space there (RFC 9110, 5.6.3).
_OF_NGINX = frozenset({"coding: a tab before the value", "length: spaces around"})
# What plain uvicorn serves by that parser, and the middleware behind it cannot see.
_LARGE = {f"header: {what}" for what in ("64 KiB in a line", "100 KiB in many lines", "4000 lines")}
_OF_PARSER: dict[str, set[str]] = {
    "httptools": {*_LARGE, "header: 300 KiB in a line", "line: HTTP/2.0", "line: user information"},
    "h11": {
        *_LARGE,
        "chunk: a bare CR in an extension",
        "coding: a space before the name",
        "coding: folded",
        "header: DEL in the value",
        "header: a control byte in the value",
        "header: folded",
        "length: the same in a list",
        "length: twice the same",
        "line: HTTP/2.0",
        "line: HTTP/3.0",
        "line: a long target",
        "line: a small method",
        "line: an unknown method",
        "line: user information",
    },
}


@attrs.frozen
class Seen:
    """What came back of a vector and of the request behind it."""

    statuses: list[int]
    echoes: list[dict[str, Any]]

    @property
    def served(self) -> bool:
        return bool(self.echoes) and not self.echoes[0]["path"].endswith("/second")


@attrs.define
class Fronts:
    """The ports of those that run, and what nginx has made of each vector, if it is there."""

    ports: dict[str, int]
    nginx: dict[str, Seen] | None = None


@pytest.fixture(scope="module")
def fronts(shared_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    """Run all of them, once for all vectors."""
    folder = tmp_path_factory.mktemp("vectors")
    trusted = {"FORWARDED_ALLOW_IPS": "192.0.2.1"}
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", folder) as own:
        own.may_fail = True  # a web server logs what it refuses
        app = "tests.web.vector_app:wrapped"
        started = {
            "httptools": own.launch(app, more=("--http", "httptools"), environment=trusted),
            "h11": own.launch(app, more=("--http", "h11"), environment=trusted),
            "shortcut": own.launch(app, loop=SHORTCUT, environment=trusted),
            "plain": own.launch("tests.web.vector_app:plain"),
        }
        port = free_port()
        options = ["--uid", _UID, "--host", "127.0.0.1", "--forwarded-allow-ips", "192.0.2.1", "--port"]
        started["gateway"] = own.run([*COMMAND, "gateway", "--service", "room", *options, str(port)], port)
        port = free_port()
        child = [sys.executable, "-m", "uvicorn", "tests.web.vector_app:echo", "--port", "{port}", "--no-access-log"]
        started["run"] = own.run([*COMMAND, "run", "--service", "alone", *options, str(port), "--", *child], port)
        if shutil.which("nginx"):
            port = free_port()
            conf = folder / "nginx.conf"
            conf.write_text(_NGINX.format(folder=folder, port=port, upstream=started["plain"].port))
            started["nginx"] = own.run(["nginx", "-c", str(conf), "-e", f"{folder}/nginx.err"], port)
        yield Fronts({name: own.wait(replica).port for name, replica in started.items()})


async def _sent(port: int, data: bytes) -> bytes:
    answered = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(data)
        while part := await asyncio.wait_for(reader.read(65536), _QUIET):
            answered += part
    writer.close()
    return answered


async def all_seen(front: str, port: int) -> dict[str, Seen]:
    """Send all vectors to a front, each with a request behind it."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, data: bytes) -> Seen:
        path = f"/rooms/{front}-{number}".encode()
        second = b"GET %b/second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path
        async with gate:
            answered = await _sent(port, data.replace(b"{p}", path) + second)
        echoes = [json.loads(text) for text in _ECHO.findall(answered)]
        return Seen([int(status) for status in _STATUS.findall(_ECHO.sub(b"", answered))], echoes)

    seen = await asyncio.gather(*(one(number, data) for number, (data, _, _) in enumerate(VECTORS.values())))
    return dict(zip(VECTORS, seen, strict=True))


def wrong(name: str, seen: Seen, *, strict: bool) -> str | None:  # noqa: PLR0911 - a fault each
    """Return what is wrong with what came of a vector."""
    data, expected, body = VECTORS[name]
    paths = [echo["path"] for echo in seen.echoes]
    if any("smuggled" in path for path in paths):
        return "what is no request was answered as one"
    if len(paths) > 2 or any(not path.endswith("/second") for path in paths[1:]):
        return f"answers out of order: {paths}"
    if not seen.served:
        if paths and len(seen.statuses) != 2:
            return f"{seen.statuses} to two requests, of which the second was answered"
        return f"{seen.statuses} and not served" if expected == SERVED and strict else None
    if expected == REFUSED and strict:
        return f"served: {seen.echoes[0]}"[:200]
    if expected == SERVED and seen.echoes[0]["body"] != body.hex():
        return f"the app got {bytes.fromhex(seen.echoes[0]['body'])!r}"
    return _forged(seen.echoes[0]) if name.startswith("forged") else _of_method(data, seen.echoes[0])


def _of_method(data: bytes, echo: dict[str, Any]) -> str | None:
    if not data.lstrip().startswith(echo["method"].encode()):
        return f"the app got a {echo['method']}"
    return None


def _forged(echo: dict[str, Any]) -> str | None:
    """Return what an app was told in our name: of the epoch by the middleware, of the client by ``run``."""
    headers = {bytes.fromhex(name): bytes.fromhex(value) for name, value in echo["headers"]}
    if echo["epoch"] is None and b"forged" in headers.values():
        return f"the app was told {headers}"
    return "the epoch of a client" if echo["epoch"] == _FORGED_EPOCH else None


@pytest.mark.parametrize("front", FRONTS)
async def test_vectors(fronts: Fronts, front: str, pytestconfig: pytest.Config) -> None:
    """What is ambiguous is refused, all else arrives whole, and nothing that is no request is answered as one."""
    if fronts.nginx is None and "nginx" in fronts.ports:
        fronts.nginx = await all_seen("nginx", fronts.ports["nginx"])
    seen = await all_seen(front, fronts.ports[front])
    strict = front in _STRICT
    found = {name: fault for name, each in seen.items() if (fault := wrong(name, each, strict=strict))}
    served = {name for name, each in seen.items() if each.served}
    by_nginx = {name for name, each in (fronts.nginx or seen).items() if each.served}
    if pytestconfig.get_verbosity() > 0:
        print(  # noqa: T201 - the table
            f"\n| {front} | refused {len(VECTORS) - len(served)} | served {len(served)} | stricter than nginx "
            f"{len(by_nginx - served)} | equal {len(VECTORS) - len(by_nginx ^ served)} | "
            f"more lenient {len(served - by_nginx)} |"
        )
    lenient = served - by_nginx - _OF_NGINX - _OF_PARSER.get(front, set())

    assert {} == found
    assert set() == lenient
