"""The settings of the web part: each is one field, an argument of the apps that take it, and something reads it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import attrs
import pytest

import stateful_route.web
from stateful_route import ConfigError, InvalidArgumentError
from stateful_route.web import Header, StickyDecide, StickyGateway, StickyMiddleware
from stateful_route.web.settings import DecideSettings, GatewaySettings, MiddlewareSettings

_WEB = Path(stateful_route.web.__file__).parent
_APPS: list[Any] = [
    pytest.param(StickyMiddleware, MiddlewareSettings, id="middleware"),
    pytest.param(StickyGateway, GatewaySettings, id="gateway"),
    pytest.param(StickyDecide, DecideSettings, id="decide"),
]


@pytest.mark.parametrize(("app", "settings"), _APPS)
def test_arguments(app: Any, settings: Any) -> None:
    """The arguments of an app are the fields of its settings, with their defaults; all but the app are by name."""
    parameters = inspect.signature(app).parameters
    defaults = {field.alias: field.default for field in attrs.fields(settings)}

    assert set(parameters) == set(defaults)
    assert all(each.default in {defaults[name], inspect.Parameter.empty} for name, each in parameters.items())
    assert {"app"} >= {name for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY}


@pytest.mark.parametrize(("app", "settings"), _APPS)
def test_every_setting_is_read(app: Any, settings: Any) -> None:
    """No setting is there that nothing reads."""
    read = {
        node.attr
        for path in _WEB.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "settings", "self._settings"}
    }

    assert app.__annotations__["_settings"] == settings.__name__
    assert {"app"} >= {field.name for field in attrs.fields(settings)} - read


def test_unknown() -> None:
    """A setting that there is not is a TypeError that names it, at once; so is one that is missing."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'pateince'"):
        StickyGateway(service="room", uid=Header("x-id"), pateince=3)  # type: ignore[call-arg]  # that is the test
    with pytest.raises(TypeError, match="unexpected keyword argument 'strategy'"):
        StickyMiddleware(lambda *_: None, service="room", uid=Header("x-id"), strategy=None)  # type: ignore[arg-type, call-arg]  # the same
    with pytest.raises(TypeError, match="'uid'"):
        StickyDecide(service="room")  # type: ignore[call-arg]  # the same


@pytest.mark.parametrize(
    ("name", "value"),
    [("service", ""), ("patience", "long"), ("max_held", -1), ("new_uids", -1), ("scope", 5)],
)
def test_wrong(name: str, value: Any) -> None:
    """What is wrong is said by the start, which names it; a framework makes the app before."""
    given: dict[str, Any] = {"service": "room", "uid": Header("x-id"), "redis": "redis://localhost:1", name: value}
    for app in (StickyGateway(**given), StickyDecide(**given), StickyMiddleware(lambda *_: None, **given)):  # type: ignore[arg-type]  # never called
        with pytest.raises((ConfigError, InvalidArgumentError)) as caught:
            app.check()

        assert name == getattr(caught.value, "setting", getattr(caught.value, "argument", None))


def test_no_secret_is_shown() -> None:
    """The settings show neither the secret nor the URL with its password."""
    settings = GatewaySettings(
        service="room", uid=Header("x-id"), redis="redis://:hidden@localhost", secret="also hidden " * 4
    )

    assert "hidden" not in repr(settings)
    assert "hidden" not in settings.shown_redis
