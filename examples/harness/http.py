"""One request of a user over HTTP, as a browser makes it, and its entry in the tally."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from examples.harness.tally import Session

_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110, 9.2.2: idempotent
_SERVER_ERROR = 500
# Longer than a lease (5 s): the time for which a request may be held because the process with its state was killed.
TIMEOUT = 15.0


def client(url: str, **options: Any) -> httpx.AsyncClient:
    """Return a client with a cookie jar of its own, which opens a new connection for each request.

    A person's next click comes after the 5 s for which uvicorn keeps an idle connection. On a connection that is kept
    the user of an example, who clicks ten times a second, would stay with one process by chance of the connection.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False, **options)


async def ask(
    http: httpx.AsyncClient, session: Session, method: str, path: str, **options: Any
) -> httpx.Response | None:
    """Return the answer, below status 500; ``None`` if the request failed.

    A connection that ends without an answer is tried once more if the method allows it, as browsers do with a GET.
    """
    safe = method in _REPEATABLE
    for attempt in range(2 if safe else 1):
        try:
            answer = await http.request(method, path, **options)
        except httpx.TimeoutException as error:
            why = type(error).__name__
            break
        except httpx.TransportError as error:
            why = f"{type(error).__name__}, {attempt + 1} times"
            continue
        if answer.status_code < _SERVER_ERROR:
            session.answered()
            return answer
        why = f"status {answer.status_code}: {answer.text[:80]!r}"
        break
    session.failed(why, safe=safe)
    return None
