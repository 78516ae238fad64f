"""How ``stateful-route run`` starts and ends its app, and with which words and exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tests.web.clients import NoAnswerError, ask
from tests.web.replicas import free_port
from tests.web.runs import COMMAND, child_of, gone, kill

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web.runs import Runs

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)


# What is wrong --------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[list[str], int, str]] = {
    "no such command": (["--", "/no/such/command"], 127, "'/no/such/command' cannot be started: No such file"),
    "not executable": (["--", "/etc/passwd"], 126, "'/etc/passwd' cannot be started: Permission denied"),
    "ends at once": (["--", sys.executable, "-c", "import sys; sys.exit(7)"], 7, "ended with exit status 7 before"),
    "ends well": (["--", sys.executable, "-c", ""], 1, "ended with exit status 0 before it served"),
    "killed": (["--", "sh", "-c", "kill -9 $$"], 137, "ended with SIGKILL before it served"),
    "never listens": (["--start-timeout", "0.3", "--", "sleep", "60"], 1, "did not answer on port"),
    "a bad uid": (["--uid", "kookie:sid", "--", "true"], 2, "kookie:sid"),
    "no uid": (["--uid", "query:", "--", "true"], 2, "query:"),
    "a cookie without a secret": (["--uid", "signed-cookie:sr", "--", "true"], 2, "secret"),
    "a bad service": (["--service", "", "--", "true"], 2, "service"),
    "a bad address": (["--host", "192.0.2.1", "--", "true"], 2, "cannot listen on 192.0.2.1 port"),
    "a bad patience": (["--patience", "-1", "--", "true"], 2, "patience"),
    "a bad URL": (["--redis", "http://x", "--", "true"], 2, "url"),
    "no secret file": (["--secret-file", "/no/such/file", "--", "true"], 2, "--secret-file /no/such/file"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong(runs: Runs, name: str) -> None:
    """What is wrong is said in one line, and ends it with the status that is documented."""
    arguments, status, words = WRONG[name]
    at = arguments.index("--")
    run = runs.launch(*arguments[:at], command=arguments[at + 1 :])
    code, lines = await runs.ended(run)

    assert status == code, lines
    assert 1 == len(lines), lines
    assert words in lines[0]


async def test_no_redis_configured(runs: Runs) -> None:
    """Without a URL of Redis nothing is started."""
    run = runs.launch(STATEFUL_ROUTE_URL="")
    code, lines = await runs.ended(run)

    assert 2 == code
    assert 1 == len(lines), lines
    assert [] == runs.replicas.events("started")


@pytest.mark.timeout(90)
async def test_redis_away_at_the_start(runs: Runs) -> None:
    """If Redis is not reached for ten seconds it ends, and the app with it; what it says is no traceback."""
    run = runs.launch(STATEFUL_ROUTE_URL=f"redis://127.0.0.1:{free_port()}")
    started = await runs.replicas.noted("started")
    code, lines = await runs.ended(run, 40)

    assert 3 == code, lines
    assert "Traceback" not in run.text()
    assert gone(started["pid"])


async def test_a_port_that_is_taken(runs: Runs) -> None:
    """A port that somebody has is found before the app is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = runs.launch(port=taken.getsockname()[1])
        code, lines = await runs.ended(run)

    assert 2 == code
    assert "Address already in use" in lines[0]
    assert 1 == len(lines)
    assert [] == runs.replicas.events("started")


async def test_a_port_that_is_taken_meanwhile(runs: Runs) -> None:
    """Of two that are started at the same time on one port one serves, and the other one ends, with its app."""
    port = free_port()
    two = [runs.launch(port=port, child=["late=1"]) for _ in range(2)]
    await eventually(lambda: any(not run.running for run in two), 20)
    run, other = sorted(two, key=lambda run: run.running)
    code, lines = await runs.ended(run)

    assert 2 == code
    assert ["Address already in use"] == [lines[-1].rpartition(": ")[2]]
    assert (await ask(port, "/count?uid=a")).json()["pid"] == child_of(other)
    assert 1 == sum(not gone(event["pid"]) for event in runs.replicas.events("started"))


async def test_another_secret(runs: Runs) -> None:
    """One that has another secret than those that run does not start."""
    await runs.start(1, STATEFUL_ROUTE_SECRET="a" * 32)
    run = runs.launch(STATEFUL_ROUTE_SECRET="b" * 32)
    code, lines = await runs.ended(run)

    assert 2 == code
    assert "secret" in lines[-1]


# How it ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "how", "status"),
    [
        ("never", "7", 7),
        ("never", "0", 0),
        ("never", "kill", 137),
        ("on-failure", "0", 0),
        ("on-failure", "7", None),
        ("on-failure", "kill", None),
        ("always", "0", None),
    ],
)
async def test_the_app_ends(runs: Runs, restart: str, how: str, status: int | None) -> None:
    """With the app it ends, with its status, or another one is started that takes its place."""
    (run,) = await runs.start(1, "--restart", restart)
    first = child_of(run)
    if how == "kill":
        kill(first)
    else:
        with contextlib.suppress(NoAnswerError):
            assert 502 == (await ask(run.port, f"/die?status={how}", "POST")).status
    if status is not None:
        assert status == await run.ended()
        return
    answer = await ask(run.port, "/count?uid=a")

    assert 200 == answer.status
    assert first != answer.json()["pid"]
    assert run.running


