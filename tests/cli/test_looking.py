"""The commands that only look: what they say of real pods, for people and as JSON, and their exit statuses."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from stateful_route import ServerInfo, StatefulRoute
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from tests.cli.commands import ended_by, line_of
from tests.faults.pods import incarnations, pods, rooms_of, routes, settings
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from tests.cli.commands import Commands

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e[red]x[/red]\n\x9b31m"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\u202e[red]x[/red]\n\x9b31m"


def seen(service_name: str, pod_index: int, namespace: str) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=service_name, pod_name="p", pod_index=pod_index)


class TestPods:
    async def test_pods(self, cli: Commands) -> None:
        """Each pod has a row, with what it published; the sums are below."""
        async with pods(cli.url, cli.namespace, 2, zone="north", version="7") as (first, _):
            await first.claim("a", "b")

            async def counted() -> bool:
                return [2, 0] == [pod["links"] for pod in (await cli("pods", "--json")).json()["pods"]]

            await eventually(counted)
            said = await cli("pods")
            data = (await cli("pods", "--json")).json()
        rows = said.out.splitlines()

        assert (0, "") == (said.status, said.err)
        headings = ["POD", "NAME", "STATE", "LINKS", "LOAD", "PLACED", "HEARTBEAT", "LEASE", "ZONE", "VERSION"]
        assert headings == rows[0].split()
        assert ["0", "room-0", "READY", "2", "2", "2"] == rows[1].split()[:6]
        assert ["north", "7"] == rows[2].split()[-2:]
        assert "2 of 2 pods alive, 2 links, the fullest 2.00 times the mean" == rows[-1]
        assert (cli.namespace, "room", 0) == (data["namespace"], data["serviceName"], data["unreadable"])
        assert {"podIndex": 0, "podName": "room-0", "state": "READY", "links": 2}.items() <= data["pods"][0].items()

    async def test_a_pod_that_is_killed(self, cli: Commands) -> None:
        """A pod whose heartbeats have ended is silent."""
        async with pods(cli.url, cli.namespace, 2) as (first, _):
            first.process.kill()

            async def silent() -> bool:
                return ["SILENT", "READY"] == [pod["state"] for pod in (await cli("pods", "--json")).json()["pods"]]

            await eventually(silent)
            said = await cli("pods")

        assert "1 of 2 pods alive" in said.out

    async def test_a_pod_that_leaves(self, cli: Commands) -> None:
        """A pod that ends at SIGTERM is SHUTDOWN, also once a client has confirmed that its life is over."""
        async with pods(cli.url, cli.namespace, 2) as (first, _), rooms_of(cli.url, cli.namespace) as rooms:
            first.send(signal.SIGTERM)
            await first.ended()

            async def confirmed() -> bool:
                return (await incarnations(rooms))[0][1]

            await eventually(confirmed)
            said = await cli("pods")
            data = (await cli("pods", "--json")).json()

        assert ["0", "room-0", "SHUTDOWN", "0"] == said.out.splitlines()[1].split()[:4]
        assert [("SHUTDOWN", False), ("READY", True)] == [(pod["state"], pod["alive"]) for pod in data["pods"]]

    async def test_an_older_release(self, cli: Commands) -> None:
        """A pod of a release that says no name has none, beside one that has."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            await route.store.register(seen("room", 0, cli.namespace), PodReport(), 60.0, 60.0)
            await route.store.register(seen("room", 1, cli.namespace), PodReport(pod_name="new"), 60.0, 60.0)
            rows = (await cli("pods")).out.splitlines()

        assert ["0", "-", "READY"] == rows[1].split()[:3]
        assert ["1", "new", "READY"] == rows[2].split()[:3]

    async def test_none(self, cli: Commands) -> None:
        """A service without pods is said to be none, with status 1; so is a namespace without a service."""
        named, unnamed = await cli("pods", "--service", "nobody"), await cli("pods", "--json")

        assert (1, "") == (named.status, named.out)
        assert f"stateful-route: no pod of service 'nobody' was ever seen in namespace '{cli.namespace}'\n" == named.err
        assert (1, "", 1) == (unnamed.status, unnamed.out, unnamed.err.count("\n"))
        assert "no service was ever seen" in unnamed.err

    async def test_several_services(self, cli: Commands) -> None:
        """Where there are several services one has to be named: by the option, or the environment."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            for name in ("chat", "room"):
                await route.store.register(seen(name, 0, cli.namespace), PodReport(), 60.0, 60.0)
            unnamed = await cli("pods")
            named = await cli("pods", "--service", "chat", "--json")
            by_environment = await cli("pods", "--json", STATEFUL_ROUTE_SERVICE_NAME="room")

        assert (2, "stateful-route: there are 2 services; name one with --service: chat, room\n") == (
            unnamed.status,
            unnamed.err,
        )
        assert "chat" == named.json()["serviceName"]
        assert "room" == by_environment.json()["serviceName"]

    async def test_one_that_is_alive(self, cli: Commands) -> None:
        """Of several services the only one that has pods alive is meant: one that was tried once is in nobody's way."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            tried = await route.store.register(seen("board", 0, cli.namespace), PodReport(), 60.0, 60.0)
            await route.store.end_life(cli.namespace, "board", PodLife(0, tried.incarnation), 60.0)
            await route.store.register(seen("chat", 0, cli.namespace), PodReport(), 60.0, 60.0)
            unnamed = await cli("pods", "--json")

        assert (0, "chat") == (unnamed.status, unnamed.json()["serviceName"])


