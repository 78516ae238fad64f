"""The values and their JSON form."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import BaseConfig, InvalidArgumentError, RoutingState, ServerInfo
from stateful_route._validation import MAX_EXACT_INT, MAX_POD_INDEX
from stateful_route.errors import ConfigError
from stateful_route.links import LinkChange, LinkKind, Outcome
from stateful_route.pods import PodLife, PodState
from stateful_route.store import PodReport, StateObj
from stateful_route.store.redis import codec, scripts

JsonValue = ServerInfo | StateObj | PodReport | BaseConfig

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100).filter(
    lambda text: not text.isspace()
)
COUNTS = st.integers(0, MAX_EXACT_INT)
SECONDS = st.floats(0.001, 1e9)
INFOS = st.builds(ServerInfo, namespace=IDS, service_name=IDS, pod_name=IDS, pod_index=st.integers(0, MAX_POD_INDEX))
STATES = st.builds(StateObj, COUNTS, st.floats(0, 1e10) | st.integers(0, 10**10), SECONDS)
REPORTS = st.builds(
    PodReport,
    load=COUNTS,
    routing_state=st.sampled_from(RoutingState),
    links=COUNTS,
    placed_total=COUNTS,
    capacity=st.floats(0.001, 1e9) | st.integers(1, 10**9),
    max_links=st.none() | COUNTS,
    address=st.none() | IDS,
    zone=st.none() | IDS,
    version=st.none() | IDS,
)
CONFIGS = st.builds(
    BaseConfig,
    namespace=IDS,
    service_name=st.none() | IDS,
    pod_index=st.none() | st.integers(0, MAX_POD_INDEX),
    heartbeat=st.floats(0.001, 10),
    lease=st.none() | st.floats(20, 1000),
    cache_size=st.integers(1, 1024),
    degraded_grace=st.floats(0, 10),
)

EXAMPLES: list[JsonValue] = [
    ServerInfo(namespace="prod", service_name="room", pod_name="room-0", pod_index=0),
    StateObj(5, 1.5, 2.5),
    PodReport(load=1, address="http://a"),
    BaseConfig(pod_index=0),
]


@given(INFOS | STATES | REPORTS | CONFIGS)
def test_read_back(value: JsonValue) -> None:
    """A value is read back from its JSON as the same value, from text and from bytes."""
    assert value == type(value).from_json(value.to_json())
    assert value == type(value).from_json(value.to_json().encode())
    assert hash(value) == hash(type(value).from_json(value.to_json()))


def test_names() -> None:
    """The names in JSON are camelCase, and there is no white space."""
    assert '{"namespace":"prod","serviceName":"room","podName":"room-0","podIndex":0}' == EXAMPLES[0].to_json()
    assert '{"value":5,"timestamp":1.5,"ttl":2.5}' == EXAMPLES[1].to_json()
    assert {"placedTotal", "routingState"} < set(json.loads(EXAMPLES[2].to_json()))
    assert {"cacheTtl", "linkTtl", "callDeadline"} < set(json.loads(EXAMPLES[3].to_json()))


@pytest.mark.parametrize("value", EXAMPLES)
def test_unknown_fields(value: JsonValue) -> None:
    """Fields of a newer release are ignored."""
    text = json.dumps(json.loads(value.to_json()) | {"shoeSize": 43, "pod_index": "no"})

    assert value == type(value).from_json(text)


def test_missing_fields() -> None:
    """A field without a default is required, and the error says its name in JSON; others take their default."""
    with pytest.raises(InvalidArgumentError, match="podName") as caught:
        ServerInfo.from_json('{"namespace":"a","serviceName":"b","podIndex":0}')

    assert "podName" == caught.value.argument
    assert PodReport() == PodReport.from_json("{}")
    assert BaseConfig() == BaseConfig.from_json("{}")


_NO_ID: list[Any] = [None, 5, "", "  ", "x" * 513, "\u00e9" * 257, "\ud800"]
_NO_COUNT: list[Any] = [None, True, -1, 1.0, "1", 2**53]
_NO_SECONDS: list[Any] = [None, True, -1.0, "1", [1], 10**400]
WRONG: list[tuple[JsonValue, str, list[Any]]] = [
    (EXAMPLES[0], "namespace", _NO_ID),
    (EXAMPLES[0], "serviceName", _NO_ID),
    (EXAMPLES[0], "podName", _NO_ID),
    (EXAMPLES[0], "podIndex", [True, -1, 1.0, "1", 2**31]),
    (EXAMPLES[1], "value", _NO_COUNT),
    (EXAMPLES[1], "timestamp", _NO_SECONDS),
    (EXAMPLES[1], "ttl", [*_NO_SECONDS, 0, 0.0001]),
    (EXAMPLES[2], "load", _NO_COUNT),
    (EXAMPLES[2], "placedTotal", _NO_COUNT),
    (EXAMPLES[2], "capacity", [*_NO_SECONDS, 0]),
    (EXAMPLES[2], "maxLinks", [True, -1, 1.0, "1", 2**53]),
    (EXAMPLES[2], "routingState", [None, 0, "ready", "GONE", ["READY"]]),
    (EXAMPLES[2], "address", [5, "", "\ud800"]),
    (EXAMPLES[3], "namespace", _NO_ID),
    (EXAMPLES[3], "podIndex", [True, -1, 1.0, 2**31]),
    (EXAMPLES[3], "heartbeat", [*_NO_SECONDS, 0]),
    (EXAMPLES[3], "cpuFactor", [*_NO_SECONDS, 1.01]),
    (EXAMPLES[3], "maxPending", [*_NO_COUNT, 0, 1_000_001]),
    (EXAMPLES[3], "cacheSize", [*_NO_COUNT, 0]),
]


@pytest.mark.parametrize(
    ("value", "name", "wrong"),
    [(value, name, wrong) for value, name, several in WRONG for wrong in several],
    ids=lambda part: repr(part)[:20].replace("\\", "") if not attrs.has(type(part)) else type(part).__name__,
)
def test_wrong_fields(value: JsonValue, name: str, wrong: Any) -> None:
    """A wrong type or range is refused, with the name of the field."""
    text = json.dumps(json.loads(value.to_json()) | {name: wrong})
    with pytest.raises(InvalidArgumentError) as caught:
        type(value).from_json(text)

    assert name == caught.value.argument


@pytest.mark.parametrize("kind", [ServerInfo, StateObj, PodReport, BaseConfig])
@pytest.mark.parametrize(
    "text", ["", "{", "no", "[]", "5", "null", '"READY"', b"\xff", "[" * 100_000, '{"ttl":NaN}', None]
)
def test_no_json(kind: type[JsonValue], text: Any) -> None:
    """What is not JSON, not an object, or has NaN in it is refused, naming the class."""
    with pytest.raises(InvalidArgumentError) as caught:
        kind.from_json(text)

    assert kind.__name__ == caught.value.argument


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    """A time that is no number is refused."""
    with pytest.raises(InvalidArgumentError, match="ttl"):
        StateObj(0, 0.0, value)
    with pytest.raises(InvalidArgumentError, match="capacity"):
        PodReport(capacity=value)


@pytest.mark.parametrize("value", [*EXAMPLES, PodLife(0, 1), LinkChange(Outcome.ABSENT, None)])
def test_frozen(value: Any) -> None:
    """Values are frozen, equal by value, and hashable."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, "x")

    assert value == attrs.evolve(value)
    assert hash(value) == hash(attrs.evolve(value))


