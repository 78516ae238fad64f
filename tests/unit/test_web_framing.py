"""Whether a request says two things of its length."""

from __future__ import annotations

import pytest

from stateful_route.web.framing import is_ambiguous, seems_ambiguous

LENGTH, CODING = b"content-length", b"transfer-encoding"
OTHER = (b"host", b"tests"), (b"x-content-length", b"9"), (b"accept", b"*/*")

ONE = [
    [],
    [(LENGTH, b"5")],
    [(LENGTH, b"5"), (LENGTH, b"5")],
    [(LENGTH, b"5, 5")],
    [(CODING, b"chunked")],
    [(CODING, b"gzip"), (CODING, b"chunked")],
]
TWO = [
    [(LENGTH, b"5"), (CODING, b"chunked")],
    [(CODING, b"identity"), (LENGTH, b"0")],
    [(LENGTH, b"5"), (LENGTH, b"5"), (CODING, b"chunked")],
    [(LENGTH, b""), (CODING, b"")],
    [(LENGTH, b"5"), (LENGTH, b"6")],
    [(LENGTH, b"5"), (LENGTH, b"05")],
    [(LENGTH, b"5,6"), (LENGTH, b"5,6")],
]


@pytest.mark.parametrize("headers", ONE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_one_thing(headers: list[tuple[bytes, bytes]], method: str) -> None:
    """What says one thing of its length, or nothing, or the same twice, is not ambiguous."""
    mixed = [*OTHER, *headers, *OTHER]

    assert (False, False) == (is_ambiguous(mixed), seems_ambiguous({"method": method, "headers": mixed}))


@pytest.mark.parametrize("headers", TWO)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", None])
def test_two_things(headers: list[tuple[bytes, bytes]], method: str | None) -> None:
    """What says two things is ambiguous; at a brief look that of a GET is not seen if there is no coding."""
    mixed = [*OTHER, *headers, *OTHER]
    scope = {"headers": mixed} | ({} if method is None else {"method": method})
    seen = method in {"POST", "PUT", None} or any(name == CODING for name, _ in headers)

    assert (True, seen) == (is_ambiguous(mixed), seems_ambiguous(scope))