class TestWhere:
    async def test_where(self, cli: Commands) -> None:
        """It says who has a uid, since when and at which epoch, in each service."""
        async with pods(cli.url, cli.namespace, 2) as (_, second):
            epoch = (await second.claim("alice"))["alice"][1]
            said, data = await cli("show", "alice"), (await cli("show", "alice", "--json")).json()
            elsewhere = await cli("show", "alice", "--service", "chat")
        heading, row = said.out.splitlines()

        assert ["SERVICE", "POD", "NAME", "KIND", "EPOCH", "SINCE", "THE", "POD"] == heading.split()
        assert ["room", "1", "room-1", "persistent", str(epoch)] == row.split()[:5]
        assert "READY, heard" in row
        assert (1, epoch, "persistent", True) == (data["podIndex"], data["epoch"], data["kind"], data["alive"])
        assert 0 <= data["age"] < 60
        assert (1, "") == (elsewhere.status, elsewhere.out)

    async def test_nobody(self, cli: Commands) -> None:
        """A uid without a link is said to have none, with status 1."""
        said = await cli("show", "--json", "--", "-nobody")

        assert (1, "", f"stateful-route: '-nobody' has no link in namespace '{cli.namespace}'\n") == (
            said.status,
            said.out,
            said.err,
        )

    async def test_a_dead_owner(self, cli: Commands) -> None:
        """Of a link whose owner is not known it says so."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            await route.store.claim(LinkKey(cli.namespace, "alice", "room"), PodLife(3, 7))
            said = await cli("show", "alice")

        assert said.out.splitlines()[1].endswith("not known")


class TestHistory:
    async def test_history(self, cli: Commands) -> None:
        """It says who had a uid, who has it and why, where that is kept; also of a link that is gone."""
        async with pods(cli.url, cli.namespace, 2, history=5) as (first, second):
            await first.claim("alice")
            await cli("release", "alice", STATEFUL_ROUTE_HISTORY="5")
            await second.claim("alice")
            said, data = await cli("show", "alice", "--history"), await cli("show", "alice", "--history", "--json")
            nobody = await cli("show", "bob", "--history")
        heading, *rows = said.out.splitlines()
        changes = [json.loads(line) for line in data.out.splitlines()]

        assert ["WHEN", "WHY", "FROM", "TO", "EPOCH"] == heading.split()
        assert (
            ["claimed", "released", "claimed"]
            == [row.split()[2].strip(",") for row in rows]
            == [one["why"] for one in changes]
        )
        assert [(None, 0), (0, None), (None, 1)] == [(one["fromPod"], one["toPod"]) for one in changes]
        assert [False, True, False] == [one["byOperator"] for one in changes]
        assert "released, by an operator" in rows[1]
        assert (1, "") == (nobody.status, nobody.out)
        assert "no history of 'bob' is kept in service 'room'" in nobody.err
        assert "STATEFUL_ROUTE_HISTORY" in nobody.err

    async def test_moved_by_an_operator(self, cli: Commands) -> None:
        """A move that an operator asked for is told from one of its owner, with what the owner did then."""
        async with pods(cli.url, cli.namespace, 2, history=5) as (first, _):
            await first.claim("alice")
            moved = await cli("move", "alice", "1")
            forced = await cli("move", "alice", "0", "--force", STATEFUL_ROUTE_HISTORY="5")
            said = await cli("show", "alice", "--history")

        assert (0, 0) == (moved.status, forced.status)
        assert "moved, by an operator" in said.out
        assert "assigned, by an operator" in said.out


class TestLinks:
    async def test_links(self, cli: Commands) -> None:
        """All links of a pod come, those of others do not."""
        uids = {f"user-{number}" for number in range(1200)}
        async with pods(cli.url, cli.namespace, 2) as (first, second):
            await first.claim(*sorted(uids))
            await second.claim("other")
            said = await cli("show", "--pod", "0", "--pause", "0")
            everything = await cli("show", "--json", "--pause", "0", "--batch", "100")
            some = await cli("show", "--json", "--limit", "7")
            first_three = await cli("show", "--pod", "0", "--limit", "3")
            one = await cli("show", "--pod", "1")
            no_pod = [await cli("show", "--pod", "7"), await cli("show", "--pod", "7", "--json")]
        heading, *rows = said.out.splitlines()

        assert ["POD", "NAME", "KIND", "EPOCH", "LEFT", "UID"] == heading.split()
        assert uids == {line.split()[-1] for line in rows}
        assert {("0", "room-0")} == {tuple(line.split()[:2]) for line in rows}
        assert "stateful-route: 1,200 links of pod 0 of service 'room'\n" == said.err
        assert uids | {"other"} == {line["uid"] for line in everything.lines()}
        assert {"room-0", "room-1"} == {line["podName"] for line in everything.lines()}
        assert 7 == len(some.lines())
        assert "stateful-route: the first 3 links of pod 0 of service 'room'\n" == first_three.err
        assert "stateful-route: 1 link of pod 1 of service 'room'\n" == one.err
        assert [(1, "", "stateful-route: service 'room' has no pod 7: its pods are 0, 1\n")] * 2 == [
            (said.status, said.out, said.err) for said in no_pod
        ]

    async def test_nobody_reads(self, cli: Commands) -> None:
        """If its output is closed it ends without a word."""
        async with pods(cli.url, cli.namespace, 1) as (pod,):
            await pod.claim(*(f"user-{number}" for number in range(2000)))
            command = f"'{sys.executable}' -m stateful_route.cli show --pause 0.1 | head -1; echo ${{PIPESTATUS[0]}}"
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", command),
                env=cli.environment(),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()

        assert (b"141", b"") == (out.splitlines()[-1], err)


class TestHostile:
    """Ids and what pods publish may be anything: a terminal acts on none of it."""

    async def test_text(self, cli: Commands) -> None:
        """Control sequences and markup are shown escaped, as they are."""
        report = PodReport(address=f"http://{HOSTILE}", zone=HOSTILE, version="[link=x]y", pod_name=f"name{HOSTILE}")
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            registered = await route.store.register(seen(HOSTILE, 0, cli.namespace), report, 60.0, 60.0)
            owner = PodLife(0, registered.incarnation)
            await route.store.claim(LinkKey(cli.namespace, HOSTILE, HOSTILE), owner)
            said = [
                await cli("pods"),
                await cli("top"),
                await cli("show"),
                await cli("show", HOSTILE),
                await cli("show", HOSTILE, PYTHONIOENCODING="ascii"),
            ]
            wrong = await cli("pods", "--service", HOSTILE + "?")

        assert all(ESCAPED in one.out for one in said)
        assert all(f"name{ESCAPED}" in one.out for one in said)
        assert all(line.isprintable() for one in (*said, wrong) for line in (one.out + one.err).splitlines())
        assert "[link=x]y" in said[0].out
        assert [0] * 5 == [one.status for one in said]
        assert 1 == wrong.err.count("\n")

    async def test_json(self, cli: Commands) -> None:
        """JSON is in ASCII, and has the very ids."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            await route.store.claim(LinkKey(cli.namespace, HOSTILE, "room"), PodLife(0, 1))
            said = [await cli("show", "--json"), await cli("show", HOSTILE, "--json")]

        assert all(one.out.isascii() and one.out.rstrip("\n").isprintable() for one in said)
        assert [HOSTILE, HOSTILE] == [one.json()["uid"] for one in said]

    async def test_what_is_watched(self, cli: Commands) -> None:
        """So are uids whose links change."""
        async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
            key = LinkKey(cli.namespace, HOSTILE, "room")
            await route.store.claim(key, PodLife(0, 1))
            async with cli.started("top", "--events", "--service", "room", "--count", "1") as process:
                assert process.stdout is not None
                await process.stdout.readline()
                await route.store.release(key)
                line = (await process.stdout.readline()).decode()

        assert ESCAPED in line
        assert line.rstrip("\n").isprintable()


