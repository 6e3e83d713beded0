"""Which files of the repository are pages of the site, and where their links lead there."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

#: Files of the repository, as shell patterns, and the folder of the site that their path begins with instead.
SOURCES = (
    ("docs/**/*.md", "docs", ""),
    ("README.md", "", ""),
    ("CHANGELOG.md", "", ""),
    ("models/*/README.md", "models", "models"),
    ("feature_repo/README.md", "", ""),
    ("benchmarks/*/*.md", "benchmarks", "benchmarks"),
    ("notebooks/*.ipynb", "notebooks", "notebooks"),
)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_ATTRIBUTE = re.compile(r'(?P<name>src|srcset|href)="(?P<target>[^"]+)"')
_ELSEWHERE = re.compile(r"[a-z]+:|#|/")


def page_of(path: str) -> str | None:
    """Where a file of the repository stands in the site; None: nowhere."""
    if path == "README.md":
        return "index.md"
    if path == "docs/README.md":
        return "documents.md"
    for pattern, folder, place in SOURCES:
        if fnmatch.fnmatch(path, pattern.replace("**/", "*")):
            inner = PurePosixPath(path).relative_to(folder)
            if inner.name == "README.md" and inner.parent.name not in {"", "decisions"}:
                inner = inner.parent.with_suffix(".md")
            return str(PurePosixPath(place) / inner.with_suffix(".md"))
    return None


def lay_out(root: Path, folder: Path, written: Mapping[str, str]) -> list[str]:
    """Write all pages, with the pictures that they show.

    Args:
        written: Pages that are no files of the repository: text by place in the site.

    Returns:
        Links that lead nowhere, one line each.
    """
    problems: list[str] = []
    files = sorted({path for pattern, _, _ in SOURCES for path in root.glob(pattern)})
    for file in files:
        name = file.relative_to(root).as_posix()
        if (page := page_of(name)) is not None:
            text = notebook_text(file) if file.suffix == ".ipynb" else file.read_text("utf-8")
            _write(folder / page, relinked(text, _Links(root, folder, name, page, written, problems)))
    for place, text in written.items():
        _write(folder / place, text)
    for asset in root.glob("docs/assets/*"):
        _copy(asset, folder / asset.relative_to(root / "docs"))
    return problems


def configuration(root: Path, folder: Path) -> str:
    """MkDocs' configuration: that of the repository, its menu's shell patterns filled in."""
    menu = yaml.safe_load((root / "mkdocs.yml").read_text("utf-8"))["nav"]
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    own = {"INHERIT": "../mkdocs.yml", "docs_dir": "docs", "site_dir": "site", "nav": _filled(menu, there)}
    return yaml.safe_dump(own, sort_keys=False, allow_unicode=True)


def _filled(entry: Any, there: list[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _filled(inner, there) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [each for inner in entry for each in _each(inner, there)]
    return entry


def _each(entry: Any, there: list[str]) -> Iterator[Any]:
    if isinstance(entry, str) and "*" in entry:
        yield from fnmatch.filter(there, entry)
    else:
        yield _filled(entry, there)


class _Links:
    """Where one page's links lead: to a page of the site, to a picture beside it, or out of it."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        name: str,
        place: str,
        written: Mapping[str, str],
        problems: list[str],
    ) -> None:
        self._root, self._folder, self._name, self._place = root, folder, name, place
        self._written, self._problems = written, problems

    def __call__(self, target: str) -> str | None:
        """The address to write; None: the file is no part of the site."""
        if _ELSEWHERE.match(target):
            return target
        path, mark, anchor = target.partition("#")
        found = os.path.normpath(PurePosixPath(self._name).parent / path)
        inside = os.path.relpath(found, "docs")
        if inside in self._written:
            return self._from_here(inside) + mark + anchor
        if not (self._root / found).exists():
            self._problems.append(f"{self._name}: {target} leads nowhere")
            return target
        if (page := page_of(found)) is not None:
            return self._from_here(page) + mark + anchor
        if found.endswith((".png", ".svg", ".webp", ".gif")):
            picture = inside if found.startswith("docs/") else found
            _copy(self._root / found, self._folder / picture)
            return self._from_here(picture)
        return None

    def _from_here(self, place: str) -> str:
        return os.path.relpath(place, PurePosixPath(self._place).parent)


def relinked(text: str, address: Callable[[str], str | None]) -> str:
    """The page with each link's address replaced, but for code; a link without one becomes its text."""

    def link(found: re.Match[str]) -> str:
        if found.string.count("`", 0, found.start()) % 2:
            return found.group()  # inside of code
        new = address(found["target"])
        if new is None:
            return found["text"]
        # A picture may be the text of a link.
        words = _LINK.sub(link, found["text"]) if "](" in found["text"] else found["text"]
        return f"{found['image']}[{words}]({new})"

    def attribute(found: re.Match[str]) -> str:
        return f'{found["name"]}="{address(found["target"]) or "#"}"'

    lines, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            line = _ATTRIBUTE.sub(attribute, _LINK.sub(link, line))
        lines.append(line)
    return "\n".join(lines)


def notebook_text(path: Path) -> str:
    """A notebook's cells as Markdown, without outputs."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
