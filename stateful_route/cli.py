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
_USAGE, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 2 if it cannot be run as it is, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return _demo(options)
    except KeyboardInterrupt:  # before the demo itself listens to Ctrl-C
        return _INTERRUPTED


def _demo(options: argparse.Namespace) -> int:
    missing = [name for name in _DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"the demo needs {', '.join(missing)}"
        print(f'stateful-route: {needs}; this installs it: pip install "stateful-route[demo]"', file=sys.stderr)
        return _USAGE
    from stateful_route.demo import run  # noqa: PLC0415 - it needs the extra

    return run.main(
        run.Options(
            pods=options.pods,
            gateways=options.gateways,
            users=options.users,
            requests=options.requests,
            redis_url=options.redis_url,
            keep_open=options.keep_open,
            chaos=options.chaos,
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
            "the pod that holds the user. Meanwhile it kills a pod with -9, starts it again, restarts all pods one by "
            "one, and stops Redis for 3 s. It ends by itself within a minute, without chaos within 30 s. Exit status 1 "
            "if a request failed (each is safe to repeat), an answer was wrong, or a message was lost."
        ),
    )
    for name, default in (("pods", 3), ("gateways", 2), ("users", 300)):
        count = f"how many {name}; {default} by default"
        demo.add_argument(f"--{name}", type=_count, default=default, metavar="N", help=count)
    requests = (
        "how many requests; 6000 by default. With chaos they are spread over half a minute: N/30 each second, and at "
        "least one by each user in 3 s"
    )
    demo.add_argument("--requests", type=_count, default=6000, metavar="N", help=requests)
    chaos = "kill and restart pods and stop Redis meanwhile (the default), or leave all in peace"
    demo.add_argument("--chaos", action=argparse.BooleanOptionalAction, default=True, help=chaos)
    url = "the server to use; by default the demo starts one of its own"
    demo.add_argument("--redis-url", default="embedded://", metavar="URL", help=url)
    keep = "leave it all running after the table, until Ctrl-C"
    demo.add_argument("--keep-open", action="store_true", help=keep)
    return parser


def _count(text: str) -> int:
    """Read a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