class TestWatch:
    async def test_watch(self, cli: Commands) -> None:
        """It tells of links that change their owner or end, and of pods that die."""
        async with pods(cli.url, cli.namespace, 2) as (first, _):
            await first.claim("alice", "bob")
            async with cli.started("top", "--events", "--json", "--count", "3") as process:
                first_line = await line_of(process)
                async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
                    await route.store.assign(LinkKey(cli.namespace, "alice", "room"), PodLife(1, 0))
                    assigned = await line_of(process)
                    await route.store.release(LinkKey(cli.namespace, "bob", "room"))
                    released = await line_of(process)
                    await route.store.end_life(cli.namespace, "room", PodLife(0, first.incarnation), 60.0)
                    died = await line_of(process)
                await process.wait()

        assert "hears" == first_line["kind"]
        assert ("link", "alice", 1) == (assigned["kind"], assigned["uid"], assigned["link"]["podIndex"])
        assert [None, "room-0"] == [assigned["podName"], died["podName"]]  # pod 1 has no such life
        assert ("link", "bob", None) == (released["kind"], released["uid"], released["link"])
        assert ("pod", 0, "DEAD") == (died["kind"], died["podIndex"], died["state"])
        assert 0 == process.returncode

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    async def test_its_end(self, cli: Commands, number: signal.Signals, status: int) -> None:
        """A signal ends it without a word."""
        async with cli.started("top", "--events", "--service", "room", "--json") as process:
            await line_of(process)
            said = await ended_by(process, number)

        assert (status, "", "") == (said.status, said.out, said.err)

    async def test_redis_away(self, own_server: LocalServer, namespace: str, cli: Commands) -> None:
        """While Redis is away it says that it is deaf, and goes on when it is back."""
        here = type(cli)(own_server.url, namespace)
        async with here.started("top", "--events", "--service", "room", "--json") as process:
            assert "hears" == (await line_of(process))["kind"]
            own_server.kill()
            deaf = await line_of(process)

            assert process.returncode is None

        assert "deaf" == deaf["kind"]
        assert deaf["why"]


