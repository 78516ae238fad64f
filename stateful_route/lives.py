"""The name of one life of a pod, and what a process tells of itself so that its death can be proven."""

from __future__ import annotations

import re
from typing import Any, Self
from urllib.parse import quote, unquote

import attrs

from stateful_route import _json
from stateful_route._validation import (
    MAX_EXACT_INT,
    as_float,
    check_count,
    check_duration,
    check_id,
    check_int,
    check_pod_index,
    checked,
)
from stateful_route.errors import InvalidArgumentError
from stateful_route.pods import PodLife

SUFFIX = ".life"
"""With this ends the name of a file of a life, which no other file in its folder has."""

_PARTS = 4
_NUMBER = re.compile(r"[0-9]{1,16}")  # the incarnation is below 2^53
_FORM = "namespace/service/pod index/incarnation, percent-encoded"


@attrs.frozen
class Life(_json.JsonForm):
    """The name of one life of a pod: no other life, of whatever process, ever has it.

    ``str(life)`` is its text form, for example ``prod/room/0/1790000000000000``, and ``Life.parse`` reads that.

    Attributes:
        namespace: the isolation domain.
        service_name: the stateful service.
        pod_index: the ordinal of the pod, from 0.
        incarnation: which of its lives, from 1.

    Raises:
        InvalidArgumentError: naming the field of a wrong type or range.

    """

    namespace: str = attrs.field(validator=checked(check_id))
    service_name: str = attrs.field(validator=checked(check_id))
    pod_index: int = attrs.field(validator=checked(check_pod_index))
    incarnation: int = attrs.field(validator=checked(check_int, 1, MAX_EXACT_INT))

    def __str__(self) -> str:
        names = (quote(name, safe="") for name in (self.namespace, self.service_name))
        return "/".join([*names, str(self.pod_index), str(self.incarnation)])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            InvalidArgumentError: if it is no such text, or naming the field of a wrong range.

        """
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) != _PARTS or not all(_NUMBER.fullmatch(part) for part in parts[2:]):
            raise InvalidArgumentError("life", text, _FORM)
        try:
            namespace, service_name = (unquote(name, errors="strict") for name in parts[:2])
        except UnicodeDecodeError:
            raise InvalidArgumentError("life", text, _FORM) from None
        return cls(namespace, service_name, int(parts[2]), int(parts[3]))

    @property
    def of_pod(self) -> PodLife:
        """The same without the names of namespace and service."""
        return PodLife(self.pod_index, self.incarnation)


def _as_life(value: Any) -> Any:
    return Life.parse(value) if isinstance(value, str) else value


def check_life(argument: str, value: object) -> None:
    """Refuse what is not a ``Life``."""
    if not isinstance(value, Life):
        raise InvalidArgumentError(argument, value, _FORM)


@attrs.frozen(kw_only=True)
class LifeRecord(_json.JsonForm):
    """Which life a process has, and which process that is: what is in the file of a life.

    Attributes:
        life: the life.
        lease: in how many seconds at most it ends by itself once the process is gone.
        pid: the id of the process.
        started: when the process was started, in ticks of its kernel since the boot: no two with one id have the same.
        host: the boot of the kernel and the namespaces in which these numbers mean something.

    """

    life: Life = attrs.field(converter=_as_life, validator=checked(check_life))
    lease: float = attrs.field(converter=as_float, validator=checked(check_duration))
    pid: int = attrs.field(validator=checked(check_int, 1, 2**31 - 1))
    started: int = attrs.field(validator=checked(check_count))
    host: str = attrs.field(validator=checked(check_id))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dict, the life as its text."""
        return super().to_dict() | {"life": str(self.life)}
