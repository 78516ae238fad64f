"""This process as a pod of the service: what it owns it serves, for its own clients and for those of its peers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stateful_route._background.tasks import Tasks, cancel_and_wait
from stateful_route._log import log
from stateful_route._single_flight import SingleFlight
from stateful_route.errors import LifecycleError, StatefulRouteError, StoreError
from stateful_route.links import LinkKind
from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.peer.exchange import Exchange, take_request
from stateful_route.web.peer.frames import AWAY, FULL, LEAVING, LOST, MOVED, Refusal
from stateful_route.web.serve.app_run import AppRun
from stateful_route.web.serve.learning import Learning
from stateful_route.web.serve.sticky import STATE_KEY, NoOwnership, Sticky
from stateful_route.web.uids.request import RequestHead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from stateful_route.client.service_view import ServiceView
    from stateful_route.server.driver import ServerDriver
    from stateful_route.web.asgi import App, Message, Receive, Send
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.serve.tenants import Tenant, Tenants
    from stateful_route.web.settings import PodSettings
    from stateful_route.web.uids.found import Found
    from stateful_route.web.uids.sources import UidSource

    Wait = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


# Seconds between two looks whether a uid is owned again, and that carried requests have to end when the process does.
_LOOK = 0.02
_END_WITHIN = 5.0
_EPOCH = b"x-link-epoch"
# How many times ``link_ttl`` a uid that was placed may be idle, unless its source says otherwise.
_IDLE = 3
# By these an app says that there is nothing, or that the request was meant for another host.
_NOTHING_THERE = frozenset({404, 405, 410, 421})


def _is_preflight(scope: Message) -> bool:
    """Whether a browser only asks whether it may send a request of another origin."""
    headers = scope["headers"]
    return scope["method"] == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in headers)


async def _wait(work: Coroutine[Any, Any, None]) -> None:
    await work


class Pod:
    """Serves the uids that this process owns."""

    def __init__(
        self,
        app: App,
        server: ServerDriver,
        rooms: ServiceView,
        tenants: Tenants,
        settings: PodSettings,
    ) -> None:
        """Serve with an app, a driver that runs, a view of the service, and the tenants that the hand-off knows."""
        self.server = server
        self.tenants = tenants
        self.state: dict[str, Any] = {}
        """What the app keeps in the state of its lifespan."""
        self.template: dict[str, Any] = {}
        """What frameworks add to a scope before it gets here."""
        self.is_behind = False
        """Whether the app is another process, which may be lost."""
        self.draining = False
        """Whether nothing new is taken."""
        self._loop = asyncio.get_running_loop()
        self._app = app
        self._rooms = rooms
        self._sources = settings.sources
        self._tally = settings.tally
        self._unserved = settings.unserved
        self._is_scoped = settings.sources.scope is not None
        # A uid that is idle is released without a hand-off: what has one keeps it, unless its source has a ttl.
        self._idle = None if settings.hand_off is not None else _IDLE * settings.config.link_ttl
        self._patience = settings.patience
        self._is_behind_proxy = settings.http_address is not None
        self._serves_while_away = settings.while_away == "serve"
        self._away_for = settings.config.heartbeat
        self._away_until = 0.0
        self._lease = settings.config.lease_seconds
        self._renewing = SingleFlight[str, None](settings.config.call_deadline_seconds, "heartbeat")
        self._carried: set[asyncio.Task[None]] = set()
        self._unlinked: set[AppRun] = set()
        self._ending = False
        self.tasks = Tasks()

    # Whether a uid is served here ---------------------------------------------------------------------------------

    async def admit(self, uid: str, source: UidSource, wait: Wait = _wait) -> Tenant | Refusal:
        """Return the tenant of a uid that may be served here, claiming it if it is nobody's; or why it may not.

        A uid that is being handed off is waited for, by ``wait``: it is another pod's after that, or still this one's.
        """
        loop = self._loop
        until = loop.time() + self._patience
        while (tenant := self.tenants.get(uid)) is not None:
            if tenant.admits:
                tenant.is_new = False
                return tenant
            if not tenant.closing:
                return tenant if await self.may_serve(tenant) else self._not_owned(tenant)
            await wait(tenant.opened(until - loop.time()))
            if tenant.closing and loop.time() >= until:
                return Refusal(LEAVING)
        return await self._claim(uid, source)

    def _not_owned(self, tenant: Tenant) -> Refusal:
        return Refusal(MOVED if tenant.lost else AWAY)

    async def _claim(self, uid: str, source: UidSource) -> Tenant | Refusal:
        try:
            if self.draining and not await self._is_linked_here(uid):
                return Refusal(MOVED)  # it was handed over: a claim would take it back
            ownership = self.server.owned(uid)
            is_new = ownership is None and source.place
            if ownership is None:
                ownership = await self.server.claim(uid, idle_ttl=source.idle_ttl(self._idle))
        except StoreError as error:
            self._unserved.note(error)
            return Refusal(AWAY)
        except LifecycleError:
            return Refusal(LEAVING)
        if ownership.is_owned():
            is_new = is_new and ownership.placed and self.tenants.get(uid) is None
            tenant = self.tenants.take_in(ownership, source)
            tenant.is_new = is_new  # no longer so for the second one of those that have claimed it together
            return tenant
        return Refusal(FULL if ownership.full else MOVED)

    async def _is_linked_here(self, uid: str) -> bool:
        """Whether this process, which is leaving, still has the uid.

        A link that an edge has made here, as it does not know yet that this process leaves, is removed: it would be
        handed over again.
        """
        link, pod_index, rooms = await self._rooms.find(uid), self.server.pod_index, self._rooms
        if link is None or pod_index is None or link.pod_index != pod_index:
            return False
        if link.kind is LinkKind.PERSISTENT:
            return True
        await self.server.remove_linked_pod_with_id(rooms.namespace, uid, rooms.service_name, pod_index)
        return False

    async def may_serve(self, tenant: Tenant) -> bool:
        """Whether a uid may be served that this process held, and does not own just now.

        Its lease has run out: it was stopped, or Redis is away. It says so to Redis, and sees what that knows. If it
        does not answer, the setting ``while_away`` decides.
        """
        if tenant.ownership.is_owned():
            return True
        loop = self._loop
        if not tenant.lost and loop.time() >= self._away_until:
            try:
                await self._renewing.run("", self.server.renew)
            except StoreError as error:
                if not self._serves_while_away:
                    self._unserved.note(error)
                self._away_until = loop.time() + self._away_for
            except LifecycleError:
                return False
            else:
                return await self._settled(tenant, loop.time() + self._lease)
        return not tenant.lost and (tenant.ownership.is_owned() or self._serves_while_away)

    async def _settled(self, tenant: Tenant, until: float) -> bool:
        """Return whether the uid is owned, once Redis was asked for each that is held."""
        loop = self._loop
        while not tenant.lost and loop.time() < until:
            ownership = self.server.owned(tenant.uid)
            if ownership is not None:
                self.tenants.take_in(ownership, tenant.source)
                return True
            await asyncio.sleep(_LOOK)
        return False

    # Serving ------------------------------------------------------------------------------------------------------

    def serve(
        self, tenant: Tenant, source: UidSource, scope: Message, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None]:
        """Return what runs the app for a request of a uid that is owned."""
        self._tally.served += 1
        is_websocket = scope["type"] == "websocket"
        if source.release_on and not is_websocket:
            send = self._releasing(tenant, source, scope["method"], send)
        run = AppRun(tenant, receive, send, is_websocket=is_websocket, guard=self.may_serve, loop=self._loop)
        within = self._within(scope) if self._is_scoped else None
        self._enter(scope, Sticky(self.server, tenant.uid, tenant.ownership, within))
        return run.run(self._app, scope)

    async def serve_admitted(
        self, tenant: Tenant, source: UidSource, scope: Message, receive: Receive, send: Send
    ) -> None:
        """Run the app for a request of a uid that was admitted; give a uid up that it alone has placed for nothing."""
        if not tenant.is_new:
            await self.serve(tenant, source, scope, receive, send)
            return
        refused = scope["type"] == "websocket" or _is_preflight(scope)

        async def send_and_see(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = refused or message["status"] in _NOTHING_THERE
                tenant.is_new = tenant.is_new and refused
            elif message["type"] == "websocket.accept":
                tenant.is_new = False
            await send(message)

        try:
            await self.serve(tenant, source, scope, receive, send_and_see)
        except BaseException:
            tenant.is_new = False
            raise
        if tenant.is_new and refused:
            self.tasks.start(self._give_up(tenant), f"release of {tenant.uid!r}")
        else:
            tenant.is_new = False

    async def serve_unlinked(self, scope: Message, receive: Receive, send: Send, uid: str | None = None) -> None:
        """Run the app for a request without a uid, or with one that nobody has; learn a uid from its answer."""
        self._tally.served += 1
        is_websocket = scope["type"] == "websocket"
        run = AppRun(None, receive, send, is_websocket=is_websocket, guard=self.may_serve, loop=self._loop)
        within = self._within(scope) if self._is_scoped else None
        sticky = Sticky(self.server, uid, NoOwnership(uid, scope["path"]), within)
        self._enter(scope, sticky)
        if self._sources.learned and not is_websocket:

            async def claim(found: Found) -> None:
                await self._claim_learned(found, run, sticky)

            run.wrap_send(lambda inner: Learning(claim, self._sources, scope, inner).send)
        if self._ending:
            run.end_stream()
        self._unlinked.add(run)
        try:
            await run.run(self._app, scope)
        finally:
            self._unlinked.discard(run)

    def streams(self) -> list[AppRun]:
        """Return the WebSockets and event streams that this process serves, and that go on."""
        return [run for run in (*self.tenants.runs(), *self._unlinked) if run.is_stream and not run.ending]

    async def _claim_learned(self, found: Found, run: AppRun, sticky: Sticky) -> None:
        """Claim a uid that the app has made, and let the request that made it be one of it."""
        ownership = await self.server.claim(found.uid, idle_ttl=found.source.idle_ttl(self._idle))
        ownership.require()
        sticky.uid, sticky.ownership = found.uid, ownership
        run.adopt(self.tenants.take_in(ownership, found.source))

    def end_streams(self) -> None:
        """End all WebSockets and event streams that this process serves: it ends."""
        self._ending = True
        for run in (*self.tenants.runs(), *self._unlinked):
            run.end_stream()

    def lose_app(self) -> None:
        """Let no answer that has begun seem whole: the app behind this process has ended."""
        for run in (*self.tenants.runs(), *self._unlinked):
            run.app_lost = True

    def _within(self, scope: Message) -> Callable[[str], str | None]:
        """Return what makes an id of the app one of whom the request is from."""
        return lambda raw: self._sources.within_scope(RequestHead(scope), raw)

    def _enter(self, scope: Message, sticky: Sticky) -> None:
        state = scope.get("state")
        if state is None:
            state = scope["state"] = {}
        state[STATE_KEY] = sticky
        if self._is_behind_proxy:  # what it was told is of the uid that the proxy saw, and of an earlier moment
            headers = scope["headers"]
            others = [header for header in headers if header[0] != _EPOCH]
            if len(others) < len(headers):
                scope["headers"] = [*others, (_EPOCH, b"%d" % (sticky.epoch or 0))]

    def _releasing(self, tenant: Tenant, source: UidSource, method: str, send: Send) -> Send:
        """Return ``send`` that releases the uid once the answer says that it has ended."""

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                deleted = method == "DELETE" and 200 <= status < 300 and "delete" in source.release_on  # noqa: PLR2004
                if deleted or status in source.release_on:
                    self.tasks.start(self._release(tenant), f"release of {tenant.uid!r}")
            await send(message)

        return send_and_release

    async def _give_up(self, tenant: Tenant) -> None:
        if tenant.is_new and not tenant.closing:  # nothing has asked for it since: it is not owned from this step on
            await self._release(tenant)

    async def _release(self, tenant: Tenant) -> None:
        try:
            await tenant.ownership.release()
        except StatefulRouteError as error:
            log.warning(
                "ended_uid_not_released",
                "%(uid)r has ended and could not be released: %(error)s",
                uid=tenant.uid,
                error=error,
            )

    # What peers carry here ----------------------------------------------------------------------------------------

    def take(self, stream: Stream, payload: bytes) -> None:
        """Serve a request of a peer: what its listener calls."""
        exchange = take_request(stream, payload)
        task = self._loop.create_task(self._serve_carried(exchange))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _serve_carried(self, exchange: Exchange) -> None:
        try:
            head = exchange.head
            scope, source = head.scope, self._sources.numbered(head.source)
            scope.update(self.template)
            scope["state"] = self.state.copy()
            tenant = None if head.uid is None else self.tenants.serving(head.uid, source)
            if tenant is not None:
                await self.serve(tenant, source, scope, exchange.receive, exchange.send)
            elif head.uid is None:
                await self.serve_unlinked(scope, exchange.receive, exchange.send)
            else:
                await self._admit_carried(exchange, head.uid, source)
        except UpstreamLostError as error:
            exchange.refuse(Refusal(LOST if error.sent else LEAVING))
        except Exception as error:  # noqa: BLE001 - the app's: a web server logs it too, and goes on
            if exchange.gone:  # as frameworks do that look for a client in vain
                text = "the app gave up a request whose client, or whose peer, is gone: %(error)s"
                log.warning("carried_request_given_up", text, error=repr(error))
            else:
                log.exception("carried_request_failed", "the app failed with a request that a peer carried here")
        finally:
            exchange.finish()

    async def _admit_carried(self, exchange: Exchange, uid: str, source: UidSource) -> None:
        admitted = await self.admit(uid, source)
        if isinstance(admitted, Refusal):
            exchange.refuse(admitted)
        elif not exchange.gone:
            await self.serve_admitted(admitted, source, exchange.head.scope, exchange.receive, exchange.send)

    async def stop(self) -> None:
        """Let what peers have carried here come to its end, for a while; then cancel it."""
        self.end_streams()
        if self._carried:
            await asyncio.wait(self._carried, timeout=_END_WITHIN)
        await cancel_and_wait(*self._carried)
        await self.tasks.stop()
