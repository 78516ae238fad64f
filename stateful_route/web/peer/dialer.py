"""The edge's side: one connection to each peer, made when it is needed, and streams on it."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from stateful_route.web.errors import (
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
    PeerUnreachableError,
)
from stateful_route.web.peer.connection import Connection
from stateful_route.web.peer.frames import FROM_OWNER, Kind
from stateful_route.web.peer.late import Late
from stateful_route.web.peer.stream import AwaitedStream, Stream

if TYPE_CHECKING:
    from stateful_route.web.addresses import PeerAddress
    from stateful_route.web.peer.keys import PeerKey, PeerKeys

AnyStream = TypeVar("AnyStream", bound=Stream)

MAGIC = "stateful_route/1"
"""How a connection between peers begins."""

_ENDING = "this process is about to end"
_HEX = re.compile("[0-9a-f]{32,64}")

# Streams have 32 bits for their number; a connection that has had so many is followed by another one.
_LAST_STREAM = 2**32 - 1


class DialedConnection(Connection):
    """A connection that this process has made."""

    takes: ClassVar[frozenset[Kind]] = FROM_OWNER

    def __init__(self, *, silence: float, scope: str, key: PeerKey) -> None:
        """Make the protocol; ``scope`` names the namespace and the service."""
        super().__init__(silence=silence)
        self._scope = scope
        self._key = key
        self._nonce = secrets.token_hex(16)
        self.late = Late()
        self._last_stream = 0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done once the other side has proven who it is, or failed."""
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # nobody may wait for it

    def connected(self) -> None:
        """Say hello."""
        hello = {"magic": MAGIC, "scope": self._scope, "key": self._key.name, "nonce": self._nonce}
        self.send(Kind.HELLO, 0, json.dumps(hello).encode())

    def received(self, kind: Kind, _sid: int, payload: bytes) -> None:
        """Check the proof of the other side, and give one. What comes for a stream that has ended is dropped."""
        if self.trusted:
            if kind not in FROM_OWNER:
                raise PeerProtocolError(f"{kind.name}, which is not for this side")
            return
        if kind is not Kind.CHALLENGE:
            raise PeerProtocolError("something else than a proof of who it is")
        challenge = read_json(payload)
        if why := challenge.get("refused"):
            self._fail(PeerRefusedError(f"a peer refuses: {str(why)[:200]!a}"))
            return
        nonce = read_hex(challenge, "nonce")
        expected = self._key.proof("owner", self._scope, self._nonce, nonce)
        if not hmac.compare_digest(read_hex(challenge, "proof"), expected):
            self._fail(PeerRefusedError("a peer does not prove that it knows the secret of this service"))
            return
        proof = self._key.proof("edge", self._scope, self._nonce, nonce)
        self.send(Kind.PROOF, 0, json.dumps({"proof": proof}).encode())
        self.trust()
        if not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way, and who waits for the connection."""
        super().connection_lost(exc)
        self._fail(PeerUnreachableError("a peer closed the connection before it proved who it is"))

    def _fail(self, error: PeerUnreachableError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.abort(PeerLostError(str(error)))

    def open(self, head: bytes) -> Stream:
        """Send the head of a request, and return its stream.

        Raises:
            PeerUnreachableError: if the connection has ended: nothing was sent.

        """
        return self._opened(Stream, head)

    def open_awaited(self, head: bytes) -> AwaitedStream:
        """Send the head of a request, and return its stream, whose news are told at once.

        Raises:
            PeerUnreachableError: if the connection has ended: nothing was sent.

        """
        return self._opened(AwaitedStream, head)

    def open_state(self, head: bytes) -> Stream:
        """Send the head of a state that travels, and return its stream.

        Raises:
            PeerUnreachableError: if the connection has ended: nothing was sent.

        """
        return self._opened(Stream, head, Kind.STATE)

    def _opened(self, make: type[AnyStream], head: bytes, kind: Kind = Kind.OPEN) -> AnyStream:
        if self._closing or self._last_stream >= _LAST_STREAM:
            raise PeerUnreachableError("the connection to a peer has ended before the request was sent")
        self._last_stream = sid = self._last_stream + 1
        stream = make(self, sid)
        self.streams[sid] = stream
        stream.send(kind, head)
        return stream

    @property
    def usable(self) -> bool:
        """Whether streams may be opened on it."""
        return not self._closing and self._last_stream < _LAST_STREAM


def read_json(payload: bytes) -> dict[str, Any]:
    """Return the object.

    Raises:
        PeerProtocolError: if it is none.

    """
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError("a payload that is not JSON") from error
    if not isinstance(value, dict):
        raise PeerProtocolError("a payload that is no JSON object")
    return value


def read_hex(said: dict[str, Any], name: str) -> str:
    """Return a value that has hexadecimal digits only.

    Raises:
        PeerProtocolError: if it has not.

    """
    value = said.get(name)
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise PeerProtocolError(f"a {name} that is none")
    return value


class Dialer:
    """One connection to each address of a peer, shared by all that goes there."""

    def __init__(self, keys: PeerKeys, scope: str, *, connect_timeout: float, silence: float) -> None:
        """Have no connections; both times are in seconds."""
        self._keys = keys
        self._scope = scope
        self._timeout = connect_timeout
        self._silence = silence
        self._connections: dict[PeerAddress, DialedConnection] = {}
        self._all: set[DialedConnection] = set()
        self._dialing: dict[PeerAddress, asyncio.Task[DialedConnection]] = {}
        self._closed = False

    def connected(self, address: PeerAddress) -> DialedConnection | None:
        """Return the connection to a peer, or ``None`` if there is none: ``connect`` makes one."""
        connection = self._connections.get(address)
        return connection if connection is not None and connection.usable else None

    async def connect(self, address: PeerAddress) -> DialedConnection:
        """Connect to a peer, with all others that want to, and return the connection.

        Raises:
            PeerUnreachableError: if it is not there, or does not prove who it is.

        """
        if self._closed:
            raise PeerUnreachableError(_ENDING)
        dialing = self._dialing.get(address)
        if dialing is None:
            dialing = asyncio.get_running_loop().create_task(self._dial(address), name=f"stateful_route dial {address}")
            self._dialing[address] = dialing
            dialing.add_done_callback(lambda task: self._dialed(address, task))
        await asyncio.wait([dialing])  # a cancellation of one who waits is not one of the others
        if dialing.cancelled():
            raise PeerUnreachableError(_ENDING)
        return dialing.result()

    def _dialed(self, address: PeerAddress, task: asyncio.Task[DialedConnection]) -> None:
        self._dialing.pop(address, None)
        if not task.cancelled():
            task.exception()  # who waits is told

    async def _dial(self, address: PeerAddress) -> DialedConnection:
        key = self._keys.shared(address.keys)
        if key is None:
            raise PeerRefusedError(f"{address} has another secret than this process, or only one of them has one")
        loop = asyncio.get_running_loop()

        def make() -> DialedConnection:
            return DialedConnection(silence=self._silence, scope=self._scope, key=key)

        try:
            async with asyncio.timeout(self._timeout):
                if address.path:
                    _, connection = await loop.create_unix_connection(make, address.path)
                else:
                    _, connection = await loop.create_connection(make, address.host, address.port)
                try:
                    await connection.ready
                except BaseException:
                    connection.abort(PeerLostError("it did not prove who it is"))
                    raise
        except (OSError, ValueError) as error:  # ValueError: a host or a path that is none
            raise PeerUnreachableError(f"{address} is not reached: {error or 'no answer in time'}") from error
        before, self._connections[address] = self._connections.get(address), connection
        if before is not None:
            before.retire()
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._lost(address, connection))
        return connection

    def _lost(self, address: PeerAddress, connection: DialedConnection) -> None:
        self._all.discard(connection)
        if self._connections.get(address) is connection:
            del self._connections[address]

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        dialing = list(self._dialing.values())
        for task in dialing:
            task.cancel()
        if dialing:
            await asyncio.wait(dialing)
        for connection in list(self._all):
            connection.close()
