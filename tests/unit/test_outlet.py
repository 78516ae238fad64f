"""What is written at once: with uvloop, which would keep it until its turn ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Self

import pytest
import uvloop

from stateful_route.web.uvicorn.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MUCH = bytes(range(256)) * 16 * 1024  # 4 MB: more than the system takes at once


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return what runs a test on each loop."""

    def run(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(test)

    return run


class Pair:
    """A connection: the outlet of one side, and the socket of the other."""

    async def __aenter__(self) -> Self:
        here, self.there = socket.socketpair()
        self.there.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
        self.transport = transport
        self.outlet = Outlet(self.transport)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.abort()
        self.there.close()
        await asyncio.sleep(0.01)

    async def read(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        parts: list[bytes] = []
        while sum(map(len, parts)) < size:
            part = await asyncio.wait_for(loop.sock_recv(self.there, 1 << 20), 5)
            assert part, "the connection has ended"
            parts.append(part)
        return b"".join(parts)


def test_at_once(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        async with Pair() as pair:
            pair.outlet.write(b"one")
            assert pair.there.recv(100) == b"one"  # in the same turn of the loop

    run(test())


def test_more_than_the_system_takes(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        async with Pair() as pair:
            for part in (b"first", MUCH, b"then", b"last"):
                pair.outlet.write(part)
            whole = b"".join((b"first", MUCH, b"then", b"last"))
            assert await pair.read(len(whole)) == whole
            pair.outlet.write(b"again")
            assert pair.there.recv(100) == b"again"

    run(test())


def test_behind_what_waits(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        async with Pair() as pair:
            pair.transport.write(b"one ")
            pair.outlet.write(b"two ")
            pair.transport.writelines([b"three ", memoryview(b"four ")])
            pair.outlet.write(b"five")
            assert await pair.read(23) == b"one two three four five"

    run(test())


def test_other_side_gone(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        async with Pair() as pair:
            pair.there.close()
            pair.outlet.write(b"one")
            pair.outlet.write(b"two")
            await asyncio.sleep(0.1)
            assert pair.transport.is_closing()

    run(test())


@pytest.mark.parametrize("run", ["uvloop"], indirect=True)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_descriptor_of_another(end: str, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Nothing is written to a connection that has the descriptor of one that was closed."""

    async def test() -> None:
        async with Pair() as pair:
            old = pair.transport.get_extra_info("socket").fileno()
            getattr(pair.transport, end)()
            await asyncio.sleep(0.01)
            another, there = socket.socketpair()
            with another, there:
                if old not in (another.fileno(), there.fileno()):
                    os.dup2(another.fileno(), old)
                with contextlib.suppress(RuntimeError):  # of uvloop: it is closed
                    pair.outlet.write(b"for nobody")
                for one in (another, there):
                    one.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        one.recv(100)
                if old not in (another.fileno(), there.fileno()):
                    os.close(old)

    run(test())
