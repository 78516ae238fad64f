"""The benchmarks of the web part: what is counted of answers, sessions and owners. No time is judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import plot, report
from benchmarks.cases import hop as hop_case
from benchmarks.cases import loss
from benchmarks.harness import Lab
from benchmarks.rows import Row
from benchmarks.web import hop, processes, proxies, wrk
from benchmarks.web.counting import PATH
from benchmarks.web.generator import Work, frame, generate, held_open, opening
from benchmarks.web.raw import END_OF_HEAD, Answer, Connection, RawError, read_head, request_bytes
from benchmarks.web.sessions import (
    Phase,
    Served,
    Session,
    Users,
    read_served,
    sessions_by_phase,
    two_owners,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HOST = processes.LOOPBACK
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LATER = b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """Serve on a free port; return when all connections are over."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await handle(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(connected, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*answers: bytes) -> Handler:
    """Answer the requests of a connection, which have no body, with those in turn, and close it after the last."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(END_OF_HEAD)
            for byte in range(0, len(answer), 7):  # in pieces: a reader may get any
                writer.write(answer[byte : byte + 7])
                await writer.drain()
                await asyncio.sleep(0)

    return handle


async def test_answers_on_a_connection() -> None:
    """Answers with a length and in chunks are read in full, one after the other on one connection."""
    async with serving(answering(OK, IN_CHUNKS, LATER)) as port, await Connection.open(HOST, port) as connection:
        request = request_bytes("GET", "/", HOST)
        answers = [await connection.send(request) for _ in range(3)]

        assert [(200, b"ok"), (200, b"okay!"), (503, b"later")] == [(one.status, one.body) for one in answers]
        assert [True, True, False] == [one.is_success for one in answers]
        with pytest.raises((RawError, ConnectionError)):
            await connection.send(request)


@pytest.mark.parametrize("cut", [b"HTTP/1.1 200 OK\r\nContent-Len", OK[:-1], IN_CHUNKS[:-8], b"SSH-2.0\r\n\r\n"])
async def test_half_an_answer(cut: bytes) -> None:
    """An answer that is cut off, or is none, is an error."""
    async with serving(answering(cut)) as port, await Connection.open(HOST, port) as connection:
        with pytest.raises(RawError):
            await connection.send(request_bytes("GET", "/", HOST))


def test_head() -> None:
    """The names of headers are in small letters, and their values are bare."""
    assert (404, {"a-b": "c: d"}) == read_head(b"HTTP/1.1 404 Not Found\r\nA-B:  c: d ")


def work(port: int, **values: Any) -> Work:
    """Describe what three connections send for a tenth of a second, unless it is said otherwise."""
    usual: dict[str, Any] = {"host": HOST, "port": port, "paths": ["/a", "/b"], "connections": 3, "seconds": 0.1}
    return Work(**usual | values)


async def test_generator_counts_answers() -> None:
    """Each connection sends requests until the time is over; answers of another status than 2xx are failures."""
    asked: Counter[bytes] = Counter()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(END_OF_HEAD)
            path = head.split()[1]
            asked[path] += 1
            writer.write(LATER if path == b"/b" else IN_CHUNKS)

    async with serving(handle) as port:
        seen = await generate(work(port))

    assert (asked[b"/a"], asked[b"/b"]) == (seen.answers, seen.failed)
    assert seen.answers > 3
    assert 0 < seen.p50 <= seen.p99
    assert seen.rate > 0


async def test_generator_sends_bodies() -> None:
    """The body of a request has the size that was asked for."""
    sizes: set[int] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(END_OF_HEAD)
            size = int(head.partition(b"Content-Length: ")[2].split()[0])
            sizes.add(len(await reader.readexactly(size)))
            writer.write(OK)

    async with serving(handle) as port:
        seen = await generate(work(port, method="POST", upload=70_000))

    assert ({70_000}, 0) == (sizes, seen.failed)


async def test_generator_counts_broken_connections() -> None:
    """A connection that the other side closes is a failure, and the others go on."""
    async with serving(answering(OK, OK)) as port:
        seen = await generate(work(port, seconds=5.0))

    assert (6, 3) == (seen.answers, seen.failed)


async def test_generator_without_a_server() -> None:
    """Nobody who listens is an error."""
    with pytest.raises(OSError, match=r"refused|failed"):
        await generate(work(processes.free_port()))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a WebSocket that echoes messages without a mask that changes anything."""
    await reader.readuntil(END_OF_HEAD)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    while True:
        first, size, *mask = await reader.readexactly(6)
        assert [0] * 4 == mask
        message = await reader.readexactly(size & 0x7F)
        writer.write(bytes([first, len(message)]) + message)


