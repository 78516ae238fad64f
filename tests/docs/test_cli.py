"""What the page on the command line says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from stateful_route.cli.app import make_app

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n\$ stateful-route ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)
OPERATORS = (
    "pods",
    "show",
    "top",
    "move",
    "release",
    "drain",
    "undrain",
    "doctor",
)


def test_commands() -> None:
    """The commands of the page can be run as they are, and all of them have an answer there."""
    app = make_app()
    for line, answer in BLOCKS:
        app.parse_args(shlex.split(line), exit_on_error=False)

        assert answer.strip(), line
        assert "Traceback" not in answer
    shown = {line.split()[0] for line, _ in BLOCKS}

    assert set(OPERATORS) == shown


def test_options() -> None:
    """The options that the page names are those of the commands."""
    app = make_app()
    names = {name for command in OPERATORS for one in app[command].assemble_argument_collection() for name in one.names}
    names |= {name for name in app if name.startswith("--")}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--help"}

    assert set() == named - names
    assert {"--redis", "--namespace", "--service", "--json"} <= named


def test_common_options() -> None:
    """Each command of operators has the options that all of them have."""
    app = make_app()
    for command in OPERATORS:
        names = {name for one in app[command].assemble_argument_collection() for name in one.names}

        assert {"--redis", "--namespace", "--json"} <= names, command


def test_the_picture() -> None:
    """The picture of ``top`` is there, and asks no foreign host for anything."""
    drawn = (DOCS / "top.svg").read_text(encoding="utf-8")

    assert "(top.svg)" in PAGE
    assert "placements" in drawn
    assert {"http://www.w3.org/2000/svg"} == {
        url for url in re.findall(r"https?://[^\"<\s]*", drawn) if "room" not in url
    }
