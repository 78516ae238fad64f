"""What users get, tried where nothing but the wheel is installed: ``tools.wheel`` runs this file there."""

from __future__ import annotations

import asyncio
import sys
from importlib import resources
from pathlib import Path

import stateful_route
import stateful_route.testing
from stateful_route import BaseConfig, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.testing import MemoryStore

INFO = ServerInfo(namespace="default", service_name="room", pod_name="room-0", pod_index=0)


def parts() -> None:
    """The package is the installed one, with the files in it that are no modules."""
    package = Path(str(resources.files(stateful_route)))
    assert package.is_relative_to(sys.prefix), package
    assert (package / "py.typed").is_file()
    assert list(package.rglob("*.lua"))
    for name in stateful_route.__all__:
        getattr(stateful_route, name)


async def in_memory() -> None:
    """The drivers work with the dependencies alone."""
    store = MemoryStore()
    async with ServerDriver(store, INFO) as pod, stateful_route.ClientDriver(store) as client:
        assert 0 == await client.compute_linked_pod("", "alice", "room")
        assert (await pod.claim("alice")).is_owned()


async def on_a_server() -> None:
    """A link is made, claimed and found by the scripts of the wheel, on the server of the extra ``embedded``."""
    async with StatefulRoute.from_url("embedded://", BaseConfig()) as route, route.server(INFO) as pod:
        async with route.client() as client:
            assert 0 == await client.compute_linked_pod("", "alice", "room")
            assert (await pod.claim("alice")).is_owned()
            assert {"room": 0} == await client.get_link_service("", "alice")


if __name__ == "__main__":
    parts()
    asyncio.run(in_memory())
    if "embedded" in sys.argv[1:]:
        asyncio.run(on_a_server())
