"""Warns, once, of what looks like a wrong setting though each request is answered."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from stateful_route._log import log

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message
    from stateful_route.web.tally import WebTally
    from stateful_route.web.uids.found import UidSources
    from stateful_route.web.uids.issued import IssuedSource

# Requests without a uid, and different paths among them: fewer may be the probes of a process without users.
_REQUESTS, _PATHS = 100, 5
_HTTPS = frozenset({"https", "wss"})


class Suspicions:
    """What an app or a gateway suspects to be a mistake."""

    def __init__(self, sources: UidSources, tally: WebTally) -> None:
        self._sources = sources
        self._tally = tally
        self._requests = 0
        self._paths: set[str] | None = set()
        self._cookie_is_kept = True

    def without_uid(self, scope: Message) -> None:
        """Note a request in which no source found a uid; warn if there are many, and no other one yet."""
        if self._paths is None:
            return
        self._requests += 1
        if len(self._paths) < _PATHS:
            self._paths.add(scope["path"])
        elif self._requests >= _REQUESTS:
            self._paths = None
            if self._tally.served + self._tally.forwarded < self._requests:
                log.warning(
                    "uids_not_found",
                    "none of %(requests)d requests had a uid, the last one %(path)s: each was served wherever it "
                    "arrived. The sources are %(sources)s",
                    requests=self._requests,
                    path=scope["path"],
                    sources=", ".join(map(repr, self._sources.sources)),
                )

    def cookie_issued(self, cookie: IssuedSource, scope: Message) -> None:
        """Note that a cookie is set; warn if a browser will not keep it."""
        if not (self._cookie_is_kept and getattr(cookie, "secure", False)) or scope.get("scheme") in _HTTPS:
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if b"https" in headers.get(b"x-forwarded-proto", b"") + headers.get(b"forwarded", b"") or _is_local(host):
            return
        self._cookie_is_kept = False
        log.warning(
            "cookie_not_kept",
            "a Secure cookie answers plain HTTP at %(host)s: browsers do not keep it, so each request is a new uid. "
            "Serve HTTPS; behind a proxy that does, have it send X-Forwarded-Proto; or set secure=False (secure=no)",
            host=host,
        )


def _is_local(host: str) -> bool:
    """Whether browsers take an address for one of their own machine, where they keep ``Secure`` cookies."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
