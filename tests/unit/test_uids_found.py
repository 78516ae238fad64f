"""The list of sources: the first one that finds something wins, and a uid belongs to its principal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import ConfigError, InvalidArgumentError, web
from stateful_route._validation import check_id
from stateful_route.web import (
    Cookie,
    Function,
    Header,
    JsonBody,
    JsonResponse,
    McpParam,
    Path,
    Query,
    RequestHead,
    ResponseHeader,
    SignedCookie,
    Subprotocol,
)
from stateful_route.web.uids.found import UidSources
from tests.unit.web_requests import JSON, post, request, websocket

ISSUED = SignedCookie("sr", secrets=["s" * 32])
PATH, HEADER, QUERY = Path("/rooms/{uid}"), Header("x-room"), Query("room")


def uid_of(sources: UidSources, head: RequestHead) -> str | None:
    found = sources.find(head)
    return found.uid if found else None


class TestSettings:
    """What a list of sources is."""

    def test_one(self) -> None:
        """A single source is a list of one."""
        assert (PATH,) == UidSources(PATH).sources == UidSources([PATH]).sources

    def test_parts(self) -> None:
        """What learns and what issues is told apart, and so is what bodies are needed."""
        learns = ResponseHeader("x")
        sources = UidSources([PATH, learns, JsonBody("/id", limit=9), ISSUED], scope=JsonBody("/user", limit=10))

        assert ((learns,), ISSUED, 10, 0) == (
            sources.learned,
            sources.issued,
            sources.body_limit,
            sources.answer_limit,
        )
        assert UidSources(PATH).issued is None

    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            ([], 'allowed is a source of uids, .* for example uid=\\[Path\\("/rooms'),
            ((), "a source of uids"),
            (None, "a source of uids"),
            ("x-session-id", "a source of uids"),
            (7, "a source of uids"),
            ({PATH}, "a source of uids"),
            ([PATH, "x-session-id"], "only sources"),
            ([PATH, None], "only sources"),
            ([Header], "only sources"),
            ([lambda _head: "7"], "goes into Function"),
            ([ISSUED, PATH], "the SignedCookie as the last one"),
            ([ISSUED, ISSUED], "one SignedCookie at most"),
            ([JsonResponse("/id")], "another source that finds"),
        ],
    )
    def test_refused(self, sources: Any, message: str) -> None:
        """What is wrong with a list is an error at start that says what to do."""
        with pytest.raises(ConfigError, match=message):
            UidSources(sources)

    @pytest.mark.parametrize("scope", [ResponseHeader("x"), Header, 7, "x-user", [HEADER]])
    def test_scope_refused(self, scope: Any) -> None:
        """A scope finds principals, and does not learn them."""
        with pytest.raises(ConfigError, match="scope is"):
            UidSources(PATH, scope=scope)

    def test_coroutine(self) -> None:
        """A scope that would have to be awaited is refused."""

        async def scope(_head: RequestHead) -> str:
            return ""

        with pytest.raises(InvalidArgumentError, match="no coroutine"):
            UidSources(PATH, scope=scope)  # type: ignore[arg-type]

    def test_shows_itself(self) -> None:
        """The repr shows the sources, and no secret."""
        assert "x-room" in repr(UidSources([HEADER, ISSUED]))
        assert "s" * 32 not in repr(UidSources([HEADER, ISSUED], scope=ISSUED))


class TestFind:
    """Which uid a request is for."""

    def test_order(self) -> None:
        """The first source that finds something wins."""
        sources = UidSources([PATH, HEADER, QUERY])

        assert uid_of(sources, request("/rooms/1?room=3", ("x-room", "2"))) == "1"
        assert uid_of(sources, request("/?room=3", ("x-room", "2"))) == "2"
        assert uid_of(sources, request("/?room=3")) == "3"
        assert uid_of(sources, request("/")) is None

    def test_blank(self) -> None:
        """What is blank counts as not there."""
        sources = UidSources([HEADER, QUERY, Cookie("room")])

        assert uid_of(sources, request("/?room=+%09", ("x-room", "  "), ("cookie", "room=4"))) == "4"

    def test_source(self) -> None:
        """The source goes with the uid: it says what becomes of it."""
        found = UidSources([PATH, HEADER]).find(request("/", ("x-room", " e\u0301".encode().decode("latin-1"))))

        assert found is not None
        assert found.source is HEADER
        assert not found.stale

    def test_issued(self) -> None:
        """Our own cookie comes last, and tells whether it is stale."""
        old = SignedCookie("sr", secrets=["o" * 32])
        both = SignedCookie("sr", secrets=["s" * 32, "o" * 32])
        cookie = ("cookie", old.issue("abc").decode().partition(";")[0])
        found = UidSources([HEADER, both]).find(request("/", cookie))

        assert found is not None
        assert ("abc", both, True) == (found.uid, found.source, found.stale)
        assert uid_of(UidSources([HEADER, both]), request("/", cookie, ("x-room", "1"))) == "1"
        assert uid_of(UidSources([HEADER, ISSUED]), request("/", cookie)) is None

    def test_websocket(self) -> None:
        """A WebSocket is a request like another."""
        sources = UidSources([JsonBody("/id"), Subprotocol(prefix="room."), PATH])

        assert uid_of(sources, websocket("room.7", target="/rooms/8")) == "7"
        assert not sources.needs_body(websocket("room.7"))

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
    def test_always_an_id(self, text: str) -> None:
        """Whatever a path says, the drivers take what is found."""
        head = request("/")
        head.scope["path"] = f"/rooms/{text}"
        found = UidSources(PATH, scope=lambda _head: text or None).find(head)

        if found is not None:
            check_id("uid", found.uid)

    def test_errors_of_functions(self) -> None:
        """What a function raises goes on, in a list and in a scope."""

        def fails(_head: RequestHead) -> str:
            raise LookupError

        with pytest.raises(LookupError):
            UidSources(Function(fails)).find(request("/"))
        with pytest.raises(LookupError):
            UidSources(PATH, scope=fails).find(request("/rooms/7"))


class TestScope:
    """A uid belongs to its principal."""

    SOURCES = UidSources([PATH, ISSUED], scope=Header("x-user"))

    def test_principals(self) -> None:
        """The same id of two principals is two uids."""
        assert uid_of(self.SOURCES, request("/rooms/7", ("x-user", "alice"))) == "5:alice:7"
        assert uid_of(self.SOURCES, request("/rooms/7", ("x-user", "bob"))) == "3:bob:7"

    def test_shift(self) -> None:
        """Nothing can be shifted from the one into the other."""
        one = uid_of(self.SOURCES, request("/rooms/b:7", ("x-user", "a")))
        other = uid_of(self.SOURCES, request("/rooms/7", ("x-user", "a:b")))

        assert one != other

    @pytest.mark.parametrize("user", [[], [("x-user", "")], [("x-user", " ")]])
    def test_nobody(self, user: list[tuple[str, str]]) -> None:
        """Without a principal there is no uid, and nothing is within the scope."""
        assert self.SOURCES.find(request("/rooms/7", *user)) is None
        assert self.SOURCES.within_scope(request("/", *user), "7") is None

    def test_within_scope(self) -> None:
        """What was minted or issued becomes the uid that a later request finds."""
        alice = ("x-user", "alice")
        uid = ISSUED.new_uid()
        cookie = ("cookie", ISSUED.issue(uid).decode().partition(";")[0])

        assert self.SOURCES.within_scope(request("/", alice), uid) == uid_of(self.SOURCES, request("/", alice, cookie))
        assert UidSources(PATH).within_scope(request("/"), " 7 ") == "7"
        assert UidSources(PATH).within_scope(request("/"), " ") is None
        assert self.SOURCES.within_scope(request("/", alice), " ") is None

    def test_function(self) -> None:
        """A function may say who it is."""
        sources = UidSources(PATH, scope=lambda head: head.scope.get("user"))
        head = request("/rooms/7")
        head.scope["user"] = "alice"

        assert uid_of(sources, head) == "5:alice:7"


class TestNeedsBody:
    """Whether the body is read first."""

    def test_order(self) -> None:
        """A body is read only if nothing before it is found."""
        sources = UidSources([HEADER, JsonBody("/id"), QUERY])

        assert sources.needs_body(request("/?room=7", JSON, method="POST"))
        assert not sources.needs_body(request("/?room=7", JSON, ("x-room", "7"), method="POST"))
        assert not sources.needs_body(request("/?room=7", method="POST"))
        assert not sources.needs_body(request("/?room=7", JSON))
        assert not sources.needs_body(request("/"))
        assert not sources.needs_body(post(b"{}"))
        assert not UidSources(HEADER).needs_body(request("/", JSON, method="POST"))

    def test_header_instead(self) -> None:
        """A source that has it in a header does not need the body."""
        sources = UidSources(McpParam("id"))

        assert sources.needs_body(request("/", JSON, method="POST"))
        assert not sources.needs_body(request("/", JSON, ("mcp-param-id", "7"), method="POST"))

    def test_scope(self) -> None:
        """A principal in the body needs it whatever is found: of what is learned and minted as well."""
        sources = UidSources(HEADER, scope=JsonBody("/user"))

        assert sources.needs_body(request("/", JSON, ("x-room", "7"), method="POST"))
        assert sources.needs_body(request("/", JSON, method="POST"))
        assert not sources.needs_body(request("/", ("x-room", "7")))
        assert uid_of(sources, post(b'{"user": "alice"}', JSON, ("x-room", "7"))) == "5:alice:7"

    def test_longer_than_one(self) -> None:
        """A source finds nothing in a body that is longer than its own limit, where another one may."""
        sources = UidSources([JsonBody("/a", limit=5), JsonBody("/b", limit=50)])
        body = b'{"a": "1", "b": "2"}'

        assert sources.body_limit == 50
        assert uid_of(sources, post(body)) == "2"


def test_names() -> None:
    """The names of the sources are those of the subpackage, sorted."""
    assert sorted(web.__all__) == web.__all__
    assert all(hasattr(web, name) for name in web.__all__)


@pytest.mark.parametrize("root_path", ["", "/mounted"])
@pytest.mark.parametrize(
    "path", ["/rooms/a", "/rooms/a/b", "/rooms/", "/elsewhere", "/mounted/rooms/a", "/rooms/ a ", "/rooms/" + "a" * 999]
)
def test_what_is_remembered_of_a_path(path: str, root_path: str) -> None:
    """What is found in a path by heart is what is found by looking; where nothing is, one has to look."""
    sources = UidSources([Path("/rooms/{uid}"), Header("x-id")])
    scope = {"type": "http", "method": "GET", "path": path, "root_path": root_path, "headers": []}

    for _ in range(2):
        by_heart = sources.find_in_path(scope)
        assert by_heart is None or by_heart == sources.find(RequestHead(scope))


def test_nothing_is_remembered_where_more_counts_than_the_path() -> None:
    """With a principal, or another source in front, a path alone does not tell the uid."""
    scope = {"type": "http", "method": "GET", "path": "/rooms/a", "headers": [(b"x-id", b"b"), (b"x-user", b"u")]}
    scoped = UidSources(Path("/rooms/{uid}"), scope=Header("x-user"))
    second = UidSources([Header("x-id"), Path("/rooms/{uid}")])

    assert (None, None) == (scoped.find_in_path(scope), second.find_in_path(scope))


def test_two_kinds_of_uid() -> None:
    """The same id of two kinds is two uids, as their sources say by a prefix."""
    sources = UidSources([Path("/rooms/{uid}"), Path("/docs/{uid}", prefix="doc:")])

    assert ["7", "doc:7"] == [uid_of(sources, request(path)) for path in ("/rooms/7", "/docs/7")]
