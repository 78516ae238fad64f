"""How the log of the commands that serve looks.

cyclopts reads the annotations while it runs, so ``from __future__ import annotations`` is left out.
"""

import datetime as dt
import json
import logging
import sys
from typing import Annotated, Any, Literal, TypeAlias

import attrs
from cyclopts import Parameter

from stateful_route._log import EVENT, PACKAGE, PREFIX
from stateful_route.cli.options import SHARED

LogFormat: TypeAlias = Annotated[
    Literal["text", "json"],
    Parameter(help="how the log looks on stderr: text, or an object of JSON in each line; text by default"),
]


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class LogOptions:
    """How the log looks."""

    log_format: LogFormat = "text"


class JsonLines(logging.Formatter):
    """Makes a record an object of JSON, in a line: when, level, logger, message, and what the package adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name == EVENT or name.startswith(PREFIX)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(log_format: str, who: str = "stateful-route") -> None:
    """Log to stderr, of the package from INFO on, of others from WARNING on; a line of text begins with ``who``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(f"{who}: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger(PACKAGE).setLevel(logging.INFO)


def of_uvicorn(log_format: str) -> dict[str, Any]:
    """Return what uvicorn is told of its own log: as JSON its lines are among ours."""
    return {"log_config": None} if log_format == "json" else {}
