"""The server's own benchmark, in C: many connections, 16 commands in flight on each."""

from __future__ import annotations

import asyncio
import csv
import shutil
from typing import TYPE_CHECKING

from benchmarks.load import Load

if TYPE_CHECKING:
    from stateful_route.store.transport.script import ScriptCall

NAME = "redis-benchmark -P 16"
NUMBER = "__rand_int__"
"""Where the tool puts a number of 12 digits."""

_PROGRAMS = ("redis-benchmark", "valkey-benchmark")
_PIPELINE = 16
_MOST_CONNECTIONS = 50


def missing() -> str | None:
    """Return why it cannot be used; ``None`` if it can."""
    return None if _program() else "not on the PATH: apt-get install redis-tools"


async def measure(call: ScriptCall, *, port: int, callers: int, calls: int, numbers: int) -> Load:
    """Run the script so often; ``NUMBER`` in its keys becomes a random number below ``numbers`` each time.

    As many commands are in flight as there are callers, and at most 800.
    """
    connections = max(1, min(_MOST_CONNECTIONS, callers // _PIPELINE))
    pipeline = min(_PIPELINE, callers)
    options = ["-p", port, "-c", connections, "-P", pipeline, "-n", calls, "-r", numbers, "--csv"]
    program = await asyncio.create_subprocess_exec(
        _program() or _PROGRAMS[0],
        *map(str, (*options, *call.evalsha)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await program.communicate()
    assert program.returncode == 0, output
    row = next(csv.DictReader(output.decode().splitlines()))
    return Load(kops=float(row["rps"]) / 1000, p50=float(row["p50_latency_ms"]), p99=float(row["p99_latency_ms"]))


def _program() -> str | None:
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)
