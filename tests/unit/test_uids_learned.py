"""Ids that the application makes: when an answer teaches one, and when it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import InvalidArgumentError
from stateful_route.web import (
    AnswerHead,
    Header,
    JsonBody,
    JsonResponse,
    LearnedSource,
    Location,
    Path,
    Query,
    ResponseCookie,
    ResponseHeader,
)
from stateful_route.web.uids.found import UidSources
from tests.unit.web_requests import JSON, answer, post, request

SESSION = ResponseHeader("Mcp-Session-Id")


class TestSettings:
    """What all sources that learn have."""

    @pytest.mark.parametrize(
        "source", [SESSION, ResponseCookie("sid"), Location("/kernels/{uid}"), JsonResponse("/id")]
    )
    def test_defaults(self, source: LearnedSource) -> None:
        """An id that the application makes is found and never placed, and goes with its session."""
        is_cookie = isinstance(source, ResponseCookie)

        assert (False, 1800.0, 404) == (source.place, source.ttl, source.missing)
        assert source.release_on == (set() if is_cookie else {"delete", 404, 410})
        assert source.orphaned == ("fresh" if is_cookie else "refuse")

    def test_given(self) -> None:
        """All but that can be set."""
        source = ResponseHeader("x", ttl=None, missing=None, release_on=())

        assert (None, None, frozenset()) == (source.ttl, source.missing, source.release_on)
        with pytest.raises(TypeError, match="place"):
            ResponseHeader("x", place=True)  # type: ignore[call-arg]

    @pytest.mark.parametrize("settings", [{"ttl": 0}, {"missing": 302}, {"release_on": "delete"}])
    def test_refused(self, settings: dict[str, Any]) -> None:
        """What is out of range is refused by its name."""
        with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
            ResponseHeader("x", **settings)

    def test_own_source(self) -> None:
        """One that an application writes looks at the head, unless it says otherwise."""

        class Teapot(LearnedSource):
            def find(self, request: Any) -> None:
                return None

            def learn(self, request: Any, answer: AnswerHead) -> str | None:
                return "teapot" if answer.status == 418 else None

        assert not Teapot().wants_answer(request(), answer(418))
        assert Teapot().learn(request(), answer(418)) == "teapot"


class TestResponseHeader:
    """ResponseHeader."""

    def test_learns_and_finds(self) -> None:
        """It is learned from an answer, and found in requests."""
        assert SESSION.learn(request(), answer(200, ("mcp-session-id", " abc "))) == "abc"
        assert SESSION.learn(request(), answer(101, ("mcp-session-id", "abc"))) == "abc"
        assert SESSION.learn(request(), answer()) is None
        assert SESSION.find(request("/", ("MCP-Session-ID", "abc"))) == "abc"
        assert SESSION.find(request()) is None

    @pytest.mark.parametrize("status", [400, 404, 500])
    def test_refusal(self, status: int) -> None:
        """An answer that refuses makes nothing."""
        assert SESSION.learn(request(), answer(status, ("mcp-session-id", "abc"))) is None


class TestResponseCookie:
    """ResponseCookie, and the reading of Set-Cookie."""

    @pytest.mark.parametrize(
        ("values", "learned"),
        [
            (["sid=abc"], "abc"),
            (["sid=abc; Path=/; HttpOnly; Max-Age=3600; SameSite=Lax"], "abc"),
            (["other=1; Path=/", "sid=abc; Path=/"], "abc"),
            (['sid="a\\073b"; Path=/'], "a;b"),
            (["sid=a=b"], "a=b"),
            (["sid=old", "sid=new"], "new"),
            (["sid=old", "sid=; Max-Age=0"], None),
            (["sid=; Max-Age=0", "sid=new"], "new"),
            (["sid=; Path=/"], None),
            (['sid=""; Path=/'], None),
            (["sid=abc; Max-Age=0"], None),
            (["sid=abc; max-age = 0; Path=/"], None),
            (["sid=abc; Max-Age=00"], None),
            (["sid=abc; Max-Age=-1"], None),
            (["sid=abc; Max-Age=05"], "abc"),
            (["sid=abc; expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/"], None),
            (["sid=abc; Expires=Thu, 01-Jan-1970 00:00:00 GMT"], None),
            (["sid=abc; Expires=Thu, 01-Jan-70 00:00:00 GMT"], None),
            (["sid=abc; Expires=Fri, 31 Dec 1999 23:59:59 GMT; Max-Age=60"], "abc"),
            (["sid=abc; Expires=Wed, 01 Jan 2070 19:45:00 GMT"], "abc"),
            (["sid=abc; Expires=rubbish"], "abc"),
            (["sid"], None),
            (["=abc"], None),
            ([""], None),
            ([], None),
        ],
    )
    def test_learn(self, values: list[str], learned: str | None) -> None:
        """The last cookie of the name counts, and one that is dropped is none."""
        head = answer(200, *[("set-cookie", value) for value in values])

        assert learned == ResponseCookie("sid").learn(request(), head)

    def test_refusal(self) -> None:
        """An answer that refuses makes nothing."""
        assert ResponseCookie("sid").learn(request(), answer(403, ("set-cookie", "sid=abc"))) is None

    def test_find(self) -> None:
        """It is found in the cookies of requests."""
        assert ResponseCookie("sid").find(request("/", ("cookie", "a=1; sid=abc"))) == "abc"

    @given(st.lists(st.binary(max_size=60), max_size=4))
    def test_survives(self, values: list[bytes]) -> None:
        """Nothing in a Set-Cookie header raises."""
        head = AnswerHead(200, [(b"set-cookie", value) for value in values])

        assert all(head.cookies().values())


KERNEL = Location("/api/kernels/{uid}")


class TestLocation:
    """Location."""

    @pytest.mark.parametrize(
        ("location", "learned"),
        [
            ("/api/kernels/7", "7"),
            ("/api/kernels/7/channels", "7"),
            ("/api/kernels/7?token=x#y", "7"),
            ("https://app.example/api/kernels/7", "7"),
            ("//app.example/api/kernels/7", "7"),
            ("kernels/7", "7"),
            ("./kernels/7", "7"),
            ("../api/kernels/7", "7"),
            ("/api/kernels/a%20b", "a b"),
            ("/api/kernels/%C3%A9", "\u00e9"),
            ("/api/kernels/a%2Fb", "a"),
            ("/login", None),
            ("", None),
            ("http://[::1/api/kernels/7", None),  # no address
            ("https:", None),
        ],
    )
    @pytest.mark.parametrize("status", [201, 302, 303, 307])
    def test_learn(self, status: int, location: str, learned: str | None) -> None:
        """The path of the location counts, whole or in relation to the request."""
        made = KERNEL.learn(request("/api/start", method="POST"), answer(status, ("location", location)))

        assert learned == made

    @pytest.mark.parametrize("status", [200, 202, 400, 404, 500])
    def test_other_answers(self, status: int) -> None:
        """Only a creation and a redirection count."""
        assert KERNEL.learn(request("/start"), answer(status, ("location", "/api/kernels/7"))) is None
        assert KERNEL.learn(request("/start"), answer(201)) is None

    @pytest.mark.parametrize(
        ("referer", "learned"),
        [
            ("https://app.example/api/kernels/7", None),
            ("https://app.example/api/kernels/%37/x?a", None),
            ("https://app.example/api/kernels/77", "7"),
            ("https://app.example/", "7"),
            ("http://[", "7"),
        ],
    )
    def test_back_to_where_it_came_from(self, referer: str, learned: str | None) -> None:
        """To go back to the page that the client names makes nothing."""
        back = request("/like", ("referer", referer), method="POST")

        assert learned == KERNEL.learn(back, answer(303, ("location", "/api/kernels/7")))

    @pytest.mark.parametrize(
        ("target", "method"),
        [
            ("/login?next=/api/kernels/7", "POST"),
            ("/login?next=%2Fapi%2Fkernels%2F7", "POST"),
            ("/login?next=https%3A%2F%2Fapp.example%2Fapi%2Fkernels%2F7%2Fx", "GET"),
            ("/api/kernels/7/", "GET"),  # the slash at the end is taken away
            ("/old/api/kernels/7", "GET"),
            ("/old/api/kernels/7", "POST"),
            ("/k/7", "GET"),
            ("/k/7", "HEAD"),
        ],
    )
    def test_brought(self, target: str, method: str) -> None:
        """Where the request itself leads, nothing was made: garbage from outside makes no link."""
        head = request(target, method=method)

        assert UidSources(KERNEL).learn(head, answer(307, ("location", "/api/kernels/7"))) is None

    def test_made_below(self) -> None:
        """What a POST makes may be called like something in its path."""
        head = request("/users/7/kernels", method="POST")

        assert KERNEL.learn(head, answer(201, ("location", "/api/kernels/7"))) == "7"

    def test_mounted(self) -> None:
        """Paths are those within the application."""
        head = request("/root/api/kernels", method="POST", root_path="/root")

        assert KERNEL.learn(head, answer(201, ("location", "/root/api/kernels/7"))) == "7"
        assert KERNEL.learn(head, answer(201, ("location", "kernels/7"))) == "7"

    def test_odd_base(self) -> None:
        """A question mark in a path, as it is decoded, is not where a query begins."""
        head = request("/a%3Fb/start", method="POST")

        assert Location("/{folder}/kernels/{uid}").learn(head, answer(201, ("location", "kernels/7"))) == "7"

    def test_find(self) -> None:
        """It is found in the path of requests."""
        assert KERNEL.find(request("/api/kernels/7/channels")) == "7"
        assert KERNEL.find(request("/api")) is None

    @given(st.text(st.characters(max_codepoint=255), max_size=40))
    def test_survives(self, location: str) -> None:
        """No location raises."""
        made = KERNEL.learn(request("/a?b", method="POST"), answer(302, ("location", location)))

        assert made is None or made


class TestJsonResponse:
    """JsonResponse."""

    def test_learns_only(self) -> None:
        """It learns from a JSON answer, and finds nothing in requests."""
        source = JsonResponse("/data/id")
        body = json.dumps({"data": {"id": 7}}).encode()

        assert source.learn(post(b""), answer(201, JSON, body=body)) == "7"
        assert source.find(post(body)) is None
        assert source.answer_limit == 64 * 1024

    @pytest.mark.parametrize(
        ("status", "headers", "wants"),
        [
            (200, [JSON], True),
            (201, [("content-type", "application/hal+json; charset=utf-8")], True),
            (200, [JSON, ("content-length", "100")], True),
            (200, [JSON, ("content-length", "101")], False),
            (204, [JSON, ("content-length", "0")], False),
            (200, [JSON, ("content-encoding", "identity")], True),
            (200, [JSON, ("content-encoding", "gzip")], False),
            (200, [("content-type", "text/event-stream")], False),
            (200, [], False),
            (303, [JSON], False),
            (404, [JSON], False),
        ],
    )
    def test_wants_answer(self, status: int, headers: list[tuple[str, str]], *, wants: bool) -> None:
        """A body is held only where it can be JSON of a success that is short enough."""
        source = JsonResponse("/id", limit=100)
        body = b'{"id": "7"}'

        assert wants == source.wants_answer(request(method="POST"), answer(status, *headers))
        assert wants == (source.learn(request(method="POST"), answer(status, *headers, body=body)) == "7")

    @pytest.mark.parametrize(
        ("source", "method", "path", "wants"),
        [
            (JsonResponse("/id"), "GET", "/", False),
            (JsonResponse("/id"), "PUT", "/anything", True),
            (JsonResponse("/id", path="/sessions"), "POST", "/orders", False),
            (JsonResponse("/id", path="/sessions"), "POST", "/sessions-old", False),
            (JsonResponse("/id", path="/sessions"), "GET", "/sessions", True),
            (JsonResponse("/id", path="/sessions/"), "POST", "/sessions/new", True),
        ],
    )
    def test_who_makes_an_id(self, source: JsonResponse, method: str, path: str, *, wants: bool) -> None:
        """An id is made by a request that may change something, or at the path that is named."""
        assert wants == source.wants_answer(request(path, method=method), answer(200, JSON))

    def test_head_has_no_body(self) -> None:
        """The answer to a HEAD says what a body would be, and has none."""
        assert not JsonResponse("/id").wants_answer(request(method="HEAD"), answer(200, JSON))

    @pytest.mark.parametrize("body", [None, b"", b"{", b"[" * 50_000, b'{"id": "' + b"x" * 70_000 + b'"}'])
    def test_nothing(self, body: bytes | None) -> None:
        """A body that was not kept, is too long, or cannot be read teaches nothing."""
        assert JsonResponse("/id").learn(request(method="POST"), answer(200, JSON, body=body)) is None

    def test_shows_itself(self) -> None:
        """An answer shows its status, and not what is in it."""
        assert repr(answer(201, JSON, body=b"hunter2")) == "<AnswerHead: 201>"


class TestBrought:
    """What a request brought is not learned."""

    def test_echo(self) -> None:
        """An application that echoes what it is sent makes no link for garbage."""
        sources = UidSources([SESSION, ResponseCookie("sid"), Query("id", place=False)])
        garbage = request("/?id=g3", ("mcp-session-id", "g1"), ("cookie", "sid=g2"))

        for echo in ["g1", "g2", "g3", " g1 "]:
            assert sources.learn(garbage, answer(200, ("mcp-session-id", echo))) is None
        new = sources.learn(garbage, answer(200, ("mcp-session-id", "new")))
        assert new is not None
        assert (new.uid, new.source) == ("new", SESSION)

    def test_echo_in_json(self) -> None:
        """It holds for bodies as well."""
        sources = UidSources([JsonResponse("/pc_id"), JsonBody("/pc_id", place=False, missing=404)])
        echo = answer(200, JSON, body=b'{"pc_id": "g1"}')

        assert sources.learn(post(b'{"pc_id": "g1"}'), echo) is None
        made = sources.learn(post(b'{"pc_id": "old"}'), echo)
        assert made is not None
        assert made.uid == "g1"

    def test_the_next_one_is_asked(self) -> None:
        """Behind one that was brought, the next source may teach something."""
        sources = UidSources([SESSION, JsonResponse("/id"), Path("/x/{uid}")])
        head = request("/", ("mcp-session-id", "g1"), method="POST")
        headers = [JSON, ("mcp-session-id", "g1")]

        assert sources.needs_answer(head, answer(200, *headers))
        made = sources.learn(head, answer(200, *headers, body=b'{"id": "7"}'))
        assert made is not None
        assert made.uid == "7"


def test_needs_answer() -> None:
    """A body is held only if no source before says the id, and until it is there."""
    sources = UidSources([SESSION, JsonResponse("/id", limit=10), JsonResponse("/x", limit=20), Header("id")])

    assert sources.answer_limit == 20
    assert sources.needs_answer(request(method="POST"), answer(200, JSON))
    assert not sources.needs_answer(request(method="POST"), answer(200, JSON, body=b""))
    assert not sources.needs_answer(request(method="POST"), answer(200, JSON, ("mcp-session-id", "abc")))
    assert not sources.needs_answer(request(method="POST"), answer(404, JSON))
    assert not UidSources(SESSION).needs_answer(request(method="POST"), answer(200, JSON))


def test_learned_in_scope() -> None:
    """What is learned belongs to the principal of the request; without one nothing is learned."""
    sources = UidSources(SESSION, scope=Header("x-user"))
    made = answer(200, ("mcp-session-id", "abc"))
    found = sources.learn(request("/", ("x-user", "alice")), made)

    assert found is not None
    assert found.uid == "5:alice:abc"
    assert sources.learn(request(method="POST"), made) is None
    assert found == sources.find(request("/", ("x-user", "alice"), ("mcp-session-id", "abc")))
    assert found != sources.find(request("/", ("x-user", "mallory"), ("mcp-session-id", "abc")))