class TestRoutingState:
    @pytest.mark.parametrize("state", RoutingState)
    def test_read_back(self, state: RoutingState) -> None:
        """A routing state is its name in JSON."""
        assert f'"{state.name}"' == state.to_json()
        assert state is RoutingState.from_json(state.to_json())
        assert state is RoutingState.parse(state.name)

    @pytest.mark.parametrize("text", ["READY", '"ready"', "1", "null", "{}", '["READY"]', ""])
    def test_wrong(self, text: str) -> None:
        """What is not the name of one is refused."""
        with pytest.raises(InvalidArgumentError):
            RoutingState.from_json(text)


def test_pod_state() -> None:
    """Alive, available and routable are decided by the lease, the routing state and a confirmed death."""

    def pod(state: RoutingState, *, dead: bool = False) -> PodState:
        report = PodReport(routing_state=state)
        return PodState(pod_index=0, incarnation=1, report=report, load_state=StateObj(0, 100.0, 5.0), dead=dead)

    facts = {
        (state.value, now): (pod(state).is_alive(now), pod(state).is_available(now), pod(state).is_routable(now))
        for state in RoutingState
        for now in (104.9, 105.0)
    }

    assert {
        ("READY", 104.9): (True, True, True),
        ("READY", 105.0): (False, False, False),
        ("DENY_NEW_CALL", 104.9): (True, True, False),
        ("DENY_NEW_CALL", 105.0): (False, False, False),
        ("SHUTDOWN", 104.9): (True, False, False),
        ("SHUTDOWN", 105.0): (False, False, False),
    } == facts
    assert not pod(RoutingState.READY, dead=True).is_alive(101.0)


@pytest.mark.parametrize("kind", [Outcome, LinkKind])
def test_texts_are_words(kind: type[Outcome | LinkKind]) -> None:
    """The texts that scripts return are lower-case words."""
    assert all(member.value.isalpha() and member.value.islower() for member in kind)


@pytest.mark.parametrize(
    "entry",
    [
        b"1 1 1000 5000 READY 1 0 0 0 p 0 {}",
        b"",
        b"junk",
        b"1 1 1000 5000 GONE 1 0 0 0 p 0 {}",
        b"1 1 1000 5000 READY 1 0 0 0 p 0 junk",
        b"1 1 1000 5000 READY 1 0 0 0 p 0 []",
        b"1 1 1000 5000 READY 1 -1 0 0 p 0 {}",
        b"1 1 1000 5000 READY 1 NaN 0 0 p 0 {}",
        b'1 1 1000 5000 READY 1 0 0 0 p 0 {"capacity":1' + b"0" * 400 + b"}",
        b"1 1 1" + b"0" * 400 + b" 5000 READY 1 0 0 0 p 0 {}",
        b"1 1 1000 5" + b"0" * 400 + b" READY 1 0 0 0 p 0 {}",
        b"1 1 1000 0 READY 1 0 0 0 p 0 {}",
        b"\xff 1 1000 5000 READY 1 0 0 0 p 0 {}",
        b'1 1 1000 5000 READY 1 0 0 0 p 0 {"zone":"\xff"}',
    ],
)
async def test_unreadable_pods(entry: bytes) -> None:
    """An entry of a pod that cannot be read is left out and counted, and the other pods are there."""
    table = await codec.pod_table(
        scripts.load("pods"),
        [2000, 1, 1, 1, 0, 0, [], [b"0", b"1 1 1000 5000 READY 1 0 0 0 p 0 {}", b"1", entry], 0, 0, 0],
    )

    assert (0, 2) == (table.pods[0].pod_index, len(table.pods) + table.unreadable)


def test_lease_rule_from_json() -> None:
    """Settings that do not go together are refused from JSON too."""
    with pytest.raises(ConfigError, match="lease"):
        BaseConfig.from_json('{"heartbeat":1,"lease":1.5}')
