"""What an app behind this process is told in the head of a request, and what a client is told of its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.upstream import OK, Call, answers, app_that

if TYPE_CHECKING:
    from tests.web.upstream import Line

pytest.importorskip("httptools")


async def told(call: Call) -> tuple[bytes, list[bytes]]:
    """Return the first line that the app has got, and the header lines."""
    heads: list[bytes] = []

    async def talk(line: Line) -> None:
        heads.append(await line.head())
        await line.say(OK)
        assert b"" == await line.ended()

    async with app_that(talk) as app:
        assert 200 == (await call.run(app)).status
    assert 1 == len(heads)
    first, *lines = heads[0].split(b"\r\n")
    return first, lines[:-2]


async def test_plain() -> None:
    """A request goes on as it came: method, target as it was spelled, and its headers in their order."""
    headers = [("host", "example.com:8443"), ("x-a", "1"), ("cookie", "a=b"), ("x-a", "2"), ("x-b", "\xe4")]
    call = Call("DELETE", "/a/b", headers, raw_path=b"/a%2Fb/%C3%A4", query_string=b"q=%20+&r")
    call.give(b"", more=False)
    first, lines = await told(call)

    assert b"DELETE /a%2Fb/%C3%A4?q=%20+&r HTTP/1.1" == first
    assert [
        b"host: example.com:8443",
        b"x-a: 1",
        b"cookie: a=b",
        b"x-a: 2",
        b"x-b: \xe4",
        b"x-forwarded-proto: https",
        b"x-forwarded-for: 192.0.2.7",
    ] == lines


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ({"raw_path": None, "path": "/ä b?c"}, b"/%C3%A4%20b%3Fc"),
        ({"raw_path": b"", "path": ""}, b"/"),
        ({"raw_path": b"*", "path": "*"}, b"*"),
        ({"raw_path": b"//x/..//y", "path": "//x/..//y"}, b"//x/..//y"),
    ],
)
async def test_targets(scope: dict[str, Any], target: bytes) -> None:
    """A path that the web server gives in another way is spelled as a path again, and nothing is normalised."""
    first, _ = await told(Call(**scope))

    assert b"GET %b HTTP/1.1" % target == first


async def test_what_is_of_the_connection() -> None:
    """What is of the client's connection stays there, also what it names itself; what all need cannot be named away."""
    headers = [
        ("host", "a"),
        ("connection", "close, x-own, host, content-length, cookie, x-link-epoch, x-pod-index"),
        ("x-pod-index", "1"),
        ("x-link-epoch", "2"),
        ("connection", "X-Other"),
        ("x-own", "1"),
        ("x-other", "1"),
        ("x-kept", "1"),
        ("cookie", "c"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "h2c"),
        ("expect", "100-continue"),
        ("content-length", "0"),
    ]
    _, lines = await told(Call(headers=headers))

    assert {*(b"host: a", b"x-kept: 1", b"cookie: c", b"content-length: 0", b"x-pod-index: 1", b"x-link-epoch: 2")} == {
        line for line in lines if not line.startswith(b"x-forwarded")
    }


async def test_forwarded() -> None:
    """What a client says of its address is not believed: the web server knows what it has of a trusted proxy.

    Nor is what an app takes for the same: behind WSGI or CGI an underscore is a hyphen.
    """
    headers = [
        ("host", "a"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "gopher"),
        ("forwarded", "for=127.0.0.1"),
        ("x_forwarded_for", "127.0.0.1"),
        ("x-forwarded_proto", "gopher"),
        ("transfer_encoding", "chunked"),
        ("content_length", "5"),
    ]
    _, lines = await told(Call(headers=headers))
    _, unix = await told(Call(headers=headers, client=None, scheme="http"))

    assert [b"host: a", b"x-forwarded-proto: https", b"x-forwarded-for: 192.0.2.7"] == lines
    assert [b"host: a", b"x-forwarded-proto: http"] == unix


async def test_no_host() -> None:
    """A request of HTTP/1.0 without a host goes on with one, as 1.1 has to have it."""
    _, lines = await told(Call(headers=[], http_version="1.0"))

    assert [b"host"] == [line.partition(b":")[0] for line in lines if line.startswith(b"host")]


@pytest.mark.parametrize(
    "scope",
    [
        {"raw_path": b"/ HTTP/1.1\r\nx: y\r\n\r\nGET /"},
        {"raw_path": b"/a b"},
        {"raw_path": b"/a\nb"},
        {"query_string": b"a b"},
        {"query_string": b"a\r\nx: y"},
        {"query_string": b"\0"},
        {"method": "GET /x HTTP/1.1\r\nhost: b\r\n\r\nGET"},
        {"headers": [(b"x", b"1\r\ny: 2")]},
        {"headers": [(b"x", b"1\ny: 2")]},
        {"headers": [(b"x", b"1\ry: 2")]},
        {"headers": [(b"x\r\ny", b"1")]},
        {"headers": [(b"x", b"\0")]},
        {"headers": [(b"content-length", b"0\r\n\r\nGET / HTTP/1.1")]},
        {"client": ("1\r\nx: y", 1)},
        {"scheme": "http\r\nx: y"},
        {"headers": [(b"host", b"a"), (b"host", b"b")]},
    ],
    ids=str,
)
async def test_nothing_breaks_out(scope: dict[str, Any]) -> None:
    """What has a line break where there must be none is refused: it would be another request at the app."""
    async with app_that(answers(OK)) as app:
        call = await Call(**scope).run(app)

        assert 400 == call.status
        assert [] == app.lines


async def test_answers() -> None:
    """An answer loses what is of the connection of the app, and its date: the web server has its own."""
    head = (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nServer: app\r\nConnection: keep-alive, x-own\r\nKeep-Alive: timeout=5\r\n"
        b"X-Own: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Long:   spaced\r\nProxy-Connection: x\r\nTrailer: x\r\n"
        b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nok"
    )
    async with app_that(answers(head)) as app:
        call = await Call().run(app)

        assert [
            (b"server", b"app"),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"b"),
            (b"x-long", b"spaced"),
            (b"content-length", b"2"),
        ] == call.headers
        assert b"ok" == (await Call().run(app)).body
        assert 1 == len(app.lines)


async def test_many_at_a_time() -> None:
    """No answer goes to another request, however many there are and however slow the app is."""

    async def talk(line: Line) -> None:
        while True:
            name = (await line.head()).split()[1]
            await asyncio.sleep(0.001 * (int(name[1:]) % 5))  # they overtake each other
            await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name))

    async with app_that(talk, backlog=500) as app:
        for _ in range(3):
            calls = await asyncio.gather(*(Call(path=f"/{number}").run(app) for number in range(200)))
            assert [f"/{number}".encode() for number in range(200)] == [call.body for call in calls]

        assert len(app.lines) <= 200
