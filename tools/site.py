"""Build the docs site into build/site/html: ``python -m tools.site``, or ``make site``.

The pages are those that are read on GitHub, with their relative links. They are copied into a folder with the same
layout, together with the pictures and the source files that they link to (a source file becomes a page), and zensical
makes the site of that. Then all links, anchors and assets of the site are looked at. Exits with 1 if one is broken, or
comes from another host.
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
CONFIG = "zensical.toml"
FOLDERS = "docs", "benchmarks", "examples"
"""Where pages are, besides the root of the repository."""

_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_SRC = re.compile(r"""\b(?:src|srcset|href)=["']([^"'#]+)["']""")
_CODE_IN_ROW = re.compile(r"^\|.*`.*\\\|.*$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PICTURES = {".png", ".svg", ".jpg", ".webp", ".gif"}
_LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".json": "json",
    ".lua": "lua",
    ".sh": "sh",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
_LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
}
_IN_STYLES = re.compile(
    r"url\(\s*[\"']?\s*((?:https?:)?//[^)\"']+)|@import\s+[\"']((?:https?:)?//[^\"']+)"
    r"|(?:xlink:href|<image[^>]* href)=[\"']((?:https?:)?//[^\"']+)"
)


class SiteError(Exception):
    """The site cannot be built, or has faults."""


def pages(root: Path) -> list[Path]:
    """Return the pages of a repository, relative to its root."""
    found = [*root.glob("*.md"), *(page for folder in FOLDERS for page in (root / folder).rglob("*.md"))]
    return sorted(page.relative_to(root) for page in found if not _hidden(page.relative_to(root)))


def _hidden(page: Path) -> bool:
    return any(part.startswith(".") or part == "node_modules" for part in page.parts)


def stage(root: Path, source: Path) -> None:
    """Copy the pages of a repository, and what they link to, into a folder.

    Raises:
        SiteError: a page links to a file that is not there, or is not in the repository.
    """
    shutil.rmtree(source, ignore_errors=True)
    for page in pages(root):
        text = (root / page).read_text(encoding="utf-8")
        brought = functools.partial(_brought, root, page, source)
        for target in _SRC.findall(text):
            if Path(target).suffix in _PICTURES:
                brought(target)
        text = _LINK.sub(functools.partial(_linked, brought), text)
        copy = source / page
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_CODE_IN_ROW.sub(_as_is, text), encoding="utf-8")


def _linked(brought: Callable[[str], str], link: re.Match[str]) -> str:
    return link[1] + brought(link[2]) + link[3]


def _as_is(row: re.Match[str]) -> str:
    """Return a row of a table without the backslashes that GitHub wants before a bar in code, and zensical shows."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), row[0])


def _brought(root: Path, page: Path, source: Path, target: str) -> str:
    """Copy a file that a page links to, and return how the copy of the page links to it.

    A picture is copied as it is, text as a page that shows it; other pages are copied anyway. A folder is its README.
    """
    if urlsplit(target).scheme or target.endswith(".md"):
        return target
    file = (root / page.parent / unquote(target)).resolve()
    if (file / "README.md").is_file():
        return f"{target.rstrip('/')}/README.md"
    if not file.is_file() or not file.is_relative_to(root):
        raise SiteError(f"{page} links to {target}, which is no file of the repository")
    name = file.relative_to(root)
    copy = source / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in _PICTURES:
        shutil.copyfile(file, copy)
        return target
    try:
        content = file.read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError:
        raise SiteError(f"{page} links to {target}, which is neither a picture nor text") from None
    language = _LANGUAGES.get(file.suffix, "text")
    text = f"# {name.name}\n\n`{name}`\n\n~~~~{language}\n{content}\n~~~~\n"
    copy.with_name(f"{file.name}.md").write_text(text, encoding="utf-8")
    return f"{target}.md"


def build(root: Path, folder: Path) -> Path:
    """Build the site of a repository in a folder, and return where its pages are.

    Raises:
        SiteError: zensical refuses something; the text is what it says.
    """
    stage(root, folder / "source")
    shutil.rmtree(folder / "html", ignore_errors=True)
    shutil.copyfile(root / CONFIG, folder / CONFIG)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(folder / CONFIG)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        said = _COLOUR.sub("", run.stdout + run.stderr)
        raise SiteError(said.partition("Traceback")[0].strip() or said)
    return folder / "html"


@attrs.define
class Seen:
    """What a page of the site has."""

    links: list[str] = attrs.field(factory=list)
    loaded: list[str] = attrs.field(factory=list)
    anchors: set[str] = attrs.field(factory=set)
    styles: str = ""


class _Reader(HTMLParser):
    """Notes the links, the anchors, and what is loaded with the page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self._in_style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        known = {name: value for name, value in attributes if value is not None}
        self._in_style = tag == "style"
        self.seen.anchors |= {known[name] for name in ("id", "name") if name in known}
        self.seen.styles += known.get("style", "")
        if tag == "a" and "href" in known:
            self.seen.links.append(known["href"])
        if tag == "link" and known.get("rel") in {"canonical", "next", "prev", "alternate"}:
            return  # a browser does not load these
        self.seen.loaded += [known[name] for name in _LOADED.get(tag, ()) if name in known]

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an element."""
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        """Note the text of a style sheet."""
        if self._in_style:
            self.seen.styles += data


def faults(html: Path) -> list[str]:
    """Return what is wrong with a site, one line each: links and anchors that are broken, assets of other hosts."""
    seen = {page.resolve(): _read(page) for page in sorted(html.rglob("*.html"))}
    found = [fault for page, content in seen.items() for fault in _faults_of(html.resolve(), page, content, seen)]
    for sheet in sorted([*html.rglob("*.css"), *html.rglob("*.svg")]):
        found += [f"{sheet.relative_to(html)} loads {url}" for url in _foreign(sheet.read_text(encoding="utf-8"))]
    return found


def _read(page: Path) -> Seen:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.seen


def _foreign(styles: str) -> list[str]:
    return ["".join(found) for found in _IN_STYLES.findall(styles)]


def _faults_of(html: Path, page: Path, content: Seen, seen: dict[Path, Seen]) -> Iterator[str]:
    name = page.relative_to(html)
    for url in [*(url for url in content.loaded if _is_foreign(url)), *_foreign(content.styles)]:
        yield f"{name} loads {url}"
    for url in [*content.links, *(url for url in content.loaded if not _is_foreign(url))]:
        if page.name != "404.html" and not _is_foreign(url) and (fault := _broken(html, page, url, seen)):
            yield f"{name} links to {url}: {fault}"


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme not in {"", "data", "javascript"}


def _broken(html: Path, page: Path, url: str, seen: dict[Path, Seen]) -> str | None:
    """Return what is wrong with a link within the site, or ``None``."""
    parts = urlsplit(url)
    if parts.scheme:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(html) or not target.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in seen and anchor not in seen[target].anchors:
        return "there is no such anchor"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Build the site, and say where it is or what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "site", help="folder to build in")
    options = parser.parse_args(arguments)
    folder = options.into.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        html = build(options.root.resolve(), folder)
        wrong = faults(html)
    except SiteError as error:
        wrong = [str(error)]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    print(f"{len(list(html.rglob('*.html')))} pages: {html / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
