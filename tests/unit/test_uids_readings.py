"""Whether everybody reads the same uid in a request."""

from __future__ import annotations

import pytest

from stateful_route.web import Cookie, Header, Path, Query
from stateful_route.web.uids.found import UidSources
from stateful_route.web.uids.readings import is_plain, reads_alike
from tests.unit.web_requests import request

SOURCES = UidSources([Path("/rooms/{uid}"), Query("id"), Cookie("sid"), Header("x-id")])


def is_alike(target: str, *headers: tuple[str, str], by_envoy: bool = False) -> bool:
    head = request(target, *headers)
    head.scope["raw_path"] = target.partition("?")[0].encode("latin-1")
    return reads_alike(SOURCES, head, SOURCES.find(head), by_envoy=by_envoy)


@pytest.mark.parametrize(
    "target",
    [
        "/rooms/a#z",
        "/x?id=a#z",
        "/rooms/a\x01",
        "/rooms/a%2fb",
        "/rooms/a;b",
        "//rooms/a",
        "/rooms//a",
        "/x/../rooms/a",
        "/rooms/a/%2E%2e/b",
        "/rooms/a/..;/b",
        "/rooms/a%5Cb",
        "/rooms/\xe9",
        "//rooms/a?id=b",
        "/./rooms/a?id=b",
        "/x?id=a&id=b",
        "/x?id=a&%69d=b",
        "/x?id=a;id=b",
        "/x?t=1;id=b",
        "/x?id=\xe9",
    ],
)
def test_refused_targets(target: str) -> None:
    """A target in which somebody else may read another uid, or one where we read none, is not read alike."""
    assert not is_alike(target)


@pytest.mark.parametrize(
    "target",
    [
        "/rooms/a",
        "/rooms/%61/",
        "/rooms/a//b",
        "/rooms/a/x/../y",
        "/rooms/a/x%2Fy;z",
        "/rooms/a?x=1&x=2",
        "/x",
        "*",
        "//x/..;/y?id=a",
        "/x/\xe9?id=a",
        "/x?id=a&id=a",
        "/x?t=\xe9;&id=a",
        "/rooms/a?id=b&id=c",
        "/x?id=a&t=%2e",
    ],
)
def test_odd_targets(target: str) -> None:
    """What is odd, and changes no uid, is read alike: an app may want it."""
    assert is_alike(target)


@pytest.mark.parametrize(
    ("headers", "alike"),
    [
        ([("cookie", "sid=a; sid=b")], False),
        ([("cookie", "sid=a"), ("cookie", "sid =b")], False),
        ([("cookie", "x=1; x=2; sid=a")], True),
        ([("cookie", "sid=a; sid=a")], True),
        ([("x-id", "a"), ("x-id", "b")], False),
        ([("x-id", "a,b")], False),
        ([("x-id", "a" * 300 + ",b")], False),
        ([("x-id", "a"), ("accept", "x, y"), ("accept", "z")], True),
    ],
)
def test_headers(headers: list[tuple[str, str]], *, alike: bool) -> None:
    """A header or a cookie of the uid that says two things is not read alike; others may."""
    assert alike == is_alike("/x", *headers)


def test_envoy() -> None:
    """Envoy asks with ``!`` for what is not UTF-8: behind it that may be anything."""
    assert is_alike("/x", ("x-id", "a!"))
    assert not is_alike("/x", ("x-id", "a!"), by_envoy=True)


def test_plain() -> None:
    """Most targets are plain, and cost no second look."""
    assert is_plain(b"/rooms/a%20b/x.y?z=1,2")
    assert not any(is_plain(odd) for odd in (b"/a#b", b"/a b", b"//a", b"/.a", b"/a%2Fb", b"/a%2Eb", b"/a;b", b"/\xff"))
