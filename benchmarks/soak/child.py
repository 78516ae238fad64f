"""What each process of the soak does: it says what happens in lines on its output, and ends with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route import BaseConfig, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_PR_SET_PDEATHSIG = 1
_TICK = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")

SERVICE = "room"


@attrs.frozen(kw_only=True)
class Part:
    """What a process is told on its command line, as JSON.

    Attributes:
        name: what the soak calls it.
        url: of the store.
        folder: where the sockets are.
        config: the settings, as JSON.
        uids: how many there are.
        callers: of a gateway, at a time.
        pause: of a caller after a call, in seconds.
        patience: for how long a gateway tries a request, in seconds.
        seed: of its random choices.

    """

    name: str
    url: str
    folder: str
    config: str
    uids: int
    callers: int
    pause: float
    patience: float
    seed: int

    @property
    def settings(self) -> BaseConfig:
        return BaseConfig.from_json(self.config)

    def pod_socket(self, index: int) -> str:
        return f"{self.folder}/pod-{index}.sock"

    @property
    def database(self) -> str:
        return f"{self.folder}/database.sock"


def say(word: str, **what: object) -> None:
    """Say a line; one write, so that a kill cuts none in half."""
    os.write(1, f"{word} {json.dumps(what)}\n".encode())


def say_serve(uid: str, epoch: int | None, begin: float, end: float, incarnation: int) -> None:
    """Say that the uid was owned at some moment between the two."""
    os.write(1, f"S {uid} {epoch} {begin:.6f} {end:.6f} {incarnation}\n".encode())


class Lag:
    """How long this process has stood still, in total: stopped, or in want of a processor."""

    def __init__(self) -> None:
        self._total = 0.0
        self._looked = time.monotonic()

    def total(self) -> float:
        return self._total + max(0.0, time.monotonic() - self._looked - _TICK)

    async def watch(self) -> None:
        self._looked = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._total += max(0.0, now - self._looked - _TICK)
            self._looked = now


class Calls:
    """Calls of a driver: none takes longer than its bound, and what they raise is said."""

    def __init__(self, lag: Lag, bound: float) -> None:
        self._lag = lag
        self._bound = bound
        self.longest = 0.0

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        begin, lag = time.monotonic(), self._lag.total()
        try:
            yield
        except Exception as error:
            kind = "store" if isinstance(error, StoreError) else "other"
            say(
                "E",
                call=name,
                kind=kind,
                error=type(error).__name__,
                text=str(error)[:300],
                begin=begin,
                end=time.monotonic(),
            )
            raise
        finally:
            took = time.monotonic() - begin - (self._lag.total() - lag)
            self.longest = max(self.longest, took)
            if took > self._bound:
                say("L", call=name, took=took, bound=self._bound, begin=begin)


def resources() -> dict[str, int]:
    return {
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
        "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - names only, of a folder that changes meanwhile
        "tasks": len(asyncio.all_tasks()),
    }


async def report(more: Callable[[], dict[str, Any]]) -> None:
    """Say each second how it is."""
    while True:
        await asyncio.sleep(1.0)
        say("M", time=time.monotonic(), **resources(), **more())


async def orders() -> AsyncIterator[list[str]]:
    """Give what is said on the input, in words, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


class _Errors(logging.Handler):
    """Says what is logged as an error: a task whose error nobody took, say."""

    def emit(self, record: logging.LogRecord) -> None:
        say("X", logger=record.name, text=record.getMessage()[:500], time=time.monotonic())


class _Monotonic(logging.Formatter):
    """Gives the time of the clock that all processes of a machine share."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - its name
        return f"{time.monotonic():.3f}"


def run(main: Callable[[Part], Awaitable[None]]) -> None:
    """Run a process of the soak: it ends with its parent, however that ends, and be it stopped itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    part = Part(**json.loads(sys.argv[1]))
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_Monotonic(f"%(asctime)s {part.name} %(levelname)s %(message)s"))
    errors = _Errors(logging.ERROR)
    logging.basicConfig(level=logging.INFO, handlers=[log, errors])
    asyncio.run(main(part))  # type: ignore[arg-type]  # each main is a coroutine
