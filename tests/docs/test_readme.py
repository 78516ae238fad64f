"""What the README says is so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest

from stateful_route import BaseConfig, StatefulRoute
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WEB = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README + WEB, re.DOTALL))


def settings_rows() -> list[str]:
    """Return a row for each setting, as the tables of docs/settings.md have it."""
    rows = []
    for field in attrs.fields(BaseConfig):
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{field.name}` | {default} | {field.metadata['unit']} | {field.metadata['doc']} |")
    return rows


def test_settings() -> None:
    """The tables of the settings are those of the code, in its order."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    _, tables, _ = re.split(r"<!-- /?settings -->\n", page)

    assert settings_rows() == [line for line in tables.splitlines() if line.startswith("| `")]


def test_variables() -> None:
    """The variables on the page of the settings that are no settings are read somewhere; all others are settings."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    known = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    for path in (ROOT / "stateful_route").rglob("*.py"):
        known.update(re.findall(r"STATEFUL_ROUTE_[A-Z_]+", path.read_text(encoding="utf-8")))

    assert [] == [name for name in re.findall(r"`(STATEFUL_ROUTE_[A-Z_]*[A-Z])", page) if name not in known]


def test_links() -> None:
    """Every file that the README links to is there."""
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert [] == [target for target in targets if not (ROOT / target).exists()]


def test_the_first_lines() -> None:
    """What a reader meets first is Python that runs as it stands."""
    first = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(first, names)  # noqa: S102 - our own page

    assert "app" in names


def test_make_targets() -> None:
    """Every make target that the README names is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert [] == [name for name in re.findall(r"(?:`|\$ )make (\w+)", README) if f"\n{name}:" not in makefile]


async def test_testing_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that the testing page shows run as they stand, on an app of the tutorial."""
    pytest.importorskip("fastapi")
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (travels,) = re.findall(r"```python\n# travels\.py\n(.*?)```", tutorial, re.DOTALL)
    (tmp_path / "travels.py").write_text(travels, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    examples = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "async def test_" in text]
    for text in examples:
        names: dict[str, Any] = {}
        exec(text, names)  # noqa: S102 - our own page
        for name in list(names):
            if name.startswith("test_"):
                await names[name]()

    assert 3 == len(examples)


@contextlib.contextmanager
def served(folder: Path, program: str, redis_url: str, *options: str) -> Iterator[str]:
    """Run a program of the README, or of docs/web.md, and return its URL; it must end in time, without a traceback."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        command = [sys.executable, "-m", "uvicorn", f"{program}:app", "--fd", str(fd), *options]
        env = os.environ | {"REDIS_URL": redis_url, "STATEFUL_ROUTE_HEARTBEAT": "0.2"}
        with subprocess.Popen(
            command, cwd=folder, env=env, pass_fds=[fd], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                process.terminate()
                output, _ = process.communicate(timeout=30)
                if b"Traceback" in output:
                    pytest.fail(output.decode())


async def posted(url: str, room: str, text: str) -> dict[str, Any]:
    """Post over a connection of its own: any of the workers may get it."""
    async with httpx.AsyncClient(timeout=20.0, trust_env=False) as http:
        answer = await http.post(f"{url}/rooms/{room}", params={"text": text})
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _answers(url: str) -> bool:
    try:
        await posted(url, "probe", "hello")
    except (httpx.HTTPError, AssertionError):
        return False
    return True


async def test_app(own_server: LocalServer, tmp_path: Path) -> None:
    """The app of the README, at four workers, has all messages of each room, whichever worker gets the request."""
    with served(tmp_path, "app", own_server.url, "--workers", "4") as url:
        await eventually(functools.partial(_answers, url), within=30.0)
        async with StatefulRoute.from_url(own_server.url) as route, route.client() as client:

            async def all_are_there() -> bool:
                return len(await client.pods("", "room")) == 4

            await eventually(all_are_there, within=30.0)
        await asyncio.sleep(2.5)  # each of them has heard of the others
        pods: dict[str, int] = {}
        for number in range(60):
            room = f"room-{number % 10}"
            answer = await posted(url, room, str(number))

            assert [str(earlier) for earlier in range(number % 10, number + 1, 10)] == answer["messages"]
            assert answer["pod"] == pods.setdefault(room, answer["pod"])

    assert len(set(pods.values())) > 1


async def test_gateway(own_server: LocalServer, tmp_path: Path) -> None:
    """The gateway of the page on web apps has each room served by the app that owns it."""
    with (
        served(tmp_path, "app", own_server.url) as first,
        served(tmp_path, "app", own_server.url) as second,
        served(tmp_path, "gateway", own_server.url) as gateway,
    ):
        for url in (first, second, gateway):
            await eventually(functools.partial(_answers, url), within=30.0)
        for number in range(30):
            answer = await posted((gateway, first, second)[number % 3], f"room-{number % 6}", str(number))

            assert [str(earlier) for earlier in range(number % 6, number + 1, 6)] == answer["messages"]
