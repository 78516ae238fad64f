"""How the words of the command line are read: what all commands share.

cyclopts reads the annotations of commands and of their options while it runs, so the modules that have some leave
``from __future__ import annotations`` out.
"""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ParamSpec, TypeAlias

from cyclopts import Parameter, Token

_P = ParamSpec("_P")

_MOST_PORT = 65535

SHARED = Parameter(name="*", show_default=False)
"""Of a class whose fields are options. It has no slots, so that another one can have the fields of several."""


def documented(run: Callable[_P, int]) -> Callable[_P, int]:
    """Mark a function as a command: its docstring is the help, and its paragraphs are broken where the line ends."""
    run.__doc__ = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.getdoc(run) or "")
    return run


def read_by(read: Callable[[str], object]) -> Callable[[Any, Sequence[Token]], object]:
    """Return what makes the value of an option of its text; ``read`` raises ValueError, which says what is allowed."""

    def converter(_: Any, tokens: Sequence[Token]) -> object:
        return read(tokens[-1].value)  # of an option that is given twice the last one counts

    return converter


def port(text: str) -> int:
    """Read the number of a port.

    Raises:
        ValueError: if it is none.

    """
    return whole(text, 1, _MOST_PORT, "a port")


def whole(text: str, least: int, most: int | None = None, what: str = "a whole number") -> int:
    """Read a whole number between two others.

    Raises:
        ValueError: if it is none.

    """
    is_number = text.isascii() and text.isdecimal()
    if not is_number or int(text) < least or (most is not None and int(text) > most):
        bounds = f"from {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{text!r} is not {what} {bounds}")
    return int(text)


def seconds(text: str) -> float:
    """Read a time in seconds from 0.

    Raises:
        ValueError: if it is none.

    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a time in seconds from 0")
    return value


def pause(text: str) -> float:
    """Read a time in seconds above 0.

    Raises:
        ValueError: if it is none.

    """
    value = seconds(text)
    if not value:
        raise ValueError(f"{text!r} is not a time in seconds above 0")
    return value


def host(text: str) -> str:
    """Read an address, or the name of a host.

    Raises:
        ValueError: if it is none.

    """
    try:
        text.encode("idna")
    except UnicodeError:
        raise ValueError(f"{text!r} is not an address or the name of a host") from None
    return text


def path(text: str) -> str:
    """Read a path of a URL.

    Raises:
        ValueError: if it is none.

    """
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is not a path such as /health")
    return text


Count: TypeAlias = Annotated[int, Parameter(metavar="N", converter=read_by(lambda text: whole(text, 1)))]
Host: TypeAlias = Annotated[str, Parameter(metavar="HOST", converter=read_by(host))]
Path: TypeAlias = Annotated[str, Parameter(metavar="PATH", converter=read_by(path))]
Pause: TypeAlias = Annotated[float, Parameter(metavar="SECONDS", converter=read_by(pause))]
PodIndex: TypeAlias = Annotated[
    int, Parameter(metavar="POD", converter=read_by(lambda text: whole(text, 0, what="a pod index")))
]
Port: TypeAlias = Annotated[int, Parameter(metavar="N", converter=read_by(port))]
Seconds: TypeAlias = Annotated[float, Parameter(metavar="SECONDS", converter=read_by(seconds))]
