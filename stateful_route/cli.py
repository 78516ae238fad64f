"""The command ``stateful-route``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import TYPE_CHECKING

from stateful_route._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEMO_NEEDS = ("httpx", "rich", "starlette", "uvicorn")
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, which is 2 for a command that cannot be run as it is."""
    options = _parser().parse_args(arguments)
    missing = [name for name in _DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"the demo needs {', '.join(missing)}"
        print(f'stateful-route: {needs}; this installs it: pip install "stateful-route[demo]"', file=sys.stderr)
        return _USAGE
    from stateful_route.demo.run import Options, main as demo  # noqa: PLC0415 - needs an extra

    return demo(
        Options(
            pods=options.pods,
            gateways=options.gateways,
            users=options.users,
            requests=options.requests,
            redis_url=options.redis_url,
            keep_open=options.keep_open,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stateful-route", description="Stateful routing over Redis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="show it at work: pods, gateways and users on this machine",
        description=(
            "Starts pods that hold the chats of their users in memory, and gateways that route to them, a process "
            "each; sends the messages of many users through all gateways, and checks that each answer comes from "
            "the pod that holds the user. Takes at most 30 s. Exit status 1 if a request was misrouted or lost."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--pods", type=_count, default=3, metavar="N", help="how many pods")
    demo.add_argument("--gateways", type=_count, default=2, metavar="N", help="how many gateways")
    demo.add_argument("--users", type=_count, default=300, metavar="N", help="how many users")
    demo.add_argument(
        "--requests", type=_count, default=6000, metavar="N", help="how many requests, as far as the time allows"
    )
    demo.add_argument(
        "--redis-url", default="embedded://", metavar="URL", help="the server to use; embedded:// starts one"
    )
    demo.add_argument("--keep-open", action="store_true", help="leave it running after the table, until Ctrl-C")
    return parser


def _count(text: str) -> int:
    """Read a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
