"""The command ``stateful-route demo``: what it shows, how it ends, and that it would notice a misroute."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from stateful_route import __version__
from stateful_route.cli import main
from stateful_route.demo.load import Answer, Checker, Load
from stateful_route.demo.processes import Child, ChildError, Fleet
from stateful_route.demo.report import percentile
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.store.embedded import LocalServer

COMMAND = Path(sys.executable).with_name("stateful-route")
BOUND = 40.0
SMALL = ("--pods", "2", "--users", "30", "--requests", "150")

# Runs in each process before its own code.
DIES = """
import os, sys
if "stateful_route.demo.pod" in sys.orig_argv:
    os.write(2, b"no pod today")
    os._exit(7)
"""
MISROUTES = """
import sys
if "stateful_route.demo.gateway" in sys.orig_argv:
    from stateful_route.client.service import ServiceView
    right = ServiceView.pod
    async def wrong(self, pod_index):
        return await right(self, (pod_index + 1) % len(await self.pods()))
    ServiceView.pod = wrong
"""


class Command:
    """Runs the command, and finds the processes of the run: all of them have its folder in their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder)}

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [COMMAND, "demo", *SMALL, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit status, the output and the errors."""
        with self.started(*arguments) as process:
            output, errors = process.communicate(timeout=BOUND)
        return process.returncode, output, errors

    def change(self, code: str) -> None:
        """Make each process run that code first."""
        (self.folder / "sitecustomize.py").write_text(code)
        self.environment["PYTHONPATH"] = str(self.folder)

    def processes(self) -> list[str]:
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
        return [line for line in listed.stdout.splitlines() if str(self.folder) in line]


@pytest.fixture
def command() -> Iterator[Command]:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:  # a short path: it holds a unix socket
        yield Command(Path(folder))


def figures(output: str) -> dict[str, str]:
    """Read the table."""
    return dict(re.findall(r"^│ +(\S.*?) +│ +(\S.*?) +│$", output, re.MULTILINE))


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


def test_shows_that_nothing_was_misrouted(command: Command) -> None:
    """The command ends with status 0, and its table shows all requests, none of them failed or misrouted."""
    status, output, errors = command.run()
    table = figures(output)

    assert (0, "") == (status, errors), output
    assert ("150", "0", "0") == (
        table["requests"],
        table["failed requests"],
        table["answers from the wrong pod"],
    )
    # A user meets each gateway for the first time once, which asks Redis.
    assert 60.0 <= float(table["cache hit rate"].removesuffix("%")) < 100.0
    assert float(table["requests/s"]) > 0
    assert 30 == sum(int(value) for name, value in table.items() if name.startswith("links of pod"))
    for decision in ("cached", "uncached"):
        assert re.fullmatch(r"p50 +[\d.]+ [µm]s +p99 +[\d.]+ [µm]s", table[f"routing decision, {decision}"])


def test_a_file_gets_plain_text(command: Command) -> None:
    """Output that is not for a terminal has no control characters, and no progress."""
    _, output, _ = command.run()

    assert [] == [sign for sign in output if not sign.isprintable() and sign != "\n"]
    assert "requests ━" not in output


def test_leaves_nothing_behind(command: Command) -> None:
    """After the command neither a process of it is there, nor a file."""
    command.run()

    assert ([], []) == (command.processes(), list(command.folder.iterdir()))


async def test_stays_open_for_a_person(command: Command) -> None:
    """With --keep-open both gateways lead to the same chat, until Ctrl-C ends all of it without a word."""
    with command.started("--keep-open") as process:
        urls = re.findall(r"^  (http\S+)$", read_until(process, "  curl -i http"), re.MULTILINE)
        async with httpx.AsyncClient(trust_env=False) as http:
            answers = [(await http.post(f"{url}/users/alice/messages", content=url)).json() for url in urls]
            told = (await http.get(f"{urls[0]}/users/alice/messages")).json()
        # Two pods, two gateways, the server with its guard and the watcher of that.
        assert len(command.processes()) >= 5
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=BOUND)

    assert [1, 2] == [answer["count"] for answer in answers]
    assert [told["pod"]] * 2 == [answer["pod"] for answer in answers]
    assert urls == told["messages"]
    assert (0, "", []) == (process.returncode, errors, command.processes())


async def test_nothing_outlives_a_command_that_was_killed(command: Command) -> None:
    """When the command is killed with -9, the pods, the gateways and the server end by themselves."""
    with command.started("--keep-open") as process:
        read_until(process, "  curl -i http")
        assert len(command.processes()) >= 5
        process.kill()

    await eventually(lambda: not command.processes())


def test_ctrl_c_ends_it_at_once(command: Command) -> None:
    """Ctrl-C in the middle ends everything, with status 130 and no traceback."""
    with command.started("--requests", "1000000") as process:
        read_until(process, "ready after")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=BOUND)

    assert (130, "", []) == (process.returncode, errors, command.processes())


def test_a_dead_server_is_said_at_once(command: Command) -> None:
    """With the URL of a server that is not there it ends with status 1, a message, and no table."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        status, output, errors = command.run("--redis-url", f"redis://127.0.0.1:{nobody.getsockname()[1]}/0")

    assert (1, "") == (status, output)
    assert re.fullmatch(r"stateful-route: Redis cannot be used: .*Connect call failed.*\n", errors)


def test_a_shared_server_is_left_as_it_was(command: Command, own_server: LocalServer) -> None:
    """On a server of others it leaves no link, and what it leaves is gone a minute later."""
    own_server.ask("SET", "theirs", "1")
    status, _, _ = command.run("--redis-url", own_server.url)
    kept = own_server.ask("EVAL", "return table.concat(redis.call('KEYS', 'sr*'), ' ')", "0").split()
    left = [int(own_server.ask("TTL", key).removeprefix(":")) for key in kept]

    assert (0, "1", 1) == (status, own_server.ask("GET", "theirs"), len(kept))
    assert 0 < left[0] <= 60


def test_a_pod_that_dies_ends_it(command: Command) -> None:
    """When a pod does not come up, the command fails and shows what the pod said."""
    command.change(DIES)
    status, _, errors = command.run()

    assert (1, "stateful-route: pod 0 ended with status 7; its stderr: no pod today\n", []) == (
        status,
        errors,
        command.processes(),
    )


def test_a_misroute_fails_the_command(command: Command) -> None:
    """Gateways that send users to another pod are found out: each request is counted, and the status is 1."""
    command.change(MISROUTES)
    status, output, _ = command.run()

    assert (1, "150") == (status, figures(output)["answers from the wrong pod"])
    assert "Each answer came" not in output


async def test_lost_memory_is_noticed(shared_server: LocalServer, namespace: str) -> None:
    """When a pod goes, and its chats with it, the users of that pod notice it over real HTTP."""
    load = Load(users=20, requests=40)
    async with Fleet(shared_server.url, namespace, pods=2, gateways=1) as fleet:
        await fleet.start(BOUND)
        gateways = [gateway.url for gateway in fleet.gateways]
        await load.run(gateways, BOUND, lambda tally: None)
        before = load.tally.failed + len(load.tally.misroutes)
        await fleet.pods[0].stop()
        await load.run(gateways, BOUND, lambda tally: None)

    assert 0 == before
    assert load.tally.failed + len(load.tally.misroutes) > 0


async def test_a_process_that_ends_early_is_an_error() -> None:
    """Waiting for a process that ends before it is ready raises, with the end of its stderr."""
    child = Child("pod 3", "stateful_route.demo.no_such_module")
    await child.start()
    try:
        with pytest.raises(ChildError, match=r"pod 3 ended with status 1; its stderr: .*no_such_module"):
            await child.ready()
    finally:
        await child.stop()


async def test_a_process_that_is_not_ready_in_time_is_an_error(shared_server: LocalServer, namespace: str) -> None:
    """Waiting for processes is bounded, and names the one that was waited for."""
    async with Fleet(shared_server.url, namespace, pods=1, gateways=1) as fleet:
        with pytest.raises(ChildError, match=r"not ready within 0\.0 s: pod 0 running; its stderr: empty"):
            await fleet.start(0.0)


def test_right_answers_pass() -> None:
    """Answers of one pod that count up by one are right, for each user by itself."""
    checker = Checker()
    answers = [
        checker.check(uid, Answer(pod_index, uid, count)) for count in (1, 2, 3) for pod_index, uid in enumerate("ab")
    ]

    assert [None] * 6 == answers


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Answer(1, "a", 3), "a: answered by pod 1, before by pod 0"),
        (Answer(0, "a", 2), "a: message 3 is number 2 to pod 0"),
        (Answer(0, "a", 4), "a: message 3 is number 4 to pod 0"),
        (Answer(0, "a", 1), "a: message 3 is number 1 to pod 0"),
        (Answer(0, "b", 3), "a: the answer is for b"),
    ],
    ids=["another pod", "counted less", "counted more", "memory lost", "another user"],
)
def test_a_wrong_answer_is_seen(wrong: Answer, complaint: str) -> None:
    """An answer of another pod, with another count than the next one, or for another user, is a misroute."""
    checker = Checker()
    for count in (1, 2):
        checker.check("a", Answer(0, "a", count))

    assert complaint == checker.check("a", wrong)


