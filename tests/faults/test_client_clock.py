"""The clock of a real server steps ahead while a pod is cut off: its uids wait until it owns them no more."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, ServerInfo, StatefulRoute, StoreError
from stateful_route.embedded.binary import find_server
from stateful_route.testing import FaultProxy, local_server
from tests.insides import directory_of, unbroken
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stateful_route.embedded.server import LocalServer

LEASE = 2.0
UIDS = [f"user-{number}" for number in range(20)]


@contextlib.contextmanager
def stepping_server() -> Iterator[tuple[LocalServer, Callable[[float], None]]]:
    """Run a server, and give what makes its clock be off by so many seconds from then on."""
    library = next(iter(sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))), None)
    if library is None:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    with tempfile.TemporaryDirectory() as folder:
        offset, program = Path(folder, "offset"), Path(folder, "server")

        def step(seconds: float) -> None:
            fresh = offset.with_suffix(".new")
            fresh.write_text(f"{seconds:+f}\n")
            fresh.rename(offset)  # it is read at each look at the clock: never half of it

        step(0.0)
        names = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in names.items())
        program.write_text(f'#!/bin/sh\n{environment} exec {shlex.quote(find_server())} "$@"\n')
        program.chmod(0o700)
        with local_server(binary=str(program)) as server:
            step(1000.0)
            began = time.time()
            while int(server.ask("TIME").split("\n")[0]) < time.time() + 900:
                if time.time() > began + 5:
                    pytest.skip("libfaketime has no effect on this server")
                time.sleep(0.05)  # between two looks
            step(0.0)
            yield server, step


@pytest.mark.parametrize("ahead", [0.0, 0.3, 0.8])
async def test_step_ahead(namespace: str, ahead: float) -> None:
    """A client takes no uid of a pod that is cut off before the pod owns it no more, by the pod's own clock.

    It did so as much earlier as the clock of Redis had stepped ahead.
    """
    config = BaseConfig(namespace=namespace, heartbeat=0.2, lease=LEASE, refresh=0.2, call_deadline=0.4)
    infos = [
        ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)
        for index in range(2)
    ]
    with stepping_server() as (server, step):
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(FaultProxy(server))
            direct = await stack.enter_async_context(StatefulRoute.from_url(server.url, config))
            through = await stack.enter_async_context(StatefulRoute.from_url(proxy.url, config))
            cut_off = await stack.enter_async_context(through.server(infos[0]))
            for uid in UIDS:
                await cut_off.claim(uid)
            await stack.enter_async_context(direct.server(infos[1]))
            client = await stack.enter_async_context(direct.client())
            await client.pods("", "room")
            table = directory_of(client).peek(namespace, "room")
            await eventually(lambda: unbroken(table) >= 1.5 * LEASE)
            proxy.black_hole()
            cut = time.monotonic()
            step(ahead)
            left: float | None = None
            while left is None and time.monotonic() < cut + 3 * LEASE:
                for uid in UIDS:
                    with contextlib.suppress(StoreError):
                        if (await client.route("", uid, "room")).pod_index == 1:
                            left = time.monotonic() - cut
                            assert cut_off.owned(uid) is None, f"taken after {left:.2f} s while it was owned"
                await asyncio.sleep(0.005)  # between two looks
            proxy.refuse()
            proxy.pass_through()

    assert left is not None
    print(f"\ntaken {left:.2f} s after the cut, at a step of {ahead:g} s and a lease of {LEASE:g} s")  # noqa: T201 - it is asked for
    assert left < LEASE + ahead + 0.5
