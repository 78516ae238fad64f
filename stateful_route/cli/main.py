"""How a command line is run, and how it ends."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stateful_route.cli.ending import INTERRUPTED, NOBODY_READS, USAGE, CommandError, need, say
from stateful_route.errors import ConfigError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 2 if it cannot be run as it is, 130 if it was interrupted.

    What is wrong is said in one line on the standard error output.
    """
    try:
        need("the command line", "cli", "cyclopts", "rich")
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ConfigError, InvalidArgumentError) as error:
        say(error)
        return USAGE
    except CommandError as error:
        say(error)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is said at the exit
        return NOBODY_READS


def _run(arguments: list[str]) -> int:
    from cyclopts import CycloptsError  # noqa: PLC0415 - of the extra, which may be missing

    from stateful_route.cli.app import make_app  # noqa: PLC0415

    app = make_app(arguments)
    try:
        command, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        raise CommandError(str(error), USAGE) from None
    status = command(*bound.args, **bound.kwargs)
    sys.stdout.flush()
    if not arguments:
        return USAGE  # it has said which commands there are
    return status or 0
