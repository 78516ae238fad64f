"""What the middleware says in the log of its own accord: at a healthy start, and where a setting looks wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ConfigError, LifecycleError, StatefulRoute, config
from stateful_route.web import Path, SignedCookie, Sticky, StickyGateway, StickyMiddleware
from tests.web.test_lifespans import asked, lifespan

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

COOKIE_KEY = "a key of the cookies of a test"


class App:
    """Keeps the routing of the last request."""

    sticky: Sticky

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.sticky = Sticky.of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the lines of an event."""
    name = f"stateful_route.{event}"
    return [record.getMessage() for record in caplog.records if getattr(record, "otel.event.name", "") == name]


async def test_a_healthy_start(shared_server: LocalServer, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line has pod, service, peer listener and Redis."""
    settings: dict[str, Any] = {"service": "room", "uid": Path("/rooms/{uid}"), "redis": shared_server.url}
    with caplog.at_level(logging.INFO, "stateful_route"):
        async with lifespan(StickyMiddleware(App(), namespace=namespace, **settings)):
            (pod,) = said(caplog, "start_succeeded")
        front = StickyGateway(namespace=namespace, **settings)
        async with lifespan(front):
            (_, gateway) = said(caplog, "start_succeeded")
            assert 503 == (await asked(front, "/rooms/a"))[0]
            assert front.statistics().client is not None

    assert pod.startswith("the middleware has started: pod 0 of service 'room', peers at 127.0.0.1:")
    assert pod.endswith(f"of namespace '{namespace}'; Redis: {shared_server.url}")
    assert f"the gateway has started: service 'room' of namespace '{namespace}'; Redis: {shared_server.url}" == gateway


async def test_in_the_log_of_the_web_server(
    shared_server: LocalServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody has configured a log the line is in that of the web server, which shows INFO."""
    caplog.set_level(logging.WARNING, "stateful_route")
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        async with lifespan(
            StickyMiddleware(App(), service="room", uid=Path("/{uid}"), redis=shared_server.url, namespace=namespace)
        ):
            pass

    assert ["uvicorn.error"] == [one.name for one in caplog.records if "has started" in one.getMessage()]


async def test_no_ownership(shared_server: LocalServer, namespace: str) -> None:
    """The ownership of a request without a uid is false, and its use says which path no source found a uid in."""
    app = App()
    sticky = StickyMiddleware(
        app, service="room", uid=Path("/rooms/{uid}"), redis=shared_server.url, namespace=namespace
    )
    async with lifespan(sticky):
        await asked(sticky, "/api/rooms/a")
        none = app.sticky
        await asked(sticky, "/rooms/a")
        with pytest.raises(LifecycleError, match="no source found a uid in /api/rooms/a"):
            none.ownership.on_lost(print)

        assert [False, True] == [bool(one.ownership) for one in (none, app.sticky)]
        assert (None, False, False, False) == (none.epoch, none.inherited, none.is_owned(), none.continues(1))
        assert app.sticky.ownership.is_owned()
        assert "<NoOwnership: no source found a uid in /api/rooms/a>" == repr(none.ownership)
        assert not hasattr(none.ownership, "__deepcopy__")


@pytest.mark.parametrize(("also", "warnings"), [("/api/x", 1), ("/rooms/x", 0)])
async def test_no_uid(
    shared_server: LocalServer, namespace: str, caplog: pytest.LogCaptureFixture, also: str, warnings: int
) -> None:
    """Many requests, none of which has a uid, are warned of once; if one has a uid the pattern is right."""
    sticky = StickyMiddleware(
        App(), service="room", uid=Path("/rooms/{uid}"), redis=shared_server.url, namespace=namespace
    )
    async with lifespan(sticky):
        await asked(sticky, also)
        for number in range(250):
            await asked(sticky, f"/api/rooms/r{number % 10}")
    lines = said(caplog, "uids_not_found")

    assert warnings == len(lines)
    assert all("/api/rooms/" in line and "Path(" in line for line in lines)


async def test_probes_only(shared_server: LocalServer, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process that only gets probes has no reason to warn."""
    sticky = StickyMiddleware(
        App(), service="room", uid=Path("/rooms/{uid}"), redis=shared_server.url, namespace=namespace
    )
    async with lifespan(sticky):
        for number in range(200):
            await asked(sticky, ("/healthz", "/readyz")[number % 2])

    assert [] == said(caplog, "uids_not_found")


@pytest.mark.parametrize(
    ("host", "more", "warnings"),
    [
        (b"192.0.2.2:8010", {}, 1),
        (b"app.example.com", {}, 1),
        (b"[2001:db8::1]:80", {}, 1),
        (b"app.example.com", {"scheme": "https"}, 0),
        (b"app.example.com", {"forwarded": (b"x-forwarded-proto", b"https")}, 0),
        (b"app.example.com", {"secure": False}, 0),
        (b"localhost:8000", {}, 0),
        (b"127.0.0.1:8000", {}, 0),
        (b"[::1]", {}, 0),
        (b"a.localhost", {}, 0),
    ],
)
async def test_a_secure_cookie(
    shared_server: LocalServer,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    host: bytes,
    more: dict[str, Any],
    warnings: int,
) -> None:
    """A Secure cookie that answers plain HTTP is warned of once, unless browsers keep it there."""
    cookie = SignedCookie("sr", secrets=[COOKIE_KEY], secure=more.get("secure", True))
    sticky = StickyMiddleware(App(), service="room", uid=cookie, redis=shared_server.url, namespace=namespace)
    async with lifespan(sticky):
        for _ in range(2):
            headers = [(b"host", host), *([more["forwarded"]] if "forwarded" in more else [])]
            await asked(sticky, "/", headers=headers, scheme=more.get("scheme", "http"))
    lines = said(caplog, "cookie_not_kept")

    assert warnings == len(lines)
    assert all(host.decode() in line for line in lines)


async def test_an_unread_variable(
    shared_server: LocalServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting of the environment that nobody has read is warned of once; an error that lacks it says so."""
    monkeypatch.setattr(config, "_READ", set())
    monkeypatch.setenv("STATEFUL_ROUTE_SERVICE_NAME", "room")
    for _ in range(2):
        async with StatefulRoute.from_url(shared_server.url) as route:
            with pytest.raises(ConfigError, match=r"SERVICE_NAME is set, and only BaseConfig.from_env\(\) reads it"):
                route.server()
    lines = said(caplog, "settings_not_read")

    assert 1 == len(lines)
    assert "STATEFUL_ROUTE_SERVICE_NAME" in lines[0]


async def test_a_read_variable(
    shared_server: LocalServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has read the settings of the environment is not warned."""
    monkeypatch.setattr(config, "_READ", set())
    monkeypatch.setenv("STATEFUL_ROUTE_SERVICE_NAME", "room")
    async with StatefulRoute.from_url(shared_server.url, BaseConfig.from_env()):
        pass

    assert [] == said(caplog, "settings_not_read")
