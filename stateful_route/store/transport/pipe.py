"""Automatic pipelining: the calls of all tasks to one server share one connection, which is made again when it is lost.

What callers submit in one turn of the event loop is written in a few batches, the first ones small, so that the server
works while the rest is made; replies are matched in order. It costs a caller a future, where a connection of a pool
costs it a lock, a timer, two system calls and more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import redis.exceptions

from stateful_route._background.backoff import Backoff
from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.store.transport.errors import REDIS_ERRORS, address_of, away, plain, timed_out, translate
from stateful_route.store.transport.wire import Request, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis.asyncio.connection import AbstractConnection

    from stateful_route.store.transport.primacy import Address
    from stateful_route.store.transport.resp import ReplyError
    from stateful_route.store.transport.wire import Operation

# Seconds before a connection is tried again: doubled with each that fails, and up to half of it random.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5

# Calls that are worth a write of their own before the turn of the event loop ends, if as many are in flight at most: so
# each batch is at least as long as what the server has to do meanwhile. It is 2.1 times as fast at 100 callers.
_EARLY = 8

# Seconds between two looks for calls that are too late.
_BETWEEN_SWEEPS = 0.005


def can_take_over(connection: AbstractConnection) -> bool:
    """Whether the stream of such a connection is where this release looks for it."""
    return all(hasattr(connection, name) for name in ("_reader", "_writer"))


@contextlib.asynccontextmanager
async def connecting(operation: str, deadline: float, at: str) -> AsyncIterator[None]:
    """Bound what connects and changes nothing by ``deadline`` seconds, and raise its failure as a ``StoreError``.

    redis-py also raises a ``TypeError`` or an ``AttributeError`` over a socket that was closed.
    """
    try:
        async with asyncio.timeout(deadline) as bound:
            yield
    except StoreError:
        raise
    except Exception as error:
        if bound.expired():
            raise timed_out(operation, deadline, sent=False, writes=False, at=at) from error
        fault = translate(error, operation, sent=False, writes=False, at=at)
        raise fault from fault.__cause__


async def open_stream(
    kind: Any, settings: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Address | None]:
    """Open a connection as redis-py does, with its handshake, and take its stream over; return to where it leads too.

    redis-py finds the server, by Sentinel too, and does TLS, authentication, database and client name. What it has no
    public name for is the stream, which it leaves: so it neither reads from it nor closes it any more.

    Raises:
        redis.exceptions.ConnectionError: if the server closed it at once, and what else redis-py raises.

    """
    connection: Any = kind(**settings)
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    reader, writer = connection._reader, connection._writer  # noqa: SLF001 - see can_take_over
    connection._reader = connection._writer = None  # noqa: SLF001
    if reader.at_eof() or writer.is_closing():  # nobody would say so again
        writer.transport.abort()
        raise redis.exceptions.ConnectionError("the server closed the connection")
    return reader, writer, (connection.host, connection.port) if hasattr(connection, "host") else None


class Pipe:
    """The way to one server.

    A call that is not answered in time fails alone; those behind it are answered, and its own reply is dropped, if they
    still come. But if nothing came for half of a deadline, it may be a half-open socket: what comes after goes over
    another connection, and after a second deadline without an answer the first one is closed.

    A call waits for a connection that is being made. If the server has been away for longer than a deadline, it fails
    at once between the attempts, which are made with back-off and jitter.
    """

    def __init__(self, kind: Any, settings: dict[str, Any], deadline: float, max_pending: int) -> None:
        """Make a pipe over a connection of redis-py of that ``kind``; it is made at the first call.

        ``deadline`` is that of a call, in seconds; above ``max_pending`` commands in flight further ones wait.
        """
        self.kind = kind
        self.settings = settings
        self._deadline = deadline
        self._max_pending = max_pending
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Request] = deque()
        self._wire: Wire | None = None
        self._retired: set[Wire] = set()
        """Connections over which nothing more is sent."""
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._flushing = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random)
        self._failure: Exception | None = None
        self._away_since: float | None = None
        self._silent_since = 0.0
        """When the first attempt began of those that failed, by the clock of the event loop."""
        self._retry_at = 0.0
        self.connects = 0
        """How many connections were made."""
        self._leads_to: Address | None = None
        """The address to which the last one was made."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._wire else "not connected"
        return f"<Pipe to {self.address}: {state}>"

    @property
    def address(self) -> str:
        """Where the server is, for errors and logs."""
        return address_of(self.settings)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None

    def submit(
        self,
        data: bytes,
        operation: Operation,
        expires: float | None = None,
        count: int = 1,
        on_error: Callable[[Request, ReplyError | StoreError], None] | None = None,
    ) -> asyncio.Future[Any]:
        """Send ``count`` commands with the next that go out; return the future of the reply, or of the list of them.

        ``expires`` is by the clock of the event loop, by default in a deadline. See ``Request`` for the other
        arguments, and for what the future gives.

        Raises:
            StoreUnavailableError: if the pipe is closed, or the server has been away for long.

        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if expires is None:
            expires = loop.time() + self._deadline
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        request = Request(data, operation, expires, future, count, on_error)
        wire, waiting = self._wire, self._waiting
        if wire is None or self._closed:
            self._begin_to_connect(request, loop)
        waiting.append(request)
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        elif len(waiting) >= _EARLY and wire is not None and len(waiting) >= len(wire.in_flight):
            wire.send(waiting, self._max_pending)
        if expires < self._sweep_at:
            self._sweep_by(expires)
        return future

    def replace(self) -> None:
        """Send nothing more over the connection, which has turned out to be of no use, and make another one."""
        if self._wire is not None:
            self._back_off()
            self._retire(self._wire)
            self._sweep_by(asyncio.get_running_loop().time())

    def leave(self, stay: Address | None) -> None:
        """Replace the connection, unless it is to the address to ``stay`` at."""
        if stay is None or self._leads_to != stay:
            self.replace()

    async def aclose(self) -> None:
        """Take no more calls, wait for the answers to those that are in flight, and close the connection."""
        self._closed = True
        pending = {request.future for queue in (self._waiting, *self._in_flight()) for request in queue}
        if pending:
            await asyncio.wait(pending, timeout=self._deadline)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._refuse_waiting(redis.exceptions.ConnectionError("closed"))
        if wires := self._wires():
            for wire in wires:
                wire.abort(redis.exceptions.ConnectionError("closed"))
            await asyncio.wait([wire.closed for wire in wires], timeout=self._deadline)
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _begin_to_connect(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that there will be a connection for a request, or raise why not."""
        if self._closed:
            raise StoreUnavailableError("it is closed", operation=request.operation.name, maybe_applied=False)
        if self._connecting is not None:
            return
        now = loop.time()
        if (
            self._failure is not None
            and self._away_since is not None
            and now < self._retry_at
            and now - self._away_since > self._deadline
        ):
            raise away(
                self._failure,
                request.operation.name,
                self.address,
                silent=now - self._silent_since,
                pause=self._retry_at - now,
            )
        self._start_connecting()

    def _start_connecting(self) -> None:
        self._connecting = asyncio.create_task(self._connect(), name=f"stateful_route connects {self!r}")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await asyncio.sleep(self._retry_at - began)
            began = loop.time()
            async with asyncio.timeout(self._deadline) as bound:
                reader, writer, leads_to = await open_stream(self.kind, self.settings)
        except REDIS_ERRORS as error:
            late = f"no connection within {self._deadline:g} s"
            self._fail(redis.exceptions.TimeoutError(late) if bound.expired() else error, began)
        except Exception as error:  # noqa: BLE001 - redis-py stumbles over a socket that closes in the handshake
            self._fail(redis.exceptions.ConnectionError(f"{type(error).__name__}: {error}"), began)
        else:
            self.connects += 1
            self._away_since = None
            self._leads_to = leads_to
            self._wire = Wire((reader, writer), self._flush, self._lose)
            self._flush()
        finally:
            self._connecting = None

    def _flush(self) -> None:
        self._flushing = False
        if self._waiting and self._wire is not None:
            self._wire.send(self._waiting, self._max_pending)

    def _lose(self, wire: Wire, error: Exception) -> None:
        """Fail what was in flight, and connect again if somebody waits."""
        self._retired.discard(wire)
        if wire is self._wire:
            self._wire = None
            if not wire.answered:
                self._back_off()
        for request in wire.in_flight:
            request.fail(self._fault(error, request))
        wire.in_flight.clear()
        self._connect_for_waiting()

    def _retire(self, wire: Wire) -> None:
        """Send nothing more over a connection; what is in flight may still be answered."""
        self._wire = None
        self._retired.add(wire)
        self._connect_for_waiting()

    def _connect_for_waiting(self) -> None:
        if self._waiting and self._wire is None and self._connecting is None and not self._closed:
            self._start_connecting()

    def _fail(self, error: Exception, began: float) -> None:
        """Note that there is no connection to be had, tried since ``began``, and fail those who wait for one."""
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            self._silent_since = began
        self._failure = error = plain(error)
        self._back_off()
        self._refuse_waiting(error)

    def _refuse_waiting(self, error: Exception) -> None:
        for request in self._waiting:
            request.fail(self._fault(error, request))
        self._waiting.clear()

    def _back_off(self) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._retry_at + self._deadline + _LONGEST_PAUSE:  # the last failure was long ago
            self._backoff.reset()
        self._retry_at = now + self._backoff.next()

    @property
    def pending(self) -> int:
        """How many calls wait for an answer now."""
        return len(self._waiting) + sum(map(len, self._in_flight()))

    def _wires(self) -> list[Wire]:
        return [*self._retired] if self._wire is None else [self._wire, *self._retired]

    def _in_flight(self) -> list[deque[Request]]:
        return [wire.in_flight for wire in self._wires()]

    def _sweep(self) -> None:
        """Fail the calls that are too late, and see whether their connections are good for anything."""
        self._sweep_at = math.inf
        now = asyncio.get_running_loop().time()
        ends = [self._expire(queue, now) for queue in (self._waiting, *self._in_flight())]
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        ends += [self._judge(wire, now) for wire in self._wires()]
        end = min(ends)
        if end < math.inf:
            self._sweep_by(max(end, now + _BETWEEN_SWEEPS))

    def _sweep_by(self, when: float) -> None:
        """Look at ``when`` for what is late; that is before any other look."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweep_at = when
        self._sweeping = asyncio.get_running_loop().call_at(when, self._sweep)

    def _judge(self, wire: Wire, now: float) -> float:
        """Retire a connection that says nothing, and close one that has no use; return when to look again."""
        if not wire.in_flight:
            if wire is not self._wire:
                wire.abort(redis.exceptions.ConnectionError("it was replaced"))
            return math.inf
        suspect_at = max(wire.in_flight[0].expires, wire.quiet_since + self._deadline / 2)
        if now < suspect_at:
            return suspect_at
        if wire is self._wire:
            self._retire(wire)
        if now < suspect_at + self._deadline:
            return suspect_at + self._deadline
        wire.abort(redis.exceptions.TimeoutError(f"no reply for {2 * self._deadline:g} s"))
        return math.inf

    def _expire(self, requests: deque[Request], now: float) -> float:
        """Fail those that are too late; return when the next one will be."""
        end = math.inf
        for request in requests:
            if request.future.done():
                continue
            if request.expires > now:
                end = min(end, request.expires)
                continue
            name, writes = request.operation.name, request.operation.writes
            request.fail(timed_out(name, self._deadline, sent=request.sent, writes=writes, at=self.address))
        return end

    def _fault(self, error: Exception, request: Request) -> StoreError:
        operation = request.operation
        return translate(error, operation.name, sent=request.sent, writes=operation.writes, at=self.address)
