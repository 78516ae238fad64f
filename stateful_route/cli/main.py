"""How a command line is run, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stateful_route.cli.ending import FAILED, INTERRUPTED, NOBODY_READS, USAGE, CommandError, need, say
from stateful_route.errors import ConfigError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What an output says that takes nothing any more: a full disk, a terminal that is gone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 2 if it cannot be run as it is, 130 if it was interrupted.

    What is wrong is said in one line on the standard error output.
    """
    _have_outputs()
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
        _say_no_more()
        return NOBODY_READS
    except OSError as error:
        if error.errno not in _NOT_WRITTEN or error.filename is not None:
            raise
        _say_no_more()
        say(f"the output cannot be written: {error}")
        return FAILED


def _have_outputs() -> None:
    """Open what was closed (``>&-``), before a connection gets its number, or what is for one comes into the other."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end


def _say_no_more() -> None:
    """Let nothing be written at the exit that could not be written before."""
    with contextlib.suppress(OSError):  # of a stream without a number: that is in memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    from cyclopts import CycloptsError  # noqa: PLC0415 - of the extra, which may be missing

    from stateful_route.cli.app import NOW, make_app  # noqa: PLC0415

    if arguments and (now := NOW.get(arguments[0])):
        raise CommandError(f"the command {arguments[0]} is now: {now}", USAGE)
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
