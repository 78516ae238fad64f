"""The source of uids that looks at the path, and its patterns."""

from __future__ import annotations

from typing import Any

import pytest

from stateful_route import InvalidArgumentError
from stateful_route.web import Path
from tests.unit.web_requests import request, websocket


class TestPath:
    """Path, and the patterns of paths."""

    @pytest.mark.parametrize(
        ("pattern", "target", "found"),
        [
            ("/rooms/{uid}", "/rooms/7", "7"),
            ("/rooms/{uid}", "/rooms/7/", "7"),
            ("/rooms/{uid}", "/rooms/7/messages/1", "7"),
            ("/rooms/{uid}/...", "/rooms/7/messages", "7"),
            ("/rooms/{uid}/...", "/rooms/7", "7"),
            ("/rooms/{uid}/", "/rooms/7", "7"),
            ("/rooms/{uid}", "/rooms", None),
            ("/rooms/{uid}", "/rooms/", None),
            ("/rooms/{uid}", "/rooms//7", None),
            ("/rooms/{uid}", "/roomservice/7", None),
            ("/rooms/{uid}", "/v1/rooms/7", None),
            ("/rooms/{uid}", "/Rooms/7", None),
            ("/rooms/{uid}/messages", "/rooms/7/messages/1", "7"),
            ("/rooms/{uid}/messages", "/rooms/7/message", None),
            ("/rooms/{uid}/messages", "/rooms/7/messages2", None),
            ("/rooms/{uid}/messages", "/rooms/7/messages%0A", None),
            ("/{tenant}/rooms/{uid}", "/acme/rooms/7", "7"),
            ("/{tenant}/rooms/{uid}", "//rooms/7", None),
            ("/{uid}", "/7", "7"),
            ("/a.b/{uid}", "/a.b/7", "7"),
            ("/a.b/{uid}", "/aXb/7", None),
            ("/rooms/{uid}", "/rooms/a%20b", "a b"),
            ("/rooms/{uid}", "/rooms/%C3%A9", "\u00e9"),
            ("/rooms/{uid}", "/rooms/a%2Fb", "a"),  # a slash is a slash, as for the routers of applications
            ("/rooms/{uid}", "/rooms%2F7", "7"),
            ("/rooms/{uid}", "/rooms/a%252Fb", "a%2Fb"),  # decoded once
            ("/rooms/{uid}", "/rooms/a%0Ab", "a\nb"),
            ("/rooms/{uid}", "/rooms/a%0A", "a\n"),
            ("/rooms/{uid}", "/rooms/..", ".."),
            ("/rooms/{uid}", "/rooms/{uid}", "{uid}"),
        ],
    )
    def test_find(self, pattern: str, target: str, found: str | None) -> None:
        """A pattern matches its path and all below it, by whole segments."""
        assert found == Path(pattern).find(request(target))

    @pytest.mark.parametrize(
        ("root_path", "target", "found"),
        [
            ("/api", "/api/rooms/7", "7"),
            ("/api", "/rooms/7", "7"),
            ("/api", "/apirooms/7", None),
            ("/api", "/api", None),
            ("/rooms", "/rooms/7", None),
            ("", "/rooms/7", "7"),
        ],
    )
    def test_mounted(self, root_path: str, target: str, found: str | None) -> None:
        """The path is the one within the application, where the server counts the root among it, and where not."""
        assert found == Path("/rooms/{uid}").find(request(target, root_path=root_path))

    def test_root_is_a_segment(self) -> None:
        """A path that only begins like the root is not below it."""
        paths = [request(target, root_path="/api").path for target in ("/api2/x", "/api/x", "/api")]

        assert ["/api2/x", "/x", ""] == paths

    def test_websocket(self) -> None:
        """A WebSocket has a path as well."""
        assert Path("/ws/{uid}").find(websocket(target="/ws/7")) == "7"

    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            "rooms/{uid}",
            "/rooms",
            "/rooms/{id}",
            "/{uid}/{uid}",
            "/rooms/{uid:int}",
            "/rooms/x{uid}",
            "/rooms/{uid",
            "/rooms/{}",
            "//{uid}",
            "/a%20b/{uid}",
            "/rooms/{uid}?x",
            "/...",
            "/",
            None,
            7,
        ],
    )
    def test_refused(self, pattern: Any) -> None:
        """A pattern names the uid once, as a whole segment."""
        with pytest.raises(InvalidArgumentError, match="pattern is"):
            Path(pattern)
