"""Ids that the decider issues, and those that apps make, behind a proxy."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.web.clients import ask
from tests.web.proxies.fronts import Front, front_of
from tests.web.replicas import Replicas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer

COOKIE = "signed-cookie:sr,secure=no"
MADE = (
    "response-header:x-session,location:/made/{uid},json-response:/id,json-body:/id,place=no,missing=404,"
    "query:id,place=no,missing=404,release_on=delete+404"
)


@pytest.fixture(scope="module")
def cookies(
    way: tuple[str, str], shared_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Run a front of an app whose clients are given their ids."""
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("cookies")) as own:
        yield front_of(own, *way, app="tests.web.apps:cookies", uid=COOKIE)


@pytest.fixture(scope="module")
def made(way: tuple[str, str], shared_server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Run a front of an app that makes its ids."""
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("made")) as own:
        yield front_of(own, *way, app="tests.web.apps:sessions", uid=MADE)


async def test_a_client_is_given_an_id_once(cookies: Front) -> None:
    """A client without an id gets one cookie, is served by its owner at once, and then always, with no other cookie."""
    for _ in range(6):
        first = await ask(cookies.port, "/count", "POST", b"x", [("Cookie", "a=1; b=2")])
        given = first.all("set-cookie")
        assert (200, 1) == (first.status, len(given)), first
        brought = f"a=1; {given[0].partition(';')[0]}; b=2"
        later = [await ask(cookies.port, "/count", headers=[("Cookie", brought)]) for _ in range(3)]

        assert [first.json()["pid"]] * 3 == [answer.json()["pid"] for answer in later]
        assert [2, 3, 4] == [answer.json()["count"] for answer in later]
        assert [] == [value for answer in later for value in answer.all("set-cookie")]
        assert given[0].startswith(f"sr={first.json()['uid']}.")


async def test_the_cookies_of_a_client_reach_the_app(cookies: Front) -> None:
    """What a client has sent as cookies is what the app gets, and with it the id that was given just now."""
    seen = await ask(cookies.port, "/scope", headers=[("Cookie", "a=1; b=2")])

    (own,) = [value for name, value in seen.json()["headers"] if name == "cookie"]
    assert "a=1; b=2" in own
    given = [value.partition(";")[0] for value in seen.all("set-cookie")]
    assert any(value in own for value in given) or cookies.decide is None
    assert {"a=1", "b=2"} <= set(given)  # of the app, which sets cookies of its own


@pytest.mark.parametrize("kind", ["header", "location", "json"])
async def test_ids_that_the_app_makes(made: Front, kind: str) -> None:
    """An id that the app has made is found again at the pod that made it, wherever a proxy would send it."""
    for _ in range(6):
        answer = await ask(made.port, f"/new/{kind}", "POST", b"")
        assert answer.status in {200, 201}, answer
        maker = answer.json()["pid"]
        if kind == "header":
            target, headers = "/use", [("X-Session", answer.header("x-session") or "")]
        elif kind == "location":
            target, headers = answer.header("location") or "", []
        else:
            target, headers = f"/use?id={answer.json()['id']}", []
        later = [await ask(made.port, target, headers=headers) for _ in range(3)]

        assert [(200, maker, True)] * 3 == [(one.status, one.json()["pid"], one.json()["known"]) for one in later]


async def test_an_id_in_a_body(made: Front) -> None:
    """An id in the body of a request, which a proxy does not show to who decides, is found by the pods."""
    uid = (await ask(made.port, "/mint", "POST", b"")).json()
    body = f'{{"id": "{uid["uid"]}"}}'.encode()
    headers = [("Content-Type", "application/json")]
    later = [await ask(made.port, "/use", "POST", body, headers) for _ in range(4)]

    assert [uid["pid"]] * 4 == [answer.json()["pid"] for answer in later]


async def test_an_unknown_id(made: Front) -> None:
    """An id that nobody has made gets the status of its source, also as a POST."""
    answers = [await ask(made.port, f"/use?id=s-{number}", "POST", b"x" * 1000) for number in range(3)]

    assert [404] * 3 == [answer.status for answer in answers]
