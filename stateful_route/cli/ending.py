"""How a command ends: its exit statuses, and the one line that it says then."""

from __future__ import annotations

import importlib.util
import sys

FAILED, USAGE, NOT_STARTED, INTERRUPTED = 1, 2, 3, 130
NOBODY_READS, TERMINATED = 141, 143  # 128 and the signal


class CommandError(Exception):
    """Why a command cannot go on, in one line; ``status`` is its exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def say(what: object) -> None:
    """Print a line on the standard error output; control characters in it are escaped."""
    print(f"stateful-route: {plain(str(what))}", file=sys.stderr)


def plain(text: str) -> str:
    """Return a text of somebody else as one line that does nothing to a terminal.

    What is not printable is escaped as Python would: control sequences, line ends, marks that turn the direction of
    writing, halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def need(command: str, extra: str, *names: str) -> None:
    """Refuse to run a command without what it needs.

    Raises:
        CommandError: naming the modules that are not installed, and the extra that has them.

    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f'{command} needs {", ".join(missing)}; this installs it: pip install "stateful-route[{extra}]"', USAGE
        )
