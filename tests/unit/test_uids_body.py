"""The sources of uids that look into the body of a request."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import InvalidArgumentError
from stateful_route.web import JsonBody, McpParam
from tests.unit.web_requests import JSON, post, request, websocket

if TYPE_CHECKING:
    from collections.abc import Callable


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


class TestJsonBody:
    """JsonBody, and pointers into JSON."""

    @pytest.mark.parametrize(
        ("pointer", "value", "found"),
        [
            ("/id", {"id": "7"}, "7"),
            ("/id", {"id": 7}, "7"),
            ("/id", {"id": -7}, "-7"),
            ("/a/b/c", {"a": {"b": {"c": "7"}}}, "7"),
            ("/a/1/c", {"a": [0, {"c": "7"}]}, "7"),
            ("/0", ["7"], "7"),
            ("/01", ["6", "7"], None),
            ("/-", ["7"], None),
            ("/1", ["7"], None),
            ("/99999999999", ["7"], None),
            ("/\u0661", ["6", "7"], None),
            ("/a~1b/c~0d", {"a/b": {"c~d": "7"}}, "7"),
            ("/~01", {"~1": "7"}, "7"),
            ("/", {"": "7"}, "7"),
            ("/id", {"id": True}, None),
            ("/id", {"id": None}, None),
            ("/id", {"id": 7.0}, None),
            ("/id", {"id": {}}, None),
            ("/id", {"id": ["7"]}, None),
            ("/id/x", {"id": "7"}, None),
            ("/id", "id", None),
            ("/id", None, None),
            ("/\u00e9", {"\u00e9": "\u00e9"}, "\u00e9"),
        ],
    )
    def test_find(self, pointer: str, value: Any, found: str | None) -> None:
        """A pointer leads to a string or a whole number, or to nothing."""
        assert found == JsonBody(pointer).find(post(json.dumps(value).encode()))

    @pytest.mark.parametrize("pointer", ["", "id", "/a~", "/a~2", "#/id", None, 7])
    def test_refused(self, pointer: Any) -> None:
        """What is no pointer is refused, and so is the whole text."""
        with pytest.raises(InvalidArgumentError, match="pointer is"):
            JsonBody(pointer)

    @pytest.mark.parametrize("limit", [0, 16 * 2**20 + 1, 1.5, None])
    def test_limit_is_checked(self, limit: Any) -> None:
        """A limit is 1 byte to 16 MiB."""
        with pytest.raises(InvalidArgumentError, match="limit is"):
            JsonBody("/id", limit=limit)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b'{"id": }',
            b"\xff\xfe\xff",
            b"\x00",
            b"\xef\xbb\xbf",
            nested(30_000),
            nested(10_000, b'{"id":', b"}"),
            b'{"id":' * 10_000,
            b'{"id":' + b"9" * 5000 + b"}",  # more digits than Python converts
            b'{"id": 1e999}',
            b'{"id": NaN}',
            b'{"id": "7"} x',
        ],
        ids=range(13),
    )
    def test_survives(self, body: bytes) -> None:
        """What is not JSON, too deep, or not readable has no id, and nothing raises."""
        assert JsonBody("/id").find(post(body)) is None

    @given(st.binary(max_size=100))
    def test_survives_anything(self, body: bytes) -> None:
        """No body raises."""
        found = JsonBody("/id").find(post(body))

        assert found is None or isinstance(found, str)

    def test_surrogates(self) -> None:
        """A lone surrogate is found as it is; it is hashed later."""
        assert JsonBody("/id").find(post(b'{"id": "\\ud800"}')) == "\ud800"

    @pytest.mark.parametrize(
        ("content_type", "is_found"),
        [
            ("application/json", True),
            ("Application/JSON; charset=utf-8", True),
            ("application/merge-patch+json", True),
            ("text/plain", False),
            ("application/jsonp", False),
            ("multipart/form-data; x=application/json", False),
        ],
    )
    def test_content_type(self, content_type: str, *, is_found: bool) -> None:
        """Only what says that it is JSON is looked at."""
        head = post(b'{"id": "7"}', ("content-type", content_type))

        assert is_found == (JsonBody("/id").find(head) == "7") == JsonBody("/id").wants_body(head)

    def test_limit(self) -> None:
        """In a body that is longer than the limit, or that was not read, nothing is found."""
        body = b'{"id": "7"}'

        assert JsonBody("/id", limit=len(body)).find(post(body)) == "7"
        assert JsonBody("/id", limit=len(body) - 1).find(post(body)) is None
        assert JsonBody("/id").find(request("/", JSON, method="POST")) is None

    def test_body_comes_later(self) -> None:
        """A body that is set later is read anew."""
        head = request("/", JSON, method="POST")
        assert head.json() is None
        head.body = b'{"id": 7}'

        assert head.json() == {"id": 7}
        assert head.json() is head.json()

    @pytest.mark.parametrize(
        ("method", "headers", "wants"),
        [
            ("POST", [JSON], True),
            ("PATCH", [JSON, ("content-length", "65536")], True),
            ("POST", [JSON, ("content-length", "65537")], True),
            ("POST", [JSON, ("content-length", "0")], False),
            ("POST", [JSON, ("content-length", "9" * 5000)], True),  # no length, so it is not known
            ("POST", [JSON, ("content-length", "-1")], True),
            ("POST", [JSON, ("content-length", b"\xb2")], True),
            ("GET", [JSON], False),
            ("HEAD", [JSON], False),
            ("POST", [], False),
        ],
    )
    def test_wants_body(self, method: str, headers: list[tuple[str, str]], *, wants: bool) -> None:
        """A body is asked for where the head allows for JSON, of whatever length: a longer one is refused."""
        assert wants == JsonBody("/id").wants_body(request("/", *headers, method=method))

    def test_websocket(self) -> None:
        """A WebSocket has no body."""
        assert not JsonBody("/id").wants_body(websocket())


def mcp_call(**arguments: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": "tools/call", "params": {"arguments": arguments}}).encode()


class TestMcpParam:
    """McpParam: a header of MCP, or the argument itself."""

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            ("br-7", "br-7"),
            ("=?base64?" + base64.b64encode("\u00e9".encode()).decode() + "?=", "\u00e9"),
            ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
            ("=?base64??=", ""),
            ("=?base64?", "=?base64?"),
            ("=?BASE64?YnI=?=", "=?BASE64?YnI=?="),
            ("=?base64?YnI?=", None),  # truncated
            ("=?base64?YnJ=?=", None),  # bits left over
            ("=?base64?Yn I=?=", None),
            ("=?base64?____?=", None),  # of the other alphabet
            ("=?base64?/w==?=", None),  # not UTF-8
            ("=?base64?\xe9?=", None),
        ],
    )
    def test_header(self, value: str, found: str | None) -> None:
        """The header says it plainly or in base64, and a wrong encoding is not looked for elsewhere."""
        head = post(mcp_call(browser="other"), JSON, ("Mcp-Param-Browser", value))

        assert found == McpParam("browser").find(head)
        assert not McpParam("browser").wants_body(head)

    def test_agrees_with_the_sdk(self) -> None:
        """What the official SDK encodes is read."""
        inbound = pytest.importorskip("mcp.shared.inbound")
        encode: Callable[[str], str] = inbound.encode_header_value
        for value in ["br-7", " padded ", "\u00e9\u4e16", "=?base64?x?=", "a\nb", ""]:
            head = request("/", ("mcp-param-id", encode(value)))

            assert value == McpParam("id").find(head)

    def test_body(self) -> None:
        """Without the header it is the argument in the body, which may have another name."""
        head = post(mcp_call(browser_id="br-7", n=8))

        assert McpParam("browser_id").wants_body(head)
        assert McpParam("browser_id").find(head) == "br-7"
        assert McpParam("Browser", argument="browser_id").find(head) == "br-7"
        assert McpParam("n").find(head) == "8"
        assert McpParam("N").find(head) is None
        assert McpParam("browser_id", limit=20).find(head) is None
        assert McpParam("browser_id").body_limit == 1024 * 1024

    @pytest.mark.parametrize("body", [b"[]", b'{"params": []}', b'{"params": {"arguments": "x"}}', b"null"])
    def test_other_bodies(self, body: bytes) -> None:
        """A body of another form has none."""
        assert McpParam("id").find(post(body)) is None

    def test_refused(self) -> None:
        """The name is one of a header, the argument a string."""
        with pytest.raises(InvalidArgumentError, match="name is"):
            McpParam("a b")
        with pytest.raises(InvalidArgumentError, match="argument is"):
            McpParam("a", argument=7)  # type: ignore[arg-type]
