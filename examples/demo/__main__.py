"""``python -m examples.demo``: pods, gateways and users on this machine, and what goes wrong meanwhile."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from examples.demo import run

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHAT = """Show it at work: pods, gateways and users on this machine.

Starts pods that hold the chats of their users in memory, and gateways that route to them, a process each; sends the
messages of many users through all gateways, and checks that each answer comes from the pod that holds the user.
Meanwhile it kills a pod with -9, starts it again, restarts all pods one by one, and stops Redis for 3 s. It ends by
itself within a minute, without chaos within 30 s. Exit status 1 if a request failed (each is safe to repeat), an
answer was wrong, or a message was lost."""


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo with the words of a command line; return its exit status, as ``run.main`` does."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=_WHAT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=_count, default=3, help="how many pods; 3 by default")
    parser.add_argument("--gateways", type=_count, default=2, help="how many gateways; 2 by default")
    parser.add_argument("--users", type=_count, default=300, help="how many users; 300 by default")
    parser.add_argument(
        "--requests",
        type=_count,
        default=6000,
        help="how many requests; 6000 by default. With chaos they are spread over half a minute: N/30 each second, and "
        "at least one by each user in 3 s",
    )
    parser.add_argument(
        "--chaos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="kill and restart pods and stop Redis meanwhile (the default), or leave all in peace",
    )
    parser.add_argument(
        "--redis-url",
        metavar="URL",
        default="embedded://",
        help="the server to use; by default the demo starts one of its own",
    )
    parser.add_argument("--keep-open", action="store_true", help="leave it all running after the table, until Ctrl-C")
    return run.main(run.Options(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
