"""Users of a room, by Socket.IO's client for Python: it polls, upgrades to a WebSocket, and connects again itself."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import anyio
import socketio
from socketio.exceptions import ConnectionError as NotConnectedError
from socketio.exceptions import SocketIOError

from examples.harness import Example

if TYPE_CHECKING:
    from examples.harness import Session

_PAUSE = 0.1  # seconds between two messages
_MESSAGES = 10  # of a visit
_ANSWER = 3.0  # seconds; the client's own limit is 60, and it does not end a call whose connection is lost
_AGAIN = 20.0  # seconds within which it has to be connected again


async def visit(url: str, session: Session) -> None:
    """Visit one room after the other, until cancelled."""
    for number in itertools.count():
        room = f"{session.number}-{number}"
        client = socketio.AsyncClient(reconnection_delay=0.2, reconnection_delay_max=1.0)
        try:
            await client.connect(f"{url}?room={room}", retry=True)
            await _talk(client, session)
        except (NotConnectedError, TimeoutError) as error:
            session.failed(f"Socket.IO: {type(error).__name__}: {error}")
            await anyio.sleep(_PAUSE)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await client.shutdown()


async def _talk(client: socketio.AsyncClient, session: Session) -> None:
    """Say something, and look whether all that was confirmed is there."""
    confirmed: set[str] = set()
    for number in range(_MESSAGES):
        await anyio.sleep(_PAUSE)
        with anyio.fail_after(_AGAIN):
            answer = await _confirmed(client, f"message {number}", session)
        confirmed.add(f"message {number}")
        session.looked(kept=confirmed <= set(answer["said"]), holder=answer["pid"])
        confirmed &= set(answer["said"])


async def _confirmed(client: socketio.AsyncClient, text: str, session: Session) -> dict[str, Any]:
    """Say it until the room confirms it, over a new connection if one ends."""
    while True:
        try:
            answer: dict[str, Any] = await client.call("say", text, timeout=_ANSWER)
        except SocketIOError as error:  # it was cut, and is connected again soon; or no answer came
            if not isinstance(error, socketio.exceptions.BadNamespaceError):
                session.failed(f"no answer: {type(error).__name__}", safe=False)
            await anyio.sleep(_PAUSE)
        else:
            session.answered()
            return answer


EXAMPLES = (
    Example(
        name="Socket.IO under `run`",
        folder="socketio_unmodified",
        title="python-socketio, unmodified, three copies behind nginx",
        command=("uvicorn", "app:app", "--port", "{port}", "--log-level", "warning"),
        uid="query:room",
        user=visit,
        needs=("socketio", "aiohttp", "uvicorn", "httptools"),
    ),
)
