"""``doctor``: what it says of a server that is fine, and of one that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.commands import Commands
from tests.faults.pods import pods

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer


async def test_fine(own_server: LocalServer, namespace: str) -> None:
    """Of a server that is fine nothing is BAD; each finding is a line, and an object with --json."""
    cli = Commands(own_server.url, namespace)
    async with pods(cli.url, namespace, 2):
        said, data = await cli("doctor"), await cli("doctor", "--json", "--service", "room")

    assert (0, "", 0, "") == (said.status, said.err, data.status, data.err)
    assert said.out.startswith("OK    ")
    assert {"level", "what", "advice"} == set(data.lines()[0])
    assert {"OK", "WARN"} >= {finding["level"] for finding in data.lines()}
    assert any("'room' has 2 pods alive" in finding["what"] for finding in data.lines())


async def test_bad(own_server: LocalServer, namespace: str) -> None:
    """A server that may delete links, and a user without rights, are BAD: status 1, with what to do."""
    cli = Commands(own_server.url, namespace)
    own_server.ask("CONFIG", "SET", "maxmemory", "100mb")
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    said = await cli("doctor")
    own_server.ask("ACL", "SETUSER", "default", "-evalsha", "-eval")
    poor = await cli("doctor")

    assert (1, "") == (said.status, said.err)
    (line,) = [number for number, text in enumerate(said.out.splitlines()) if text.startswith("BAD ")]
    assert "allkeys-lru" in said.out.splitlines()[line]
    assert "noeviction" in said.out.splitlines()[line + 1]
    assert 1 == poor.status or (3, 1) == (poor.status, poor.err.count("\n"))
    assert "Traceback" not in poor.err


async def test_away(namespace: str) -> None:
    """Without a server that is what it finds."""
    said = await Commands("redis://127.0.0.1:1", namespace)("doctor", "--json")

    assert (1, "") == (said.status, said.err)
    assert "BAD" == said.lines()[0]["level"]
    assert "127.0.0.1:1" in said.lines()[0]["what"]
