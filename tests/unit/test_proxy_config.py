"""The configurations of proxies as text: what is printed, and what is refused."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from stateful_route.cli import main
from stateful_route.errors import ConfigError
from stateful_route.web.proxies import FILES
from stateful_route.web.proxies.cache import cache_key
from stateful_route.web.uids.spelled import sources_from

if TYPE_CHECKING:
    from collections.abc import Sequence

UID = "path:/rooms/{uid},header:x-session-id"
PODS = "10.0.0.1:8000,10.0.0.2:8000"


def printed(capsys: pytest.CaptureFixture[str], proxy: str, *more: str, uid: str = UID) -> str:
    arguments = ["proxy-config", proxy, "--service", "room", "--uid", uid, "--pods", PODS, *more]
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("proxy", "mode"), [*((proxy, "decide") for proxy in FILES), ("nginx", "replay")])
def test_each_is_whole(capsys: pytest.CaptureFixture[str], proxy: str, mode: str) -> None:
    """Each configuration says what it is for, and has no place in it that was not filled in."""
    text = printed(capsys, proxy, "--mode", mode, "--listen", "127.0.0.1:8123", "--decide", "127.0.0.1:7123")

    assert "room" in text.splitlines()[0]
    assert not re.search(r"\{\{|\}\}|^@", text.replace("{uid}", ""), re.MULTILINE)
    assert proxy == "haproxy-lua" or "8123" in text
    assert mode == "replay" or "7123" in text
    assert text.endswith("\n")


@pytest.mark.parametrize("proxy", ["haproxy", "haproxy-lua"])
def test_only_nginx_repeats(capsys: pytest.CaptureFixture[str], proxy: str) -> None:
    """Another proxy than nginx cannot repeat a request at another server, and that is said."""
    status = main(["proxy-config", proxy, "--service", "room", "--uid", UID, "--mode", "replay", "--pods", PODS])

    assert 2 == status
    assert "mode is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("uid", ["--uid", "nowhere:x"]),
        ("uid", ["--uid", "header:x'y"]),
        ("service", ["--service", "a$b"]),
        ("service", ["--service", 'a"b']),
        ("pods", ["--pods", "http://10.0.0.1"]),
        ("pods", ["--pods", "10.0.0.1:8000;"]),
        ("pods", ["--pods", "", "--mode", "replay"]),
        ("decide", ["--decide", "here"]),
        ("pods", ["--pods", "10.0.0.7:80,10.0.0.8:80,10.0.0.7:80"]),
        ("listen", ["--listen", "0"]),
        ("listen", ["--listen", "70000"]),
        ("listen", ["--listen", "a b:1"]),
        ("patience", ["--patience", "-1"]),
        ("keep", ["--keep", "61"]),
        ("keep", ["--keep", "1", "--uid", "mcp-param:browser"]),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], option: str, more: Sequence[str]) -> None:
    """An option that is wrong is named, with exit status 2, and nothing is printed: nobody else's text gets into it."""
    status = main(["proxy-config", "nginx", "--service", "room", "--uid", UID, "--pods", PODS, *more])
    said = capsys.readouterr()

    assert (2, "") == (status, said.out)
    assert option in said.err


@pytest.mark.parametrize("proxy", ["caddy", "envoy", "traefik"])
def test_others_are_on_a_page(capsys: pytest.CaptureFixture[str], proxy: str) -> None:
    """Of another proxy it is said which ones there are, and where the page about the others is."""
    assert 2 == main(["proxy-config", proxy, "--service", "room", "--uid", UID])
    said = capsys.readouterr()
    assert "" == said.out
    assert '"nginx"' in said.err
    assert "docs/proxies.md" in said.err


def test_statuses_of_nginx(capsys: pytest.CaptureFixture[str]) -> None:
    """What the sources say of an id that nobody has is what nginx answers."""
    text = printed(capsys, "nginx", uid="response-header:x-a,query:id,place=no,missing=410")

    assert "{ return 404; }" in text
    assert "{ return 410; }" in text
    assert "{ return 404; }" not in printed(capsys, "nginx")


@pytest.mark.parametrize(
    ("uid", "key"),
    [
        ("path:/rooms/{uid}", "$stateful_path"),
        ("path:/a/{uid},location:/b/{uid}", "$stateful_path"),
        ("header:X-Id,ttl=5,cookie:sid", r"$http_x_id\n$stateful_key_0"),
        ("cookie:__Host-sr", "$http_cookie"),
        ("query:id,query:a.b,json-body:/id,json-response:/id", r"$stateful_key_0\n$stateful_args"),
        ("subprotocol:2,response-cookie:c", r"$http_sec_websocket_protocol\n$stateful_key_0"),
    ],
)
def test_what_is_kept_by(uid: str, key: str) -> None:
    """An answer is kept by all of a request that the sources look at."""
    assert sources_from(uid)
    assert key == cache_key(uid)[0]


def test_what_cannot_be_kept() -> None:
    """With a source that looks at something that nginx does not see nothing is kept."""
    for uid in ("mcp-param:browser", "header:x!y"):
        with pytest.raises(ConfigError, match="keep"):
            cache_key(uid)


@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ("uid", ["--uid", "header"]),
        ("address", ["--address", "{nothing}:80"]),
        ("redis", ["--redis", ""]),
        ("patience", ["--patience", "nan"]),
        ("secret", ["--secret-file", os.devnull]),
        ("STATEFUL_ROUTE_COOKIE_SECRETS", ["--uid", "signed-cookie:sr"]),
    ],
)
def test_decide_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, setting: str, more: Sequence[str]
) -> None:
    """A setting of the decider that is wrong or missing is named in one line, before anything is started."""
    for name in ("STATEFUL_ROUTE_URL", "REDIS_URL", "STATEFUL_ROUTE_COOKIE_SECRETS"):
        monkeypatch.delenv(name, raising=False)
    url = ["--redis", "redis://127.0.0.1:1"] if setting != "redis" else []
    status = main(["decide", "--service", "room", "--uid", UID, *url, *more])
    said = capsys.readouterr().err

    assert (2, 1) == (status, said.count("\n"))
    assert setting in said


def test_decide_needs_its_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvicorn the decider says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status = main(["decide", "--service", "room", "--uid", UID])

    assert (2, True) == (status, "stateful-route[gateway]" in capsys.readouterr().err)


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    """What is no port is refused."""
    status = main(["decide", "--service", "room", "--uid", UID, "--port", port])
    said = capsys.readouterr().err

    assert (2, 1) == (status, said.count("\n"))
    assert port in said
