"""How a command ends: its exit statuses, and the one line that it says then."""

from __future__ import annotations

import importlib.util
import sys

FAILED, USAGE, NOT_STARTED, INTERRUPTED = 1, 2, 3, 130


class CommandError(Exception):
    """Why a command cannot go on, in one line; ``status`` is its exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        """Say it."""
        super().__init__(message)
        self.status = status


def say(what: object) -> None:
    """Print a line on the standard error output."""
    print(f"stateful-route: {what}", file=sys.stderr)


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
