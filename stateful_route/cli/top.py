"""``stateful-route top``."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.cli.board import SORTS, Board, picture
from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, documented, read_by, seconds
from stateful_route.errors import StoreError

_LEAST_INTERVAL = 0.1
_OF_A_FILE = 1_000_000
"""As many lines has a picture that is in a file."""


def _interval(text: str) -> float:
    if seconds(text) < _LEAST_INTERVAL:
        raise ValueError(f"{text!r} is not a time in seconds from {_LEAST_INTERVAL}")
    return seconds(text)


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class TopOptions(ServiceAskOptions):
    """What ``top`` is told."""

    interval: Annotated[
        float,
        Parameter(metavar="SECONDS", converter=read_by(_interval), help="time between two pictures; 1 by default"),
    ] = 1.0
    count: Annotated[
        Count | None, Parameter(help="end after so many pictures; by default never, and 1 where it is no terminal")
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
    first. q or Ctrl-C ends it.

    Exit status 1 if the service has no pods.
    """
    told = options or TopOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        board = Board(asking.config.namespace, service_name)
        seen = await asking.operator.pods(service_name)
        if not seen.pods:
            say(f"no pod of service {service_name!r} was ever seen in namespace {asking.config.namespace!r}")
            return FAILED
        board.take_in(seen)
        hearing = asyncio.create_task(_hear(asking, board, told.interval), name="stateful_route top")
        try:
            await _show(asking, board, told)
        finally:
            await cancel_and_wait(hearing)
        return 0

    return ask(told, work)


async def _hear(asking: Asking, board: Board, interval: float) -> None:
    """Count what changes, for as long as it runs."""
    while True:
        with contextlib.suppress(StoreError):  # of which the pictures tell
            async for change in asking.operator.watch(board.service_name):
                board.hear(change, time.strftime("%H:%M:%S"))
        await asyncio.sleep(interval)


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
            await _look(asking, board)
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


async def _look(asking: Asking, board: Board) -> None:
    try:
        board.take_in(await asking.operator.pods(board.service_name))
    except StoreError as error:
        board.lose(error)
