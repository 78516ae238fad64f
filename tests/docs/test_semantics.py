"""What the page on semantics says is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateful_route import ClientDriver, PodReport, ServerDriver, ServerInfo
from stateful_route.testing import MemoryStore

if TYPE_CHECKING:
    from stateful_route import StatefulRoute

PAGE = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text(encoding="utf-8")


async def test_own_load_source() -> None:
    """The load source that the page shows runs as it stands, under a driver: half of the slots is half of full."""
    store = MemoryStore()
    info = ServerInfo(namespace="default", service_name="llm", pod_name="llm-0", pod_index=0)

    class Route:
        def server(self, **settings: Any) -> ServerDriver:
            return ServerDriver(store, info, **settings)

    example = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "load_source=" in text)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    names["sessions"].update({str(number): object() for number in range(names["SLOTS"] // 2)})
    route: StatefulRoute = Route()  # type: ignore[assignment]  # all that the example asks of it
    await names["serve"](route)
    table = await store.read_pods("default", "llm")

    assert [500] == [pod.load_state.value for pod in table.pods]


async def test_own_strategy() -> None:
    """The strategy that the page shows runs as it stands: the fullest pod with room gets the uid, the rest is even."""
    store = MemoryStore()
    for pod_index, links in enumerate((3, 79, 80)):
        info = ServerInfo(namespace="default", service_name="room", pod_name="room", pod_index=pod_index)
        await store.register(info, PodReport(load=links, links=links, max_links=100), lease=60.0, retention=60.0)

    class Route:
        def client(self, **settings: Any) -> ClientDriver:
            return ClientDriver(store, **settings)

    example = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "strategy=" in text)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    route: StatefulRoute = Route()  # type: ignore[assignment]  # all that the example asks of it

    assert (await names["place"](route, "alice")).pod_index == 1
