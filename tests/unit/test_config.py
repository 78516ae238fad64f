"""The settings: defaults, rules, the environment, and that something reads each of them."""

from __future__ import annotations

import ast
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import attrs
import pytest

import stateful_route
from stateful_route import BaseConfig, ConfigError, InvalidArgumentError, ServerDriver, ServerInfo
from stateful_route.config import _GONE
from stateful_route.testing import MemoryStore

FIELDS = attrs.fields(BaseConfig)
_PACKAGE = Path(stateful_route.__file__).parent
_IDENTITY = {"service_name", "pod_name", "pod_index"}  # read by server_info(), by name


def test_defaults() -> None:
    """The defaults go together, and the lease is five heartbeats."""
    config = BaseConfig()

    assert (1.0, None, 5.0) == (config.heartbeat, config.lease, config.lease_seconds)
    assert config.cache_ttl < config.link_ttl
    assert 7.5 == BaseConfig(heartbeat=1.5).lease_seconds
    assert 3.0 == BaseConfig(lease=3).lease_seconds


@pytest.mark.parametrize("lease", [0.5, 1.0, 1.999])
def test_lease_rule(lease: float) -> None:
    """A lease of less than two heartbeats is refused, also by evolve."""
    with pytest.raises(ConfigError, match="at least two heartbeats, 2 s") as caught:
        BaseConfig(lease=lease)
    with pytest.raises(ConfigError):
        attrs.evolve(BaseConfig(lease=2.0), heartbeat=1.1)

    assert ("lease", lease) == (caught.value.setting, caught.value.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1.0),
        ({"lease": 3.0}, 0.75),
        ({"heartbeat": 0.2}, 0.25),
        ({"heartbeat": 60.0}, 1.0),
        ({"heartbeat": 0.001}, 0.00125),
        ({"heartbeat": 0.001, "lease": 0.002}, 0.001),
        ({"heartbeat": 0.2, "call_deadline": 0.7}, 0.7),
    ],
)
def test_call_deadline(settings: dict[str, float], expected: float) -> None:
    """Unless it is set the deadline of a call is a quarter of the lease, and at most a second."""
    config = BaseConfig(**settings)  # type: ignore[arg-type]  # by name

    assert (expected, expected) == (config.call_deadline, config.call_deadline_seconds)


def test_call_deadline_follows() -> None:
    """A deadline that was not set follows from the lease of a changed copy too, be it changed by way of JSON."""
    quick = attrs.evolve(BaseConfig(), heartbeat=0.2)
    read = attrs.evolve(BaseConfig.from_json(BaseConfig().to_json()), heartbeat=0.2)
    given = attrs.evolve(BaseConfig(call_deadline=1.0), heartbeat=0.2)

    assert (0.25, 0.25, 1.0) == (quick.call_deadline, read.call_deadline, given.call_deadline)
    assert BaseConfig() == attrs.evolve(quick, heartbeat=1.0)


@pytest.mark.parametrize(("call_deadline", "lease"), [(2.51, None), (1.0, 1.9), (30.0, 59.0)])
def test_call_deadline_beside_the_lease(call_deadline: float, lease: float | None) -> None:
    """A pod refuses a deadline of more than half of its lease: one silent connection would cost it its life."""
    config = BaseConfig(call_deadline=call_deadline, lease=lease, heartbeat=0.5 if lease else 1.0)
    info = ServerInfo(namespace="prod", service_name="room", pod_name="room-0", pod_index=0)
    with pytest.raises(ConfigError, match="at most half of the lease") as caught:
        ServerDriver(MemoryStore(), info, config)

    assert ("call_deadline", call_deadline) == (caught.value.setting, caught.value.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 86400.0), ({"lease": 40.0}, 86400.0), ({"lease": 50000.0}, 100000.0)],
)
def test_retention(settings: dict[str, float], expected: float) -> None:
    """Redis remembers a pod for two leases at least: one that it forgot within its lease could still own."""
    assert expected == BaseConfig(**settings).retention_seconds  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(("name", "most"), [("max_pending", 1_000_000), ("cache_size", 100_000_000)])
