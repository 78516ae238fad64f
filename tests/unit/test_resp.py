"""The protocol of Redis: what is written in Python does what hiredis does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st

from stateful_route.store.transport import resp
from stateful_route.store.transport.resp import INCOMPLETE, PUSHES, PurePythonParser, ReplyError

if TYPE_CHECKING:
    from collections.abc import Iterable

CRLF = b"\r\n"
LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20).map(str.encode)


def line(kind: bytes, content: bytes) -> bytes:
    return kind + content + CRLF


def sized(kind: bytes, content: bytes) -> bytes:
    return kind + b"%d\r\n" % len(content) + content + CRLF


def items(kind: bytes, parts: list[bytes]) -> bytes:
    return kind + b"%d\r\n" % len(parts) + b"".join(parts)


def table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"%%%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)


INTEGERS = st.integers(-(2**63), 2**63 - 1).map(lambda number: line(b":", b"%d" % number))
BULKS = st.binary(max_size=60).map(lambda data: sized(b"$", data))
OLD = st.one_of(
    INTEGERS,
    BULKS,
    LINES.map(lambda text: line(b"+", text)),
    LINES.map(lambda text: line(b"-", text)),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n"]),
)
NEW = st.one_of(
    OLD,
    st.sampled_from([b"_\r\n", b"#t\r\n", b"#f\r\n", b",inf\r\n", b",-inf\r\n", b",nan\r\n"]),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: line(b",", repr(number).encode())),
    st.integers().map(lambda number: line(b"(", b"%d" % number)),
    st.binary(max_size=60).map(lambda data: sized(b"=", b"txt:" + data)),
)
OLD_REPLIES = st.recursive(
    OLD, lambda inner: st.lists(inner, max_size=4).map(lambda parts: items(b"*", parts)), max_leaves=8
)
NEW_REPLIES = st.recursive(
    NEW,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: items(b"*", parts)),
        st.lists(inner, max_size=4).map(lambda parts: items(b"~", parts)),
        # Each key once: hiredis gives one that comes again the value of nothing.
        st.lists(st.tuples(INTEGERS | BULKS, inner), max_size=4, unique_by=lambda pair: pair[0]).map(table),
    ),
    max_leaves=8,
)
PUSHED = st.lists(BULKS, min_size=1, max_size=3).map(lambda parts: items(b">", parts))
STREAMS = st.lists(OLD_REPLIES, max_size=6) | st.lists(NEW_REPLIES | PUSHED, max_size=6)


def shown(reply: Any) -> Any:
    """Return a reply as something that can be compared, its type included."""
    match reply:
        case ReplyError():
            return "error", reply.code, str(reply)
        case dict():
            return "map", [(shown(key), shown(value)) for key, value in reply.items()]
        case list():
            return "push" if isinstance(reply, PUSHES) else "list", [shown(part) for part in reply]
        case _:
            return type(reply).__name__, repr(reply)


def parse(parser: resp.Parser, pieces: Iterable[bytes]) -> list[Any]:
    """Return what comes out, and after which piece."""
    replies = []
    for number, piece in enumerate(pieces):
        parser.feed(piece)
        while (reply := parser.gets()) is not INCOMPLETE:
            replies.append((number, shown(reply)))
    return replies


@given(STREAMS, st.data())
def test_same_replies(stream: list[bytes], data: st.DataObject) -> None:
    """Both parsers give the same replies at the same moments, wherever the stream is cut."""
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    replies = parse(PurePythonParser(), pieces)

    assert parse(resp.new_parser(), pieces) == replies
    assert len(stream) == len(replies)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no replies are an ``InvalidResponse`` and nothing else."""
    parser = PurePythonParser()
    parser.feed(data)
    try:
        while parser.gets() is not INCOMPLETE:
            pass
    except redis.exceptions.InvalidResponse:
        pass


@pytest.mark.parametrize("data", [b"%1\r\n*0\r\n:1\r\n", b"*1\r\n" * 5000, b"HTTP/1.1 400\r\n", b":x\r\n", b"*?\r\n"])
def test_unreadable(data: bytes) -> None:
    """So are a map with lists for keys, lists within lists without end, and another protocol."""
    parser = PurePythonParser()
    parser.feed(data)
    with pytest.raises(redis.exceptions.InvalidResponse):
        parser.gets()


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_same_commands(command: list[str | int]) -> None:
    """Commands are encoded to the same bytes."""
    assert resp.pack(tuple(command)) == resp.pack_in_python(tuple(command))
