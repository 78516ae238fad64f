"""Requests and answers as an ASGI server hands them over, for the tests of the sources of uids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from stateful_route.web import AnswerHead, RequestHead

if TYPE_CHECKING:
    from collections.abc import Iterable

JSON = ("content-type", "application/json")


def head_of(*headers: tuple[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]


def request(
    target: str = "/",
    *headers: tuple[str, str | bytes],
    method: str = "GET",
    body: bytes | None = None,
    root_path: str = "",
) -> RequestHead:
    raw_path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": root_path,
        "query_string": query.encode("latin-1"),
        "headers": head_of(*headers),
    }
    return RequestHead(scope, body)


def post(body: bytes, *headers: tuple[str, str | bytes], target: str = "/") -> RequestHead:
    return request(target, *(headers or (JSON,)), method="POST", body=body)


def websocket(*subprotocols: str, target: str = "/ws") -> RequestHead:
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": target,
        "query_string": b"",
        "headers": [],
        "subprotocols": list(subprotocols),
    }
    return RequestHead(scope)


def answer(status: int = 200, *headers: tuple[str, str], body: bytes | None = None) -> AnswerHead:
    return AnswerHead(status, head_of(*headers), body)


def cookies(*values: str) -> Iterable[tuple[str, str]]:
    return [("cookie", value) for value in values]
