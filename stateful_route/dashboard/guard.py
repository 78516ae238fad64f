"""Refuses requests that other web pages have made, and says in each answer what the page may do."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of each answer."""


class Guard:
    """Stands in front of the app.

    A page of somebody else may have its own name resolve to this address (DNS rebinding), and would then be of the same
    origin; so the host that a request names has to be ``localhost``, an address (of this machine only, if no other
    machine can reach it anyway), or a name that was allowed. Questions that a browser says come from another site are
    refused too; links to the page may be anywhere.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, names: Iterable[str] = ()) -> None:
        """Guard an app that listens on the loopback only, or not; ``names`` are allowed beside."""
        self._app = app
        self._loopback = loopback
        self._names = frozenset(name.casefold().rstrip(".") for name in ("localhost", *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(Headers(scope=scope), scope["path"])
        app = self._app if refusal is None else PlainTextResponse(f"{refusal}\n", status_code=403)
        await app(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, path: str) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.allows(hosts[0]):
            return "this host name is not allowed; --allow-host allows one"
        if path.startswith("/api/") and headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            return "requests of other sites are refused"
        return None

    def allows(self, host: str) -> bool:
        """Whether a request may name this host, with or without a port."""
        name = _name_of(host)
        if name is None:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.casefold().rstrip(".") in self._names
        return address.is_loopback or not self._loopback or name in self._names


def _name_of(host: str) -> str | None:
    """Return the host without its port; ``None`` if it is none."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        is_one = bracket and (not rest or rest.startswith(":"))
    else:
        name, _, rest = host.partition(":")
        rest, is_one = f":{rest}", True
    port = rest[1:]
    return name if is_one and (not port or (port.isascii() and port.isdecimal())) else None
