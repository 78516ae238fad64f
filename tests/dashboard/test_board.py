"""What is kept of a service, and the messages that bring a page there."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stateful_route import StoreUnavailableError
from stateful_route.dashboard.board import PageBoard
from stateful_route.ops import Change, ChangeKind, PodSeen
from stateful_route.ops.board import KEPT_POINTS
from stateful_route.ops.story import KEPT, LINKS_TOLD, PODS_TOLD, Story
from tests.dashboard.seen import announced, moved, pod, pods

AWAY = StoreUnavailableError("it is away", operation="read_pods", maybe_applied=False)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> PageBoard:
    return PageBoard("prod", "room", interval=1.0, clock=clock)


def told(board: PageBoard, known: int = 0) -> dict[str, Any]:
    board.publish()
    message = board.message(known)
    assert message is not None
    data: dict[str, Any] = json.loads(message)
    return data


def kinds(story: Story) -> list[str]:
    return [event["kind"] for event in story.take_new(0.0)]


class TestStory:
    """What has happened."""

    @pytest.mark.parametrize(
        ("before", "after", "kind"),
        [
            (pod(), pod(state="DENY_NEW_CALL"), "denies"),
            (pod(), pod(state="DENY_NEW_CALL", draining=True), "drains"),
            (pod(state="DENY_NEW_CALL"), pod(), "ready"),
            (pod(), pod(state="SHUTDOWN"), "left"),
            (pod(), pod(state="SILENT"), "silent"),
            (pod(state="SILENT"), pod(), "heard"),
            (pod(state="SILENT"), pod(state="DEAD"), "dead"),
            (pod(), pod(incarnation=2), "restarted"),
            (pod(state="DEAD"), pod(incarnation=2), "began"),
            (pod(state="SHUTDOWN"), pod(incarnation=2), "began"),
        ],
    )
    def test_two_looks(self, before: PodSeen, after: PodSeen, kind: str) -> None:
        """What has become of a pod between two looks is told by its name."""
        story = Story()
        story.look(1.0, [before])
        story.look(2.0, [after])

        assert [kind] == kinds(story)

    def test_first_look(self) -> None:
        """At the first look nothing has happened; a pod that comes later has begun, one that is forgotten is none."""
        story = Story()
        story.look(1.0, [pod(0), pod(1, "DEAD")])
        first = kinds(story)
        story.look(2.0, [pod(0), pod(2)])

        assert ([], ["began"]) == (first, kinds(story))

    def test_told_once(self) -> None:
        """What was announced, and is seen at the next look, is told once; a look that was older changes nothing."""
        story = Story()
        story.look(1.0, [pod(0)])
        story.begin_look()
        story.hear(1.1, announced(0, "DEAD"))
        story.look(1.2, [pod(0)])
        story.begin_look()
        story.look(2.0, [pod(0, "DEAD")])

        assert ["dead"] == kinds(story)

    def test_names(self) -> None:
        """A pod is told by the name of the life that it is about, where that is known."""
        story = Story()
        story.look(1.0, [pod(0, pod_name="old"), pod(1)])
        story.hear(1.1, announced(0, "SHUTDOWN"))
        story.hear(1.2, attrs.evolve(announced(0, "READY", incarnation=2), pod_name="new"))
        story.hear(1.3, announced(1, "DEAD"))
        story.look(2.0, [pod(0, incarnation=2, pod_name="new"), pod(1, "DEAD"), pod(2, pod_name="third")])

        assert [("left", "old"), ("began", "new"), ("dead", None), ("began", "third")] == [
            (event["kind"], event["podName"]) for event in story.all()
        ]

    def test_drain(self) -> None:
        """A pod that is announced to deny new calls is then seen to drain, and that it denies them is told once."""
        story = Story()
        story.look(1.0, [pod(0)])
        for at in (1.1, 1.2):
            story.begin_look()
            story.hear(at, announced(0, "DENY_NEW_CALL"))
            story.look(at, [pod(0)])
        for at in (2.0, 3.0):
            story.begin_look()
            story.look(at, [pod(0, "DENY_NEW_CALL", draining=True)])
            story.hear(at, announced(0, "DENY_NEW_CALL"))

        assert ["denies", "drains"] == kinds(story)

    def test_older_life(self) -> None:
        """What is said of a life that is over is no news."""
        story = Story()
        story.look(1.0, [pod(0, incarnation=5)])
        story.hear(1.1, announced(0, "SHUTDOWN", incarnation=4))
        story.look(2.0, [pod(0, "DEAD", incarnation=4)])

        assert [] == kinds(story)

    def test_many(self) -> None:
        """A thousand pods that fall silent, and links that move, are a few events, and push no others out."""
        story = Story()
        story.look(1.0, [pod(index) for index in range(1000)])
        story.look(2.0, [pod(index, "SILENT") for index in range(1000)])
        for number in range(10_000):
            story.hear(2.0, moved(str(number)))
        new = story.take_new(3.0)

        assert PODS_TOLD + LINKS_TOLD + 2 == len(new)
        assert {("pods", 1000 - PODS_TOLD), ("links", 10_000 - LINKS_TOLD)} == {
            (event["kind"], event["count"]) for event in new if "count" in event
        }

    def test_bounded(self) -> None:
        """Only so many are kept, the newest ones, in their order; also if nobody ever takes them."""
        story = Story()
        story.look(0.0, [pod(0)])
        for number in range(3000):
            story.look(number, [pod(0, incarnation=number + 2)])
            story.hear(number, moved(str(number)))
            if number < 1000:
                story.take_new(number)
        kept = story.all()

        assert 2 * KEPT >= len(kept)
        assert sorted(event["id"] for event in kept) == [event["id"] for event in kept]
        assert 2 * KEPT >= len(story.take_new(0.0))


class TestBoard:
    """The messages, the curves, and what is said while Redis is away."""

    @settings(max_examples=50, deadline=None)
    @given(
        some.lists(
            some.tuples(
                some.dictionaries(
                    some.integers(0, 9), some.tuples(some.integers(0, 3), some.sampled_from(["READY", "DEAD"]))
                ),
                some.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def test_messages(self, looks: list[tuple[dict[int, tuple[int, str]], bool]]) -> None:
        """A page that takes each message, or misses some, has what is so."""
        board = PageBoard("prod", "room", interval=1.0, clock=Clock())
        known, rows = 0, {}
        for states, is_read in [*looks, (looks[-1][0], True)]:
            board.take_in(pods(*(pod(index, state, links=links) for index, (links, state) in sorted(states.items()))))
            board.publish()
            if not is_read:
                continue
            message = json.loads(board.message(known) or "{}")
            known = board.number
            if "pods" in message:
                rows = {row["podIndex"]: row for row in message["pods"]}
                continue
            for row in message["changed"]:
                rows[row["podIndex"]] = rows.get(row["podIndex"], {}) | row
            for index in message["gone"]:
                del rows[index]

        assert {index: links for index, (links, _) in looks[-1][0].items()} == {
            index: row["links"] for index, row in rows.items()
        }
        assert None is board.message(board.number)

    def test_only_changes(self, board: PageBoard) -> None:
        """Who knows the last message is told the fields that differ, and no heartbeat that is younger than a second."""
        board.take_in(pods(pod(0), pod(1)))
        told(board)
        board.take_in(pods(pod(0, heartbeat_age=0.9), pod(1, links=9)))

        assert [{"podIndex": 1, "links": 9}] == told(board, 1)["changed"]

    def test_curves(self, board: PageBoard, clock: Clock) -> None:
        """A point has what lives, links, imbalance, and what a second brought; a look that came early makes none."""
        board.hear(Change(kind=ChangeKind.HEARS))
        board.take_in(pods(pod(0, placed_total=10), pod(1, placed_total=5), at=clock.now))
        told(board)
        clock.now += 0.1
        board.hear(moved("alice"))
        board.take_in(pods(pod(0, placed_total=12), pod(1, placed_total=5), at=clock.now))
        early = told(board, 1)["point"]
        clock.now += 1.9
        board.take_in(
            pods(
                pod(0, links=9, placed_total=14),
                pod(1, incarnation=2, placed_total=2),
                pod(2, "DEAD", links=50, placed_total=0),
                at=clock.now,
            )
        )

        assert early is None
        assert [clock.now, 2, 12, 1.5, 3.0, 0.5] == told(board, 2)["point"]

    def test_redis_goes(self, board: PageBoard, clock: Clock) -> None:
        """While Redis is away that is said, once in the time line, with a gap in the curves; then it is back."""
        board.take_in(pods(pod(0, placed_total=1)))
        messages = [told(board)]
        for _ in range(3):
            clock.now += 1
            board.lose(AWAY)
            board.lose_word("no subscription")
            messages.append(told(board, board.number))
        clock.now += 1
        board.hear(Change(kind=ChangeKind.HEARS))
        board.take_in(pods(pod(0, placed_total=900)))
        messages.append(told(board, board.number))

        assert [None, *["read_pods: it is away"] * 3, None] == [message["error"] for message in messages]
        assert [None] * 5 == messages[2]["point"][1:]
        assert [None, None] == messages[4]["point"][4:]
        told_of = [event["kind"] for message in messages[1:] for event in message["events"]]
        assert ["lost", "hears", "back"] == told_of

    def test_bounded(self, board: PageBoard, clock: Clock) -> None:
        """However long it looks, it keeps so much."""
        for number in range(2 * KEPT_POINTS):
            clock.now += 1
            board.take_in(pods(pod(number)))
            board.publish()
        message = json.loads(board.message(0) or "")

        assert (1, KEPT_POINTS) == (len(message["pods"]), len(message["points"]))
        assert KEPT >= len(message["events"])

    def test_hostile(self, board: PageBoard) -> None:
        """Whatever a pod publishes, a message is ASCII on one line, and says the same."""
        name = "</script><img src=x onerror=alert(1)>\r\n\u2028\u202e\x00\ud800é"
        board.take_in(pods(pod(0, zone=name)))
        board.publish()
        message = board.message(0) or ""

        assert message.isascii()
        assert message.isprintable()
        assert name == json.loads(message)["pods"][0]["zone"]

    async def test_wait(self, board: PageBoard) -> None:
        """Who waits goes on at the next message, at the end, or after its time."""
        await board.wait(0, 0.001)
        board.publish()
        await board.wait(0, 60.0)
        board.end()
        await board.wait(1, 60.0)

        assert board.ended