async def test_generator_counts_messages() -> None:
    """Messages over WebSockets are counted like answers."""
    async with serving(echo) as port:
        seen = await generate(work(port, websocket=True, upload=100))

    assert seen.answers > 3
    assert seen.failed == 0


async def test_websockets_are_held_open() -> None:
    """Those that are held are open, and one that is refused or closed is an error."""
    there = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        there += 1
        try:
            await echo(reader, writer)
        finally:
            there -= 1

    async with serving(counted) as port, held_open(work(port, websocket=True, upload=10, connections=20)):
        assert there == 20
    async with serving(answering(LATER)) as port:
        with pytest.raises(RawError, match="503"):
            async with held_open(work(port, websocket=True)):
                pass


def test_frame() -> None:
    """A message of a client says that it is masked, and its length."""
    assert b"\x82\x83\0\0\0\0abc" == frame(b"abc")
    assert b"upgrade: websocket" in opening("/", HOST).lower()


def test_wrk() -> None:
    """The script has all paths, and what it prints is read."""
    load = work(1, method="POST", upload=5)
    said = {"requests": 1000, "us": 2000000, "p50": 1500.0, "p99": 9000.0, "status": 100, "failed": 101}
    seen = wrk.read(f"Running 1s test\n\nSEEN {json.dumps(said)}\n")

    assert all(part in wrk.script(load) for part in ('{"/a", "/b"}', '"POST"', '("x", 5)'))
    assert (450.0, 1.5, 9.0, 900, 101) == (seen.rate, seen.p50, seen.p99, seen.answers, seen.failed)


@pytest.mark.skipif(not wrk.is_there(), reason="wrk is not on the PATH")
async def test_wrk_runs(tmp_path: Path) -> None:
    """Requests by wrk go to all paths, and its errors are counted."""
    asked: set[bytes] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await reader.readuntil(END_OF_HEAD)).split()[1]
            asked.add(path)
            writer.write(LATER if path == b"/b" else OK)

    async with serving(handle) as port:
        seen = await hop.load(work(port), tmp_path)

    assert {b"/a", b"/b"} == asked
    assert seen.answers > 0
    assert seen.failed > 0


def test_what_a_process_used() -> None:
    """Processor time is user and system, whatever the name of the process is; memory is that of no file."""
    stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 1 0 100 0 0"

    assert 200 / processes._TICKS == processes.cpu_seconds(stat)
    assert processes.anonymous_kb("Name:\tx\nRssAnon:\t    12 kB\nRssFile:\t 99 kB\n") == 12


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


@pytest.mark.skipif(proxies.missing("nginx") is not None, reason="nginx is not on the PATH")
async def test_round_robin_loses_sessions(tmp_path: Path) -> None:
    """Behind nginx's round robin sessions are lost although nothing happens; each phase has each figure."""
    with Lab() as lab:
        figures = await loss.measure(mode("nginx, round robin"), lab.server(tcp=True).url, 4, tmp_path)

    assert {(phase, figure) for phase in loss.PHASES for figure in loss.FIGURES} == figures.keys()
    assert figures[loss.STEADY, loss.LOST] == figures[loss.STEADY, loss.TWO_OWNERS] == 4
    assert figures[loss.STEADY, loss.FAILED] == figures[loss.SCALE_OUT, loss.FAILED] == 0


@pytest.mark.skipif(proxies.missing("haproxy") is not None, reason="haproxy is not on the PATH")
@pytest.mark.parametrize("name", ["HAProxy, stick table", "HAProxy, cookie"])
async def test_sticky_proxy_loses_sessions_with_their_replica(name: str, tmp_path: Path) -> None:
    """Behind a sticky proxy no session is lost while nothing happens, and each in a rolling restart."""
    with Lab() as lab:
        figures = await loss.measure(mode(name), lab.server(tcp=True).url, 4, tmp_path)

    assert [0, 4, 0] == [figures[phase, loss.LOST] for phase in (loss.STEADY, loss.RESTART, loss.SCALE_OUT)]
    assert figures[loss.RESTART, loss.TWO_OWNERS] == 0


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
    for load in hop_case.LOADS:
        sides = {name: [1.0] for name in load.ways}
        judged = Row(case=hop_case.HOP, variant="v", unit="u", figures=sides, goals=[*load.goals, *load.added])

        assert len(judged.goals) == len(judged.verdicts)