def test_bounds(name: str, most: int) -> None:
    """What is bounded by what a process can hold has a bound of its own."""
    with pytest.raises(InvalidArgumentError, match=f"{name} is .*; allowed is an int from 1 to {most}"):
        attrs.evolve(BaseConfig(), **{name: most + 1})  # type: ignore[arg-type]  # by name

    assert most == getattr(attrs.evolve(BaseConfig(), **{name: most}), name)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"history": -1}, "history is -1; allowed is an int from 0 to 1000"),
        ({"history": 1001}, "history is 1001; allowed is an int from 0 to 1000"),
        ({"history": True}, "history is True"),
        ({"history": 2.0}, "history is 2.0"),
    ],
)
def test_history(settings: dict[str, Any], said: str) -> None:
    """No history is kept unless one is asked for; it is bounded, as it is read at once."""
    with pytest.raises(InvalidArgumentError) as caught:
        BaseConfig(**settings)
    read = BaseConfig.from_env(environ={"STATEFUL_ROUTE_HISTORY": "1000"})

    assert said in str(caught.value)
    assert (0, 1000) == (BaseConfig().history, read.history)


def test_evolve() -> None:
    """Evolve makes a checked copy, and ints are floats where seconds are meant."""
    config = attrs.evolve(BaseConfig(), heartbeat=2, cache_ttl=10)
    with pytest.raises(InvalidArgumentError, match="cache_ttl"):
        attrs.evolve(config, cache_ttl=-1)
    with pytest.raises(TypeError):
        attrs.evolve(config, heart_beat=1)  # type: ignore[call-arg]  # that is the test

    assert (2.0, float) == (config.heartbeat, type(config.heartbeat))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_is_documented(field: Any) -> None:
    """Every setting has a unit, a text and a kind, and its default is of that kind."""
    assert {"unit", "doc", "kind"} == set(field.metadata)
    assert field.metadata["doc"]
    assert ("s" == field.metadata["unit"]) <= (float is field.metadata["kind"])
    assert field.default is None or isinstance(field.default, field.metadata["kind"])


def test_every_setting_is_read() -> None:
    """No setting is there that nothing reads."""
    sources = [path for path in _PACKAGE.rglob("*.py") if "testing" not in path.parts]
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and (path.name == "config.py" or ast.unparse(node.value) in {"config", "self._config"})
    }

    assert set() == {field.name for field in FIELDS} - read - _IDENTITY


@pytest.mark.parametrize("name", sorted(_GONE))
def test_gone(name: str) -> None:
    """A setting that there is no more is refused with what became of it, by name and in the environment."""
    variable = f"STATEFUL_ROUTE_{name.upper()}"
    with pytest.raises(ConfigError, match="no setting any more") as named:
        BaseConfig(**{name: 1.0})  # type: ignore[arg-type]  # by name
    with pytest.raises(ConfigError, match="no setting any more") as evolved:
        attrs.evolve(BaseConfig(), **{name: 1.0})  # type: ignore[arg-type]  # by name
    with pytest.raises(ConfigError, match="no setting any more") as read:
        BaseConfig.from_env(environ={variable: "1"})

    assert [name, name, variable] == [each.value.setting for each in (named, evolved, read)]
    assert _GONE[name] in str(read.value)
    assert name not in {field.name for field in FIELDS}
    assert BaseConfig() == BaseConfig.from_env(environ={variable: ""}) == pickle.loads(pickle.dumps(BaseConfig()))  # noqa: S301 - our own


def test_server_info() -> None:
    """server_info() is the identity: a pod needs to know its service, and has its host and process for a name."""
    config = BaseConfig(namespace="prod", service_name="room", pod_name="room-0", pod_index=0)

    assert ServerInfo(namespace="prod", service_name="room", pod_name="room-0", pod_index=0) == config.server_info()
    with pytest.raises(ConfigError, match="STATEFUL_ROUTE_SERVICE_NAME") as caught:
        attrs.evolve(config, service_name=None).server_info()
    assert "service_name" == caught.value.setting

    nameless = attrs.evolve(config, pod_name=None, pod_index=None).server_info()
    assert (f"{socket.gethostname()}-{os.getpid()}", None) == (nameless.pod_name, nameless.pod_index)


