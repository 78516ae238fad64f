"""The owner's side: takes connections of peers, and hands each stream on."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stateful_route._log import LogOnce, log
from stateful_route.errors import ConfigError
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError
from stateful_route.web.peer.connection import Connection
from stateful_route.web.peer.dialer import MAGIC, read_hex, read_json
from stateful_route.web.peer.frames import FRAME, FROM_EDGE, FULL, HEAD_SIZE, MAX_STREAMS, Kind, Refusal, kind_of
from stateful_route.web.peer.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.web.peer.keys import PeerKey, PeerKeys

# Seconds that who connects has to prove who it is.
_HELLO_WITHIN = 5.0
# Bytes of a frame until then.
_MAX_HELLO = 4096
# The first byte of the length of a frame: before it is known who is there, none is that long.
_OF_FRAME = 0
# A peer has one connection; the rest is for those that come and go.
_MOST_CONNECTIONS = 4096
# Of those that have not proven who they are: who is no peer leaves room for peers.
_MOST_STRANGERS = 1024


class AcceptedConnection(Connection):
    """A connection that a peer has made."""

    takes: ClassVar[frozenset[Kind]] = FROM_EDGE

    def __init__(self, listener: PeerListener, *, silence: float) -> None:
        super().__init__(silence=silence)
        self._listener = listener
        self._key: PeerKey | None = None
        self._nonces = "", secrets.token_hex(16)
        self._patience: asyncio.TimerHandle | None = None
        self._last_stream = 0
        self._hello = b""
        self._is_told = False
        """Whether it is known what the other side speaks."""

    @property
    def host(self) -> str:
        """The address from which it comes; empty of a unix socket."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer and isinstance(peer, tuple) else ""

    def connected(self) -> None:
        """Wait for the first frame, for a while."""
        listener = self._listener
        listener.connections.add(self)
        listener.strangers[self] = None
        self._patience = self._loop.call_later(_HELLO_WITHIN, self._too_late)
        if len(listener.connections) > _MOST_CONNECTIONS:
            self.abort(PeerLostError("there are too many connections"))
        elif len(listener.strangers) > _MOST_STRANGERS:  # a peer needs some milliseconds only
            next(iter(listener.strangers)).abort(PeerLostError("there are too many that did not say who they are"))

    def data_received(self, data: bytes) -> None:
        """Read what says who it is, and then whole requests.

        Anybody can connect, so what is wrong with the first is logged now and then only. A connection whose first byte
        is not that of a frame is handed over to who speaks HTTP, if there is somebody.
        """
        if not self.trusted and not self._closing:
            if not self._is_told:
                self._is_told = True
                if self._listener.http is not None and data[0] != _OF_FRAME:
                    self._speak_http(self._listener.http(), data)
                    return
            try:
                data = self._read_hello(data)
            except PeerProtocolError as error:
                self._listener.log(self, f"it sent {error}")
                self.abort(error)
                return
        if data:
            super().data_received(data)

    def _speak_http(self, protocol: asyncio.Protocol, data: bytes) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 - something was received by it
        self._end(PeerLostError("it is no peer: it speaks HTTP"))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def _read_hello(self, data: bytes) -> bytes:
        """Take the frames in until it is known who is there; return what follows on them."""
        self._hello += data
        while not self.trusted and not self._closing and len(self._hello) >= HEAD_SIZE:
            length, number, sid = FRAME.unpack_from(self._hello)
            if length > _MAX_HELLO:
                raise PeerProtocolError(f"a frame of {length} bytes is longer than {_MAX_HELLO}")
            end = HEAD_SIZE + length
            if len(self._hello) < end:
                break
            payload = self._hello[HEAD_SIZE:end]
            self._hello = self._hello[end:]
            self.received(kind_of(number), sid, payload)
        if not self.trusted:
            return b""
        rest, self._hello = self._hello, b""
        return rest

    def received(self, kind: Kind, sid: int, payload: bytes) -> None:
        """Check who it is; then open streams."""
        if self.trusted:
            if kind is Kind.OPEN:
                self._open(sid, payload, self._listener.take)
            elif kind is Kind.STATE and self._listener.take_state is not None:
                self._open(sid, payload, self._listener.take_state)
            elif kind not in FROM_EDGE:
                raise PeerProtocolError(f"{kind.name}, which is not for this side")
            return  # what comes for a stream that has ended is dropped
        if kind is Kind.HELLO and self._key is None:
            self._challenge(read_json(payload))
        elif kind is Kind.PROOF and self._key is not None:
            self._check(read_json(payload), self._key)
        else:
            raise PeerProtocolError("something else than a proof of who it is")

    def _open(self, sid: int, payload: bytes, take: Callable[[Stream, bytes], None]) -> None:
        if sid <= self._last_stream:
            raise PeerProtocolError("the number of a stream that has been used")
        self._last_stream = sid
        if len(self.streams) < MAX_STREAMS:
            stream = self.streams[sid] = Stream(self, sid)
            take(stream, payload)
        elif self.full:
            raise PeerProtocolError("more streams than there may be")  # and the refusals are not read
        else:
            self.send(Kind.REFUSED, sid, Refusal(FULL).to_payload())

    def _challenge(self, hello: dict[str, object]) -> None:
        scope = self._listener.scope
        key = self._listener.keys.named(hello.get("key"))
        if hello.get("magic") != MAGIC:
            self._refuse("it speaks another version")
        elif hello.get("scope") != scope:
            self._refuse("this is another service")
        elif key is None:
            self._refuse("it has another secret than this process, or only one of them has one")
        else:
            nonce, own = self._nonces = read_hex(hello, "nonce"), self._nonces[1]
            self._key = key
            challenge = {"nonce": own, "proof": key.proof("owner", scope, nonce, own)}
            self.send(Kind.CHALLENGE, 0, json.dumps(challenge).encode())

    def _check(self, proof: dict[str, object], key: PeerKey) -> None:
        expected = key.proof("edge", self._listener.scope, *self._nonces)
        if not hmac.compare_digest(read_hex(proof, "proof"), expected):
            raise PeerProtocolError("a wrong proof of who it is")
        self.trust()
        self._listener.strangers.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()

    def _refuse(self, why: str) -> None:
        self._listener.log(self, why)
        self.send(Kind.CHALLENGE, 0, json.dumps({"refused": why}).encode())
        self.close()

    def _too_late(self) -> None:
        self.abort(PeerLostError("it did not say who it is"))

    def _end(self, error: PeerError) -> None:
        super()._end(error)
        self._listener.connections.discard(self)
        self._listener.strangers.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()


