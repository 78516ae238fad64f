"""Write docs/reference.md from the docstrings: ``python -m tools.reference``, or ``make reference``.

The page has the names in ``__all__`` of the public modules (``MODULES``), with their signatures,
and their public methods and properties.
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import itertools
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import stateful_route
import stateful_route.forwarding
import stateful_route.load
import stateful_route.ops
import stateful_route.placement
import stateful_route.store
import stateful_route.testing
import stateful_route.travel
import stateful_route.web
from stateful_route import errors
from stateful_route.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
HEAD = """\
# Reference

The public names of the package, from its docstrings. `make reference` writes this page: do not edit it. The
[README](../README.md) shows what the names are for, and [settings.md](settings.md) has the settings;
[semantics](semantics.md) has the rules behind them.
"""
MODULES = (
    stateful_route,
    stateful_route.forwarding,
    stateful_route.travel,
    stateful_route.placement,
    stateful_route.load,
    stateful_route.store,
    stateful_route.ops,
    stateful_route.web,
    stateful_route.testing,
)
HEADINGS = (
    "Classes and functions",
    "Sources of uids",
    "Strategies and load sources",
    "Values",
    "Enumerations",
    "Types",
    "Protocols",
    "Errors",
)

_PACKAGE = "stateful_route"
_APPS = {stateful_route.web.StickyMiddleware, stateful_route.web.StickyGateway, stateful_route.web.StickyDecide}
_STARS = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
_WIDTH = 100  # of a signature
_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises):$", re.MULTILINE)
_ENTRY = re.compile(r"^(\S[^:]*): ", re.MULTILINE)


def page() -> str:
    """Return the text of the page."""
    lines = [HEAD]
    for module in MODULES:
        values = {name: getattr(module, name) for name in module.__all__ if not name.startswith("_")}
        groups: dict[str, dict[str, Any]] = {heading: {} for heading in HEADINGS}
        for name, value in values.items():
            groups[_heading(value)][name] = value
        lines += [f"## {module.__name__}\n", _text(module.__doc__)]
        for heading, group in groups.items():
            if group:
                lines += [f"**{heading}**\n", *(f"- [{name}](#{name.lower()})" for name in group), ""]
        for heading, group in groups.items():
            if heading == "Errors" and group:
                lines.append(_text(errors.__doc__))
            for name, value in group.items():
                lines += _entry(name, value)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _heading(value: Any) -> str:
    """Return the one of ``HEADINGS`` under which a name stands."""
    if not inspect.isclass(value):
        return "Types" if isinstance(value, str) else "Classes and functions"
    first_that_fits = {
        "Errors": issubclass(value, stateful_route.StatefulRouteError),
        "Enumerations": issubclass(value, enum.Enum),
        "Protocols": getattr(value, "_is_protocol", False),
        "Sources of uids": issubclass(value, stateful_route.web.UidSource),
        "Classes and functions": value in _APPS,
        "Strategies and load sources": "__call__" in _names(value),
        "Values": attrs.has(value) and value is not stateful_route.ServiceView,  # which has methods, and a driver
    }
    return next((heading for heading, fits in first_that_fits.items() if fits), "Classes and functions")


def _names(value: type) -> set[str]:
    """Return what a class has from the package: of its own, and of its bases there, without what is private."""
    names = {name for each in _bases(value) for name in vars(each)}
    return {name for name in names if not name.startswith("_") or name in {"__call__", "__init__"}}


def _bases(value: type) -> list[type]:
    return [each for each in value.__mro__ if each.__module__.split(".")[0] == _PACKAGE]


def _entry(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of one public name."""
    yield f"\n### {name}\n"
    if isinstance(value, str):
        origin = next(each for each in _modules() if name in _texts_after(each))
        yield f"```python\n{name} = {value}\n```\n"
        yield _text(_texts_after(origin)[name])
    elif inspect.isclass(value):
        yield from _class(name, value)
    else:
        yield _signature(name, value)
        yield _text(value.__doc__)


def _class(name: str, value: type) -> Iterator[str]:
    if issubclass(value, enum.Enum):
        docs = _texts_after(sys.modules[value.__module__], name)
        yield _text(value.__doc__)
        yield "\n".join(f"- `{member}`: {_text(docs[member])}" for member in value.__members__) + "\n"
    else:
        if (signature := _constructor(name, value)) is not None:
            yield signature
        yield _text(value.__doc__)
        if signature is not None and inspect.isfunction(vars(value).get("__init__")) and not attrs.has(value):
            yield _text(inspect.getdoc(value.__init__))
        if value in _APPS:
            yield _web_settings(value)
    yield from _members(name, value)


def _web_settings(app: type) -> str:
    """Return the arguments of an app of the web part: the fields of its settings, with the texts below them."""
    module = sys.modules["stateful_route.web.settings"]
    settings = getattr(module, app.__annotations__["_settings"])
    texts = {name: text for each in _bases(settings) for name, text in _texts_after(module, each.__name__).items()}
    fields = sorted(attrs.fields(settings), key=lambda field: field.kw_only)
    entries = [textwrap.indent(f"{each.alias}: {texts[each.name]}", "    ").lstrip() for each in fields]
    return _text("Args:\n" + textwrap.indent("\n".join(entries), "    "))


