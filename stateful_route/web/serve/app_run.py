"""One run of the app: a request or a WebSocket of a uid, that may have to end before it wants to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route._log import log
from stateful_route.web.asgi import SERVICE_RESTART, close_websocket, is_events, reconnects
from stateful_route.web.errors import DisconnectedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from stateful_route.web.asgi import App, Message, Receive, Send
    from stateful_route.web.serve.tenants import Tenant


# Seconds that an app has to end an event stream or a WebSocket whose client is gone, until it is cancelled.
_GRACE = 2.0
# What has a part of the body, or all of it: the last two are extensions of some web servers.
_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})


class AppRun:
    """Runs the app for one request of a uid that this process owns.

    A WebSocket, or an answer of server-sent events to a GET, has no end of its own. ``end_stream`` ends it: the client
    is told, the app sees a disconnect, and is cancelled if it does not end within two seconds.
    """

    __slots__ = (
        "_closer",
        "_guard",
        "_interrupted",
        "_is_websocket",
        "_loop",
        "_reader",
        "_receive",
        "_reconnects",
        "_send",
        "_task",
        "_timer",
        "app_lost",
        "complete",
        "ending",
        "is_stream",
        "started",
        "tenant",
    )

    def __init__(
        self,
        tenant: Tenant | None,
        receive: Receive,
        send: Send,
        *,
        is_websocket: bool,
        guard: Callable[[Tenant], Awaitable[bool]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Wrap the two, in a loop that runs: to ask which one does costs a system call each time, until Python 3.12.

        ``guard`` waits until it is known whether the uid is owned, if it is not just now.

        Without a tenant the request has no uid, or none yet.
        """
        self.tenant = tenant
        self._receive = receive
        self._send = send
        self._guard = guard
        self._is_websocket = is_websocket
        self.is_stream = is_websocket
        """Whether it has no end of its own."""
        self.started = False
        self.complete = False
        self.ending = False
        """Whether it was told to end."""
        self.app_lost = False
        """Whether the app has ended before: an answer that had begun is cut off, and not ended as if it were whole."""
        self._reader: asyncio.Task[object] | None = None
        self._task: asyncio.Task[object] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._interrupted = 0
        self._reconnects = False
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, app: App, scope: MutableMapping[str, Any]) -> None:
        """Run the app."""
        self._task = asyncio.current_task(self._loop)
        self._reconnects = reconnects(scope)
        if self.tenant is not None:
            self.tenant.enter(self)
        try:
            await app(scope, self.receive, self.send)
        except DisconnectedError:
            pass  # it is what an app may do when its client is gone
        except asyncio.CancelledError:
            if not self._was_interrupt(self._task):
                raise
        finally:
            if self.tenant is not None:
                self.tenant.leave(self)
            self._task = None
            if self._timer is not None:
                self._timer.cancel()
        is_open = self.is_stream and self.started and not self.complete and not self._is_websocket
        if is_open and self.ending and not self.app_lost:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def wrap_send(self, wrap: Callable[[Send], Send]) -> None:
        """Let what is sent pass through something else on its way to the client."""
        self._send = wrap(self._send)

    def adopt(self, tenant: Tenant) -> None:
        """Be a request of a uid that was learned from its answer."""
        if self.tenant is None:
            self.tenant = tenant
            if self._task is not None:
                tenant.enter(self)

    # What the app calls -------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Return the next event of the client, or a disconnect once the run was told to end."""
        if self.ending and self.is_stream:
            return self._disconnect()
        self._reader = asyncio.current_task(self._loop)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if not self._was_interrupt(self._reader):
                raise
            if self._is_websocket:
                await self._close_websocket()
            return self._disconnect()
        finally:
            self._reader = None
        tenant = self.tenant
        if self._is_websocket and tenant is not None and not tenant.admits and message["type"] == "websocket.receive":
            return await self._guarded(tenant, message)
        return message

    async def _guarded(self, tenant: Tenant, message: Message) -> Message:
        """Return a message of a WebSocket only while the uid is owned."""
        if await self._guard(tenant):
            return message
        await self._close_websocket()
        return self._disconnect()

    async def send(self, message: Message) -> None:
        """Send an event to the client."""
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            if not self.is_stream:
                if not isinstance(message.get("headers", ()), (list, tuple)):  # ASGI lets it be read once only
                    message = {**message, "headers": list(message["headers"])}
                self.is_stream = self._reconnects and is_events(message)
        elif kind in _BODIES:
            self.complete = not message.get("more_body", False)
        elif self._is_websocket:
            await self._send_websocket(kind, message)
            return
        await self._send(message)
        if self.ending and self.is_stream and self._timer is None:
            self._cut()

    async def _send_websocket(self, kind: str, message: Message) -> None:
        if self.complete:
            if self.ending:
                raise DisconnectedError("this WebSocket was closed, as its uid moves to another pod")
            return
        self.complete = kind == "websocket.close"
        await self._send(message)
        if kind == "websocket.accept":
            self.started = True
            if self.ending:
                await self._close_websocket()

    # What ends it -------------------------------------------------------------------------------------------------

    def end_stream(self) -> None:
        """End a WebSocket, or an event stream, soon. A request with an end of its own goes on to it."""
        if self.ending:
            return
        self.ending = True
        if self.is_stream:
            self._cut()

    def _cut(self) -> None:
        loop = self._loop
        self._timer = loop.call_later(_GRACE, self._cancel)
        if self._is_websocket and not self.started:
            return
        if self._reader is not None:  # who waits there closes a WebSocket: granian does not both receive and send then
            self._interrupt(self._reader)
        elif self._is_websocket:
            self._closer = loop.create_task(self._close_websocket(), name="stateful_route close of a WebSocket")

    async def _close_websocket(self) -> None:
        if not self.complete:
            self.complete = True
            with contextlib.suppress(Exception):  # the client may be gone
                await close_websocket(self._send, SERVICE_RESTART, "it moves to another pod")

    def _interrupt(self, task: asyncio.Task[object] | None) -> None:
        """Wake who waits in ``receive``, by a cancellation that ``receive`` keeps."""
        if task is not None and not task.done():
            self._interrupted += 1
            task.cancel()

    def _was_interrupt(self, task: asyncio.Task[object] | None) -> bool:
        """Whether a cancellation is this object's own; one of somebody else goes on."""
        if not self._interrupted or task is None:
            return False
        self._interrupted -= 1
        return task.uncancel() == 0

    def _cancel(self) -> None:
        if self._task is not None:
            uid = None if self.tenant is None else self.tenant.uid
            log.warning(
                "app_cancelled",
                "the app did not end a stream of %(uid)r whose client is gone: it is cancelled",
                uid=uid,
            )
            self._interrupt(self._task)

    def _disconnect(self) -> Message:
        if self._is_websocket:
            return {"type": "websocket.disconnect", "code": SERVICE_RESTART, "reason": "it moves to another pod"}
        return {"type": "http.disconnect"}
