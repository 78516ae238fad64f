"""The commands that change something, on real pods: they ask, never rob, and say when it was not done."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from stateful_route.cli.orders import what_came
from stateful_route.ops import DrainSeen
from tests.faults.pods import pods
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cli.commands import Commands


class TestMove:
    async def test_move(self, cli: Commands) -> None:
        """The owner hands the uid off, and the other pod has it; moved there again, nothing happens."""
        async with pods(cli.url, cli.namespace, 2) as (first, _):
            await first.claim("alice", "bob")
            said = await cli("move", "alice", "1", "--json")
            again = await cli("move", "alice", "1")
            owned = await first.owned()

        assert (0, "") == (said.status, said.err)
        assert ("alice", 1) == (said.json()["uid"], said.json()["podIndex"])
        assert ["alice"] == first.handed_off
        assert ["bob"] == owned
        assert 0 == again.status
        assert again.out.splitlines()[1].split()[:2] == ["room", "1"]

    async def test_by_force(self, cli: Commands) -> None:
        """With --force nobody is asked."""
        async with pods(cli.url, cli.namespace, 2) as (first, _):
            await first.claim("alice")
            said = await cli("move", "alice", "1", "--force", "--json")

            async def lost() -> bool:
                return [] == await first.owned()

            await eventually(lost)

        assert (0, 1) == (said.status, said.json()["podIndex"])
        assert [] == first.handed_off

    async def test_not_possible(self, cli: Commands) -> None:
        """A uid without a link, and a pod that is not alive, are said in one line, with status 1."""
        async with pods(cli.url, cli.namespace, 1) as (first,):
            await first.claim("alice")
            said = [await cli("move", "nobody", "0"), await cli("move", "alice", "7"), await cli("drain", "7")]
            owned = await first.owned()

        assert [(1, "", 1)] * 3 == [(one.status, one.out, one.err.count("\n")) for one in said]
        assert "'nobody' has no link" in said[0].err
        assert all("pod 7" in one.err for one in said[1:])
        assert ["alice"] == owned

    async def test_an_owner_that_stands_still(self, cli: Commands) -> None:
        """An owner that does not answer in time has not been robbed."""
        async with pods(cli.url, cli.namespace, 2, lease=30.0) as (first, _):
            await first.claim("alice")
            first.send(signal.SIGSTOP)
            said = await cli("move", "alice", "1", "--timeout", "0.5")
            where = await cli("show", "alice", "--json")

        assert (1, "", 1) == (said.status, said.out, said.err.count("\n"))
        assert "has not done within 0.5 s" in said.err
        assert 0 == where.json()["podIndex"]


class TestRelease:
    async def test_release(self, cli: Commands) -> None:
        """The link is gone; if there is none that is status 1."""
        async with pods(cli.url, cli.namespace, 1) as (pod,):
            await pod.claim("alice", "bob")
            said, again = await cli("release", "alice"), await cli("release", "alice")
            data, nothing = await cli("release", "bob", "--json"), await cli("release", "bob", "--json")
            where = await cli("show", "alice")

        assert (0, "released 'alice' of service 'room'\n", "") == (said.status, said.out, said.err)
        assert (1, "", "stateful-route: 'alice' has no link in service 'room'\n") == (
            again.status,
            again.out,
            again.err,
        )
        assert [(0, True), (1, False)] == [(one.status, one.json()["released"]) for one in (data, nothing)]
        assert 1 == where.status


class TestDrain:
    async def test_drain_and_undrain(self, cli: Commands) -> None:
        """The pod hands all off and takes nothing, goes on running, and takes new uids again when it is told."""
        async with pods(cli.url, cli.namespace, 2) as (first, _):
            await first.claim("a", "b", "c")
            await anyio.sleep(1.0)  # until a heartbeat has published how many it has
            drained = await cli("drain", "0", "--json")
            state = (await cli("pods", "--json")).json()["pods"][0]["state"]
            undrained = await cli("undrain", "0")
            claimed = await first.claim("d")
            after = (await cli("pods", "--json")).json()["pods"][0]["state"]

            assert first.process.returncode is None

        assert (0, {"before": 3, "left": 0}) == (
            drained.status,
            {name: drained.json()[name] for name in ("before", "left")},
        )
        assert {"a", "b", "c"} == set(first.handed_off)
        assert ("DENY_NEW_CALL", "READY") == (state, after)
        assert (0, "pod 0 takes new uids\n") == (undrained.status, undrained.out)
        assert claimed["d"][0]

    async def test_the_last_pod(self, cli: Commands) -> None:
        """It is refused, and keeps what it has, unless it is forced; what came of it is told."""
        async with pods(cli.url, cli.namespace, 1) as (only,):
            await only.claim("a", "b", "c")
            refused = await cli("drain", "0")
            owned = await only.owned()
            state = (await cli("pods", "--json")).json()["pods"][0]["state"]
            forced = await cli("drain", "0", "--force")
            nothing = await cli("drain", "0", "--json")

        assert (1, "", 1) == (refused.status, refused.out, len(refused.err.splitlines()))
        assert "no other pod takes its uids: none other is READY. Start or undrain another one first" in refused.err
        assert (["a", "b", "c"], "READY") == (sorted(owned), state)
        assert 0 == forced.status
        assert re.fullmatch(r"pod 0: 3 uids in \d+\.\d s: 0 moved with their state, 3 released\n", forced.out)
        assert (0, 0) == (nothing.status, nothing.json()["left"])


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            DrainSeen(before=29, left=0, seconds=0.61, moved=25, released=0, lost=4),
            "29 uids in 0.6 s: 25 moved with their state, 0 released, 4 states lost",
        ),
        (
            DrainSeen(before=9, left=2, seconds=1.0, moved=1, released=6, lost=0),
            "9 uids in 1.0 s: 1 moved with their state, 6 released, 2 left",
        ),
        (DrainSeen(before=9, left=2, seconds=60.0), "7 of 9 uids have left in 60.0 s"),
    ],
)
def test_what_came_of_it(seen: DrainSeen, said: str) -> None:
    """It is said in one line; what is lost or left makes it a failure."""
    assert f"pod 2: {said}" == what_came(2, seen)
    assert not seen.whole
