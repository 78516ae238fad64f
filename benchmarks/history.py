"""What histories of links cost the server: ``python -m benchmarks.history [--calls N] [--links N]``.

The scripts that note what they do, and those that do not, by turns, one call at a time. The figure of a call is the
processor time of the server's main thread from one rest to the next, by the kernel (Linux), so that what else runs on
the machine is not in it: the scripts, and to read the command and write its reply. The histories are full.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import statistics
from typing import TYPE_CHECKING

from benchmarks.statistics import quantile
from stateful_route.embedded.server import LocalServer
from stateful_route.store.redis import scripts
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.transport import resp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KEYS = KeySpace()
_KEPT = 10
_LIMITS = _KEPT, 86_400_000
_UIDS = 200
_POD = 3, 1_732_628_718_123_456
_ARMS = {"off": False, f"history={_KEPT}": True}
_STEPS = (
    ("place, new", "place", (*_POD, 600_000, 0, 0), b"created"),
    ("claim, confirms", "claim", (*_POD, "", "ch", 0), b"confirmed"),
    ("place, unchanged", "place", (*_POD, 600_000, 0, 0), b"unchanged"),
    ("claim, unchanged", "claim", (*_POD, "", "ch", 0), b"unchanged"),
    ("release", "release", (*_POD, "", 0, "ch"), b"released"),
)


class _Asker:
    """A connection to a server, for one command at a time."""

    def __init__(self, server: LocalServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(server.socket))

    def close(self) -> None:
        self._socket.close()

    def __call__(self, *command: str | int) -> bytes:
        return self.send(resp.pack(command))

    def send(self, packed: bytes) -> bytes:
        self._socket.sendall(packed)
        return self._socket.recv(65_536)


def _call(name: str, uid: str, args: Sequence[str | int], *, history: bool) -> tuple[str | int, ...]:
    """Return the command of a script, as ``RedisStore`` sends it, and leave the script with the server first."""
    keys = _KEYS.beside(_KEYS.link("kept" if history else "off", uid, "room"))
    if history:
        return scripts.load(name, history=True).command(keys, (*args, *_LIMITS)).evalsha
    return scripts.load(name).command(keys[:1] if name == "place" else keys[:2], tuple(args)).evalsha


def _times(ask: _Asker, clock: Callable[[], int], calls: int) -> dict[tuple[str, str], list[int]]:
    """Return the nanoseconds of each call, by step and arm."""
    times: dict[tuple[str, str], list[int]] = {(step[0], arm): [] for step in _STEPS for arm in _ARMS}
    packed = {
        (step[0], arm, uid): resp.pack(_call(step[1], f"user-{uid}", step[2], history=history))
        for step in _STEPS
        for arm, history in _ARMS.items()
        for uid in range(_UIDS)
    }
    for number in range(calls):
        for arm in list(_ARMS)[:: 1 if number % 2 else -1]:
            for step, _, _, outcome in _STEPS:
                command = packed[step, arm, number % _UIDS]
                before = clock()
                reply = ask.send(command)
                times[step, arm].append(clock() - before)
                assert outcome in reply, reply
    return times


def _bytes_each(ask: _Asker, changes: int, links: int, *, history: bool) -> float:
    """Return the bytes of each of so many links that were changed so often."""
    ask("FLUSHALL", "SYNC")
    before = _number(ask, "memory", "used_memory")
    for number in range(links):
        uid = f"user-{number:08d}"
        for change in range(changes):
            ask(*_call("assign", uid, (change % 2, _POD[1], "", 0, "ch"), history=history))
        ask("DEL", _KEYS.beside(_KEYS.link("kept" if history else "off", uid, "room"))[1])
    return (_number(ask, "memory", "used_memory") - before) / links


def _number(ask: _Asker, section: str, name: str) -> int:
    found = re.search(rf"^{name}:(\d+)", ask("INFO", section).decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, metavar="N", help="calls of each kind; default 20000")
    parser.add_argument("--links", type=int, default=20_000, metavar="N", help="links in memory; default 20000")
    given = parser.parse_args(arguments)
    calls, links = given.calls, given.links
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(LocalServer())
        ask = stack.enter_context(contextlib.closing(_Asker(server)))
        for name in ("place", "claim", "release", "assign"):
            for history in _ARMS.values():
                ask("SCRIPT", "LOAD", scripts.load(name, history=history).source)
        pid = _number(ask, "server", "process_id")
        schedule = os.open(f"/proc/{pid}/task/{pid}/schedstat", os.O_RDONLY)
        stack.callback(os.close, schedule)

        def clock() -> int:
            return int(os.pread(schedule, 64, 0).split()[0])

        _times(ask, clock, _KEPT * _UIDS)  # the histories are full then
        for run in (1, 2):
            print(f"run {run}, {calls} calls each, microseconds of the server: p10, median")
            for (step, arm), figures in _times(ask, clock, calls).items():
                low, middle = quantile(figures, 0.1), statistics.median(figures)
                print(f"  {step:18}{arm:12}{low / 1000:8.2f}{middle / 1000:8.2f}", flush=True)
        print(f"off: {_bytes_each(ask, 1, links, history=False):.0f} bytes a link")
        for changes in (1, 2, 3, _KEPT):
            each = _bytes_each(ask, changes, links, history=True)
            print(f"history, {changes} changes: {each:.0f} bytes a link", flush=True)


if __name__ == "__main__":
    main()
