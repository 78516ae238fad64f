"""What the page on apps that are not ours says is so."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
from pathlib import Path

from stateful_route.cli import directory, gateway, run
from stateful_route.web.uids.spelled import sources_from

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    commands = made.add_subparsers()
    run.add(commands)
    gateway.add(commands)
    return made


def commands() -> list[list[str]]:
    """Return the commands of the page, as a shell gives them on."""
    joined = re.sub(r" *\\\n *", " ", PAGE)
    found = re.findall(r"^(?:\$ |ExecStart=)(stateful-route .*)$", joined, re.MULTILINE)
    array = re.search(r"^CMD \[(.*)\]$", joined, re.MULTILINE)
    assert array is not None
    return [*(shlex.split(line, comments=True)[1:] for line in found), re.findall(r'"([^"]*)"', array[1])[1:]]


def test_commands() -> None:
    """The commands of the page can be run as they are."""
    known = parser()
    all_of_them = commands()
    for command in all_of_them:
        options = known.parse_args(["8000" if word == "%i" else word for word in command])

        assert sources_from(options.uid, cookie_secrets=["x" * 32])
        assert command[0] == "gateway" or any("{port}" in word or word == "node" for word in options.command)
    assert 6 == len(all_of_them)


def test_sources() -> None:
    """The lists of sources in the table are such lists."""
    rows = re.findall(r"^\| (?!app )[^|]* \| `([a-z-]+:[^`]*)` \|$", PAGE, re.MULTILINE)
    for row in rows:
        assert sources_from(row, cookie_secrets=["x" * 32])

    assert 5 == len(rows)


def test_options() -> None:
    """The options that the page names are there."""
    known = "".join(inspect.getsource(module) for module in (directory, gateway, run))
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--init"}

    assert {option for option in named if f'"{option}"' not in known} == set()
    assert 8 < len(named)
