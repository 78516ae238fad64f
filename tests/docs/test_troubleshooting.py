"""What the page on troubleshooting says is so."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import stateful_route
from stateful_route import BaseConfig, InvalidArgumentError, LifecycleError, ServerInfo, StatefulRoute, _lifecycle
from stateful_route.cli.app import make_app
from stateful_route.server.life import lease
from stateful_route.web.request import answers as of_edge
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PACKAGE = Path(stateful_route.__file__).parent


def defined(word: str) -> dict[str, Any]:
    """Run the example with that word in it, and return what it defines."""
    names: dict[str, Any] = {}
    exec(next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if word in text), names)  # noqa: S102 - our own page
    return names


def test_commands() -> None:
    """Each command of the page can be run as it is, in a block or in a sentence."""
    app = make_app()
    lines = re.findall(r"^\$ stateful-route ([^#\n]+)|`stateful-route ([^`]+)`", PAGE, re.MULTILINE)
    commands = [block or said for block, said in lines if len((block or said).split()) > 1 or block]
    for line in commands:
        words = shlex.split(line)
        if words[0] not in {"run", "move"} or len(words) > 3:
            app.parse_args(words, exit_on_error=False)

    assert len(commands) > 8


def test_index() -> None:
    """The table of symptoms leads to each section, and the page has no other ones."""
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert anchors == set(re.findall(r"\(#([\w-]+)\) \|$", PAGE, re.MULTILINE))


def answers() -> Iterator[of_edge.NotServed]:
    """Yield all that is answered to a request that is not served."""
    for found in vars(of_edge).values():
        if isinstance(found, of_edge.NotServed):
            yield found
    yield from of_edge.REFUSED.values()


def test_answers() -> None:
    """Each answer of the middleware is on the page with its status, and those on the page are such answers."""
    code = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "web").rglob("*.py"))
    rows = re.findall(r"^\| (\d{3}) (`[^|]+) \|", PAGE, re.MULTILINE)
    told = {(text, int(status)) for status, texts in rows for text in re.findall(r"`([^`]+)`", texts)}

    assert {(answer.why, answer.status) for answer in answers()} <= told
    assert [] == [text for text, _ in told if f'"{text}"' not in code]


def test_settings_and_variables() -> None:
    """The variables of the page are those of settings, and of the web part."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    of_the_web = {"STATEFUL_ROUTE_SECRET", "STATEFUL_ROUTE_PEER_LISTEN", "STATEFUL_ROUTE_PEER_HOST"}

    assert set() == set(re.findall(r"STATEFUL_ROUTE_[A-Z_]*[A-Z]", PAGE)) - settings - of_the_web


def test_lifecycle_errors() -> None:
    """The errors of the table are those that are raised."""
    table = PAGE.partition("| `LifecycleError` | cause |")[2].partition("\n\n")[0]
    code = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (_lifecycle, lease))
    code += (PACKAGE / "web" / "serve" / "sticky.py").read_text(encoding="utf-8")
    texts = re.findall(r'^\| "([^"]+)"', table, re.MULTILINE)
    parts = [part.strip(" .") for text in texts for part in text.split(": ")]

    assert len(parts) > 6
    assert [] == [part for part in parts if part not in code]


def test_uids() -> None:
    """What is no string is refused, and the page's function makes one."""
    assert "7:9" == defined("def uid_of")["uid_of"](7, 9)


async def test_other_types(own_server: LocalServer) -> None:
    """An int or a tuple as a uid is refused before anything is sent."""
    async with StatefulRoute.from_url(own_server.url) as route, route.client() as client:
        for uid in (7, ("tenant", 7), "", " ", None):
            with pytest.raises(InvalidArgumentError):
                await client.service("room").pod_of(uid)  # type: ignore[arg-type]  # as a user might


async def test_sync_code(own_server: LocalServer) -> None:
    """The function for synchronous code places rooms from a thread; a driver of this loop refuses to work there."""
    info = ServerInfo(namespace="default", service_name="room", pod_name="room-0", pod_index=0)
    async with (
        StatefulRoute.from_url(own_server.url, BaseConfig(index_is_exclusive=True)) as route,
        route.server(info),
        route.client() as client,
    ):
        await eventually(lambda: client.pods("", "room"))
        pods = await asyncio.to_thread(defined("start_blocking_portal")["pods_of"], own_server.url, ["lobby", "bar"])

        def elsewhere() -> None:
            asyncio.run(client.service("room").pod_of("lobby"))

        with pytest.raises(LifecycleError, match="belongs to another event loop"):
            await asyncio.to_thread(elsewhere)

    assert [0, 0] == pods
