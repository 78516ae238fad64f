"""How the command line is read, what it says of what is wrong, and what it does not load."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stateful_route.cli import main, operators
from stateful_route.cli.app import make_app
from stateful_route.cli.ending import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cli.commands import Commands

RUN = ["run", "--service", "s", "--uid", "query:uid"]
LOADED = """
import json, sys
from stateful_route.cli import main
status = main(json.loads(sys.argv[1]))
print(json.dumps([status, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


@pytest.mark.parametrize("lacking", ["cyclopts", "rich"])
@pytest.mark.parametrize("arguments", [[], ["--version"], ["sidecar"]])
def test_without_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lacking: str, arguments: list[str]
) -> None:
    """Without the packages of the extra it says in one line what installs them."""
    monkeypatch.setitem(sys.modules, lacking, None)
    status = main(arguments)
    said = f'the command line needs {lacking}; this installs it: pip install "stateful-route[cli]"'

    assert (2, f"stateful-route: {said}\n") == (status, capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--completion", "bash"]])
def test_help_is_light(arguments: list[str]) -> None:
    """Help and completion load neither a web server nor what only one command needs."""
    heavy = ["uvicorn", "httptools", "websockets", "starlette", "stateful_route.web", "httpx"]
    command = [sys.executable, "-c", LOADED, json.dumps(arguments), json.dumps(heavy)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)

    assert [0, []] == json.loads(said.stdout.splitlines()[-1])


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command it says which there are, and ends with status 2."""
    status = main([])
    said = capsys.readouterr().out

    assert 2 == status
    assert {"run", "gateway", "decide", "proxy-config", "sidecar"} <= set(said.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], 'Unknown command "nonsense"'),
        (["where", "alice"], "the command where is now: show UID"),
        (["history", "alice"], "show UID --history"),
        (["links", "0", "--limit", "3"], "show --pod POD"),
        (["watch"], "top --events"),
        (["completion", "bash"], "--completion SHELL"),
        (["bench"], "doctor"),
        (["run", "--", "x"], "--service"),
        ([*RUN], "COMMAND"),
        ([*RUN, "--servise", "x", "--", "true"], "Unknown option: --servise. Did you mean --service?"),
        ([*RUN, "--stop-timeout", "-1", "--", "true"], "'-1' is not a time in seconds from 0"),
        ([*RUN, "--idle", "nan", "--", "true"], "'nan' is not a time in seconds from 0"),
        ([*RUN, "--restart", "no", "--", "true"], '"never", "on-failure", "always"'),
        ([*RUN, "--health", "x", "--", "true"], "'x' is not a path such as /health"),
        ([*RUN, "--app-port", "65536", "--", "true"], "'65536' is not a port from 1 to 65535"),
        (["gateway", "--service", "s", "--uid", "query:u", "--workers", "257"], "'257' is not a number of processes"),
        (["proxy-config", "apache", "--service", "s", "--uid", "query:u"], '"nginx"'),
        (
            ["gateway", "--service", "s", "--uid", "query:u", "--workers", "\N{SUPERSCRIPT TWO}"],
            "is not a number of processes",
        ),
        (["doctor", "\x1b]0;owned\x07\n[red]x[/red]"], r"\x1b]0;owned\x07\n[red]x[/red]"),
        (["\u202egnp.exe"], r"\u202egnp.exe"),
    ],
)
def test_one_line(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], words: str) -> None:
    """What is wrong is said in one line that does nothing to a terminal, with status 2, before anything is started."""
    status = main(arguments)
    output = capsys.readouterr()

    assert (2, 1, "") == (status, output.err.count("\n"), output.out)
    assert output.err.startswith("stateful-route: ")
    assert words in output.err
    assert output.err.rstrip("\n").isprintable()


def test_a_command_behind_two_dashes() -> None:
    """What is behind the first -- is the command as it is, options and another -- included."""
    words = ["npm", "run", "dev", "--", "--port", "{port}", "--help", "--version", "-x"]
    _, bound, _ = make_app().parse_args([*RUN, "--", *words], exit_on_error=False)

    assert tuple(words) == bound.args


def test_the_last_one_counts() -> None:
    """Of an option that is given twice the last one counts; an empty value is one."""
    more = ["--service", "other", "--port", "1", "--port=8001", "--redis="]
    _, bound, _ = make_app().parse_args([*RUN, *more, "true"], exit_on_error=False)
    options = bound.kwargs["options"]

    assert ("other", 8001, "") == (options.service, options.port, options.redis)


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str, words: str) -> None:
    """There is a script for each shell, which knows the commands and their options."""
    status = main(["--completion", shell])
    said = capsys.readouterr().out

    assert 0 == status
    assert words in said
    assert "proxy-config" in said
    assert "linger-idle" in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 猫", "plain ünïcode 猫"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31m\x9b2J\x00\x7f", r"\x1b[31m\x9b2J\x00\x7f"),
        ("\u202e\u2066\ud800\U000e0041", r"\u202e\u2066\ud800\U000e0041"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    """What a terminal would act on is escaped; all else is as it was."""
    assert shown == plain(text)
    assert plain(text).isprintable()


def test_terminated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two SIGTERM the second one does not cut off what the first one has closed."""
    set_to: list[tuple[int, object]] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append((number, handler)))
    with pytest.raises(SystemExit, match="143"):
        operators._end(signal.SIGTERM, None)

    assert [(signal.SIGTERM, signal.SIG_IGN)] == set_to


@pytest.mark.parametrize("command", ["gateway", "decide"])
async def test_a_port_that_is_taken(cli: Commands, command: str) -> None:
    """A port that somebody has is an error of usage in each command that listens, said in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = await cli(command, "--service", "room", "--uid", "header:x-uid", "--host", "127.0.0.1", "--port", port)

    assert (2, "", 1) == (said.status, said.out, said.err.count("\n"))
    assert "Address already in use" in said.err


@pytest.mark.parametrize(("secrets", "words"), [("", "is not set"), ("short", "has a secret that is too short")])
async def test_a_cookie_without_a_secret(cli: Commands, secrets: str, words: str) -> None:
    """A signed cookie without a good secret names the variable, and shows no secret."""
    said = await cli(
        *("gateway", "--service", "room", "--uid", "header:x-uid,signed-cookie:sr"),
        STATEFUL_ROUTE_COOKIE_SECRETS=secrets,
    )

    assert (2, "", 1) == (said.status, said.out, said.err.count("\n"))
    assert f"STATEFUL_ROUTE_COOKIE_SECRETS {words}: signed-cookie needs a secret of at least 16 bytes" in said.err