async def test_the_next_start_fails(runs: Runs, tmp_path: Path) -> None:
    """One that cannot be started again is tried until it can."""
    flag = tmp_path / "flag"
    (run,) = await runs.start(1, child=[f"once={flag}"])
    kill(child_of(run))
    await eventually(lambda: len(runs.replicas.events("started")) > 3)
    assert run.running
    flag.unlink()
    answer = await ask(run.port, "/count?uid=a")
    if answer.status == 503:  # it was held for as long as it may be
        answer = await ask(run.port, "/count?uid=a")

    assert 200 == answer.status


async def test_a_fixed_port(runs: Runs) -> None:
    """With a port of its own the app is started again there."""
    number = free_port()
    (run,) = await runs.start(1, "--app-port", str(number))
    await ask(run.port, "/count?uid=a")
    kill(child_of(run))
    answer = await ask(run.port, "/count?uid=a")

    assert 200 == answer.status
    assert {number} == {event["port"] for event in runs.replicas.events("started")}
    assert {str(number)} == {event["env"] for event in runs.replicas.events("started")}


async def test_what_is_left_of_the_app(runs: Runs) -> None:
    """What an app has started and leaves behind is killed before the next one is started."""
    (run,) = await runs.start(1, child=["family=yes"])
    left = runs.replicas.events("family")[0]["child"]
    kill(child_of(run))
    await eventually(lambda: gone(left))
    await eventually(lambda: len(runs.replicas.events("family")) == 2)
    run.send(signal.SIGTERM)
    assert 0 == await run.ended()

    assert gone(runs.replicas.events("family")[1]["child"])


async def test_the_supervisor_is_killed(runs: Runs) -> None:
    """The app ends with a supervisor that is killed."""
    (run,) = await runs.start(1)
    child = child_of(run)
    kill(run.pid)
    await eventually(lambda: gone(child))

    assert -signal.SIGKILL == await run.ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("term", ["0", "5", "ignored"])
async def test_told_to_end(runs: Runs, number: signal.Signals, term: str) -> None:
    """The app gets SIGTERM, and SIGKILL if that does not help; the status is 0, whatever its own is."""
    (run,) = await runs.start(1, "--stop-timeout", "1", child=[f"term={term}"])
    child = child_of(run)
    assert (await ask(run.port, "/count?uid=a")).status == 200
    run.send(number)
    if number is signal.SIGTERM:
        run.send(number)
    code, lines = await runs.ended(run, 10)

    assert 0 == code, lines
    assert gone(child)
    assert 1 == len(runs.replicas.events("term"))
    assert "Traceback" not in run.text()


