"""``stateful-route demo``."""

from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.ending import need
from stateful_route.cli.options import SHARED, Count, documented


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DemoOptions:
    """What ``demo`` is told."""

    pods: Annotated[Count, Parameter(help="how many pods; 3 by default")] = 3
    gateways: Annotated[Count, Parameter(help="how many gateways; 2 by default")] = 2
    users: Annotated[Count, Parameter(help="how many users; 300 by default")] = 300
    requests: Annotated[
        Count,
        Parameter(
            help="how many requests; 6000 by default. With chaos they are spread over half a minute: N/30 each second, "
            "and at least one by each user in 3 s"
        ),
    ] = 6000
    chaos: Annotated[
        bool,
        Parameter(
            negative="--no-chaos",
            help="kill and restart pods and stop Redis meanwhile (the default), or leave all in peace",
        ),
    ] = True
    redis_url: Annotated[
        str, Parameter(metavar="URL", help="the server to use; by default the demo starts one of its own")
    ] = "embedded://"
    keep_open: Annotated[bool, Parameter(help="leave it all running after the table, until Ctrl-C")] = False


@documented
def demo(*, options: DemoOptions | None = None) -> int:
    """Show it at work: pods, gateways and users on this machine.

    Starts pods that hold the chats of their users in memory, and gateways that route to them, a process each; sends the
    messages of many users through all gateways, and checks that each answer comes from the pod that holds the user.
    Meanwhile it kills a pod with -9, starts it again, restarts all pods one by one, and stops Redis for 3 s. It ends by
    itself within a minute, without chaos within 30 s. Exit status 1 if a request failed (each is safe to repeat), an
    answer was wrong, or a message was lost.
    """
    need("the demo", "demo", "httpx", "rich", "starlette", "uvicorn")
    from stateful_route.demo import run  # noqa: PLC0415 - it needs the extra

    return run.main(run.Options(**attrs.asdict(options or DemoOptions())))
