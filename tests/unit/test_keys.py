"""The keys: distinct for distinct parts, in one slot for one uid, and readable."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from stateful_route.store.redis.keys import KeySpace, encode

HOSTILE = st.text(
    st.sampled_from("{}:%*?[]\\^ \t\n-_/a%7B") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
)
PARTS = st.tuples(HOSTILE, HOSTILE, HOSTILE)
KEYS = KeySpace()


def all_keys(keys: KeySpace, parts: tuple[str, str, str]) -> list[str]:
    namespace, _, service = parts
    pod_keys = keys.pod_keys(namespace, service)
    return [
        keys.link(*parts),
        *pod_keys,
        keys.services(namespace),
        keys.events(namespace, service),
        keys.history(*parts),
    ]


@given(PARTS, PARTS)
@example(("a", "b}:c", "d"), ("a", "b", "c:d"))
@example(("a:b", "c", "d"), ("a", "b:c", "d"))
@example(("a", "%3A", "d"), ("a", ":", "d"))
def test_distinct_links(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    """Different parts never give the same key of a link."""
    assert (first == second) == (KEYS.link(*first) == KEYS.link(*second))


@given(PARTS, PARTS)
def test_distinct_kinds(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    """A key of one kind is never one of another kind, and is distinct within its kind."""
    same_service = first[::2] == second[::2]
    relevant = [first == second, *[same_service] * 3, first[0] == second[0], same_service, first == second]
    mine, others = all_keys(KEYS, first), all_keys(KEYS, second)

    assert relevant == [mine[i] == others[i] for i in range(7)]
    assert 7 == len(set(mine))
    assert all(mine[i] != others[j] for i in range(7) for j in range(7) if i != j)


@given(PARTS, HOSTILE)
def test_one_slot(parts: tuple[str, str, str], service: str) -> None:
    """All of a uid (links, marks, histories) is in one slot of a cluster, and so is all that is kept of a service."""
    namespace, uid, _ = parts
    keys = [KEYS.link(*parts), *KEYS.of_links(namespace, service).link_and_ended(uid)]
    keys.append(KEYS.history(namespace, uid, service))

    assert 1 == len({key_slot(key.encode()) for key in keys})
    assert 1 == len({key_slot(key.encode()) for key in KEYS.pod_keys(namespace, service)})


@given(PARTS)
def test_beside(parts: tuple[str, str, str]) -> None:
    """From the key of a link follow those of what lies beside it."""
    namespace, uid, service = parts
    names = KEYS.of_links(namespace, service)

    assert (*names.link_and_ended(uid), KEYS.history(*parts)) == KEYS.beside(KEYS.link(*parts))


@given(PARTS)
def test_shape(parts: tuple[str, str, str]) -> None:
    """A key has one hash tag, which is not empty, no white space, and nothing that a pattern of SCAN takes for one."""
    for key in all_keys(KEYS, parts)[:4]:
        assert re.fullmatch(r"sr2:(link|pods|versions|deadlines):\{[^{}]+\}(:[^{}]+)?", key)
    for key in all_keys(KEYS, parts):
        assert not re.search(r"[\s*?\[\]\\^\x00-\x1f\x7f]", key)


@given(PARTS, PARTS, st.integers(3, 20))
def test_generations(first: tuple[str, str, str], second: tuple[str, str, str], generation: int) -> None:
    """Two generations of the layout never share a key."""
    assert not set(all_keys(KEYS, first)) & set(all_keys(KeySpace(generation), second))


@pytest.mark.parametrize("part", ["alice", "user-17", "a@b.example", "3f2c_9", "r\u00e9union/\u4e2d", "a,b;c=d&e|f~g!"])
def test_readable(part: str) -> None:
    """Ordinary ids stay as they are."""
    assert part == encode(part)


@pytest.mark.parametrize(
    ("part", "encoded"),
    [("a:b", "a%3Ab"), ("{}", "%7B%7D"), ("100%", "100%25"), ("a b\n", "a%20b%0A"), ("\u2028", "%E2%80%A8")],
)
def test_encoded(part: str, encoded: str) -> None:
    """What has a meaning is percent-encoded, as UTF-8."""
    assert encoded == encode(part)


def test_layout() -> None:
    """The layout is the one that the module documents."""
    assert [
        "sr2:link:{prod:alice}:room",
        "sr2:pods:{prod:room}",
        "sr2:versions:{prod:room}",
        "sr2:deadlines:{prod:room}",
        "sr2:services:prod",
        "sr2:events:0:prod:room",
        "sr2:history:{prod:alice}:room",
    ] == all_keys(KEYS, ("prod", "alice", "room"))
