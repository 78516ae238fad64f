"""The JSON form that the value classes share: an object with camelCase names."""

from __future__ import annotations

import enum
import functools
import json
from typing import Any, Self

import attrs

from stateful_route.errors import InvalidArgumentError


@functools.cache
def camel_case(name: str) -> str:
    """Return the JSON name of a field: ``pod_index`` becomes ``podIndex``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def parse(text: str | bytes, what: str) -> Any:
    """Parse strict JSON (no NaN, no Infinity).

    Raises:
        InvalidArgumentError: if ``text`` is not JSON; ``what`` names it.

    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgumentError(what, text, "JSON text") from error


class JsonForm:
    """Gives an attrs class ``to_json()`` and ``from_json(text)``.

    Names are camelCase. Unknown names are ignored, so that a newer release can add fields.
    A missing name takes the default of its field. The validators of the class check the types.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dict."""
        form: dict[str, Any] = {}
        for field in attrs.fields(type(self)):  # type: ignore[arg-type]  # only attrs classes inherit this
            value = getattr(self, field.name)
            if isinstance(value, JsonForm):
                value = value.to_dict()
            form[camel_case(field.name)] = value.value if isinstance(value, enum.Enum) else value
        return form

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read the JSON form from a dict.

        Raises:
            InvalidArgumentError: naming the field, in camelCase, that is missing or wrong.

        """
        if not isinstance(data, dict):
            raise InvalidArgumentError(cls.__name__, data, "a JSON object")
        arguments: dict[str, Any] = {}
        for field in attrs.fields(cls):  # type: ignore[arg-type]  # only attrs classes inherit this
            name = camel_case(field.name)
            if name in data:
                arguments[field.name] = data[name]
            elif field.default is attrs.NOTHING:
                raise InvalidArgumentError(name, None, "a value: the field is required")
        try:
            return cls(**arguments)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(camel_case(error.argument), error.value, error.allowed) from error

    def to_json(self) -> str:
        """Return the JSON form as text, without white space."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form from text.

        Raises:
            InvalidArgumentError: if it is not JSON, or naming the field that is missing or wrong.

        """
        return cls.from_dict(parse(text, cls.__name__))
