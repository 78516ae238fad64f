"""The decision alone: an ASGI app that a proxy asks where a request goes, and that carries nothing itself."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import attrs

from stateful_route._log import LogOnce, log
from stateful_route.client.targets import There
from stateful_route.route import StatefulRoute
from stateful_route.web.forward.locator import Locator
from stateful_route.web.front import Started, check_secrets
from stateful_route.web.request.answers import NotServed, answer
from stateful_route.web.settings import DecideSettings, takes
from stateful_route.web.uids.found import Found
from stateful_route.web.uids.readings import is_plain, reads_alike
from stateful_route.web.uids.request import RequestHead

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.settings import AskedBy


@attrs.frozen
class _Manner:
    """How a proxy asks: in which headers it says method and URI, if it does not repeat them; and what it is answered.

    Attributes:
        method: the header with the method.
        uri: the header with path and query; empty: the question has those of the request.
        status: what means yes.
        cookie: the header of what is to be sent to the pod as ``Cookie``.

    """

    method: bytes = b""
    uri: bytes = b""
    status: int = 200
    cookie: bytes = b"x-pod-cookie"


_ORIGINAL = _Manner(b"x-original-method", b"x-original-uri", 204)
_FORWARDED = _Manner(b"x-forwarded-method", b"x-forwarded-uri", 200)
_MANNERS = {
    "nginx": _ORIGINAL,
    "haproxy": _ORIGINAL,
    "caddy": _FORWARDED,
    "traefik": _FORWARDED,
    "envoy": _Manner(cookie=b"cookie"),
}
_NO_ADDRESS = NotServed("the process that has it publishes no address for proxies", holds=False)
_AMBIGUOUS = NotServed("others may read another uid in the request than we do", holds=False, status=400)
_NOT_ASKED = 400
_HEADS = {200: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", 204: b"HTTP/1.1 204 No Content\r\n"}
# More pods than a service has at a time.
_REMEMBERED = 4096
_PROTOCOLS = b"sec-websocket-protocol"
# The address at which a proxy has not reached a pod, or lost it: it asks again.
_FAILED_HEADER = b"x-pod-failed"
_FAILED = "stateful_route.failed"
_BODY: Message = {"type": "http.response.body", "body": b""}
# Seconds between two lines in the log about pods without an address.
_QUIET = 5.0


class StickyDecide(Started):
    """Says where a request goes, for a proxy that carries it: nginx, HAProxy, Caddy, Traefik or Envoy.

    An ASGI 3 app, for any server, or to be mounted in another app. The proxy sends it the head of each request, and
    gets 2xx with ``X-Pod-Address``, ``X-Pod-Index`` and ``X-Link-Epoch``, or what to answer instead: 503 with
    ``Retry-After`` if nobody takes it, or the ``missing`` of a source. A client that is given an id gets it by
    ``Set-Cookie``; ``X-Pod-Cookie`` is what the pod is to be sent as ``Cookie`` then. Each pod runs
    ``StickyMiddleware`` with an ``http_address``. A question about a uid whose owner is not there is held. A body is
    not seen: a request whose uid may be in it goes to any pod, which sends it on.

    Who can ask it can have uids placed: it is for the proxy only.
    """

    _words = "the decision"

    _edge: Locator | None

    _settings: DecideSettings

    @takes(DecideSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(None, DecideSettings, settings)
        self.asked_by: AskedBy = self._settings.asked_by if self._wrong is None else "nginx"
        self._manner = _MANNERS[self.asked_by]
        self._unreached = LogOnce(every=_QUIET)

    # ASGI ---------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a question, or serve a lifespan."""
        if (self._edge is None or scope["type"] != "http") and not await self._prepared(scope, receive, send):
            return
        if scope["type"] == "websocket":
            await receive()
            await answer(
                scope, send, _NOT_ASKED, "a question is plain HTTP: the proxy is to drop Connection and Upgrade"
            )
            return
        asked = asked_in(scope, self._manner)
        if asked is None:
            await answer(scope, send, _NOT_ASKED, f"this is for a proxy, which says {self._manner.uri.decode()}")
            return
        found, request = self._found(asked)
        if isinstance(found, NotServed):
            await answer(scope, send, found.status, found.why)
            return
        decided = None if found is None else self._at_hand(found)
        if decided is not None and asked.get(_FAILED) == decided[1]:
            assert self._edge is not None  # noqa: S101 - it was started
            await self._edge.doubted(decided[0])
            decided = None
        if decided is not None:  # almost always
            await self._say(*decided, (), send)
        else:
            await self._decide(found, request or RequestHead(asked), scope, send)

    def at_once(self, scope: Message) -> bytes | None:
        """Return the whole answer to a question if it is known without a wait; ``None``: it is to be called.

        For a server that has a shorter way than that of ASGI; of the scope it needs the headers only. ``None`` if the
        proxy repeats the method and the path of what it was asked.
        """
        asked = asked_in(scope, self._manner) if self._edge is not None and self._manner.uri else None
        found = None if asked is None or _FAILED in asked else self._found(asked)[0]
        return self._answer(found) if isinstance(found, Found) else None

    def at_once_in_path(self, uri: bytes) -> bytes | None:
        """Return the whole answer as ``at_once``, if the uid is in the path: of the request only path and query count.

        ``None`` unless the first source is a ``Path`` that finds it.
        """
        if self._edge is None or not is_plain(uri):
            return None
        found = self._sources.find_in_path({"path": unquote(raw_path_of(uri).decode("latin-1"))})
        return None if found is None else self._answer(found)

    def _answer(self, found: Found) -> bytes | None:
        decided = self._at_hand(found)
        if decided is None:
            return None
        there, address = decided
        return b"%s%sx-pod-index: %d\r\nx-link-epoch: %d\r\n\r\n" % (
            _HEADS[self._manner.status],
            address_line(address),
            there.pod_index,
            there.epoch,
        )

    def _found(self, asked: Message) -> tuple[Found | NotServed | None, RequestHead | None]:
        """Return the uid, if the app and all in between find the same one."""
        if is_plain(asked["raw_path"]) and is_plain(asked["query_string"]):
            found = self._sources.find_in_path(asked)
            if found is not None:
                return found, None
        request = RequestHead(asked)
        found = self._sources.find(request)
        alike = reads_alike(self._sources, request, found, by_envoy=self.asked_by == "envoy")
        return found if alike else _AMBIGUOUS, request

    def _at_hand(self, found: Found) -> tuple[There, str] | None:
        """Return where a uid is, if that is known, and nothing is to be issued."""
        edge = self._edge
        there = None if found.stale or edge is None else edge.at_hand(found.uid)
        address = None if there is None else self._settings.addresses.of(there.pod_index, there.address)
        return None if there is None or address is None else (there, address)

    async def _say(self, there: There, address: str, more: Sequence[tuple[bytes, bytes]], send: Send) -> None:
        headers = [
            (b"x-pod-address", address.encode()),
            (b"x-pod-index", b"%d" % there.pod_index),
            (b"x-link-epoch", b"%d" % there.epoch),
            *more,
        ]
        status = self._manner.status
        if status != 204:  # noqa: PLR2004 - which has no body, and so no length
            headers.append((b"content-length", b"0"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(_BODY)

    async def _decide(self, found: Found | None, request: RequestHead, scope: Message, send: Send) -> None:
        """Answer a question that takes more than a look."""
        edge = self._edge
        assert edge is not None  # noqa: S101 - it was started
        more: list[tuple[bytes, bytes]] = []
        found = self._issued(found, request, more)
        located = await edge.locate(found)
        if found is not None and not isinstance(located, (There, NotServed)):
            if found.source.missing is not None:
                located = NotServed("there is no such session", status=found.source.missing)
            else:  # any process may answer it
                located = await edge.locate(None)
        if not isinstance(located, There):
            failed = located if isinstance(located, NotServed) else NotServed("no pod takes it now")
            await answer(scope, send, failed.status, failed.why)
            return
        address = self._settings.addresses.of(located.pod_index, located.address)
        if address is None:
            self._log_no_address(located)
            await answer(scope, send, _NO_ADDRESS.status, _NO_ADDRESS.why)
            return
        if located.epoch == 0:  # any pod: another one the next time
            more.append((b"cache-control", b"no-store"))
        await self._say(located, address, more, send)

    def _issued(self, found: Found | None, request: RequestHead, headers: list[tuple[bytes, bytes]]) -> Found | None:
        """Issue a cookie, for the client and for the pod, if one is to be issued; return the uid."""
        sources = self._sources
        cookie = sources.issued
        if cookie is None or (found is not None and not found.stale):
            return found
        known = cookie.read(request)
        raw = cookie.new_uid() if known is None else known.uid
        uid = sources.within_scope(request, raw, cookie)
        if uid is None:
            return found
        issued = cookie.issue(raw)
        brought = [value.encode("latin-1") for value in request.headers(b"cookie")]
        headers.append((b"set-cookie", issued))
        headers.append((self._manner.cookie, b"; ".join([issued.partition(b";")[0], *brought])))
        return Found(uid, cookie) if found is None else found

    def _log_no_address(self, there: There) -> None:
        if self._unreached.first():
            log.warning(
                "http_address_missing",
                "pod %(pod_index)d publishes no address for proxies: give StickyMiddleware an http_address, or "
                "StickyDecide an address",
                pod_index=there.pod_index,
            )

    # Starting -----------------------------------------------------------------------------------------------------

    async def _begin(self, stack: contextlib.AsyncExitStack) -> Locator:
        settings = self._settings
        route = await stack.enter_async_context(
            StatefulRoute(settings.redis, settings.config, instrumentation=settings.tally.teller)
        )
        client = await stack.enter_async_context(route.client(strategy=settings.strategy))
        await check_secrets(client, settings)
        rooms = client.service(settings.service)
        return Locator(rooms, self._dialer(stack), settings, None, restores=settings.restores)


@lru_cache(_REMEMBERED)
def address_line(address: str) -> bytes:
    """Return the line of an answer that says where a pod is."""
    return b"x-pod-address: %s\r\n" % address.encode()


def asked_in(scope: Message, manner: _Manner) -> Message | None:
    """Return the scope of the request that a question is about; ``None`` if it does not say which one."""
    method, uri, protocols, failed = b"GET", b"", b"", b""
    for name, value in scope["headers"]:
        if name == manner.uri:
            uri = value
        elif name == manner.method:
            method = value
        elif name == _PROTOCOLS:
            protocols += b"," + value
        elif name == _FAILED_HEADER:
            failed = value
    if manner.uri and not uri:
        return None
    if manner.uri:
        asked = _of_uri(scope, method, uri)
    else:
        asked = {**scope, "raw_path": scope.get("raw_path") or quote(scope["path"]).encode()}
    if protocols:
        asked["subprotocols"] = [one.strip() for one in protocols.decode("latin-1").split(",") if one.strip()]
    if failed:
        asked[_FAILED] = failed.decode("latin-1")
    return asked


def raw_path_of(uri: bytes) -> bytes:
    """Return the path of a URI; what is no URI gives some path."""
    path = uri.partition(b"?")[0]
    if path[:1] != b"/":  # with the host in it, as a request to a proxy has it
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return path


def _of_uri(scope: Message, method: bytes, uri: bytes) -> Message:
    raw = raw_path_of(uri)
    return {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": unquote(raw.decode("latin-1")),
        "raw_path": raw,
        "query_string": uri.partition(b"?")[2],
        "headers": scope["headers"],
    }
