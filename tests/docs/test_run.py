"""What the page on apps that are not ours says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from stateful_route.cli.app import make_app
from stateful_route.web.uids.spelled import sources_from

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the commands of the page, as a shell gives them on."""
    joined = re.sub(r" *\\\n *", " ", PAGE)
    found = re.findall(r"^(?:\$ |ExecStart=)(stateful-route .*)$", joined, re.MULTILINE)
    array = re.search(r"^CMD \[(.*)\]$", joined, re.MULTILINE)
    assert array is not None
    return [*(shlex.split(line, comments=True)[1:] for line in found), re.findall(r'"([^"]*)"', array[1])[1:]]


def test_commands() -> None:
    """The commands of the page can be run as they are."""
    known = make_app()
    all_of_them = commands()
    for command in all_of_them:
        _, bound, _ = known.parse_args(["8000" if word == "%i" else word for word in command], exit_on_error=False)

        assert sources_from(bound.kwargs["options"].uid, cookie_secrets=["x" * 32])
        assert command[0] == "gateway" or any("{port}" in word or word == "node" for word in bound.args)
    assert 6 == len(all_of_them)


def test_sources() -> None:
    """The lists of sources in the table are such lists."""
    rows = re.findall(r"^\| (?!app )[^|]* \| `([a-z-]+:[^`]*)` \|$", PAGE, re.MULTILINE)
    for row in rows:
        assert sources_from(row, cookie_secrets=["x" * 32])

    assert 5 == len(rows)


def test_options() -> None:
    """The options that the page names are there."""
    app = make_app()
    known = {
        name
        for command in ("run", "gateway")
        for one in app[command].assemble_argument_collection()
        for name in one.names
    }
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--init"}

    assert named - known == set()
    assert 8 < len(named)
