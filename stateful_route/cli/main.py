"""Which commands there are, and how each of them ends."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stateful_route._version import __version__
from stateful_route.cli import decide, demo, gateway, proxy_config, run, sidecar
from stateful_route.cli.ending import INTERRUPTED, USAGE, CommandError, say
from stateful_route.errors import ConfigError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = (run, gateway, decide, proxy_config, sidecar, demo)
"""Modules with ``add(commands)``: it adds a parser whose default ``run`` takes the options and returns a status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 2 if it cannot be run as it is, 130 if it was interrupted.

    What is wrong is said in one line on the standard error output.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ConfigError, InvalidArgumentError) as error:
        say(error)
        return USAGE
    except CommandError as error:
        say(error)
        return error.status
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stateful-route", description="Stateful routing over Redis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser
