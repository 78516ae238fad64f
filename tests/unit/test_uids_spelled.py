"""Sources of uids as they are spelled on a command line."""

from __future__ import annotations

import pytest

from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.web import (
    Cookie,
    Header,
    JsonBody,
    JsonResponse,
    Location,
    McpParam,
    Path,
    Query,
    ResponseCookie,
    ResponseHeader,
    SignedCookie,
    Subprotocol,
)
from stateful_route.web.uids.spelled import sources_from

SECRET = "s" * 16
SPELLED = {
    "header:X-Session-Id": Header("x-session-id"),
    "cookie:sid": Cookie("sid"),
    "query:session_hash": Query("session_hash"),
    "query:a=b": Query("a=b"),
    "path:/rooms/{uid}": Path("/rooms/{uid}"),
    "subprotocol:2": Subprotocol(index=2),
    "subprotocol:room-": Subprotocol(prefix="room-"),
    "json-body:/params/id,limit=100": JsonBody("/params/id", limit=100),
    "mcp-param:Browser": McpParam("Browser"),
    "response-header:mcp-session-id,ttl=1800,missing=404": ResponseHeader("mcp-session-id", ttl=1800.0, missing=404),
    "response-cookie:sid": ResponseCookie("sid"),
    "location:/games/{uid},release_on=delete+410": Location("/games/{uid}", release_on=["delete", 410]),
    "json-response:/id": JsonResponse("/id"),
    "signed-cookie:sr,secure=no,max_age=60": SignedCookie("sr", secrets=[SECRET], secure=False, max_age=60),
    "header:x,place=no,missing=410": Header("x", place=False, missing=410),
}


@pytest.mark.parametrize("text", SPELLED)
def test_each_kind(text: str) -> None:
    """Each kind of source can be spelled, with its options."""
    assert [SPELLED[text]] == sources_from(text, cookie_secrets=[SECRET])


def test_in_order() -> None:
    """Several sources keep their order, and an option belongs to the source before it."""
    assert [Query("session_hash"), Cookie("sid", ttl=60.0), Header("x")] == sources_from(
        "query:session_hash,cookie:sid,ttl=60,header:x"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "KIND:WHERE"),
        ("sid", "KIND:WHERE"),
        ("cookie:", "KIND:WHERE"),
        ("cookies:sid", "KIND:WHERE"),
        ("cookie:sid,", "KIND:WHERE"),
        ("ttl=5", "KIND:WHERE"),
        ("cookie:sid,ttl=soon", "seconds"),
        ("cookie:sid,place=maybe", "yes or no"),
        ("cookie:sid,secure=yes", "options of that kind"),
        ("cookie:sid,missing=404", "place=True"),
        ("signed-cookie:sr", "16 bytes"),
    ],
)
def test_refused(text: str, says: str) -> None:
    """What names no source is refused, and the error says what is allowed."""
    with pytest.raises((ConfigError, InvalidArgumentError), match=says):
        sources_from(text)