async def test_told_to_end_now(runs: Runs) -> None:
    """One signal more ends it at once, with the status 0: nobody waits for a request or for the app."""
    (run,) = await runs.start(1, "--stop-timeout", "30", child=["term=ignored"])
    child = child_of(run)
    asking = asyncio.ensure_future(ask(run.port, "/count?uid=a&seconds=30"))
    await eventually(lambda: run.listens() and not asking.done())
    await asyncio.sleep(0.2)  # the app has the request
    run.send(signal.SIGINT)
    await eventually(lambda: not run.listens())
    run.send(signal.SIGINT)
    code = await run.ended(10)
    with contextlib.suppress(NoAnswerError):
        await asking
    runs.replicas.may_fail = True  # the web server says that it has cancelled a request

    assert 0 == code
    assert gone(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("what", ["the start", "a restart"])
async def test_told_to_end_meanwhile(runs: Runs, number: signal.Signals, what: str, tmp_path: Path) -> None:
    """A signal ends it also while the app starts, or is started again."""
    if what == "the start":
        run = runs.launch(child=["late=never", "term=0"])
        await runs.replicas.noted("started")
    else:
        (run,) = await runs.start(1, child=[f"once={tmp_path / 'flag'}"])
        kill(child_of(run))
        await eventually(lambda: len(runs.replicas.events("started")) > 2)
    run.send(number)
    code, lines = await runs.ended(run, 10)

    assert 0 == code, lines
    assert all(gone(event["pid"]) for event in runs.replicas.events("started"))


async def test_a_stopped_app_is_killed(runs: Runs) -> None:
    """An app that stands still ends too."""
    (run,) = await runs.start(1, "--stop-timeout", "0.5")
    child = child_of(run)
    os.kill(child, signal.SIGSTOP)
    run.send(signal.SIGINT)

    assert 0 == await run.ended(10)
    assert gone(child)


async def test_other_signals(runs: Runs) -> None:
    """SIGHUP goes on to the app, and ends nothing."""
    (run,) = await runs.start(1)
    run.send(signal.SIGHUP)
    await runs.replicas.noted("hup")

    assert run.running
    assert (await ask(run.port, "/count?uid=a")).status == 200


@pytest.mark.parametrize("path", ["/health", "/events"])
async def test_health(runs: Runs, path: str) -> None:
    """With a path of health it serves once the head of the answer says so."""
    (run,) = await runs.start(1, "--health", path, child=["late=0.3"])

    assert (await ask(run.port, "/count?uid=a")).status == 200


async def test_load_by_cpu(runs: Runs) -> None:
    """The processor time of the app can be the load."""
    pytest.importorskip("psutil")
    (run,) = await runs.start(1, "--load", "cpu")

    assert 200 == (await ask(run.port, "/busy?uid=first&seconds=0.5")).status
    assert 200 == (await ask(run.port, "/count?uid=other")).status


async def test_load(runs: Runs) -> None:
    """New uids go to the app that has less to do."""
    two = await runs.start(2, "--load", "requests")
    busy = (await ask(two[0].port, "/count?uid=first")).json()["pid"]
    asking = [asyncio.ensure_future(ask(two[0].port, "/slow?uid=first&seconds=6")) for _ in range(50)]
    await asyncio.sleep(1.5)  # both know the load of each other
    placed = []
    for number in range(9):
        placed.append((await ask(two[1].port, f"/count?uid=next{number}")).json()["pid"])
        await asyncio.sleep(0.3)  # until the next heartbeat a link counts as much as the others do
    await asyncio.gather(*asking)

    assert placed.count(busy) < len(placed) / 2


# One that runs and does not serve -------------------------------------------------------------------------------------

LIVE = "--live", "/live", "--live-every", "0.2", "--live-failures", "2"
KILLED = "the app is killed: /live did not answer, 2 times in a row"


@pytest.mark.parametrize("how", ["stands still", "closes its port", "answers 500"])
async def test_not_live(runs: Runs, how: str) -> None:
    """An app that runs and does not answer is killed, and another one takes its place, as after any other death."""
    (run,) = await runs.start(1, *LIVE, "--health", "/live")
    first = (await ask(run.port, "/count?uid=a")).json()["pid"]
    if how == "stands still":
        os.kill(first, signal.SIGSTOP)
    else:
        assert 200 == (await ask(run.port, f"/live?then={how[0]}")).status
    await eventually(lambda: gone(first))
    answer = await ask(run.port, "/count?uid=a")
    if answer.status == 503:  # it was held for as long as it may be
        answer = await ask(run.port, "/count?uid=a")

    assert 200 == answer.status
    assert first != answer.json()["pid"]
    assert 1 == run.text().count(KILLED), run.text()


async def test_live(runs: Runs) -> None:
    """An app that answers again in time is left alone, and so is one that has not served yet."""
    (run,) = await runs.start(1, "--live", "/live", "--live-every", "0.2", "--live-failures", "5", child=["late=1.5"])
    child = child_of(run)
    for _ in range(4):
        os.kill(child, signal.SIGSTOP)
        await asyncio.sleep(0.5)  # two questions fail, or three
        os.kill(child, signal.SIGCONT)
        await asyncio.sleep(0.5)  # and as many are answered

    assert child == child_of(run)
    assert "is killed" not in run.text()
    assert 1 == len(runs.replicas.events("started"))


async def test_not_live_and_not_restarted(runs: Runs) -> None:
    """Without a restart its end by --live is the end of all, with the status of a SIGKILL."""
    (run,) = await runs.start(1, *LIVE, "--restart", "never")
    os.kill(child_of(run), signal.SIGSTOP)
    code, lines = await runs.ended(run, 10)

    assert 128 + signal.SIGKILL == code
    assert any(KILLED in line for line in lines), lines


async def test_not_asked(runs: Runs) -> None:
    """Without --live an app that stands still is left alone."""
    (run,) = await runs.start(1)
    child = child_of(run)
    os.kill(child, signal.SIGSTOP)
    await asyncio.sleep(1.0)  # nothing happens
    os.kill(child, signal.SIGCONT)

    assert child == (await ask(run.port, "/count?uid=a")).json()["pid"]


@pytest.mark.parametrize("wrong", ["--live live", "--live-every 0", "--live-every -1", "--live-failures 0"])
async def test_wrong_live(runs: Runs, wrong: str) -> None:
    """What it is not to be asked is said before anything is started."""
    option, value = wrong.split()
    code, lines = await runs.ended(runs.launch(option, value))

    assert 2 == code
    assert f"{option}: {value!r} is not" in lines[-1]
    assert [] == runs.replicas.events("started")


async def test_no_host(runs: Runs) -> None:
    """What is no name of a host is said as what it is."""
    for command in ("run", "gateway", "decide"):
        arguments = [command, "--service", "s", "--uid", "query:uid", "--host", "a..b", "--", "true"]
        code, lines = await runs.ended(runs.replicas.run([*COMMAND, *arguments], 0))

        assert 2 == code
        assert "--host: 'a..b' is not an address or the name of a host" in lines[-1]
