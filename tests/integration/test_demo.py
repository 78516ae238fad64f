"""``python -m examples.demo``: what it shows, how it ends, and that it would notice a misroute."""

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

import attrs
import httpx
import psutil
import pytest

from examples.demo.__main__ import main
from examples.demo.database import Database, DatabaseClient, Sizes, StaleEpochError
from examples.demo.load import Answer, Checker, Load
from examples.demo.processes import Child, ChildError, Fleet
from examples.demo.report import percentile
from stateful_route import __version__
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stateful_route.embedded.server import LocalServer

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("stateful-route")
BOUND = 40.0
FAILED = "failed, all of them safe to repeat"
SMALL = ("--no-chaos", "--pods", "2", "--users", "30", "--requests", "150")

# Runs in each process before its own code.
DIES = """
import os, sys
if "examples.demo.pod" in sys.orig_argv:
    os.write(2, b"no pod today")
    os._exit(7)
"""
# A gateway sends each request to the pod after the right one.
MISROUTES = """
import sys
if "examples.demo.gateway" in sys.orig_argv:
    import attrs
    from stateful_route.web.forward.edge import Edge
    right = Edge._carry
    async def wrong(self, there, found, inbound):
        index = 1 - there.pod_index
        address = (await self._rooms.pod(index)).report.address
        return await right(self, attrs.evolve(there, pod_index=index, address=address), found, inbound)
    Edge._carry = wrong
"""
# A gateway sends requests to both pods by turns, and each of them serves what it does not own.
OWNS_ALL = """
import itertools, sys
if "examples.demo.gateway" in sys.orig_argv:
    import attrs
    from stateful_route.web.forward.edge import Edge
    right, calls = Edge._carry, itertools.count()
    async def any_of_two(self, there, found, inbound):
        index = next(calls) % 2
        address = (await self._rooms.pod(index)).report.address
        return await right(self, attrs.evolve(there, pod_index=index, address=address), found, inbound)
    Edge._carry = any_of_two
if "examples.demo.pod" in sys.orig_argv:
    from stateful_route import Ownership
    Ownership.held = property(lambda self: True, lambda self, held: None)
    Ownership.is_owned = lambda self: True
"""
# A gateway holds nothing.
HOLDS_NOTHING = """
import sys
if "examples.demo.gateway" in sys.orig_argv:
    from stateful_route.web.gateway import GatewaySettings
    right = GatewaySettings.__init__
    GatewaySettings.__init__ = lambda self, **settings: right(self, **(settings | {"max_held": 0}))
"""
# A pod saves every other message only.
FORGETS = """
import itertools, sys
if "examples.demo.pod" in sys.orig_argv:
    from examples.demo.database import DatabaseClient
    right, calls = DatabaseClient.save, itertools.count()
    async def save(self, uid, epoch, messages):
        if next(calls) % 2:
            await right(self, uid, epoch, messages)
    DatabaseClient.save = save
"""
# A chaos run as short as it can be and see all that it looks for.
SHORT_CHAOS = """
import sys
from examples.demo import run
from examples.demo.chaos import Timing

timing = Timing(calm=0.6, settle=0.4, away=3.0)
sys.exit(run.main(run.Options(
    pods=2, gateways=2, users=30, requests=1800, redis_url=sys.argv[1], keep_open=False, chaos=True, timing=timing
)))
"""


