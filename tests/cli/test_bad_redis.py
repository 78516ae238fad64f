"""Commands against a Redis that is away, refuses, or is none: one line that says what to do, and no traceback."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route.testing import sentinel_group
from tests.cli.commands import Commands
from tests.raw_server import serving
from tests.scripted_server import ScriptedServer
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from tests.cli.commands import Said

LOOKING = [["pods"], ["show", "alice"], ["show"], ["top"], ["top", "--events"], ["release", "alice"]]
ORDERS = [["move", "alice", "1"], ["move", "alice", "1", "--force"], ["drain", "0"], ["undrain", "0"]]
RELEASE = ["release", "alice", "--service", "room"]
COMMANDS = [*LOOKING, *ORDERS]
CHANGING = {"move", "release", "drain", "undrain"}
NAMED = {"pods", "show", "top", "release", "move", "drain", "undrain"}


def with_service(command: list[str]) -> list[str]:
    return [*command, "--service", "room"] if command[0] in NAMED and command != ["show", "alice"] else command


async def all_of(cli: Commands, commands: list[list[str]]) -> list[Said]:
    """Run commands, four at a time."""
    gate = asyncio.Semaphore(4)

    async def one(command: list[str]) -> Said:
        async with gate:
            return await cli(*command)

    return await asyncio.gather(*map(one, commands))


def one_line(said: Said) -> bool:
    """Whether a command said what is wrong in one line, and nothing else."""
    lines = said.err.splitlines()
    return len(lines) == 1 and lines[0].startswith("stateful-route: ") and lines[0].isprintable() and said.out == ""


@pytest.mark.timeout(120)
async def test_away(cli: Commands) -> None:
    """Without a server at its address each command ends with status 3."""
    away = Commands("redis://127.0.0.1:1", cli.namespace)
    commands = [with_service(command) for command in COMMANDS] + COMMANDS[:3]
    said = await all_of(away, [*commands, ["pods", "--json"]])

    assert [] == [one for one in said if not one_line(one)]
    assert [3] * len(said) == [one.status for one in said]
    assert all("127.0.0.1:1" in one.err for one in said)
    orders = {index for index, command in enumerate(commands) if command[0] in {*CHANGING}}
    assert orders == {index for index, one in enumerate(said) if "(nothing was changed)" in one.err}


async def test_silent(cli: Commands) -> None:
    """A server that does not answer is not waited for for ever."""

    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    async with serving(silence) as port:
        silent = Commands(f"redis://127.0.0.1:{port}", cli.namespace)
        said = await all_of(silent, [["pods"], ["show", "alice"], ["top", "--events", "--service", "room"]])

    assert [] == [one for one in said if not one_line(one)]
    assert [3] * 3 == [one.status for one in said]


async def test_no_redis(cli: Commands) -> None:
    """What speaks something else is not taken for a Redis."""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serving(web) as port:
        said = await all_of(Commands(f"redis://127.0.0.1:{port}", cli.namespace), [["pods"], RELEASE])

    assert [] == [one for one in said if not one_line(one)]
    assert [3] * 2 == [one.status for one in said]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "name the server: --redis URL, or STATEFUL_ROUTE_URL or REDIS_URL"),
        ("http://localhost", "url is 'http://localhost'; allowed is a URL that begins with"),
        ("http://app:secret@localhost:80/secret?secret", "url is 'http://***@localhost:80/***?***'; allowed is"),
        ("secret://localhost", "url is '***'; allowed is a URL that begins with"),
        ("redis://127.0.0.1:1/x", "url"),
    ],
)
async def test_a_bad_url(cli: Commands, url: str, words: str) -> None:
    """A URL that is none is said so, with status 2."""
    said = await Commands(url, cli.namespace)("pods")

    assert (2, True) == (said.status, one_line(said))
    assert words in said.err


async def test_bad_arguments(cli: Commands) -> None:
    """So are arguments that cannot be: nothing is sent."""
    commands = [
        ["show", ""],
        ["show", "x" * 600],
        ["pods", "--namespace", " "],
        ["pods", "--service", ""],
        ["show", "--pod", "x"],
        ["show", "--batch", "0"],
        ["show", "alice", "--pod", "1"],
        ["show", "--history"],
        ["top", "--interval", "0"],
        ["move", "alice", "-1"],
        ["drain", "1.5"],
    ]
    said = await all_of(Commands("redis://127.0.0.1:1", cli.namespace), commands)

    assert [] == [one for one in said if not one_line(one)]
    assert [2] * len(commands) == [one.status for one in said]


async def test_a_bad_environment(cli: Commands) -> None:
    """A setting of the environment that is wrong is named."""
    said = await cli("pods", STATEFUL_ROUTE_HEARTBEAT="soon")

    assert (2, True) == (said.status, one_line(said))
    assert "STATEFUL_ROUTE_HEARTBEAT is 'soon'" in said.err


@pytest.mark.timeout(120)
async def test_without_rights(own_server: LocalServer, namespace: str) -> None:
    """Without the rights, or without a password, it says what to grant or to name."""
    own_server.ask("ACL", "SETUSER", "poor", "reset", "on", ">secret", "~*", "&*", "+hello", "+ping", "+client")
    address = own_server.url.partition("://")
    commands = [with_service(command) for command in COMMANDS]
    if own_server.url.startswith("unix"):
        poor = Commands(f"unix://poor:secret@{address[2]}", namespace)
    else:
        poor = Commands(f"redis://poor:secret@{address[2]}", namespace)
    said = await all_of(poor, commands)
    own_server.ask("ACL", "SETUSER", "default", "resetpass", ">other")
    nobody = await Commands(own_server.url, namespace)("pods")

    assert [] == [one for one in [*said, nobody] if not one_line(one)]
    assert {3} == {one.status for one in [*said, nobody]}
    assert all("ACL SETUSER" in one.err for one in said)
    assert "secret" not in "".join(one.err for one in said)
    assert "redis://user:password@host" in nobody.err


@pytest.mark.timeout(120)
async def test_read_only(namespace: str) -> None:
    """At a replica what changes something is refused, and what looks is not."""
    with sentinel_group() as group:
        replica = Commands(f"redis://127.0.0.1:{group.replica.port}", namespace)
        link = f"sr2:link:{{{namespace}:bob}}:room"
        group.primary.ask("SET", link, "p 0 1 1")
        await eventually(lambda: "p 0 1 1" in group.replica.ask("GET", link))
        changing = await all_of(replica, [["release", "bob", "--service", "room"]])
        looking = await all_of(
            replica, [["show", "alice"], ["pods", "--service", "room"], ["show", "--service", "room"]]
        )

    assert [(3, True)] == [(one.status, one_line(one)) for one in changing]
    assert "READONLY" in changing[0].err or "read only" in changing[0].err
    assert "user_script" not in changing[0].err
    assert [1, 1, 0] == [one.status for one in looking]


async def test_another_version(cli: Commands) -> None:
    """A server that does not know our commands, as one that is too old, is said to be so."""
    answers = {"EVALSHA": b"-ERR unknown command 'EVALSHA', with args beginning with: 'secret'\r\n"}
    old = ScriptedServer(lambda words: answers.get(words[0], b"-ERR unknown command\r\n"))
    async with old.run():
        said = await all_of(
            Commands(f"unix://{old.path}", cli.namespace),
            [["pods"], ["show", "alice"], RELEASE],
        )

    assert [] == [one for one in said if not one_line(one)]
    assert [3] * 3 == [one.status for one in said]
    assert all("unknown command" in one.err and "secret" not in one.err for one in said)


async def test_another_layout(own_server: LocalServer, namespace: str) -> None:
    """Where only keys of another release are, it is said where to look."""
    own_server.ask("SADD", f"sr1:services:{namespace}", "room")
    said = await Commands(own_server.url, namespace)("pods")

    assert (1, True) == (said.status, one_line(said))
    assert "stateful-route doctor" in said.err


async def test_links_of_somebody_else(own_server: LocalServer, namespace: str) -> None:
    """Keys that look like those of links, of which no id can be made, are left out of a list, and end none."""
    cli = Commands(own_server.url, namespace)
    for uid in ("alice", "a" * 513, "", "%20", "%ff"):
        own_server.ask("SET", f"sr2:link:{{{namespace}:{uid}}}:room", "p 0 1 1")
    script = f"return redis.call('SET', 'sr2:link:{{{namespace}:\\255}}:room', 'p 0 1 1')"
    own_server.ask("EVAL", script, "0")
    said = await cli("show", "--service", "room", "--json")

    assert (0, "") == (said.status, said.err)
    assert ["alice"] == [line["uid"] for line in said.lines()]


async def test_keys_of_somebody_else(own_server: LocalServer, namespace: str) -> None:
    """Keys of our names with values that are not ours make no traceback."""
    cli = Commands(own_server.url, namespace)
    own_server.ask("SET", f"sr2:services:{namespace}", "x")
    own_server.ask("SET", f"sr2:pods:{{{namespace}:room}}", "x")
    own_server.ask("SET", f"sr2:link:{{{namespace}:alice}}:room", "nonsense")
    own_server.ask("RPUSH", f"sr2:link:{{{namespace}:bob}}:room", "x")
    commands = [["pods"], *(with_service(one) for one in LOOKING if one[0] != "release" and "--events" not in one)]
    said = await all_of(cli, commands)

    assert [] == [one for one in said if "Traceback" in one.err or len(one.err.splitlines()) > 1]
    assert all(one.status in {0, 1, 3} for one in said)