class TestTop:
    async def test_figures(self, cli: Commands) -> None:
        """It counts placements and changes a second, and has the pods of now."""
        async with pods(cli.url, cli.namespace, 2) as (first, second):
            options = ("--json", "--interval", "0.3")
            async with cli.started("top", *options) as process:
                begin = await line_of(process)
                await first.claim(*(f"user-{number}" for number in range(50)))
                async with StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
                    for number in range(10):
                        await route.store.release(LinkKey(cli.namespace, f"user-{number}", "room"))
                pictures = [await line_of(process) for _ in range(8)]
            assert second.process.returncode is None

        assert (None, None, 0) == (begin["placementsPerSecond"], begin["changesPerSecond"], begin["links"])
        assert 2 == len(begin["pods"])
        assert max(picture["placementsPerSecond"] for picture in pictures) > 20
        assert max(picture["changesPerSecond"] or 0.0 for picture in pictures) > 5
        assert 40 == pictures[-1]["links"]
        assert 2.0 == pictures[-1]["imbalance"]

    async def test_one_picture(self, cli: Commands) -> None:
        """Where it is no terminal it prints one picture; so many as are told."""
        async with pods(cli.url, cli.namespace, 2):
            said, two = await cli("top"), await cli("top", "--count", "2", "--interval", "0.1")

        assert 0 == said.status == two.status
        assert f"room in {cli.namespace}" == said.out.splitlines()[0]
        assert "2 of 2 pods alive, 0 links" in said.out
        assert 2 == two.out.count("2 of 2 pods alive")

    async def test_no_pods(self, cli: Commands) -> None:
        """Of a service that no pod has it says so, as ``pods`` does, and draws nothing."""
        said = [await cli(command, "--service", "nosuch") for command in ("top", "pods")]

        assert [(1, "")] * 2 == [(one.status, one.out) for one in said]
        assert said[0].err == said[1].err
        assert "no pod of service 'nosuch' was ever seen" in said[0].err

    async def test_q(self, cli: Commands) -> None:
        """On a terminal q ends it, and the terminal reads lines again."""
        async with pods(cli.url, cli.namespace, 1):
            outside, inside = os.openpty()
            command = [sys.executable, "-m", "stateful_route", "top", "--interval", "60"]
            environment = cli.environment() | {"TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=inside,
                stdout=inside,
                stderr=inside,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
            seen = b""
            while b"pod alive" not in seen:
                seen += await asyncio.to_thread(os.read, outside, 65_536)
            os.write(outside, b"q")
            while b"?1049l" not in seen:  # the other screen is left
                seen += await asyncio.to_thread(os.read, outside, 65_536)
            assert 0 == await asyncio.wait_for(process.wait(), 20.0)
            reads_lines = bool(termios.tcgetattr(inside)[3] & termios.ICANON)
            os.close(inside)
            os.close(outside)

        assert reads_lines

    async def test_redis_away(self, own_server: LocalServer, namespace: str, cli: Commands) -> None:
        """While Redis is away it says so, and shows what it has seen last."""
        here = type(cli)(own_server.url, namespace)
        async with StatefulRoute.from_url(here.url, settings(namespace)) as route:
            await route.store.register(seen("room", 0, namespace), PodReport(), 60.0, 60.0)
        async with here.started("top", "--json", "--interval", "0.1") as process:
            assert (await line_of(process))["error"] is None
            own_server.kill()

            async def away() -> bool:
                picture = await line_of(process)
                return bool(picture["error"]) and len(picture["pods"]) == 1

            await eventually(away)

            assert process.returncode is None


async def test_routes_are_seen(cli: Commands) -> None:
    """A uid that a client has placed is found, with what is left of its link."""
    async with pods(cli.url, cli.namespace, 1), StatefulRoute.from_url(cli.url, settings(cli.namespace)) as route:
        async with route.client() as client:
            links = await routes(client.service("room"), ["alice"])
            said = await cli("show", "alice", "--json")

    assert ("temporary", links["alice"].epoch) == (said.json()["kind"], said.json()["epoch"])
    assert 0 < said.json()["ttl"]
    assert json.loads(said.out) == said.json()
