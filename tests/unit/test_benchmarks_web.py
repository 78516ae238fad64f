"""The benchmarks of the web part: what is counted of sessions and owners, and that each way works."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from benchmarks import plot, report
from benchmarks.cases import hop as hop_case
from benchmarks.cases import loss
from benchmarks.goals import SUBJECT
from benchmarks.harness import Lab
from benchmarks.rows import Row
from benchmarks.web import hop, proxies
from benchmarks.web.counting import PATH
from benchmarks.web.raw import END_OF_HEAD, Answer, Connection, request_bytes
from benchmarks.web.sessions import (
    Phase,
    Served,
    Session,
    Users,
    read_served,
    sessions_by_phase,
    two_owners,
)
from tests.raw_server import HOST, serving

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

pytestmark = pytest.mark.slow

LATER = b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater"

needs_nginx = pytest.mark.skipif(proxies.missing("nginx") is not None, reason="nginx is not on the PATH")
needs_haproxy = pytest.mark.skipif(proxies.missing("haproxy") is not None, reason="haproxy is not on the PATH")


@pytest.fixture
def _server() -> None:
    """Skip where the web server of the benchmarks is not installed."""
    for module in ("httptools", "uvicorn", "uvloop", "websockets"):
        pytest.importorskip(module)


def test_session_notices_a_loss() -> None:
    """A session is lost if it is told less than before, or a POST is not in it; then it goes on from there."""
    session = Session("a")

    def told(method: str, seen: int) -> bool:
        return session.take(method, Answer(200, {}, json.dumps({"seen": seen}).encode()))

    assert [False, False, False] == [told("POST", 1), told("GET", 1), told("POST", 3)]  # one POST was not answered
    assert [True, True, False] == [told("POST", 3), told("GET", 2), told("GET", 2)]


def test_session_takes_turns_and_keeps_its_cookie() -> None:
    """POST and GET take turns, with the id in the path and in a header, and the cookie that the proxy gave."""
    session = Session("a")
    first, request = session.request("h")
    session.asked += 1
    session.take(first, Answer(200, {"set-cookie": "replica=s1; path=/"}, b'{"seen": 1}'))
    second, again = session.request("h")

    assert ("POST", "GET") == (first, second)
    assert b"POST /sessions/a HTTP/1.1" in request
    assert b"x-session-id: a\r\n" in request
    assert b"Cookie" not in request
    assert b"Cookie: replica=s1\r\n" in again


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ([(1, 2, 7), (3, 4, 7), (5, 6, 8), (7, 8, 8)], 0),
        ([(1, 2, 7), (3, 4, 8), (5, 6, 7)], 1),
        ([(1, 4, 7), (3, 5, 8)], 1),
        ([(1, 2, 7), (3, 4, 8), (5, 6, 7), (7, 8, 8)], 1),
        ([(1, 2, 7), (3, 4, 8), (5, 6, 9)], 0),
        ([], 0),
    ],
    ids=["moves once", "comes back", "overlaps", "to and fro", "moves twice", "nobody"],
)
def test_two_owners(served: list[tuple[int, int, int]], expected: int) -> None:
    """A process that serves after, or while, a later one did, is a second owner."""
    found = two_owners([Served(begun, ended, "a", pid) for begun, ended, pid in served])

    assert expected == len(found)


def test_two_owners_are_of_one_session() -> None:
    """Processes that serve different sessions at once are no two owners."""
    assert [] == two_owners([Served(1.0, 4.0, "a", 7), Served(2.0, 3.0, "b", 8), Served(5.0, 6.0, "b", 8)])


def test_sessions_by_phase() -> None:
    """A request belongs to the phase in which it ended."""
    phases = [Phase("one", 0.0), Phase("two", 10.0)]
    served = [Served(1.0, 2.0, "a", 7), Served(9.0, 11.0, "b", 7), Served(12.0, 13.0, "b", 7)]

    assert {"one": {"a"}, "two": {"b"}} == sessions_by_phase(served, phases)


def test_what_was_served_before_a_kill(tmp_path: Path) -> None:
    """The last line of a process that was killed may be cut off: it is left out."""
    (tmp_path / "7").write_text("a 1.0 2.0\nb 3.0 4")
    (tmp_path / "8").write_text("a 5.0 6.0\n")

    assert [Served(1.0, 2.0, "a", 7), Served(5.0, 6.0, "a", 8)] == sorted(read_served(tmp_path))


async def test_users_are_told() -> None:
    """What fails and what is lost counts for the phase, and a failed GET as safe to repeat."""
    counts: Counter[str] = Counter()
    behaviour = "counts"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = (await reader.readuntil(END_OF_HEAD)).decode().split(" ", 2)
        uid = path.removeprefix(PATH)
        if behaviour == "fails":
            writer.write(LATER)
            return
        counts[uid] = 0 if behaviour == "forgets" else counts[uid] + (method == "POST")
        body = json.dumps({"seen": counts[uid]})
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    async with serving(handle) as port:
        users = Users(port, 3)
        async with users.asking():
            for each in ("counts", "forgets", "fails"):
                async with users.phase(each):
                    behaviour = each
            behaviour = "counts"

    counted, forgotten, failed = users.phases
    assert (0, 0, set()) == (counted.failed, counted.failed_safe, counted.lost)
    assert (0, {"user-000", "user-001", "user-002"}) == (forgotten.failed, forgotten.lost)
    assert counted.longest > 0
    assert 0 < failed.failed_safe < failed.failed <= failed.requests
    assert {"GET 503: ['later']", "POST 503: ['later']"} == failed.reasons.keys()


def mode(name: str) -> loss.Mode:
    return next(one for one in loss.MODES if one.name == name)


@needs_nginx
@pytest.mark.usefixtures("_server")
async def test_round_robin_loses_sessions(tmp_path: Path) -> None:
    """Behind nginx's round robin sessions are lost although nothing happens; each phase has each figure."""
    with Lab() as lab:
        figures = await loss.measure(mode("nginx, round robin"), lab.server(tcp=True).url, 4, tmp_path)

    assert {(phase, figure) for phase in loss.PHASES for figure in loss.FIGURES} == figures.keys()
    assert figures[loss.STEADY, loss.LOST] == figures[loss.STEADY, loss.TWO_OWNERS] == 4
    assert figures[loss.STEADY, loss.FAILED] == figures[loss.SCALE_OUT, loss.FAILED] == 0


