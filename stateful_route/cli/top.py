"""``stateful-route top``."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, documented, read_by, seconds
from stateful_route.cli.shown import cell, in_all, lasting, of_pod, pods_table
from stateful_route.errors import of_a_question
from stateful_route.ops import Change, ChangeKind, PodSeen
from stateful_route.ops.board import Board, hear, look

_LEAST_INTERVAL = 0.1
_OF_A_FILE = 1_000_000
"""As many lines has a picture that is in a file."""
_OTHER_LINES = 7
"""Lines of a picture around the rows of pods and the events."""
_IN_TROUBLE = frozenset({"DEAD", "SILENT"})

SORTS: dict[str, Callable[[PodSeen], float]] = {
    "pod": lambda pod: pod.pod_index,
    "links": lambda pod: -pod.links,
    "load": lambda pod: -pod.load,
    "heartbeat": lambda pod: -pod.heartbeat_age,
}
"""By what pods are sorted."""


def _interval(text: str) -> float:
    if seconds(text) < _LEAST_INTERVAL:
        raise ValueError(f"{text!r} is not a time in seconds from {_LEAST_INTERVAL}")
    return seconds(text)


_STYLES = {"READY": "green", "DENY_NEW_CALL": "yellow", "DEAD": "red"}


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class TopOptions(ServiceAskOptions):
    """What ``top`` is told."""

    events: Annotated[bool, Parameter(help="print changes as they happen, instead of pictures")] = False
    interval: Annotated[
        float,
        Parameter(metavar="SECONDS", converter=read_by(_interval), help="time between two pictures; 1 by default"),
    ] = 1.0
    count: Annotated[
        Count | None,
        Parameter(
            help="end after so many pictures, or changes with --events; by default never, and after 1 picture where it "
            "is no terminal"
        ),
    ] = None
    sort: Annotated[
        Literal["pod", "links", "load", "heartbeat"],
        Parameter(help="which pods come first: by index (the default), or those with most"),
    ] = "pod"


@documented
def top(*, options: TopOptions | None = None) -> int:
    """Show the pods of a service live: load, links, placements and changes a second, heartbeats.

    A placement is a uid that a pod took on; a change is a link that got another owner, or none. It costs Redis one
    question a picture, and one for the links that change. Where there are more pods than lines, those in trouble come
    first. q or Ctrl-C ends it. Exit status 1 if the service has no pods.

    With --events it prints changes as they happen: links that get another owner, or none; pods that start, drain,
    leave or die. That is what is announced to the caches of clients: a new uid is no change of theirs, and of a pod
    that drains only its state is announced. A pod that said goodbye is SHUTDOWN, one that died without is DEAD. It
    says so while it hears nothing, as Redis is away.
    """
    told = options or TopOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        if told.events:
            return await _events(asking, service_name, told.count)
        board = Board(asking.config.namespace, service_name)
        seen = await asking.operator.pods(service_name)
        if not seen.pods:
            say(f"no pod of service {service_name!r} was ever seen in namespace {asking.config.namespace!r}")
            return FAILED
        board.take_in(seen)
        hearing = asyncio.create_task(hear(asking.operator, board, told.interval), name="stateful_route top")
        try:
            await _show(asking, board, told)
        finally:
            await cancel_and_wait(hearing)
        return 0

    return ask(told, work)


async def _events(asking: Asking, service_name: str, most: int | None) -> int:
    count = 0
    async for change in asking.operator.watch(service_name):
        if asking.out.json:
            asking.out.record({"seenAt": round(time.time(), 3), "serviceName": service_name} | change.to_dict())
        else:
            asking.out.show(Text(time.strftime("%H:%M:%S  ")) + told_of(change))
        count += change.kind in {ChangeKind.LINK, ChangeKind.POD}
        if count == most:
            break
    return 0


async def _show(asking: Asking, board: Board, told: TopOptions) -> None:
    out = asking.out
    is_live = out.is_terminal and not out.json
    left = told.count if told.count is not None else None if is_live or out.json else 1
    key = SORTS[told.sort]
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=out.console, screen=True, auto_refresh=False)) if is_live else None
        ended = stack.enter_context(_ended_by_q()) if is_live else asyncio.Event()
        while True:
            if out.json:
                out.record(board.to_dict())
            elif live is not None:
                live.update(Group(*picture(board, out.console.height, key)), refresh=True)
            else:
                out.show(*picture(board, _OF_A_FILE, key))
            if left is not None and (left := left - 1) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), told.interval)
            if ended.is_set():
                break
            await look(asking.operator, board)
    if live is not None:
        out.show(*picture(board, out.console.height, key))


@contextlib.contextmanager
def _ended_by_q() -> Iterator[asyncio.Event]:
    """Provide what is set once somebody presses q, where this process may read keys."""
    ended = asyncio.Event()
    if sys.platform == "win32" or not _is_in_foreground():
        yield ended
        return
    keys = sys.stdin.fileno()
    import termios  # noqa: PLC0415 - Windows has neither
    import tty  # noqa: PLC0415

    def read() -> None:
        if b"q" in os.read(keys, 1024).lower():
            ended.set()

    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    asyncio.get_running_loop().add_reader(keys, read)
    try:
        yield ended
    finally:
        asyncio.get_running_loop().remove_reader(keys)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _is_in_foreground() -> bool:
    """Whether the keys that somebody presses are for this process: another one is stopped if it reads them."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # it is closed, or no terminal
        return False


