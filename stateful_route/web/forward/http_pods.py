"""Pods that serve HTTP and know nothing of our connections: requests are carried to them over HTTP/1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._log import log
from stateful_route.web.addresses import Addresses, PeerAddress, host_and_port, is_http_address
from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.peer.carry import DONE, Carried, Outcome
from stateful_route.web.peer.frames import MOVED, Refusal
from stateful_route.web.request.answers import app_lost
from stateful_route.web.request.inbound import AT_HAND
from stateful_route.web.serve.learning import Learning
from stateful_route.web.upstream.app import Upstream

if TYPE_CHECKING:
    from stateful_route.client.service_view import ServiceView
    from stateful_route.client.targets import There
    from stateful_route.web.asgi import Message
    from stateful_route.web.request.answers import NotServed
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.uids.found import Found, UidSources

# More pods than a service has at a time.
_MOST_UPSTREAMS = 4096
_MISDIRECTED = 421
_OURS = frozenset({b"x-pod-index", b"x-link-epoch"})
_NOT_ITS_OWN = Outcome(Carried.REFUSED, Refusal(MOVED))


class HttpPods:
    """Carries requests to the HTTP addresses of pods, which the pods publish or a template says.

    A pod is told which one it is held for, and at which epoch: ``X-Pod-Index`` and ``X-Link-Epoch``; what a client
    sends by these names is dropped. It answers 421 (Misdirected Request) if the uid is not its own.
    """

    def __init__(self, rooms: ServiceView, sources: UidSources, template: str | None) -> None:
        """Have carried nothing.

        Raises:
            ConfigError: if the template has other fields than it may.

        """
        self._rooms = rooms
        self._sources = sources
        self._addresses = None if template is None else Addresses("address", template)
        self._upstreams: dict[tuple[str, int], Upstream] = {}

    def at(self, there: There) -> Upstream | None:
        """Return the pod, if it is to be reached by HTTP."""
        text = there.address if self._addresses is None else self._addresses.of(there.pod_index, there.address)
        if text is None or (self._addresses is None and PeerAddress.parse(text) is not None):
            return None
        text = text.removeprefix("http://").removesuffix("/")
        where = host_and_port(text) if is_http_address(text) else None
        if where is None:
            return None
        upstream = self._upstreams.get(where)
        if upstream is None:
            if len(self._upstreams) >= _MOST_UPSTREAMS:
                self.close()
            upstream = self._upstreams[where] = Upstream(*where)
        return upstream

    async def carry(
        self, upstream: Upstream, there: There, found: Found | None, inbound: Inbound
    ) -> NotServed | Outcome:
        """Carry a request; return what came of it, or why it was not served, as the pod was lost.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        if not inbound.is_websocket:
            await inbound.read_ahead(AT_HAND)
        misdirected = False

        async def send(message: Message) -> None:
            nonlocal misdirected
            if message["type"].endswith("http.response.start") and message["status"] == _MISDIRECTED and found:
                misdirected = True
            if not misdirected:
                await inbound.send(message)

        if found is None and self._sources.learned and not inbound.is_websocket:
            send = Learning(lambda learned: self._link(learned, there), self._sources, inbound.scope, send).send
        try:
            await upstream(_told(inbound.scope, there), inbound.kept(), send)
        except UpstreamLostError as error:
            return app_lost(error, inbound, (there.pod_index, there.incarnation))
        return _NOT_ITS_OWN if misdirected else DONE

    async def _link(self, learned: Found, there: There) -> None:
        """Link a uid that a pod has made to it."""
        rooms = self._rooms
        link = rooms.driver.set_linked_pod_if_absent
        pod_index = await link(rooms.namespace, learned.uid, rooms.service_name, there.pod_index)
        if pod_index != there.pod_index:
            log.warning(
                "learned_uid_taken",
                "pod %(pod_index)d made %(uid)r, which pod %(owner_index)d has already",
                pod_index=there.pod_index,
                uid=learned.uid,
                owner_index=pod_index,
            )

    def close(self) -> None:
        """Close the connections that are free."""
        for upstream in self._upstreams.values():
            upstream.close()
        self._upstreams.clear()


def _told(scope: Message, there: There) -> Message:
    headers = [header for header in scope["headers"] if header[0].replace(b"_", b"-") not in _OURS]
    headers += (b"x-pod-index", b"%d" % there.pod_index), (b"x-link-epoch", b"%d" % there.epoch)
    return {**scope, "headers": headers}
