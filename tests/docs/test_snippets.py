"""All Python of the pages can be run as it stands: no name is missing, no import is out of date."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from stateful_route.web import Path as PathSource
from stateful_route.web import StickyMiddleware

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(textwrap.dedent(found[2]), id=f"{page.stem}-{number}")
    for page in PAGES
    if page.name not in {"reference.md", "tutorial.md"}  # from docstrings; run by a shell
    for number, found in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")))
]


class App:
    """Stands for the app of a reader, in the lines that say only how the middleware is added."""

    def add_middleware(self, middleware: type, **settings: Any) -> None:
        middleware(self, **settings)


def test_blocks_are_found() -> None:
    """There are pages with Python, among them those whose programs other tests run."""
    assert len(BLOCKS) > 25


@pytest.mark.parametrize("text", BLOCKS)
def test_snippet(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code runs, up to what its functions do: other tests call those."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")  # nothing connects before an app is started
    names: dict[str, Any] = {"__name__": "of_the_page"}
    if not re.search(r"^(?:import|from) ", text, re.MULTILINE):  # a line out of a program that the page has shown
        names |= {"app": App(), "Path": PathSource, "StickyMiddleware": StickyMiddleware}
    if "my_kit" in text:
        pytest.skip("it needs a store of the reader's own")
    if "VirtualLoop" in text:
        pytest.skip("tests/simulation runs it")
    exec(text, names)  # noqa: S102 - our own page
