"""What peers send each other, in bytes: it arrives as it was, and what is malformed is only ever refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerProtocolError
from stateful_route.web.peer.frames import (
    Refusal,
    kind_of,
    pack,
    pack_number,
    pack_with_body,
    unpack,
    unpack_number,
    unpack_with_body,
)
from stateful_route.web.peer.head import pack_head, unpack_head
from tests.web.peer.peers import http_scope, websocket_scope

TEXT = st.text(st.characters(), max_size=20)  # surrogates and control characters too
TOKEN = st.text(st.characters(codec="utf-8"), max_size=20)
PARTS = st.lists(st.binary(max_size=20), max_size=20)
ADDRESS = st.none() | st.tuples(st.sampled_from(["", "127.0.0.1", "::1", "fe80::1%eth0", "/run/a\nb.sock"]), st.none())
ADDRESS |= st.tuples(st.sampled_from(["127.0.0.1", "::1"]), st.integers(0, 65535))


@given(PARTS, st.integers(0, 65535), st.binary(max_size=99))
def test_parts_arrive_as_they_were(parts: list[bytes], number: int, body: bytes) -> None:
    """Parts, numbers and whole answers are read as they were written."""
    payload = pack_number(number, *parts)

    assert (parts, (number, parts)) == (unpack(pack(parts)), unpack_number(payload))
    assert (payload, body) == unpack_with_body(pack_with_body(payload, body))


@given(
    st.fixed_dictionaries(
        {"path": TEXT, "query_string": st.binary(max_size=40), "root_path": TEXT | st.just("/long" * 200)},
        optional={"raw_path": st.binary(max_size=40), "http_version": st.sampled_from(["1.0", "1.1", "2", "3"])},
    ),
    st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), max_size=10),
    ADDRESS,
    ADDRESS,
    st.sampled_from(["GET", "POST"]) | st.lists(TOKEN, max_size=4),
    st.tuples(st.none() | TEXT.filter(bool), st.none() | st.binary(max_size=40)),
)
def test_scope_arrives_byte_for_byte(
    scope: dict[str, Any], headers: Any, client: Any, server: Any, what: Any, rest: tuple[str | None, bytes | None]
) -> None:
    """What the web server said of a request is what the app of the owner is told, whatever it is."""
    uid, body = rest
    scope |= {"headers": headers, "client": client, "server": server}
    if isinstance(what, str):
        scope = http_scope(method=what, **{"raw_path": None, **scope})
    else:
        scope = websocket_scope(subprotocols=what, **{"raw_path": None, **scope})
    if scope["raw_path"] is None:
        del scope["raw_path"]
    extensions = scope.pop("extensions")

    head = unpack_head(pack_head({**scope, "extensions": extensions}, uid, 3, body, waits=body is None))

    carried = dict(head.scope)
    assert carried.pop("asgi")["version"] == "3.0"
    assert extensions == carried.pop("extensions")
    assert scope == carried
    assert (uid, 3, body, body is None) == (head.uid, head.source, head.body, head.waits)


def test_many_headers_arrive() -> None:
    """A web server without a limit on headers may let more of them through than sixteen bits count."""
    headers = [(b"a", b"")] * 40_000

    assert headers == unpack_head(pack_head(http_scope(headers=headers), "a", 0, b"", waits=False)).scope["headers"]


def head_with(**changes: bytes) -> bytes:
    """Return a head with some of its parts replaced."""
    names = ("same", "flags", "uid", "source", "what", "path", "raw", "query", "client")
    packed, body = unpack_with_body(pack_head(http_scope(headers=[]), "a", 0, b"", waits=False))
    parts = dict(zip(names, unpack(packed), strict=True))
    more = changes.pop("more", None)
    return pack_with_body(pack([*{**parts, **changes}.values(), *([] if more is None else [more])]), body)


SETTING = [b"http", b"", b"1.1", b"http", b"", b"80\nhere"]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xff\xff\xff", id="a head that is not there"),
        pytest.param(pack_with_body(b"no mark", b""), id="no parts"),
        pytest.param(pack_with_body(b"\1\xff\xff\xff\xff", b""), id="a huge count"),
        pytest.param(pack_with_body(b"\1" + struct.pack(">2I", 1, 2**32 - 1) + b"x", b""), id="a huge length"),
        pytest.param(pack_with_body(pack([b"a"] * 3), b""), id="too few parts"),
        pytest.param(head_with(same=b""), id="no setting"),
        pytest.param(head_with(same=pack([b"lifespan", *SETTING[1:]], b"\x1f")), id="another kind"),
        pytest.param(
            head_with(same=pack([*SETTING[:4], b"\xff", SETTING[5]], b"\x1f")), id="a root path that is no text"
        ),
        pytest.param(head_with(same=pack([*SETTING[:5], "\xb2\nhere".encode()], b"\x1f")), id="a port that is a digit"),
        pytest.param(head_with(same=pack([*SETTING[:5], b"-1\nhere"], b"\x1f")), id="a negative port"),
        pytest.param(head_with(source=b"-1"), id="a negative source"),
        pytest.param(head_with(source=b"1_0"), id="a source with an underscore"),
        pytest.param(head_with(source=b"9" * 5000), id="an endless source"),
        pytest.param(head_with(uid=b"\xff"), id="a uid that is no text"),
        pytest.param(head_with(path=b"\xff"), id="a path that is no text"),
        pytest.param(head_with(what=b"\xff"), id="a method that is no text"),
        pytest.param(head_with(client=b"x\nhere"), id="a client's port that is none"),
        pytest.param(head_with(more=b"name"), id="a header without a value"),
    ],
)
def test_hostile_heads_are_refused(payload: bytes) -> None:
    """A head that no peer writes raises the one error that a connection knows."""
    with pytest.raises(PeerProtocolError):
        unpack_head(payload)


def test_lines_in_headers_stay_in_them() -> None:
    """Line ends and NUL in names and values are part of them: there are no lines between peers."""
    headers = [(b"a\r\nb: c", b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n")]

    assert headers == unpack_head(pack_head(http_scope(headers=headers), "a", 0, b"", waits=False)).scope["headers"]


def mutated(payload: bytes) -> st.SearchStrategy[bytes]:
    """Return payloads that differ from one in a few bytes, or end early."""
    place = st.integers(0, len(payload) - 1)
    changes = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)

    def change(drawn: tuple[list[tuple[int, int]], int]) -> bytes:
        data = bytearray(payload)
        for at, value in drawn[0]:
            data[at] = value
        return bytes(data[: drawn[1]])

    return st.tuples(changes, st.sampled_from([len(payload)] * 3 + list(range(len(payload))))).map(change)


@given(
    st.binary(max_size=200)
    | mutated(pack_head(http_scope(), "a", 0, b"body", waits=False))
    | mutated(pack_head(websocket_scope(subprotocols=["a", "b"]), "a", 0, b"", waits=False))
    | mutated(Refusal("moved").to_payload())
    | mutated(pack_with_body(pack_number(200, b""), b"body"))
)
@example(pack([b"moved", "\xb2".encode()]))
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    """Whatever a payload is, reading it works or raises the one error that a connection knows."""
    for read in (unpack, unpack_number, unpack_with_body, unpack_head, Refusal.from_payload):
        try:
            read(payload)
        except PeerProtocolError:
            continue


@given(st.integers(0, 255))
def test_kinds(number: int) -> None:
    """A number that is no kind is refused."""
    try:
        assert number == kind_of(number)
    except PeerProtocolError:
        assert number not in range(1, 22)


@given(TEXT | st.from_regex(r"peer(\+unix)?://[^#]{0,30}(:[0-9]{0,6})?(#.*)?"))
@example("peer://here:\u0661")
@example("peer+unix:///a\0b#open")
@example("peer://a b:1#open")
def test_addresses(text: str) -> None:
    """An address is read as it is written, or is none."""
    address = PeerAddress.parse(text)

    assert address is None or (address == PeerAddress.parse(str(address)) and "\0" not in str(address.path))


@pytest.mark.parametrize(
    "text",
    ["peer://10.0.0.1:80#a,b", "peer://[::1]:80#", "peer://[fe80::1%eth0]:1#open", "peer://pod-0.room.svc:65535#open"],
)
def test_written_addresses(text: str) -> None:
    """What is published is what was read."""
    assert text == str(PeerAddress.parse(text))
