"""The log of the package: each record has a text for people, and the name of what happened and its values for programs.

The values are attributes of the record, each below ``stateful_route.``, as those of the spans are: whatever a record
has from elsewhere, of ``logging`` itself or of a factory of the application, is never in the way.
"""

from __future__ import annotations

import enum
import logging
import math
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from typing import Self

EVENT = "otel.event.name"
"""The attribute of a record that has the name: that of OpenTelemetry, which knows it by this name."""

PACKAGE = "stateful_route"
"""The name of the logger of the whole package."""

PREFIX = f"{PACKAGE}."
"""What the names of events and fields begin with."""

AS_IN_SPANS = {"pod_name": "pod.name", "pod_index": "pod.index", "service_name": "service"}
"""What fields are called that the spans have too."""


class Told(str):
    """A text for people, such as the words for a pod, and the fields that say the same to programs."""

    __slots__ = ("fields",)
    fields: Mapping[str, object]

    def __new__(cls, text: str, **fields: object) -> Self:
        """Say ``text``, with these fields in its place."""
        told = super().__new__(cls, text)
        told.fields = fields
        return told


class Log:
    """Logs events with their fields.

    Each method takes the name of the event, a text with places for fields such as ``%(uid)r``, and the fields, which
    are more than the text shows at will. If the level is off, nothing else is done with them.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, text: str, /, **fields: object) -> None:
        """Log at DEBUG."""
        self._write(logging.DEBUG, event, text, fields)

    def info(self, event: str, text: str, /, **fields: object) -> None:
        """Log at INFO."""
        self._write(logging.INFO, event, text, fields)

    def warning(self, event: str, text: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Log at WARNING; with the traceback of ``exc_info`` if there is one."""
        self._write(logging.WARNING, event, text, fields, exc_info)

    def error(self, event: str, text: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Log at ERROR; with the traceback of ``exc_info`` if there is one."""
        self._write(logging.ERROR, event, text, fields, exc_info)

    def exception(self, event: str, text: str, /, **fields: object) -> None:
        """Log at ERROR, with the traceback of the error that is being handled."""
        self._write(logging.ERROR, event, text, fields, sys.exception())

    def log(
        self, level: int, event: str, text: str, /, *, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Log at that level."""
        self._write(level, event, text, fields, exc_info)

    def _write(
        self, level: int, event: str, text: str, fields: dict[str, object], exc_info: BaseException | None = None
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        extra: dict[str, Any] = {EVENT: PREFIX + event}
        if exc_info is not None:
            _add(extra, "error", exc_info)
        for name, value in fields.items():
            _add(extra, name, value)
        shown = {name: _in_a_line(value) for name, value in fields.items()}
        # The caller is the third: this function is the first, the method that it called the second.
        self._logger.log(level, text, *([shown] if shown else ()), exc_info=exc_info, extra=extra, stacklevel=3)


def _add(extra: dict[str, Any], name: str, value: object) -> None:
    """Add a field in a form that JSON and OpenTelemetry can carry; one without a value is left out."""
    if isinstance(value, Told):
        for inner, within in value.fields.items():
            _add(extra, inner, within)
        return
    key = PREFIX + AS_IN_SPANS.get(name, name)
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, BaseException):
        extra[key + "_type"] = type(value).__name__
    if value is not None:
        extra[key] = value if isinstance(value, str | int | float) else _text(value)


def _text(value: object) -> str:
    try:
        return str(value) or repr(value)
    except Exception:  # noqa: BLE001 - of the application's error, or load source: a log raises nothing
        return f"<{type(value).__name__} without a text>"


class _Escaped(str):
    """A text that shows its control characters escaped; its ``repr`` does so anyway."""

    __slots__ = ()

    def __str__(self) -> str:
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in self)


def _in_a_line(value: object) -> object:
    """Return what the text shows of a value, which cannot end the line, nor steer a terminal."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else _text(value)
    return text if text.isprintable() else _Escaped(text)


class LogOnce:
    """Tells which of many lines that say the same are logged: the first about each thing, until that is over.

    With ``every`` another one comes after so many seconds, and with ``most`` there are no more lines in that time about
    all things; then what is remembered is of twice as many things.
    """

    def __init__(
        self, *, every: float = math.inf, most: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Have logged nothing; ``clock`` is in seconds, and does not go back."""
        self._every = every
        self._most = most
        self._clock = clock
        self._began, self._lines = -math.inf, 0
        self._logged: dict[Hashable, tuple[float, int]] = {}
        """When a line about a thing was logged last, and how many came since."""

    def __len__(self) -> int:
        return len(self._logged)

    def others(self, about: Hashable = None) -> int | None:
        """Return how many lines were left out since the last one; ``None`` if this one is left out too."""
        now = self._clock()
        if now - self._began >= self._every:
            self._began, self._lines = now, 0
            if len(self._logged) >= self._most:
                self._logged = {thing: seen for thing, seen in self._logged.items() if now - seen[0] < self._every}
        at, others = self._logged.get(about, (-math.inf, 0))
        if now - at < self._every or self._lines >= self._most:
            if about in self._logged:
                self._logged[about] = at, others + 1
            return None
        self._lines += 1
        self._logged[about] = now, 0
        return others

    def first(self, about: Hashable = None) -> bool:
        """Return whether to log a line."""
        return self.others(about) is not None

    def level(self, about: Hashable = None) -> int:
        """Return the level of a line: WARNING for the first, DEBUG for those that say the same."""
        return logging.WARNING if self.first(about) else logging.DEBUG

    def over(self, about: Hashable = None) -> bool:
        """Take in that a thing is over, so that the next line is a first one; return whether one was logged."""
        return self._logged.pop(about, None) is not None


log = Log(logging.getLogger(PACKAGE))
"""That of the package."""

_OF_SERVERS = "uvicorn.error", "gunicorn.error", "hypercorn.error", "_granian"


def shown_log() -> Log:
    """Return a log that shows INFO: that of the package, or of the web server if nobody has configured that."""
    loggers = [logging.getLogger(name) for name in (PACKAGE, *_OF_SERVERS)]
    shown = (one for one in loggers if one.hasHandlers() and one.isEnabledFor(logging.INFO))
    return Log(next(shown, loggers[0]))
