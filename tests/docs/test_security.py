"""What the page on security says is so."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

import stateful_route
from stateful_route import BaseConfig, ServerInfo, StatefulRoute
from stateful_route.pods import Topic
from stateful_route.store.redis.keys import KeySpace
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PACKAGE = Path(stateful_route.__file__).parent


def test_links() -> None:
    """Every file that the page links to is there, and the README links to the page."""
    targets = re.findall(r"\]\((?!http)([^)#]+)", PAGE)

    assert [] == [target for target in targets if not (ROOT / target).exists()]
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\naudit:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_nothing_is_unpickled_or_evaluated() -> None:
    """The package imports no module that turns bytes into code, and calls no function that does."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names if alias.name in {"pickle", "marshal", "shelve"}]
            if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "marshal", "shelve"}:
                found.append(node.module)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                found.append(f"{path}: {node.func.id}")

    assert [] == found


async def test_who_may_only_publish(own_server: LocalServer) -> None:
    """Events that are made up cost no pod a uid or its life, and change no answer of a client."""
    own_server.ask(
        "ACL", "SETUSER", "gossip", "on", ">any", "resetkeys", "resetchannels", "&sr2:*", "nocommands", "+publish"
    )
    config = BaseConfig(heartbeat=0.1, refresh=0.1, listen_patience=0.2)
    infos = [
        ServerInfo(namespace="default", service_name="room", pod_name=f"room-{index}", pod_index=index)
        for index in range(2)
    ]
    uids = [f"user-{number}" for number in range(20)]
    async with (
        Redis(unix_socket_path=str(own_server.socket), username="gossip", password="any") as client,  # noqa: S106
        StatefulRoute.from_url(own_server.url, config) as route,
        route.server(infos[0]) as first,
        route.server(infos[1]) as second,
        route.client() as asking,
    ):
        gossip: Any = client
        rooms = asking.service("room")
        handles = [await (first, second)[number % 2].claim(uid) for number, uid in enumerate(uids)]
        before = [await rooms.route(uid) for uid in uids]
        lives = first.incarnation, second.incarnation
        far = int((time.time() + 1e6) * 1e6)
        topics = [Topic("default", "room", pod_index) for pod_index in (None, 0, 1)]
        channels = [KeySpace().channel(topic) for topic in topics]
        for life in (0, *lives, far):
            for state in ("DEAD", "SHUTDOWN", "DENY_NEW_CALL", "READY", "x"):
                for index in range(3):
                    for channel in channels:
                        await gossip.publish(channel, f"pod {index} {life} {state}")
            for uid in uids:
                for channel in channels:
                    await gossip.publish(channel, f"link {uid} {life}")
        await eventually(lambda: rooms.peek(uids[-1]) is None)  # it was heard
        after = [await rooms.route(uid) for uid in uids]
        await eventually(lambda: all(handle.is_owned() for handle in handles))

        assert lives == (first.incarnation, second.incarnation)
    assert [(link.pod_index, link.epoch) for link in before] == [(link.pod_index, link.epoch) for link in after]
