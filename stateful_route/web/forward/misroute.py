"""What is answered to a request whose uid another process has, so that a proxy or the client takes it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

from stateful_route.errors import ConfigError
from stateful_route.web.addresses import Addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.client.targets import There
    from stateful_route.web.asgi import Message
    from stateful_route.web.request.inbound import Inbound

    Reply: TypeAlias = tuple[int, Sequence[tuple[bytes, bytes]]]
    Misrouted: TypeAlias = "Literal['forward', 'accel', 'fly-replay', 'redirect', 'refuse'] | MisrouteFunction"
    MisrouteFunction: TypeAlias = Callable[[There, Message], Reply | None]

WAYS = "forward", "accel", "fly-replay", "redirect", "refuse"
REPLAYED = "sticky-replayed"
"""What marks a request that was misdirected before: a header with ``x-`` in front, or a parameter of a redirect."""
_MARKS = frozenset({f"x-{REPLAYED}".encode(), b"fly-replay-src"})
_EXTENSION = "websocket.http.response"
# Bytes of the longest body that Fly repeats.
_FLY_LIMIT = 1_000_000
_SAFE = "/:@!$&'()*+,;=~"


class Misroute:
    """Answers a misdirected request, unless this process has to send it on by itself.

    So it has to with one that was misdirected before, so that no two processes that each hold the other for the owner
    send a client to and fro; with one that is given its id just now; and with one of which the owner is not known to a
    proxy.
    """

    def __init__(self, way: Misrouted, public_address: str | None) -> None:
        """Take a way that is not ``forward``, and for a redirect the template of a pod's public address.

        Raises:
            ConfigError: if there is no such way, or the template is missing or wrong.

        """
        replies: dict[str, MisrouteFunction] = {
            "accel": self._accel,
            "fly-replay": self._fly,
            "redirect": self._redirect,
            "refuse": _refuse,
        }
        reply = replies.get(way) if isinstance(way, str) else way
        if not callable(reply):
            raise ConfigError("misroute", way, f"one of {', '.join(WAYS)}, or a function of There and the scope")
        if way == "redirect" and public_address is None:
            raise ConfigError(
                "public_address", None, 'with misroute="redirect": "https://room-{pod_index}.example.com"'
            )
        self._reply = reply
        self._longest = _FLY_LIMIT if way == "fly-replay" else None
        self._http = Addresses("http_address", None)
        self._name = Addresses("http_address", "{pod_name}")
        self._public = Addresses("public_address", public_address)

    async def answered(self, there: There, inbound: Inbound) -> bool:
        """Answer a request of a uid that another process has; return whether that was done."""
        scope = inbound.scope
        if inbound.is_given_id:
            return False
        if inbound.is_websocket and _EXTENSION not in (scope.get("extensions") or {}):
            return False
        if self._longest is not None and not inbound.is_shorter(self._longest):
            return False
        reply = self.reply(there, scope)
        if reply is None:
            return False
        status, headers = reply
        kind = _EXTENSION if inbound.is_websocket else "http.response"
        headers = [*headers, (b"content-length", b"0")]
        await inbound.send({"type": f"{kind}.start", "status": status, "headers": headers})
        await inbound.send({"type": f"{kind}.body", "body": b""})
        return True

    def reply(self, there: There, scope: Message) -> Reply | None:
        """Return status and headers of the answer; ``None`` if this process has to send the request on."""
        return None if was_replayed(scope) else self._reply(there, scope)

    def _accel(self, there: There, _scope: Message) -> Reply | None:
        address = self._http.of(there.pod_index, there.address)
        if address is None:
            return None
        return 200, [
            (b"x-accel-redirect", b"@owner"),
            (b"x-pod-address", address.encode()),
            (b"x-pod-index", b"%d" % there.pod_index),
            (b"x-link-epoch", b"%d" % there.epoch),
        ]

    def _fly(self, there: There, _scope: Message) -> Reply | None:
        name = self._name.of(there.pod_index, there.address)
        return None if name is None else (200, [(b"fly-replay", b"instance=" + name.encode())])

    def _redirect(self, there: There, scope: Message) -> Reply | None:
        public = self._public.of(there.pod_index, there.address)
        if public is None:
            return None
        path = scope.get("raw_path") or quote(scope["path"], safe=_SAFE).encode()
        if not path.startswith(b"/"):  # behind a host, "@example.com" would be another host
            return None
        query = scope.get("query_string") or b""
        mark = f"{REPLAYED}=1".encode()
        location = public.rstrip("/").encode() + path + b"?" + (query + b"&" + mark if query else mark)
        return 307, [(b"location", location)]


def _refuse(_there: There, _scope: Message) -> Reply:
    return 421, []


def was_replayed(scope: Message) -> bool:
    """Whether a request says that it was misdirected before."""
    if REPLAYED.encode() in (scope.get("query_string") or b""):
        return True
    return any(name in _MARKS for name, _ in scope["headers"])


def checked_misroute(way: Any, public_address: str | None) -> Misroute | None:
    """Return what answers misdirected requests; ``None``: they are forwarded.

    Raises:
        ConfigError: if there is no such way, or the template is missing, wrong, or not used.

    """
    if public_address is not None and way != "redirect":
        raise ConfigError("public_address", public_address, 'None without misroute="redirect"')
    return None if way == "forward" else Misroute(way, public_address)
