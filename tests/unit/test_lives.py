"""The name of a life as text, and what is in the file of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import InvalidArgumentError, Life
from stateful_route.lives import LifeRecord
from stateful_route.store import PodLife

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: not text.isspace())
LIFE = Life("prod", "room", 0, 1_790_000_000_000_000)
RECORD = LifeRecord(life=LIFE, lease=5.0, pid=4711, started=123, host="a boot, and namespaces")


def test_text() -> None:
    """The text of a life names its parts, percent-encoded, with a slash between them."""
    assert "prod/room/0/1790000000000000" == str(LIFE)
    assert "a%2Fb/%25/3/7" == str(Life("a/b", "%", 3, 7))
    assert PodLife(3, 7) == Life("a/b", "%", 3, 7).of_pod


@given(IDS, IDS, st.integers(0, 2**31 - 1), st.integers(1, 2**53 - 1))
def test_text_and_back(namespace: str, service_name: str, pod_index: int, incarnation: int) -> None:
    """What a life is written as is read as the same life, as text and as JSON, and without white space."""
    life = Life(namespace, service_name, pod_index, incarnation)

    assert life == Life.parse(str(life)) == Life.from_json(life.to_json())
    assert 1 == len(str(life).split())


NO_TEXTS = """ /room/0/1 prod//0/1 prod/%FF/0/1 prod/room/0 prod/room/0/1/2 prod/room/zero/1 prod/room/-1/1
prod/room/0/0 prod/room/0/-1 prod/room/0/1.0 prod/room/0/9007199254740992 prod/room/2147483648/1"""


@pytest.mark.parametrize(
    "text",
    [
        *NO_TEXTS.split(),
        "",
        f"prod/room/0/{'1' * 5000}",
        "prod/room/0/1 ",
        "prod/room/\N{ARABIC-INDIC DIGIT THREE}/1",
        None,
        b"a/b/0/1",
        7,
        LIFE,
    ],
)
def test_no_text_of_a_life(text: object) -> None:
    """What is not the text of a life is an InvalidArgumentError, whatever it is."""
    with pytest.raises(InvalidArgumentError):
        Life.parse(text)  # type: ignore[arg-type]  # a user might


@pytest.mark.parametrize(
    "parts", [("", "room", 0, 1), ("prod", None, 0, 1), ("prod", "room", True, 1), ("prod", "room", 0, 0), (1, 2, 3, 4)]
)
def test_no_life(parts: tuple[object, ...]) -> None:
    """A life has valid parts."""
    with pytest.raises(InvalidArgumentError):
        Life(*parts)  # type: ignore[arg-type]  # a user might


def test_record() -> None:
    """A record is JSON that names its life by the text, and is read as it was written."""
    assert RECORD == LifeRecord.from_json(RECORD.to_json())
    assert '"life":"prod/room/0/1790000000000000"' in RECORD.to_json()


@pytest.mark.parametrize("cut", range(1, len(RECORD.to_json())))
def test_half_a_record(cut: int) -> None:
    """A record that is cut off anywhere is none."""
    with pytest.raises(InvalidArgumentError):
        LifeRecord.from_json(RECORD.to_json()[:-cut])


@pytest.mark.parametrize(
    "change",
    [
        {"life": "room"},
        {"life": None},
        {"life": 7},
        {"pid": 0},
        {"pid": "7"},
        {"pid": True},
        {"started": -1},
        {"host": ""},
        {"lease": 0},
        {"lease": None},
    ],
    ids=str,
)
def test_no_record(change: dict[str, object]) -> None:
    """A record has valid parts."""
    with pytest.raises(InvalidArgumentError):
        LifeRecord.from_dict(RECORD.to_dict() | change)
