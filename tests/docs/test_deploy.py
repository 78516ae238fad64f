"""What the page on deploying says is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route import BaseConfig, ClientDriver, PodReport, ServerInfo
from stateful_route.testing import MemoryStore

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


async def test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics that the page exports are there under these names."""
    exported: dict[tuple[str, object], float] = {}

    class Gauge:
        def __init__(self, name: str, _documentation: str, _labels: list[str]) -> None:
            self.name = name

        def labels(self, label: object) -> Any:
            class Child:
                def set(self, value: float, name: str = self.name) -> None:
                    exported[name, label] = value

            return Child()

    prometheus = ModuleType("prometheus_client")
    monkeypatch.setattr(prometheus, "Gauge", Gauge, raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", prometheus)
    example = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "prometheus_client" in text)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    store = MemoryStore()
    info = ServerInfo(namespace="default", service_name="room", pod_name="room-3", pod_index=3)
    await store.register(info, PodReport(links=7), lease=60.0, retention=60.0)
    async with ClientDriver(store) as client:
        await client.compute_linked_pod("", "alice", "room")
        await client.compute_linked_pod("", "alice", "room")
        await names["export"](client, "room")

    assert 7 == exported["stateful_route_links", 3]
    assert (1, 1) == (exported["stateful_route_client", "hits"], exported["stateful_route_client", "misses"])


def test_manifest() -> None:
    """The variables of the manifest are those of settings, and its path that of the README's pod; its times fit."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    named = set(re.findall(r"STATEFUL_ROUTE_[A-Z_]+", PAGE))
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", PAGE)
    config = BaseConfig()

    assert set() == named - settings
    assert 'Route("/healthz"' in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "path: /healthz" in PAGE
    assert grace is not None
    assert int(grace[1]) > config.drain_deadline + config.stop_deadline
