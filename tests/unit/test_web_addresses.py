"""Where a pod says that proxies reach it, in a text that other releases read as well."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import BaseConfig
from stateful_route.errors import ConfigError
from stateful_route.web.addresses import Addresses, PeerAddress, checked_http_address, published
from stateful_route.web.peer.keys import PeerKeys

HERE = PeerAddress("10.0.0.7", 4000, keys=("open",))


@pytest.mark.parametrize(
    "text",
    [
        "peer://10.0.0.1:80#a,b,http=10.0.0.1:8000",
        "peer://[::1]:80#open,http=[::1]:8000,name=room-0",
        "peer+unix:///tmp/a.sock#open,http=host:1,name=m1",
        "peer://a:1#name=x",
    ],
)
def test_text_and_back(text: str) -> None:
    """An address with what proxies need comes back from its text."""
    address = PeerAddress.parse(text)

    assert text == str(address)
    assert address is not None
    assert not any("=" in key for key in address.keys)


@pytest.mark.parametrize(
    "more", ["http=", "http=x", "http=a:0", "http=a:70000", "http=a b:1", "name=a b", "what=ever", "http=a:1/x"]
)
def test_what_cannot_be_used_is_left_out(more: str) -> None:
    """What is no address of HTTP, or of a later release, takes nothing from the rest."""
    assert HERE == PeerAddress.parse(f"{HERE},{more}")


def test_a_release_that_does_not_know_it() -> None:
    """A release that takes all that follows the hash for names of keys finds the key that it shares."""
    text = str(attrs.evolve(HERE, keys=tuple(PeerKeys(["x" * 16, None]).names), http="10.0.0.7:8000", name="room-0"))
    names = text.partition("#")[2].split(",")  # as that release does it

    for secret in ("x" * 16, None):
        assert PeerKeys(secret).shared(names) is not None
    assert PeerKeys("y" * 16).shared(names) is None


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    """No text that a pod could publish raises."""
    address = PeerAddress.parse(f"peer://a:1#{text}")

    assert address is not None
    assert PeerAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("given_address", "http"),
    [
        (None, ""),
        ("10.9.9.9:8000", "10.9.9.9:8000"),
        (":8000", "10.0.0.7:8000"),
        ("peer", "10.0.0.7:4000"),
        ("[::1]:8000", "[::1]:8000"),
        ("room-0.room:8000", "room-0.room:8000"),
    ],
)
def test_what_is_published(given_address: str | None, http: str) -> None:
    """A process publishes an address as it is given, or made of the one for its peers, and its name."""
    address = published(HERE, checked_http_address(given_address), BaseConfig(pod_name="room-0"))

    assert attrs.evolve(HERE, http=http, name="room-0") == address


def test_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says it if nobody else does, and the machine of Fly is the name."""
    monkeypatch.setenv("STATEFUL_ROUTE_HTTP_ADDRESS", ":9000")
    monkeypatch.setenv("FLY_MACHINE_ID", "m1")
    address = published(HERE, checked_http_address(None), BaseConfig(pod_name="room-0"))

    assert ("10.0.0.7:9000", "m1", ":1") == (address.http, address.name, checked_http_address(":1"))


@pytest.mark.parametrize("http", [":8000", "peer"])
def test_a_unix_socket_has_no_host(http: str) -> None:
    """With a unix socket for peers a port alone is no address."""
    with pytest.raises(ConfigError, match="http_address"):
        published(PeerAddress(path="/tmp/a"), http, BaseConfig())  # noqa: S108 - nothing is made there


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "10.0.0.7:1"),
        ("{host}:8000", "10.0.0.7:8000"),
        ("room-{pod_index}.room:80", "room-3.room:80"),
        ("{pod_name}:80", "n:80"),
        ("fixed:80", "fixed:80"),
    ],
)
def test_templates(template: str | None, found: str) -> None:
    """A template is filled with what is known of the pod; without one it is what that publishes."""
    assert found == Addresses("address", template).of(3, f"{HERE},http=10.0.0.7:1,name=n")


@pytest.mark.parametrize(
    ("template", "address"),
    [(None, str(HERE)), (None, None), ("{host}:1", None), ("{pod_name}:1", str(HERE)), ("{host}:1", "peer+unix:///a#")],
)
def test_what_is_not_known(template: str | None, address: str | None) -> None:
    """A pod of which the template needs more than it publishes is not reached."""
    assert Addresses("address", template).of(3, address) is None