def test_the_first_message_is_number_one() -> None:
    """A pod that has messages of a user who sent none is a wrong pod."""
    assert "a: message 1 is number 2 to pod 0" == Checker().check("a", Answer(0, "a", 2))


@pytest.mark.parametrize(("count", "is_right"), [(2, True), (3, True), (4, False), (1, False)])
def test_a_lost_message_may_have_counted(count: int, *, is_right: bool) -> None:
    """After a message without an answer the next count may be one or two higher, and nothing else."""
    checker = Checker()
    checker.check("a", Answer(0, "a", 1))
    checker.lose("a")

    assert is_right == (checker.check("a", Answer(0, "a", count)) is None)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentile(share: float, expected: float) -> None:
    """A percentile is the value of the nearest rank."""
    assert expected == percentile(range(100, 0, -1), share)


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the packages of the extra the command ends with status 2 and the command that installs them."""
    monkeypatch.setitem(sys.modules, "rich", None)
    status = main(["demo"])
    errors = capsys.readouterr().err

    assert (2, 'stateful-route: the demo needs rich; this installs it: pip install "stateful-route[demo]"\n') == (
        status,
        errors,
    )


def test_version() -> None:
    """``--version`` is the version of the package."""
    said = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)

    assert f"stateful-route {__version__}\n" == said.stdout


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_count_is_a_whole_number_from_one(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A count of pods that is none is refused with status 2 and what would be one."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--pods={count}"])

    assert 2 == ended.value.code
    assert f"argument --pods: '{count}' is not a whole number from 1" in capsys.readouterr().err