@needs_haproxy
@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize("name", ["HAProxy, stick table", "HAProxy, cookie"])
async def test_sticky_proxy_loses_sessions_with_their_replica(name: str, tmp_path: Path) -> None:
    """Behind a sticky proxy no session is lost while nothing happens, and each in a rolling restart."""
    with Lab() as lab:
        figures = await loss.measure(mode(name), lab.server(tcp=True).url, 4, tmp_path)

    assert [0, 4, 0] == [figures[phase, loss.LOST] for phase in (loss.STEADY, loss.RESTART, loss.SCALE_OUT)]
    assert figures[loss.RESTART, loss.TWO_OWNERS] == 0


@needs_nginx
@pytest.mark.usefixtures("_server")
async def test_hand_off_loses_nothing(tmp_path: Path) -> None:
    """With the middleware and a hand-off nothing is lost behind the same round robin, but what died with a kill -9."""
    with Lab() as lab:
        figures = await loss.measure(mode(loss.HAND_OFF), lab.server(tcp=True).url, 4, tmp_path)

    assert {0.0} == {figures[of_goal] for of_goal in loss.GOALS}


@needs_nginx
@pytest.mark.usefixtures("_server")
async def test_each_way_of_the_hop(tmp_path: Path) -> None:
    """Each way answers, those of ours by the owner of the uid; and the memory of open WebSockets is measured."""
    with Lab() as lab:
        async with hop.ways(lab.server(tcp=True).url, tmp_path, uids=3) as ways:
            post = next(load for load in hop_case.LOADS if hop.HTTPX in load.ways)
            rounds = {name: await hop_case.measure(post, name, ways[name], tmp_path, quick=True) for name in post.ways}
            who = {name: await answered(ways[name]) for name in (hop.HERE, SUBJECT, hop.GATEWAY)}
            kept = await hop_case.memory(ways[SUBJECT], 60)

    assert all(one.rate > 0 and 0 < one.p50 <= one.p99 for one in rounds.values())
    assert who == {name: ways[name].programs[-1].pid for name in who}
    assert len({who[hop.HERE], who[SUBJECT]}) == 2
    assert {"entry", "owner"} == kept.keys()