class PeerListener:
    """A socket on which this process takes requests of its peers."""

    def __init__(self, keys: PeerKeys, scope: str, take: Callable[[Stream, bytes], None], *, silence: float) -> None:
        """Make one that does not listen yet; ``take`` gets each new stream, and what opened it."""
        self.keys = keys
        self.scope = scope
        self.take = take
        self.take_state: Callable[[Stream, bytes], None] | None = None
        """Gets each new stream of a state that travels here, and what opened it, if this process adopts states."""
        self.connections: set[AcceptedConnection] = set()
        self.strangers: dict[AcceptedConnection, None] = {}
        """Those that have not proven who they are, the oldest one first."""
        self.http: Callable[[], asyncio.Protocol] | None = None
        """Makes the protocol of a connection that speaks HTTP; ``None``: such a one is closed."""
        self._silence = silence
        self._once = LogOnce(every=5.0, most=50)
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen_tcp(self, host: str, port: int, published: str | None = None) -> PeerAddress:
        """Listen on an address, port 0 for a free one; return what to publish.

        Raises:
            ConfigError: if it cannot be listened there.

        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._make, host, port)
        except OSError as error:
            raise ConfigError("listen", f"{host}:{port}", f"an address of this host that is free ({error})") from error
        port = self._server.sockets[0].getsockname()[1]
        return PeerAddress(published or host, port, keys=tuple(self.keys.names))

    async def listen_unix(self, folder: str | None) -> PeerAddress:
        """Listen on a unix socket in a folder, by default one of this user; return what to publish.

        Raises:
            ConfigError: if it cannot be listened there.

        """
        loop = asyncio.get_running_loop()
        where = Path(folder or Path(tempfile.gettempdir()) / f"stateful-route-{os.getuid()}")
        path = where / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        try:
            where.mkdir(mode=0o700, exist_ok=True)  # noqa: ASYNC240 - once, at the start
            if folder is None and not is_private(where):
                raise ConfigError("listen", f"unix://{where}", "a folder that is this user's alone: remove that one")
            self._server = await loop.create_unix_server(self._make, str(path))
        except OSError as error:
            raise ConfigError("listen", f"unix://{where}", f"a folder for unix sockets ({error})") from error
        self._path = path
        return PeerAddress(path=str(path), keys=tuple(self.keys.names))

    def _make(self) -> AcceptedConnection:
        return AcceptedConnection(self, silence=self._silence)

    def log(self, connection: AcceptedConnection, why: str) -> None:
        """Log that a connection is refused, unless one of the same address was a moment ago."""
        if self._once.first(connection.host):
            log.warning("peer_refused", "%(peer)s is refused: %(error)s", peer=connection, error=why)

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def close_connections(self) -> None:
        """Close those that are there."""
        for connection in list(self.connections):
            connection.close()


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, and nobody else may write into it: it may have been there before."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
