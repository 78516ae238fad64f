"""What the page for operators says is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateful_route import BaseConfig, ServerInfo, StatefulRoute, errors
from stateful_route.ops import Operator
from tests.waiting import eventually

if TYPE_CHECKING:
    import pytest

    from stateful_route.embedded.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")


async def test_snippet(own_server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of the page finds a uid, and the links of a pod."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    pod = ServerInfo(namespace="prod", service_name="room", pod_name="room-3", pod_index=3)
    async with (
        StatefulRoute.from_url(own_server.url, BaseConfig(namespace="prod")) as route,
        route.server(pod) as server,
    ):
        await server.claim("alice")
        await eventually(route.operator().services)
        await names["look"](own_server.url, "alice")
    place, links = capsys.readouterr().out.splitlines()

    assert place.startswith("room 3 persistent ")
    assert place.endswith(" True")
    assert "['alice']" == links


def test_complete() -> None:
    """Each call of an operator is on the page, and each error that a table names is there."""
    calls = [name for name in vars(Operator) if not name.startswith("_")]

    assert [] == [name for name in calls if f"`{name}(" not in PAGE]
    assert [] == [name for name in re.findall(r"`(\w+Error)`", PAGE) if not hasattr(errors, name)]
