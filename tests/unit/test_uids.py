"""The sources of uids that look at a request: what they find, what they refuse to be, what they survive."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import ConfigError, InvalidArgumentError
from stateful_route.web import (
    Cookie,
    Function,
    Header,
    Query,
    RequestHead,
    Subprotocol,
    UidSource,
)
from tests.unit.web_requests import cookies, post, request, websocket


class TestSettings:
    """What all sources have."""

    def test_defaults(self) -> None:
        """Ids that a client makes are placed, and end once they are idle; others end by the app that made them."""
        source = Header("x-session-id")

        assert (True, None, frozenset()) == (source.place, source.missing, source.release_on)
        assert 1800.0 == source.idle_ttl(1800.0)
        assert [None, None] == [Header("x", place=False).idle_ttl(1800.0), Header("x", ttl=None).idle_ttl(1800.0)]
        assert 30 == Header("x", ttl=30).idle_ttl(1800.0)
        assert source.body_limit == 0

    def test_given(self) -> None:
        """What is given is kept, and a list of ends is a set."""
        source = Query("sid", place=False, ttl=30, missing=410, release_on=["delete", 404])

        assert (False, 30, 410) == (source.place, source.ttl, source.missing)
        assert frozenset({"delete", 404}) == source.release_on
        assert hash(source) == hash(attrs.evolve(source))

    @pytest.mark.parametrize(
        ("settings", "argument"),
        [
            ({"place": 1}, "place"),
            ({"orphaned": None}, "orphaned"),
            ({"ttl": "never"}, "ttl"),
            ({"ttl": 0}, "ttl"),
            ({"ttl": -1.0}, "ttl"),
            ({"ttl": float("nan")}, "ttl"),
            ({"missing": 200, "place": False}, "missing"),
            ({"missing": 600, "place": False}, "missing"),
            ({"missing": True, "place": False}, "missing"),
            ({"release_on": "delete"}, "release_on"),
            ({"release_on": 404}, "release_on"),
            ({"release_on": [403]}, "release_on"),
            ({"release_on": [404.0]}, "release_on"),
            ({"release_on": ["DELETE"]}, "release_on"),
            ({"release_on": [[]]}, "release_on"),
        ],
    )
    def test_refused(self, settings: dict[str, Any], argument: str) -> None:
        """What is out of range is refused by its name."""
        with pytest.raises(InvalidArgumentError) as caught:
            Header("x", **settings)

        assert argument == caught.value.argument

    def test_contradiction(self) -> None:
        """A uid that is placed is never missing."""
        with pytest.raises(ConfigError, match="missing is 404; allowed is None with place=True"):
            Header("x", missing=404)

    def test_own_source(self) -> None:
        """An application may write a source of its own."""

        class Host(UidSource):
            def find(self, request: RequestHead) -> str | None:
                return request.header(b"host")

        assert Host(ttl=5).find(request("/", ("Host", "a.example"))) == "a.example"


class TestHeader:
    """Header and the reading of headers."""

    @pytest.mark.parametrize(
        ("headers", "found"),
        [
            ([("X-Session-Id", "abc")], "abc"),
            ([("x-session-id", "  abc ")], "abc"),
            ([("x-session-id", "first"), ("x-session-id", "second")], "first"),
            ([("x-session-id", b"\xe9\xff")], "\u00e9\u00ff"),
            ([("x-session-id", "")], ""),
            ([("x-session-ids", "abc")], None),
            ([], None),
        ],
    )
    def test_find(self, headers: list[tuple[str, str]], found: str | None) -> None:
        """The first header of the name counts, as latin-1, in whatever case the source names it."""
        assert found == Header("X-Session-ID").find(request("/", *headers))

    @pytest.mark.parametrize("name", ["", "x y", "x:", "x\r\nevil", "\u00e9", b"x", None, 1])
    def test_refused(self, name: Any) -> None:
        """The name of a header is a token."""
        with pytest.raises(InvalidArgumentError, match="name is"):
            Header(name)


class TestCookie:
    """Cookie, and the reading of what browsers and others send."""

    @pytest.mark.parametrize(
        ("headers", "found"),
        [
            (["sid=abc"], "abc"),
            (["a=1; sid=abc; b=2"], "abc"),
            (["a=1;sid=abc;b=2"], "abc"),
            (["a=1", "sid=abc"], "abc"),  # HTTP/2 splits them
            (["sid=first; sid=second"], "second"),
            (["sid=first", "sid=second"], "second"),
            (["sid=a=b=c"], "a=b=c"),
            (["sid = abc "], "abc"),
            (['sid="abc"'], "abc"),
            (['sid="a\\"b\\\\c\\073d"'], 'a"b\\c;d'),
            (['sid="'], '"'),
            (['sid=""'], ""),
            (['sid="abc'], '"abc'),
            (["sid=\xe9"], "\xe9"),
            (["sid"], None),
            (["=abc; sid"], None),
            (["; ;;= ;=; sid=abc"], "abc"),
            (["SID=abc"], None),
            (["Xsid=abc; sidX=abc"], None),
            (["$Version=1; sid=abc; $Path=/"], "abc"),
            (["a={}[]:,@<>; sid=abc"], "abc"),
            (["a=\x00\x01; sid=abc"], "abc"),
            (["sid="], ""),
            ([""], None),
            ([], None),
        ],
    )
    def test_find(self, headers: list[str], found: str | None) -> None:
        """What is no cookie hides no other, and the last one of a name counts, as Starlette and Django read it."""
        assert found == Cookie("sid").find(request("/", *cookies(*headers)))

    @given(st.lists(st.binary(max_size=60), max_size=4))
    def test_survives(self, headers: list[bytes]) -> None:
        """Nothing in a Cookie header raises."""
        head = request("/", *[("cookie", header) for header in headers])

        assert all(isinstance(value, str) and name for name, value in head.cookies().items())

    @given(st.text(st.characters(max_codepoint=255), max_size=30))
    def test_quotes(self, value: str) -> None:
        """What is quoted as cookies are comes back."""
        quoted = "".join(f"\\{ord(char):03o}" if char in ';,\\"' or not char.isprintable() else char for char in value)

        assert value == Cookie("sid").find(request("/", ("cookie", f'sid="{quoted}"')))

    def test_is_parsed_once(self) -> None:
        """Several sources share one reading."""
        head = request("/", ("cookie", "a=1"))

        assert head.cookies() is head.cookies()


class TestQuery:
    """Query, and the decoding of parameters."""

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("sid=abc", "abc"),
            ("a=1&sid=abc&b", "abc"),
            ("sid=first&sid=last", "last"),
            ("sid=a%20b+c", "a b c"),
            ("s%69d=abc", "abc"),
            ("sid=%C3%A9", "\u00e9"),
            ("sid=%FF", "\ufffd"),
            ("sid=%zz%", "%zz%"),
            ("sid=a=b", "a=b"),
            ("sid", ""),
            ("&&=&sid=abc", "abc"),
            ("a;sid=abc", None),
            ("", None),
        ],
    )
    def test_find(self, query: str, found: str | None) -> None:
        """A parameter is decoded as the application decodes it."""
        assert found == Query("sid").find(request(f"/?{query}"))

    @given(st.binary(max_size=60))
    def test_survives(self, query: bytes) -> None:
        """Nothing in a query raises."""
        head = RequestHead({"type": "http", "path": "/", "query_string": query, "headers": []})

        assert head.query("sid") is None or isinstance(head.query("sid"), str)

    def test_absent(self) -> None:
        """A server may leave the query out."""
        assert Query("sid").find(RequestHead({"type": "websocket", "path": "/", "headers": []})) is None

    @pytest.mark.parametrize("name", ["", None, 1])
    def test_refused(self, name: Any) -> None:
        """A parameter has a name."""
        with pytest.raises(InvalidArgumentError, match="name is"):
            Query(name)


class TestSubprotocol:
    """Subprotocol, as Streamlit uses it."""

    @pytest.mark.parametrize(
        ("source", "asked", "found"),
        [
            (Subprotocol(index=2), ["streamlit", "xsrf", "session"], "session"),
            (Subprotocol(index=2), ["streamlit", "xsrf"], None),
            (Subprotocol(index=0), [], None),
            (Subprotocol(prefix="sid."), ["chat", "sid.7", "sid.8"], "7"),
            (Subprotocol(prefix="sid."), ["chat"], None),
            (Subprotocol(prefix="sid."), ["sid."], ""),
        ],
    )
    def test_find(self, source: Subprotocol, asked: list[str], found: str | None) -> None:
        """A subprotocol counts by its place, or by how it begins."""
        assert found == source.find(websocket(*asked))

    def test_http(self) -> None:
        """A request that is no WebSocket has none."""
        assert Subprotocol(index=0).find(request("/")) is None

    @pytest.mark.parametrize("settings", [{}, {"index": 0, "prefix": "a"}])
    def test_one_of_both(self, settings: dict[str, Any]) -> None:
        """It is one or the other."""
        with pytest.raises(ConfigError, match="either index"):
            Subprotocol(**settings)

    @pytest.mark.parametrize("settings", [{"index": -1}, {"index": True}, {"prefix": ""}, {"prefix": "a b"}])
    def test_refused(self, settings: dict[str, Any]) -> None:
        """What is no place and no beginning is refused."""
        with pytest.raises(InvalidArgumentError):
            Subprotocol(**settings)


class TestFunction:
    """Function."""

    def test_find(self) -> None:
        """What the function returns is the id."""
        assert Function(lambda head: head.header(b"x")).find(request("/", ("x", "7"))) == "7"
        assert Function(lambda head: head.header(b"x")).find(request("/")) is None

    def test_raises(self) -> None:
        """What the function raises goes on."""
        with pytest.raises(ZeroDivisionError):
            Function(lambda _head: str(1 // 0)).find(request("/"))

    def test_wrong_type(self) -> None:
        """What is neither a string nor None is told with the name of the function."""

        def user(_head: RequestHead) -> Any:
            return 7

        with pytest.raises(InvalidArgumentError, match=r"user.* returned is 7; allowed is a string"):
            Function(user).find(request("/"))

    def test_refused(self) -> None:
        """What would have to be awaited, and what cannot be called, is refused."""

        async def find(_head: RequestHead) -> str:
            return ""

        class Finder:
            async def __call__(self, _head: RequestHead) -> str:
                return ""

        refused: list[Any] = [find, Finder(), None, "x"]
        for function in refused:
            with pytest.raises(InvalidArgumentError, match="function is"):
                Function(function)

    def test_body(self) -> None:
        """One that looks at the body says how much of it."""
        source = Function(lambda head: (head.json() or {}).get("key"), limit=100)

        assert source.body_limit == 100
        assert source.wants_body(request("/", method="POST"))
        assert source.wants_body(request("/", ("content-length", "100"), method="POST"))
        assert not source.wants_body(request("/", ("content-length", "101"), method="POST"))
        assert source.find(post(b'{"key": "7"}')) == "7"


def test_heads_show_themselves() -> None:
    """A request says which one it is, and no more of what is in it."""
    head = request("/rooms/7?token=hunter2", ("authorization", "hunter2"))

    assert repr(head) == "<RequestHead: GET '/rooms/7'>"
