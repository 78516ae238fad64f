"""What the README says is so."""

from __future__ import annotations

import contextlib
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

from stateful_route import BaseConfig
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.store.embedded import LocalServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))


def settings_table() -> str:
    """Return the table of all settings, as the README has it."""
    rows = ["| setting | default | unit | meaning |", "|---|---|---|---|"]
    for field in attrs.fields(BaseConfig):
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{field.name}` | {default} | {field.metadata['unit']} | {field.metadata['doc']} |")
    return "\n".join(rows)


def test_settings() -> None:
    """The table of the settings is that of the code."""
    _, table, _ = re.split(r"<!-- /?settings -->\n", README)

    assert settings_table() == table.strip()


def test_links() -> None:
    """Every file that the README links to is there."""
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert [] == [target for target in targets if not (ROOT / target).exists()]


def test_make_targets() -> None:
    """Every make target that the README names is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert [] == [name for name in re.findall(r"(?:`|\$ )make (\w+)", README) if f"\n{name}:" not in makefile]


async def test_testing_page() -> None:
    """The tests that the testing page shows run as they stand."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    examples = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "async def test_" in text]
    for text in examples:
        names: dict[str, Any] = {}
        exec(text, names)  # noqa: S102 - our own page
        for name in list(names):
            if name.startswith("test_"):
                await names[name]()

    assert 2 == len(examples)


@contextlib.contextmanager
def application(folder: Path, program: str, env: dict[str, str]) -> Iterator[str]:
    """Run a program of the README under uvicorn on a socket that the system chose, and give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", f"{program}:app", "--fd", str(listening.fileno())]
        address = {"STATEFUL_ROUTE_ADDRESS": f"http://127.0.0.1:{port}"}
        with subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | env | address,
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                output, _ = process.communicate(timeout=20)
                if b"Traceback" in output:
                    pytest.fail(output.decode())


async def test_programs(own_server: LocalServer, tmp_path: Path) -> None:
    """The pod and the gateway run as they stand: each room is served by one pod, which has all of its messages."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    env = {"REDIS_URL": own_server.url, "STATEFUL_ROUTE_SERVICE_NAME": "room"}
    with contextlib.ExitStack() as stack:
        for name in ("room-0", "room-1"):
            stack.enter_context(application(tmp_path, "pod", env | {"STATEFUL_ROUTE_POD_NAME": name}))
        gateways = [stack.enter_context(application(tmp_path, "gateway", env)) for _ in range(2)]
        async with httpx.AsyncClient(timeout=20.0) as http:

            async def post(number: int, room: str, text: str) -> httpx.Response:
                return await http.post(f"{gateways[number % 2]}/rooms/{room}", content=text)

            async def both_pods_answer() -> bool:
                answers = [await post(0, f"probe-{number}", "hello") for number in range(4)]
                return {0, 1} == {answer.json()["pod"] for answer in answers if answer.status_code == 200}

            await eventually(both_pods_answer, within=30.0)
            pods: dict[str, int] = {}
            for number in range(60):
                room = f"room {number % 10}"
                answer = (await post(number // 10, room, str(number))).json()

                assert [str(earlier) for earlier in range(number % 10, number + 1, 10)] == answer["messages"]
                assert answer["pod"] == pods.setdefault(room, answer["pod"])

    assert {0, 1} == set(pods.values())