def _members(owner: str, value: type) -> Iterator[str]:
    """Yield what is public of a class, the methods of the class itself first."""
    seen: set[str] = set()
    if not getattr(value, "_is_protocol", False) and _names(Store) <= _names(value):
        seen |= _names(Store)
        yield "It has the methods of [Store](#store).\n"
    for each in _bases(value):
        for name, member in vars(each).items():
            if (name.startswith(("_", "test_")) and name != "__call__") or name in seen:
                continue
            seen.add(name)
            doc = inspect.getdoc(getattr(value, name, None)) if callable(member) else inspect.getdoc(member)
            if isinstance(member, property):
                yield f"\n#### {owner}.{name}\n"
                returned = inspect.signature(member.fget).return_annotation if member.fget is not None else ""
                yield f"`{_annotation(returned)}`. {_text(doc)}"
            elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
                yield f"\n#### {owner}.{name.strip('_')}\n"
                dotted = "" if name == "__call__" else f".{name}"
                yield _signature(owner + dotted, member)
                yield _text(doc)


def _constructor(name: str, value: type) -> str | None:
    """Return how an object is made, or ``None`` if only the package makes them."""
    if getattr(value, "_is_protocol", False) or value is stateful_route.BaseConfig:
        return None
    if attrs.has(value):
        parameters = [_field(field) for field in attrs.fields(value) if field.init]
        # attrs takes what is by position before what is by name.
        by_position = [text for text, keyword in parameters if not keyword]
        by_name = [text for text, keyword in parameters if keyword]
        return _laid_out(name, [*by_position, *(["*"] if by_name else []), *by_name], "")
    if "__init__" not in _names(value):
        return None if issubclass(value, Exception) else _laid_out(name, [], "")
    signature = inspect.signature(value)
    named = {word for parameter in signature.parameters.values() for word in _words(parameter.annotation)}
    if named & _private_classes():
        return None
    return _laid_out(name, _parameters(signature), "")


def _field(field: Any) -> tuple[str, bool]:
    """Return a field of an attrs class as a parameter, and whether it is given by name."""
    text = f"{field.alias}: {_annotation(field.type)}"
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # it is a class
        made = getattr(field.default.factory, "__name__", "...")
        text += f" = {made}()" if made != "<lambda>" else " = ..."
    elif field.default is not attrs.NOTHING:
        text += f" = {_default(field.default)}"
    return text, field.kw_only


def _signature(name: str, value: Any) -> str:
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    signature = inspect.signature(function)
    parameters = _parameters(signature)
    if not isinstance(value, staticmethod) and parameters[:1] in (["self"], ["cls"]):
        parameters = parameters[1:]
    returned = (
        "" if signature.return_annotation is signature.empty else f" -> {_annotation(signature.return_annotation)}"
    )
    inner = inspect.unwrap(function)
    if inner is not function and (inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner)):
        kind = "async with " if inspect.isasyncgenfunction(inner) else "with "
        return _laid_out(f"{kind}{name}", parameters, re.sub(r" -> \w+\[(.*)\]", r" as \1", returned))
    return _laid_out(f"{'await ' if inspect.iscoroutinefunction(function) else ''}{name}", parameters, returned)


def _parameters(signature: inspect.Signature) -> list[str]:
    texts: list[str] = []
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            texts.append("*")
        starred |= parameter.kind in {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL}
        text = _STARS.get(parameter.kind.name, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        texts.append(text)
    return texts


def _laid_out(name: str, parameters: list[str], returned: str) -> str:
    """Return a signature as code, on one line if it has room."""
    line = f"{name}({', '.join(parameters)}){returned}"
    if len(line) > _WIDTH:
        line = f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){returned}"
    return f"```python\n{line}\n```\n"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    """Return a default as one would write it; the address of a function is no help."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, frozenset):  # which has another order in each process
        return f"{{{', '.join(sorted(map(repr, value)))}}}" if value else "frozenset()"
    return repr(value)


def _words(annotation: Any) -> set[str]:
    return set(re.findall(r"\w+", _annotation(annotation)))


def _modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.split(".")[0] == _PACKAGE]


@functools.cache
def _private_classes() -> frozenset[str]:
    """Return the names of the classes of the package that no user names."""
    own = {
        name
        for module in _modules()
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    return frozenset(own.difference(*(module.__all__ for module in MODULES)))


@functools.cache
def _texts_after(module: ModuleType, owner: str | None = None) -> dict[str, str]:
    """Return the texts that stand below assignments in a module or a class, which Python itself forgets."""
    body: list[ast.stmt] = ast.parse(inspect.getsource(module)).body
    if owner is not None:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner)
    texts = {}
    for node, after in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[target.id] = inspect.cleandoc(str(after.value.value))
    return texts


def _text(doc: str | None) -> str:
    """Return a docstring as Markdown: its sections as lists."""
    prose, *sections = _SECTION.split(inspect.cleandoc(doc or ""))
    parts = [_marked_up(prose.strip())]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        entries = textwrap.dedent(body.split("\n\n")[0].strip("\n") if title != "Raises" else body.strip("\n"))
        parts.append(f"{title}:\n\n{_marked_up(_ENTRY.sub(_as_item, entries))}")
    return "\n\n".join(parts) + "\n"


def _as_item(found: re.Match[str]) -> str:
    return f"- `{found[1]}`: "


def _marked_up(text: str) -> str:
    """Return text of a docstring with the marks of Markdown for code."""
    return re.sub(r"``(.+?)``", r"`\1`", re.sub(r"^::$\n?", "", text, flags=re.MULTILINE), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
