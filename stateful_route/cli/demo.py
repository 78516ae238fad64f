"""``stateful-route demo``."""

from __future__ import annotations

import argparse
from typing import Any

from stateful_route.cli.ending import need


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
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
        parser.add_argument(f"--{name}", type=_count, default=default, metavar="N", help=count)
    requests = (
        "how many requests; 6000 by default. With chaos they are spread over half a minute: N/30 each second, and at "
        "least one by each user in 3 s"
    )
    parser.add_argument("--requests", type=_count, default=6000, metavar="N", help=requests)
    chaos = "kill and restart pods and stop Redis meanwhile (the default), or leave all in peace"
    parser.add_argument("--chaos", action=argparse.BooleanOptionalAction, default=True, help=chaos)
    url = "the server to use; by default the demo starts one of its own"
    parser.add_argument("--redis-url", default="embedded://", metavar="URL", help=url)
    keep = "leave it all running after the table, until Ctrl-C"
    parser.add_argument("--keep-open", action="store_true", help=keep)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need("the demo", "demo", "httpx", "rich", "starlette", "uvicorn")
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


def _count(text: str) -> int:
    """Read a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
