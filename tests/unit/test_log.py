"""Records of the log: what each has, for people and for programs, and what cannot go wrong with it."""

from __future__ import annotations

import enum
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import ServerDriver, StoreUnavailableError
from stateful_route._log import EVENT, PREFIX, Log, Told, log
from stateful_route.cli.logs import JsonLines
from stateful_route.errors import InvalidArgumentError
from stateful_route.instrumentation import LinkChanged, LogEvents, Teller, Why
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeServer

AWAY = StoreUnavailableError("away", operation="heartbeat", maybe_applied=False)
POD = {"namespace": NAMESPACE, "service": SERVICE, "pod.index": 0, "pod.name": "room-0"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record, and the event, without the name of the package."""
    found = {name.removeprefix(PREFIX): value for name, value in vars(record).items() if name.startswith(PREFIX)}
    return {"event": vars(record)[EVENT].removeprefix(PREFIX)} | found


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Provide what returns the fields of all that was logged at INFO or above."""
    with caplog.at_level(logging.INFO, "stateful_route"):
        yield lambda: [fields_of(record) for record in caplog.records if record.name == "stateful_route"]


class TestFacts:
    async def test_life_of_a_pod(
        self, make_server: MakeServer, store: MemoryStore, told: Callable[[], list[dict[str, Any]]]
    ) -> None:
        """A pod registers, its heartbeats fail and succeed again, it drains: each record says which pod, and what."""
        async with make_server() as server:
            await server.claim("alice")
            store.fail_with(AWAY, "heartbeat")
            await server._heartbeats.beat()
            store.fail_with(None)
            await server._heartbeats.beat()
            incarnation = server.incarnation
            await server.drain()
        registered, failed, recovered, began, ended = told()

        assert {"event": "pod_registered", "incarnation": incarnation, "lease": CONFIG.lease} | POD == registered
        assert {
            "event": "heartbeats_failed",
            "error": str(AWAY),
            "error_type": "StoreUnavailableError",
        } | POD == failed
        assert {"event": "heartbeats_recovered"} | POD == recovered
        assert {"event": "drain_began", "uids": 1} | POD == began
        assert 0 <= ended.pop("seconds") < 5
        assert {"event": "drain_ended", "uids": 1} | POD == ended

    async def test_new_life(
        self, make_server: MakeServer, store: MemoryStore, told: Callable[[], list[dict[str, Any]]]
    ) -> None:
        """A pod that the store has lost says so, with what the store had said."""
        async with make_server() as server:
            store.lose_all()
            await server._heartbeats.beat()
            await eventually(lambda: len(told()) > 2)

        assert {"event": "life_lost", "uids": 0, "outcome": "unknown"} | POD == told()[1]

    async def test_hand_off(
        self, store: MemoryStore, caplog: pytest.LogCaptureFixture, told: Callable[[], list[dict[str, Any]]]
    ) -> None:
        """A record with a traceback has the error as fields as well; of many the others are counted."""

        def hand_off(uid: str) -> None:
            raise ValueError(uid)

        async with ServerDriver(store, room(0), CONFIG, hand_off=hand_off) as server:
            await server.claim("alice")
            await server.claim("bob")
            await server.drain()
        (one, more) = [fields for fields in told() if fields["event"].startswith("hand_off")]
        traceback = next(record for record in caplog.records if record.exc_info)

        assert one["uid"] in {"alice", "bob"}
        assert {
            "event": "hand_off_failed",
            "uid": one["uid"],
            "error": one["uid"],
            "error_type": "ValueError",
        } == one
        assert {"event": "hand_offs_failed", "uids": 1} == more
        assert f"ValueError: {one['uid']}" in logging.Formatter().format(traceback)


class TestRecord:
    def test_where(self, caplog: pytest.LogCaptureFixture) -> None:
        """A record names the line that logs, whichever method it calls."""
        log.warning("one", "one")
        log.error("one", "one")
        log.exception("one", "one")
        log.log(logging.ERROR, "one", "one")
        first = TestRecord.test_where.__code__.co_firstlineno

        assert ["test_where"] * 4 == [record.funcName for record in caplog.records]
        assert [2, 3, 4, 5] == [record.lineno - first for record in caplog.records]

    def test_level_is_off(self) -> None:
        """What nobody wants is not even made a text."""

        class Never:
            def __str__(self) -> str:
                raise AssertionError

        logger = logging.getLogger("of this test")
        logger.setLevel(logging.ERROR)
        Log(logger).warning("one", "%(value)s", value=Never())

    @pytest.mark.parametrize("hostile", ["a\nWARNING forged", "a\r\x1b[2J", "a\u2028b", "a\x00", "\ud800", "a\x85b"])
    def test_hostile(self, hostile: str, caplog: pytest.LogCaptureFixture) -> None:
        """No value makes a second line, or steers a terminal; the field has it as it came; JSON is a line of ASCII."""
        pod = Told(f"pod 0 ({hostile})", pod_name=hostile)
        error = ValueError(hostile)
        log.warning("one", "%(uid)r %(name)s %(pod)s %(error)s", uid=hostile, name=hostile, pod=pod, error=error)
        (record,) = caplog.records
        line = JsonLines().format(record)

        assert record.getMessage().isprintable()
        assert repr(hostile) in record.getMessage()
        assert [hostile] * 4 == [vars(record)[PREFIX + name] for name in ("uid", "name", "pod.name", "error")]
        assert line.isascii()
        assert line.isprintable()
        assert hostile == json.loads(line)[PREFIX + "uid"]

    def test_values(self, caplog: pytest.LogCaptureFixture) -> None:
        """Fields are what JSON can carry; one without a value is left out; an error without a text has its type."""

        class Kind(enum.Enum):
            FAST = "fast"

        log.error("one", "%(none)s", none=None, kind=Kind.FAST, flag=True, path=[1, 2], error=TimeoutError())
        (record,) = caplog.records

        assert {
            "event": "one",
            "kind": "fast",
            "flag": True,
            "path": "[1, 2]",
            "error": "TimeoutError()",
            "error_type": "TimeoutError",
        } == fields_of(record)
        assert "None" == record.getMessage()

    def test_no_text(self, caplog: pytest.LogCaptureFixture) -> None:
        """A value of the application that has no text, as that raises, is no error of who logs it."""

        class BrokenError(Exception):
            def __str__(self) -> str:
                raise ValueError

        log.error("one", "%(error)s", error=BrokenError())
        (record,) = caplog.records

        assert "<BrokenError without a text>" == record.getMessage() == fields_of(record)["error"]

    @pytest.mark.parametrize(
        "name", ["name", "args", "message", "module", "process", "thread", "msg", "exc_text", "asctime"]
    )
    def test_own_names(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        """A field may have the name of an attribute that each record has."""
        log.warning("one", f"%({name})s", **{name: "mine"})  # type: ignore[arg-type]  # none is exc_info
        (record,) = caplog.records

        assert "mine" == record.getMessage() == fields_of(record)[name]

    def test_factory(self, caplog: pytest.LogCaptureFixture) -> None:
        """A record factory of the application that sets attributes of its own is not in the way."""
        real = logging.getLogRecordFactory()

        def factory(*args: Any, **more: Any) -> logging.LogRecord:
            record = real(*args, **more)
            vars(record).update(pod="mine", uid="mine", error="mine", event="mine")
            return record

        logging.setLogRecordFactory(factory)
        try:
            log.warning("one", "%(uid)s", uid="alice")
        finally:
            logging.setLogRecordFactory(real)
        (record,) = caplog.records

        assert ("mine", "alice") == (vars(record)["uid"], fields_of(record)["uid"])

    def test_opentelemetry(self) -> None:
        """The handler of OpenTelemetry has the event and the fields as attributes."""
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk import _logs as sdk  # noqa: PLC0415 - of an extra

        record = logging.makeLogRecord({EVENT: "stateful_route.one", f"{PREFIX}uid": "alice", "msg": "one"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is a newer one, in a package of its own
            handler = sdk.LoggingHandler(logger_provider=sdk.LoggerProvider())
        attributes = dict(handler._get_attributes(record) or {})

        assert ("stateful_route.one", "alice") == (attributes[EVENT], attributes[f"{PREFIX}uid"])


class TestLogEvents:
    CHANGED = LinkChanged(namespace="n", service_name="s", uid="a", why=Why.PLACED, pod_index=0, epoch=1)

    def test_logger(self, caplog: pytest.LogCaptureFixture) -> None:
        """Events go to the logger that is given, at the level that is given, and name the method."""
        caplog.set_level(logging.DEBUG)
        Teller(LogEvents(level=17, logger=logging.getLogger("audit"))).link_changed(self.CHANGED)
        (record,) = caplog.records

        assert ("audit", 17, "link_changed") == (record.name, record.levelno, record.funcName)
        assert "'a' of 's' was placed: pod 0 has it, at epoch 1" == record.getMessage()

    @pytest.mark.parametrize(
        "wrong",
        [{"level": "INFO"}, {"level": 0}, {"busy_level": True}, {"logger": "audit"}, {"logger": logging.LoggerAdapter}],
    )
    def test_refused(self, wrong: Any) -> None:
        """A level that is no number, and what is no logger, are refused."""
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            LogEvents(**wrong)
