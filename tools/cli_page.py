"""Run the commands of docs/cli.md on real pods, and write what they print into it: ``python -m tools.cli_page``.

It writes docs/top.svg too: what ``top`` shows meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import _export_format
from rich.console import Console

from stateful_route import BaseConfig, RoutingState, ServerInfo, StatefulRoute
from stateful_route.cli.top import picture
from stateful_route.ops.board import Board, hear, look
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey
from stateful_route.testing import local_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
PICTURE = ROOT / "docs" / "top.svg"
NAMESPACE, SERVICE = "prod", "room"
LINKS = (412, 398, 431, 405)
"""Of each pod."""
_BLOCK = re.compile(r"```console\n(\$ stateful-route [^\n]*)\n.*?```", re.DOTALL)
_FOREIGN = re.compile(r"@font-face \{\{.*?\}\}\n|<!--.*?-->\n", re.DOTALL)
_WIDTH, _HEIGHT = 100, 22


async def main() -> None:
    """Start a server and pods, and fill in the page."""
    with local_server(tcp=True) as server:
        async with contextlib.AsyncExitStack() as stack:
            route = await stack.enter_async_context(StatefulRoute.from_url(server.url, BaseConfig(namespace=NAMESPACE)))
            pods = [await stack.enter_async_context(_pod(server.url, index)) for index in range(len(LINKS))]
            await _picture(route, pods)
            text = PAGE.read_text(encoding="utf-8")
            for block in _BLOCK.finditer(text):
                if "--history" in block[1]:  # it tells of a drain and a kill, which these pods have not had
                    continue
                said = await _said(route, server.url, block[1])
                text = text.replace(block[0], f"```console\n{block[1]}\n{said}```", 1)
            PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} are written")


async def _pod_main(url: str, pod_index: int) -> None:
    """Run a pod until the end of the input."""
    info = ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)
    config = BaseConfig(
        namespace=NAMESPACE,
        zone="ab"[pod_index % 2],
        version="1.4",
        address=f"http://{SERVICE}-{pod_index}.{SERVICE}:8000",
    )
    uids = [f"user-{pod_index}-{number}" for number in range(LINKS[pod_index])]

    async def hand_off(_: str) -> None:
        """Save nothing: there is no state."""

    async with StatefulRoute.from_url(url, config) as route, route.server(info, hand_off=hand_off) as pod:
        await asyncio.gather(*map(pod.claim, uids if pod_index else [*uids, "alice", "bob"]))
        print("ready", flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            word = line.decode().strip()
            if word in RoutingState.__members__:
                await pod.set_routing_state(RoutingState(word))
            else:
                await pod.claim(word)


@contextlib.asynccontextmanager
async def _pod(url: str, pod_index: int) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "tools.cli_page", "pod", url, str(pod_index))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _picture(route: StatefulRoute, pods: list[asyncio.subprocess.Process]) -> None:
    """Draw what ``top`` shows while pods take on uids and lose some, and one is killed."""
    board = Board(NAMESPACE, SERVICE)
    operator = route.operator()
    hearing = asyncio.create_task(hear(operator, board, 1.0))
    await asyncio.sleep(1.0)
    for round_ in range(8):
        await look(operator, board)
        for number in range(30):
            _tell(pods[number % 3], f"guest-{round_}-{number}")
        for number in range(7):
            await route.store.release(LinkKey(NAMESPACE, f"user-{number % 3}-{round_ * 7 + number}", SERVICE))
        if round_ == 1:
            pods[3].kill()
        if round_ == 5:  # noqa: PLR2004 - late
            _tell(pods[2], "DENY_NEW_CALL")
        await asyncio.sleep(1.0)
    hearing.cancel()
    lives = {pod.pod_index: pod.incarnation for pod in (await operator.pods(SERVICE)).pods}
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=_WIDTH)
    console.print(*picture(board, _HEIGHT), "", sep="\n")
    code_format = _FOREIGN.sub("", _export_format.CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace")
    assert "http" not in code_format.replace("http://www.w3.org", "")
    console.save_svg(str(PICTURE), title="stateful-route top", code_format=code_format, unique_id="top")
    await route.store.end_life(NAMESPACE, SERVICE, PodLife(3, lives[3]), 86_400.0)
    _tell(pods[2], "READY")
    await asyncio.sleep(1.0)


def _tell(pod: asyncio.subprocess.Process, word: str) -> None:
    assert pod.stdin is not None
    pod.stdin.write(f"{word}\n".encode())


async def _said(route: StatefulRoute, url: str, line: str) -> str:
    """Return what a command prints, on both of its outputs."""
    arguments = shlex.split(line.removeprefix("$ stateful-route "))
    environment = os.environ | {"STATEFUL_ROUTE_URL": url, "STATEFUL_ROUTE_NAMESPACE": NAMESPACE, "TZ": "UTC"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stateful_route.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        cwd=ROOT,
    )
    changing = asyncio.create_task(_change(route)) if "--events" in arguments else None
    out, _ = await process.communicate()
    if changing is not None:
        await changing
    assert b"Traceback" not in out, out.decode()
    return out.decode().replace(url.split("/")[2], "redis:6379")


async def _change(route: StatefulRoute) -> None:
    """Do what ``top --events`` shows."""
    await asyncio.sleep(2.0)  # until it watches
    life = next(pod for pod in (await route.operator().pods(SERVICE)).pods if pod.pod_index == 1)
    await route.store.release(LinkKey(NAMESPACE, "user-0-100", SERVICE))
    await asyncio.sleep(1.0)
    owner = PodLife(1, life.incarnation)
    await route.store.assign(LinkKey(NAMESPACE, "user-2-100", SERVICE), owner)


if __name__ == "__main__":
    asyncio.run(_pod_main(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["pod"] else main())
