"""Which primary of a Redis Cluster has which slot: the table, and the one task that reads it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, TypeAlias

import redis.exceptions
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import log_failure
from stateful_route.errors import StoreError, StoreProtocolError, StoreUnavailableError
from stateful_route.store.transport.errors import timed_out, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stateful_route.store.transport.script_pipe import ScriptPipe
    from stateful_route.store.transport.wire import Operation

Address: TypeAlias = tuple[str, int]
"""Host and port."""

# Seconds between two readings, the longer the more of them in a row.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

_random = random.SystemRandom()


class SlotTable:
    """The primaries of a cluster, each with its pipe, and which of them has which slot.

    It is read when it is first needed, and when a call finds that it is stale: by one task, however many ask, and with
    back-off. The pipes to primaries that are still there stay.
    """

    def __init__(
        self,
        connect: Callable[[Address], ScriptPipe],
        startup: Sequence[Address],
        deadline: float,
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        """Begin empty; ``connect`` makes a pipe, and any node of ``startup`` can tell which primary has what.

        ``remap`` as of ``PipelinedCluster``.
        """
        self._connect = connect
        self._remap = remap
        self._startup = tuple(startup)
        self._deadline = deadline
        self._pipes: dict[Address, ScriptPipe] = {}
        self._owners: list[ScriptPipe | None] = [None] * SLOTS
        self._primaries: set[Address] = set()
        self._stale = False
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._failure: Exception = redis.exceptions.ConnectionError("the cluster was not reached yet")
        self._failed_at = ""
        """The address of the node that failed, if it was one."""
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self.readings = 0
        """How often it was read."""

    def __repr__(self) -> str:
        return f"<SlotTable of {len(self._primaries)} primaries>"

    def owner(self, key: str) -> ScriptPipe | None:
        """Return the primary that has the slot of a key, if it is known."""
        return self._owners[key_slot(key.encode())]

    async def find_owner(self, key: str, operation: Operation, expires: float) -> ScriptPipe:
        """Read the table, and return the primary that has the slot of a key.

        Raises:
            StoreError: if it cannot be read, or no primary has the slot.

        """
        await self._read_again(operation, expires)
        return self.owner(key) or self._raise_failure(operation)

    async def any_primary(self, operation: Operation, expires: float) -> ScriptPipe:
        """Return one of the primaries, a connected one if there is one.

        Raises:
            StoreError: if none is known, and the table cannot be read.

        """
        pipes = await self.all_primaries(operation, expires)
        return _random.choice([pipe for pipe in pipes if pipe.connected] or pipes)  # to spread load

    async def all_primaries(self, operation: Operation, expires: float) -> list[ScriptPipe]:
        """Return all primaries.

        Raises:
            StoreError: if none is known, and the table cannot be read.

        """
        if not self._primaries:
            await self._read_again(operation, expires)
        return [self.pipe(address) for address in self._primaries] or [self._raise_failure(operation)]

    def is_primary(self, pipe: ScriptPipe) -> bool:
        """Whether a pipe is to one of the primaries that are known."""
        return _address(pipe) in self._primaries

    def redirected(self, message: str, asked: ScriptPipe) -> ScriptPipe:
        """Return the primary that ``MOVED`` or ``ASK`` points at; after ``MOVED`` the slot is its own.

        Raises:
            StoreProtocolError: if the message cannot be read.

        """
        try:
            kind, slot, _ = message.split()
            pipe = self.pipe(self._pointed_at(message, asked))
            if kind == "MOVED":
                self._owners[int(slot)] = pipe
        except (ValueError, IndexError) as error:
            raise StoreProtocolError(
                f"unreadable: {message!r:.80}", operation="redirect", maybe_applied=False
            ) from error
        if kind == "MOVED":
            self.refresh()
        return pipe

    def names(self, message: str, asked: ScriptPipe, pipe: ScriptPipe) -> bool:
        """Whether the ``MOVED`` of a node that was asked points at that primary."""
        return message.startswith("MOVED ") and self._pointed_at(message, asked) == _address(pipe)

    def pipes(self) -> list[ScriptPipe]:
        """Return those to all nodes that were used."""
        return list(self._pipes.values())

    def pipe(self, address: Address) -> ScriptPipe:
        """Return the pipe to a node.

        Raises:
            StoreUnavailableError: if the table is closed.

        """
        if self._closed:
            raise StoreUnavailableError("it is closed", operation="connect", maybe_applied=False)
        pipe = self._pipes.get(address)
        if pipe is None:
            pipe = self._pipes[address] = self._connect(address)
        return pipe

    def refresh(self) -> None:
        """Have the table read, as it is stale."""
        self._stale = True
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="stateful_route slots")
            self._task.add_done_callback(log_failure)

    async def aclose(self) -> None:
        """Stop reading, and close all pipes once what is in flight is answered."""
        self._closed = True
        self._failure, self._failed_at = redis.exceptions.ConnectionError("it is closed"), ""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._tell_who_waits()
        await asyncio.gather(*(pipe.aclose() for pipe in self._pipes.values()), *self._closing)

    async def _read_again(self, operation: Operation, expires: float) -> None:
        """Wait for the end of the next reading, however it ends."""
        if self._closed:
            self._raise_failure(operation)
        self.refresh()
        loop = asyncio.get_running_loop()
        if self._next is None:
            self._next = loop.create_future()
        reading = self._next
        await asyncio.wait([reading], timeout=expires - loop.time())
        if not reading.done():
            nodes = ", ".join(f"{host}:{port}" for host, port in self._startup)
            raise timed_out(operation.name, self._deadline, sent=False, writes=operation.writes, at=nodes)

    def _raise_failure(self, operation: Operation) -> ScriptPipe:
        raise translate(self._failure, operation.name, sent=False, writes=operation.writes, at=self._failed_at)

    async def _keep_fresh(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, _random)
        try:
            await asyncio.sleep(0)  # an eager task would send while the pipe that asked for this fails its calls
            while self._stale:
                self._stale = False
                await self._read()
                self._tell_who_waits()
                await backoff.wait()
        finally:
            self._task = None

    def _tell_who_waits(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None

    async def _read(self) -> None:
        """Take the table from the first node that gives it."""
        for address, pipe in self._informants():
            expires = asyncio.get_running_loop().time() + self._deadline / 2
            try:
                reply = await pipe.ask(("CLUSTER", "SLOTS"), expires)
                self._apply([(first, last, self._primary(node, address)) for first, last, node, *_ in reply])
            except StoreError as error:
                self._failure = error.__cause__ if isinstance(error.__cause__, Exception) else error
                self._failed_at = pipe.address
            except (ValueError, TypeError, IndexError) as error:
                self._failure = redis.exceptions.InvalidResponse(f"unreadable CLUSTER SLOTS: {error}")
                self._failed_at = pipe.address
            else:
                return

    def _informants(self) -> Iterator[tuple[Address, ScriptPipe]]:
        """Yield the nodes to ask: the connected ones first, each group in random order, and those of the URL last."""
        known = list(self._pipes.items())
        _random.shuffle(known)
        known.sort(key=lambda item: not item[1].connected)
        yield from known
        yield from ((address, self.pipe(address)) for address in self._startup if address not in dict(known))

    def _apply(self, ranges: list[tuple[int, int, Address]]) -> None:
        """Take in the table, and close the pipes to nodes that are no primaries any more."""
        owners: list[ScriptPipe | None] = [None] * SLOTS
        for first, last, address in ranges:
            owners[first : last + 1] = [self.pipe(address)] * (last + 1 - first)
        self._owners = owners
        self._primaries = {address for _, _, address in ranges}
        self._failure = redis.exceptions.SlotNotCoveredError("no primary has the slot of the key")
        self._failed_at = ""
        self.readings += 1
        for address in [address for address in self._pipes if address not in self._primaries]:
            task = asyncio.get_running_loop().create_task(self._pipes.pop(address).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            task.add_done_callback(log_failure)

    def _pointed_at(self, message: str, asked: ScriptPipe) -> Address:
        """Return where ``MOVED`` or ``ASK`` points, of a node that was asked."""
        host, _, port = message.split()[2].rpartition(":")
        return self._place(host.strip("[]"), int(port), _address(asked))

    def _primary(self, node: list[Any], asked: Address) -> Address:
        host, port, *_ = node
        return self._place(host.decode() if isinstance(host, bytes) else host, int(port), asked)

    def _place(self, host: str | None, port: int, asked: Address) -> Address:
        """Return where a node is; one without a host is at that which was asked."""
        place = (asked[0] if host in {None, "", "?"} else str(host)), port
        return place if self._remap is None else self._remap(place)


def _address(pipe: ScriptPipe) -> Address:
    return pipe.settings["host"], pipe.settings["port"]