class Command:
    """Runs the command, and finds the processes of the run: all of them have its folder in their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder)}

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with self._started(sys.executable, "-m", "examples.demo", *SMALL, *arguments) as process:
            yield process

    def run_chaos(self, redis_url: str) -> tuple[int, str, str]:
        """Return the exit status, the output and the errors of a short chaos run."""
        with self._started(sys.executable, "-P", "-c", SHORT_CHAOS, redis_url) as process:
            output, errors = process.communicate(timeout=BOUND)
        return process.returncode, output, errors

    @contextlib.contextmanager
    def _started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            words,
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
        before = self.environment.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = f"{self.folder}{os.pathsep}{before}" if before else str(self.folder)

    def processes(self) -> list[str]:
        listed = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        return [line for line in listed if str(self.folder) in line]


@contextlib.asynccontextmanager
async def database() -> AsyncIterator[DatabaseClient]:
    """A database without a process."""
    transport = httpx.ASGITransport(Database().application)
    async with httpx.AsyncClient(transport=transport) as http:
        yield DatabaseClient(http, "http://database")


@pytest.fixture
def command() -> Iterator[Command]:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:  # a short path: it holds a unix socket
        yield Command(Path(folder))


def figures(output: str) -> dict[str, str]:
    """Read the table."""
    return dict(re.findall(r"^│ +(\S.*?) +│ +(\S.*?) +│$", output, re.MULTILINE))


def phases(output: str) -> dict[str, list[str]]:
    """Read the table of the phases; the two calm ones after the first are told apart by their number."""
    read: dict[str, list[str]] = {}
    for line in re.findall(r"^│ (.*) │$", output, re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.split("│"))
        if len(cells) == 6 and re.fullmatch(r"skipped|[\d.]+", cells[0]):
            read[name if name not in read else f"{name} {len(read)}"] = cells
    return read


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


@attrs.frozen
class Ran:
    """A calm run with its end."""

    status: int
    output: str
    errors: str
    left: list[object]


@pytest.fixture(scope="module")
def calm() -> Ran:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        command = Command(Path(folder))
        return Ran(*command.run(), [*command.processes(), *command.folder.iterdir()])


def test_shows_that_nothing_was_misrouted(calm: Ran) -> None:
    """The command ends with status 0, and its table shows all requests, none of them failed or answered wrongly."""
    table = figures(calm.output)

    assert (0, "") == (calm.status, calm.errors), calm.output
    assert ("150", "0", "0", "0") == (
        table["requests"],
        table[FAILED],
        table["wrong answers"],
        table["users moved"],
    )
    assert float(table["requests/s"]) > 0
    assert 30 == sum(int(value) for name, value in table.items() if name.startswith("links of pod"))
    assert re.fullmatch(r"p50 [\d.]+ m?s, p99 [\d.]+ m?s", table["answered within"])


def test_a_file_gets_plain_text(calm: Ran) -> None:
    """Output that is not for a terminal has no control characters, and no progress."""
    assert [] == [sign for sign in calm.output if not sign.isprintable() and sign != "\n"]
    assert "requests ━" not in calm.output


def test_leaves_nothing_behind(calm: Ran) -> None:
    """After the command neither a process of it is there, nor a file."""
    assert [] == calm.left


async def test_stays_open_for_a_person(command: Command) -> None:
    """With --keep-open both gateways lead to the same chat, until Ctrl-C ends all of it without a word."""
    with command.started("--keep-open") as process:
        urls = re.findall(r"^  (http\S+)$", read_until(process, "  curl -i http"), re.MULTILINE)
        async with httpx.AsyncClient(trust_env=False) as http:
            answers = [(await http.post(f"{url}/users/alice/messages", content=url)).json() for url in urls]
            told = (await http.get(f"{urls[0]}/users/alice/messages")).json()
        # Two pods, two gateways, the server with its guard and the watcher of that. The database has not its folder.
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
    """Gateways that send users to another pod are found out: that pod refuses each request, and the status is 1."""
    command.change(MISROUTES)
    status, output, _ = command.run("--requests", "16")

    assert (1, "16", "0") == (status, figures(output)[FAILED], figures(output)["wrong answers"])
    assert set(re.findall(r"failed, \d+ times: (.*?):", output)) == {"503 Service Unavailable"}
    assert "each answer came" not in output


def test_pods_that_serve_what_they_do_not_own_are_found_out(command: Command) -> None:
    """When two pods both serve a user, the answers themselves show it, and the status is 1."""
    command.change(OWNS_ALL)
    status, output, _ = command.run()

    assert 1 == status
    assert int(figures(output)["wrong answers"]) > 30
    assert re.search(r"wrong answer: user-\d+: pods [01] and [01] at the same epoch \d+", output)


def test_a_request_that_fails_is_found_out(command: Command) -> None:
    """When gateways hold no request of a pod that is gone, those fail; nothing is lost, and the status is 1."""
    command.change(HOLDS_NOTHING)
    status, output, _ = command.run_chaos("embedded://")
    table = figures(output)

    assert (1, "0", "0") == (status, table["wrong answers"], table["messages lost"]), output
    assert int(table[FAILED]) > 0, output
    assert re.search(
        r"kill -9 pod \d: failed, \d+ times: 503 Service Unavailable: the process that has it is not", output
    )


def test_a_lost_message_is_found_out(command: Command) -> None:
    """When pods do not save what they have accepted, it shows as soon as another one goes on, and the status is 1."""
    command.change(FORGETS)
    status, output, _ = command.run_chaos("embedded://")
    table = figures(output)

    assert (1, "0") == (status, table[FAILED]), output
    assert int(table["messages lost"]) > 0
    assert re.search(r"messages lost: [\d,]+ accepted and not saved, 0 never accepted", output)
    assert re.search(r"wrong answer: user-\d+: message \d+ is number \d+ to pod [01]", output)


def test_chaos_loses_nothing(command: Command) -> None:
    """A pod is killed, all are restarted, and Redis stops: no request fails, no answer is wrong, nothing is lost."""
    status, output, errors = command.run_chaos("embedded://")
    table, seen = figures(output), phases(output)
    killed_users = next(name for name in table if name.endswith("elsewhere"))
    users = killed_users.split()[0]
    late = float(table[killed_users].removeprefix("the last after ").removesuffix(" s"))

    assert (0, "", []) == (status, errors, command.processes()), output
    assert ("0", "0", "0") == (table[FAILED], table["wrong answers"], table["messages lost"])
    assert "No request failed, and each answer came from the pod that held the user." in output
    assert 15 <= int(users) <= 30
    # A lease of 2.5 s, and what the demo needs to notice on a busy machine.
    assert 1.5 < late < 10.0
    assert (users, users) == (table["stale epochs refused"], table["- of them late writes of the killed pod"])
    assert int(table["users moved"]) >= int(users) + 30 // 2
    killed = next(name for name in seen if name.startswith("kill -9 pod"))
    assert ["calm", killed, f"{killed[8:]} is back", "rolling restart", "calm 4", "Redis away", "calm 6"] == [*seen]
    assert users == seen[killed][5]
    assert 0 < int(seen[killed][3])
    assert {"0"} == {cells[2] for cells in seen.values()}
    assert "0" == seen["Redis away"][5]


def test_a_server_of_others_is_left_as_it_was(command: Command, own_server: LocalServer) -> None:
    """A server of others is not stopped, as the table says; no link is left on it, and what is, is gone in a minute."""
    own_server.ask("SET", "theirs", "1")
    status, output, _ = command.run_chaos(own_server.url)
    found = own_server.ask("EVAL", "return table.concat(redis.call('KEYS', 'sr*'), ' ')", "0").split()
    left = [int(own_server.ask("TTL", key).removeprefix(":")) for key in found]
    kept = [key for key in found if not key.startswith("sr2:ended:")]

    assert (0, ["skipped", "-", "-", "-", "-", "-"]) == (status, phases(output)["Redis away"]), output
    assert "Redis away: skipped, it is not the demo's own" in output
    assert ("1", 4) == (
        own_server.ask("GET", "theirs"),
        len(kept),
    )  # the pods, their versions and deadlines, the service
    assert all(0 < seconds <= 60 for seconds in left)


async def test_users_find_their_chats_elsewhere(shared_server: LocalServer, namespace: str) -> None:
    """When a pod is told to end, its users are served by another one, which goes on counting, over real HTTP."""
    load = Load(users=20)
    async with Fleet(shared_server.url, namespace, pods=2, gateways=1) as fleet:
        await fleet.start(BOUND)
        gateways = [gateway.url for gateway in fleet.gateways]
        await load.run(gateways, 40, BOUND, lambda tally: None)
        # A gateway that has looked before both were up gives all to the other one, for a moment.
        users_of = {len(load.answers_of(index)): pod for index, pod in enumerate(fleet.pods)}
        its_users = max(users_of)
        await users_of[its_users].terminate(BOUND)
        await load.run(gateways, 40, BOUND, lambda tally: None)

    assert its_users > 0
    assert (0, [], its_users, 80) == (
        load.tally.failed,
        load.tally.wrong,
        load.tally.moved,
        load.tally.accepted.total(),
    )


async def test_the_database_refuses_a_stale_epoch() -> None:
    """Who opens a chat at a later epoch shuts out the owner before it, whose write changes nothing."""
    async with database() as chats:
        opened = [await chats.open("a", 5)]
        await chats.save("a", 5, [{"id": "1", "text": "x"}])
        opened.append(await chats.open("a", 6))
        with pytest.raises(StaleEpochError):
            await chats.save("a", 5, [])
        with pytest.raises(StaleEpochError):
            await chats.open("a", 5)
        await chats.save("b", 1, [])
        sizes = await chats.sizes()

    assert [[], [{"id": "1", "text": "x"}]] == opened
    assert Sizes({"a": 1, "b": 0}, refused=2) == sizes


async def test_a_process_that_ends_early_is_an_error() -> None:
    """Waiting for a process that ends before it is ready raises, with the end of its stderr."""
    child = Child("pod 3", "examples.demo.no_such_module")
    await child.start()
    try:
        with pytest.raises(ChildError, match=r"pod 3 ended with status 1; its stderr: .*no_such_module"):
            await child.ready()
    finally:
        await child.stop()


async def test_a_process_that_is_not_ready_in_time_is_an_error(shared_server: LocalServer, namespace: str) -> None:
    """Waiting for processes is bounded, and names the one that was waited for."""
    async with Fleet(shared_server.url, namespace, pods=1, gateways=1) as fleet:
        with pytest.raises(ChildError, match=r"not ready within 0\.0 s: database running; its stderr: empty"):
            await fleet.start(0.0)


def test_right_answers_pass() -> None:
    """Answers of one pod that count up by one are right, for each user by itself."""
    checker = Checker()
    answers = [
        checker.check(uid, Answer(pod_index, 7, uid, count))
        for count in (1, 2, 3)
        for pod_index, uid in enumerate("ab")
    ]

    assert [None] * 6 == answers


@pytest.mark.parametrize("pod_index", [0, 1], ids=["the same pod in a new life", "another pod"])
def test_a_takeover_passes(pod_index: int) -> None:
    """At a later epoch any pod may answer, if it goes on counting."""
    checker = Checker()
    checker.check("a", Answer(0, 7, "a", 1))

    assert checker.check("a", Answer(pod_index, 8, "a", 2)) is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Answer(1, 7, "a", 3), "a: pods 0 and 1 at the same epoch 7"),
        (Answer(0, 6, "a", 3), "a: pod 0 at epoch 6, after pod 0 at 7"),
        (Answer(1, 6, "a", 3), "a: pod 1 at epoch 6, after pod 0 at 7"),
        (Answer(0, 7, "a", 2), "a: message 3 is number 2 to pod 0"),
        (Answer(0, 7, "a", 4), "a: message 3 is number 4 to pod 0"),
        (Answer(1, 8, "a", 2), "a: message 3 is number 2 to pod 1"),
        (Answer(1, 8, "a", 1), "a: message 3 is number 1 to pod 1"),
        (Answer(0, 7, "b", 3), "a: the answer is for b"),
    ],
    ids=[
        "two pods at one epoch",
        "stale epoch",
        "stale epoch of another pod",
        "lost update",
        "counted twice",
        "lost update in a takeover",
        "memory lost in a takeover",
        "another user",
    ],
)
def test_a_wrong_answer_is_seen(wrong: Answer, complaint: str) -> None:
    """An answer of a pod that does not own the user, or that does not go on counting, is seen."""
    checker = Checker()
    for count in (1, 2):
        checker.check("a", Answer(0, 7, "a", count))

    assert complaint == checker.check("a", wrong)


def test_the_first_message_is_number_one() -> None:
    """A pod that has messages of a user who sent none is wrong."""
    assert "a: message 1 is number 2 to pod 0" == Checker().check("a", Answer(0, 7, "a", 2))


@pytest.mark.parametrize(("count", "is_right"), [(2, True), (3, True), (4, False), (1, False)])
def test_a_message_that_was_given_up_may_have_counted(count: int, *, is_right: bool) -> None:
    """After a message without an answer the next count may be one or two higher, and nothing else."""
    checker = Checker()
    checker.check("a", Answer(0, 7, "a", 1))
    checker.give_up("a")

    assert is_right == (checker.check("a", Answer(0, 7, "a", count)) is None)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentile(share: float, expected: float) -> None:
    """A percentile is the value of the nearest rank."""
    assert expected == percentile(range(100, 0, -1), share)


def test_chaos_needs_a_second_pod(capsys: pytest.CaptureFixture[str]) -> None:
    """With one pod, chaos is refused with status 2 and what would do."""
    status = main(["--pods=1"])

    expected = "stateful-route: --pods is 1; allowed is at least 2, as one is killed; or --no-chaos\n"
    assert (2, expected) == (status, capsys.readouterr().err)


def test_version() -> None:
    """``--version`` is the version of the package."""
    said = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)

    assert f"stateful-route {__version__}\n" == said.stdout


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_count_is_a_whole_number_from_one(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A count of pods that is none is refused with status 2 and what would be one."""
    with pytest.raises(SystemExit) as ended:
        main([f"--pods={count}"])

    assert 2 == ended.value.code
    assert f"argument --pods: {count!r} is not a whole number from 1" in capsys.readouterr().err
