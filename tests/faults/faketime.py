"""Clocks that are wrong: a server whose clock steps while it runs, and processes of machines that differ."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stateful_route.embedded.binary import find_server
from stateful_route.testing import local_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stateful_route.embedded.server import LocalServer


def faked(offset: str) -> dict[str, str]:
    """Return the environment of a process whose clock is off, for example by ``+3600``; timers are not."""
    return {"LD_PRELOAD": _library(), "FAKETIME": offset, **_CLOCKS}


_CLOCKS = {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _library() -> str:
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("no libfaketime: apt-get install faketime")
    return str(found[0])


@contextlib.contextmanager
def stepping_server(*arguments: str) -> Iterator[tuple[LocalServer, Callable[[float], None]]]:
    """Run a server, and give what makes its clock be off by so many seconds from then on."""
    with tempfile.TemporaryDirectory() as folder:
        offset, program = Path(folder, "offset"), Path(folder, "server")
        library = _library()

        def write(seconds: float) -> None:
            fresh = offset.with_suffix(".new")
            fresh.write_text(f"{seconds:+f}\n")
            fresh.rename(offset)  # it is read at each look at the clock: never half of it

        write(0.0)
        names = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", **_CLOCKS}
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in names.items())
        program.write_text(f'#!/bin/sh\n{settings} exec {shlex.quote(find_server())} "$@"\n')
        program.chmod(0o700)
        with local_server(*arguments, binary=str(program)) as server:

            def step(seconds: float) -> None:
                write(seconds)
                ends = time.monotonic() + 5.0
                while abs(_seconds(server) - time.time() - seconds) > 0.3:
                    if time.monotonic() > ends:
                        pytest.skip("libfaketime has no effect on this server")
                    time.sleep(0.005)

            step(1000.0)
            step(0.0)
            yield server, step


def _seconds(server: LocalServer) -> float:
    seconds, micros = server.ask("TIME").split("\n")
    return int(seconds) + int(micros) / 1e6