class TestFromEnv:
    def test_nothing_set(self) -> None:
        """An empty environment is the defaults, and so is a variable that is empty."""
        assert BaseConfig() == BaseConfig.from_env(environ={})
        assert BaseConfig() == BaseConfig.from_env(environ={"STATEFUL_ROUTE_HEARTBEAT": ""})

    def test_each_kind(self) -> None:
        """Texts, ints and numbers are read, by the name of the setting."""
        environ = {
            "STATEFUL_ROUTE_NAMESPACE": "prod",
            "STATEFUL_ROUTE_POD_INDEX": "0",
            "STATEFUL_ROUTE_HEARTBEAT": "0.5",
            "STATEFUL_ROUTE_LEASE": "3",
            "STATEFUL_ROUTE_CACHE_SIZE": "7",
            "OTHER_REFRESH": "9",
        }

        assert BaseConfig(namespace="prod", pod_index=0, heartbeat=0.5, lease=3.0, cache_size=7) == BaseConfig.from_env(
            environ=environ
        )

    def test_every_setting(self) -> None:
        """Every setting can be set by its variable."""
        other = {str: "x", int: "3", float: "0.75", bool: "yes"}
        for field in FIELDS:
            config = BaseConfig.from_env(
                "P_", {f"P_{field.name.upper()}": other[field.metadata["kind"]], "P_HEARTBEAT": "0.1"}
            )

            assert field.default != getattr(config, field.name)

    def test_process_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment of the process is the default, the prefix can be another."""
        monkeypatch.setenv("GAME_NAMESPACE", "prod")
        monkeypatch.delenv("HOSTNAME", raising=False)

        assert BaseConfig(namespace="prod") == BaseConfig.from_env("GAME_")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("HEARTBEAT", "fast"),
            ("HEARTBEAT", "nan"),
            ("HEARTBEAT", "-1"),
            ("HEARTBEAT", "0"),
            ("POD_INDEX", "-1"),
            ("POD_INDEX", "1.5"),
            ("POD_INDEX", "first"),
            ("CACHE_SIZE", "0"),
            ("CAPACITY", "0"),
            ("CPU_FACTOR", "1.5"),
            ("NAMESPACE", "  "),
            ("SERVICE_NAME", "x" * 513),
            ("LEASE", "0.5"),
        ],
    )
    def test_bad_value(self, name: str, text: str) -> None:
        """A bad value is refused with the name of its variable."""
        with pytest.raises(ConfigError) as caught:
            BaseConfig.from_env("P_", {f"P_{name}": text})

        assert f"P_{name}" == caught.value.setting

    def test_slips(self, caplog: pytest.LogCaptureFixture) -> None:
        """A variable that is nearly that of a setting is warned of; what Kubernetes makes for a Service is not."""
        names = (
            "HEARTBEET",
            "PODINDEX",
            "HEARTBEAT",
            "SERVICE_HOST",
            "PORT",
            "PORT_6379_TCP_ADDR",
            "SERVICE_PORT_HTTP",
        )
        BaseConfig.from_env("P_", {f"P_{name}": "1" for name in names})

        assert [
            "P_HEARTBEET is no setting: is P_HEARTBEAT meant?",
            "P_PODINDEX is no setting: is P_POD_INDEX meant?",
        ] == [message for message in caplog.messages if message.startswith("P_")]

    @pytest.mark.parametrize(
        ("environ", "pod_name", "pod_index"),
        [
            ({"HOSTNAME": "room-0"}, "room-0", 0),
            ({"HOSTNAME": "room-12"}, "room-12", 12),
            ({"HOSTNAME": "my-room-007"}, "my-room-007", 7),
            ({"HOSTNAME": "room-5d4f-x7zkq"}, "room-5d4f-x7zkq", None),
            ({"HOSTNAME": "room7"}, "room7", None),
            ({"HOSTNAME": "room-3", "P_POD_INDEX": "0"}, "room-3", 0),
            ({"HOSTNAME": "node-9", "P_POD_NAME": "room-4"}, "room-4", 4),
            ({"HOSTNAME": "room-3", "P_POD_INDEX": "leased"}, "room-3", None),
            ({"HOSTNAME": "room-3", "P_POD_INDEX": "Leased"}, "room-3", None),
            ({"HOSTNAME": "ci-20261124151246"}, "ci-20261124151246", None),
            ({"HOSTNAME": "room-7d9f6c5b5-24675"}, "room-7d9f6c5b5-24675", None),
        ],
    )
    def test_host_name(self, environ: dict[str, str], pod_name: str, pod_index: int | None) -> None:
        """The host name is the pod's name, and the ordinal at its end is the index, unless variables say otherwise."""
        config = BaseConfig.from_env("P_", environ)

        assert (pod_name, pod_index) == (config.pod_name, config.pod_index)
