"""The docs site: all pages are in it and in its navigation, no link is broken, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools import site

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / site.CONFIG).read_text(encoding="utf-8"))["project"]
ELEMENTS = "h1", "h2", "h3", "h4", "li", "pre", "td", "img"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # it takes 3 s where nobody else is busy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, strictly, and return where its pages are."""
    pytest.importorskip("zensical")
    return site.build(ROOT, tmp_path_factory.mktemp("site"))


def named(navigation: Any) -> Iterator[str]:
    """Yield the pages of the navigation."""
    if isinstance(navigation, str):
        yield navigation
    for part in navigation if isinstance(navigation, list) else []:
        for below in part.values():
            yield from named(below)


def test_navigation() -> None:
    """Each page of docs/ is in the navigation once, under its own name: add what is missing to zensical.toml."""
    there = list(named(CONFIG["nav"]))
    docs = {str(page) for page in site.pages(ROOT) if page.parts[0] == "docs"}

    assert set() == docs - set(there), "in no navigation"
    assert [] == [page for page in there if not (ROOT / page).is_file()]
    assert len(set(there)) == len(there)
    assert ["Start", "Tutorial", "Concepts", "How-to", "Frameworks", "Reference", "Promises", "Comparison"] == [
        name for part in CONFIG["nav"] for name in part
    ]


def test_built(built: Path) -> None:
    """No link and no anchor of the built pages is broken, and no script, style, font or picture is of another host."""
    pages = list(built.rglob("*.html"))

    assert len(pages) >= len(site.pages(ROOT))
    assert [] == site.faults(built)
    assert False is CONFIG["theme"]["font"]


def test_scripts_that_would_be_loaded(built: Path) -> None:
    """What makes the scripts of the theme load something from elsewhere is in no page."""
    wanted = re.compile(r"class=\"(?:[^\"]* )?(?:mermaid|pyodide|glightbox)[ \"]|data-md-component=\"source\"")

    assert [] == [page.name for page in built.rglob("*.html") if wanted.search(page.read_text(encoding="utf-8"))]


def test_as_on_github(built: Path) -> None:
    """Each page has the headings, lists, code and tables that GitHub makes of it."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    differ = []
    for page in site.pages(ROOT):
        made = built / page.with_suffix(".html")
        article = (made.with_name("index.html") if page.name == "README.md" else made).read_text(encoding="utf-8")
        article = article[article.index("<article") : article.index("</article>")]
        expected = markdown.render((ROOT / page).read_text(encoding="utf-8"))
        for element in ELEMENTS:
            counts = [len(re.findall(f"<{element}[ >/]", text)) for text in (expected, article)]
            if counts[0] != counts[1]:
                differ.append(f"{page}: {counts[0]} {element} on GitHub, {counts[1]} in the site")

    assert [] == differ


BROKEN = {
    "[x](docs/missing.md)": ["missing.md"],
    "[x](docs/there.md#nowhere)": ["nowhere"],
    "![x](missing.png)": ["missing.png"],
    "[x](../../outside.py)": ["outside.py"],
}
FOREIGN = """
<img src="https://cdn.example/1.png">
<script src="//cdn.example/2.js"></script>
<div style="background: url(https://cdn.example/3.png)">x</div>
<link rel="stylesheet" href="https://cdn.example/4.css">
<style>@import 'https://cdn.example/5.css';</style>
![x](x.svg)
[a link](https://elsewhere.example/) loads nothing.
"""
GOOD = "[x](docs/there.md#here), [y](docs), ![z](z.png)"
FOUND = BROKEN | {FOREIGN: [f"cdn.example/{number}" for number in range(1, 7)], GOOD: []}


@pytest.mark.parametrize("text", FOUND, ids=["no page", "no anchor", "no picture", "outside", "foreign", "good"])
def test_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """What is broken, or comes from another host, fails the build with its name; what is there does not."""
    pytest.importorskip("zensical")
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text(f"# Start\n\n{text}\n", encoding="utf-8")
    for name in ("there.md", "README.md"):
        (root / "docs" / name).write_text("# There\n\n## Here\n", encoding="utf-8")
    (root / "z.png").write_bytes(b"")
    (root / "x.svg").write_text("<svg><style>@font-face {src: url(https://cdn.example/6.woff)}</style></svg>", "utf-8")
    config = re.sub(r"nav = \[.*?\n\]\n", "", (ROOT / site.CONFIG).read_text(encoding="utf-8"), flags=re.DOTALL)
    (root / site.CONFIG).write_text(config, encoding="utf-8")
    status = site.main(["--root", str(root), "--into", str(tmp_path / "built")])
    said = capsys.readouterr()

    assert (1 if FOUND[text] else 0) == status, said.err
    assert [] == [name for name in FOUND[text] if name not in said.err]
    assert "elsewhere" not in said.err