def picture(board: Board, height: int, key: Callable[[PodSeen], float] = SORTS["pod"]) -> list[Text | Table]:
    """Return what is shown in so many lines, pods by ``key``; if not all are shown, those in trouble come first."""
    pods = sorted(() if board.seen is None else board.seen.pods, key=lambda pod: (key(pod), pod.pod_index))
    room = max(1, height - _OTHER_LINES - len(board.heard))
    if len(pods) > room:
        pods.sort(key=lambda pod: pod.state not in _IN_TROUBLE)  # it keeps the order of equals
    lines: list[Text | Table] = [*_head(board, pods), cell(""), pods_table(pods[:room], cut=True)]
    if len(pods) > room:
        lines.append(cell(f"... and {len(pods) - room} more", "dim"))
    if board.heard:
        lines.append(cell(""))
        for at, change in board.heard:
            when = time.strftime("%H:%M:%S  ", time.localtime(at))
            lines.append(Text.assemble((when, "dim"), told_of(change)))
    return lines


def _head(board: Board, pods: list[PodSeen]) -> list[Text]:
    title = cell(f"{board.service_name} in {board.namespace}", "bold")
    if board.error is not None:
        age = "" if board.seen is None else "; below is what was seen last"
        return [title, cell(f"{of_a_question(board.error)}{age}", "red"), cell("")]
    oldest = max((pod.heartbeat_age for pod in pods if pod.alive), default=None)
    figures = [
        f"placements {_rate(board.placements)}",
        f"changes {_rate(board.changes)}",
        f"oldest heartbeat {'-' if oldest is None else lasting(oldest)}",
    ]
    return [title, cell(in_all(pods)), cell(", ".join(figures))]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}/s"


def told_of(change: Change) -> Text:
    """Return a change in words."""
    if change.kind is ChangeKind.POD:
        pod = of_pod(change.pod_index or 0, change.pod_name)
        state = cell(change.state, _STYLES.get(change.state or "", ""))
        return Text.assemble(f"{pod}  ", state, (f"  incarnation {change.incarnation}", "dim"))
    if change.kind is ChangeKind.DEAF:
        return cell(f"deaf: {change.why}", "red")
    if change.kind is ChangeKind.HEARS:
        return cell("hears all that changes", "green")
    link = change.link
    if change.why is not None:
        return cell(f"link  {change.uid}  cannot be read: {change.why}", "red")
    if link is None:
        return cell(f"link  {change.uid}  has no owner")
    left = "" if link.ttl is None else f", {lasting(link.ttl)} left"
    pod = of_pod(link.pod_index, change.pod_name)
    return cell(f"link  {change.uid}  {pod}, {link.kind.value}{left}, epoch {link.epoch}")