@needs_nginx
@pytest.mark.usefixtures("_server")
async def test_each_way_by_nginx(tmp_path: Path) -> None:
    """On each way by nginx requests are answered by the owner of the uid."""
    with Lab() as lab:
        async with hop.ways_by_nginx(lab.server(tcp=True).url, tmp_path, uids=3) as ways:
            (load,) = hop_case.BY_NGINX
            rounds = [await hop_case.measure(load, name, ways[name], tmp_path, quick=True) for name in load.ways]
            who = {name: await answered(ways[name]) for name in load.ways}

    assert all(one.rate > 0 for one in rounds)
    assert who == {name: ways[name].programs[-1].pid for name in who}


async def answered(way: hop.Way) -> int:
    """Return the id of the process that answers."""
    async with await Connection.open(HOST, way.entry.port) as connection:
        path = f"/whoami?uid={way.uids[0]}"
        return int((await connection.send(request_bytes("GET", path, HOST))).body)


def test_picture_of_losses(tmp_path: Path) -> None:
    """The picture has the modes that were measured, and is a small PNG."""
    figures = {each.name: [float(number), 0.0] for number, each in enumerate(loss.MODES[1:])}
    rows = [
        Row(case=loss.LOSS, variant=f"{phase}: {figure}", unit="u", figures=figures)
        for phase in loss.PHASES
        for figure in loss.FIGURES
    ]
    assert loss.LOSS.draw is not None
    (file,) = loss.LOSS.draw(rows, tmp_path)

    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 80_000
    assert ["kill -9", "scale-in\n3 to 2", "rolling\nrestart"] == [
        plot._broken(phase) for phase in (loss.KILL, loss.SCALE_IN, loss.RESTART)
    ]


def test_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy that is not on the PATH is a line that says so, below the first row of its table."""
    monkeypatch.setenv("PATH", str(tmp_path))
    why = proxies.missing("haproxy")
    assert why == "not on the PATH: apt-get install haproxy"
    assert [] == proxies.versions("haproxy", "nginx")
    row = Row(case=loss.LOSS, variant="v", unit="u", figures={}, missing={"HAProxy, cookie": why})

    assert f"    HAProxy, cookie: {why}" == report.row_lines(row)[-1]


def test_goals_of_losses() -> None:
    """With a hand-off nothing may be lost, in the worst of the rounds."""
    figures = {loss.HAND_OFF: [0.0, 0.0, 1.0], "nginx, round robin": [30.0] * 3}
    goals = loss.GOALS[loss.RESTART, loss.LOST]

    assert [False] == [
        one.met for one in Row(case=loss.LOSS, variant="v", unit="u", figures=figures, goals=goals).verdicts
    ]
    assert 8 == len(loss.GOALS)


def test_goals_of_the_hop() -> None:
    """Each side that a goal is about takes that load."""
    for load in (*hop_case.LOADS, *hop_case.BY_NGINX):
        sides = {name: [1.0] for name in load.ways}
        judged = Row(case=hop_case.HOP, variant="v", unit="u", figures=sides, goals=[*load.goals, *load.added])

        assert len(judged.goals) == len(judged.verdicts)
