"""Reads the project's Markdown pages: blocks, headings, links. Standard library only, for the release check too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from .tree import ROOT

__all__ = ["PAGES", "ROOT", "Block", "Link", "anchors", "blocks", "links", "prose", "tables"]

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?:<!-- (?:no-run: *(?P<reason>\S[^\n]*?)|no-output: *(?P<silent>\S[^\n]*?)|file: *(?P<file>\S+)) *-->\n+)?"
    r"(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(
    r"(?<!!)\[(?:[^\[\]]|\[[^\[\]]*\])*\]\((?P<target>[^()\s]+)(?: \"[^\"]*\")?\)|<(?P<url>https?://[^>\s]+)>"
)
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)(?: +\{ *#(?P<id>[\w-]+) *\})?$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: The number of the line before its first.
        language: The word behind the fence.
        code: What is in it.
        reason: Why it does not run, from `<!-- no-run: it needs a deployment -->` in the line before it; else None.
        silent: Why what it prints is not shown, from `<!-- no-output: it varies -->` in the line before it; else None.
        file: The file that the page's commands find it in, from `<!-- file: a.py -->` in the line before it; else None.
    """

    line: int
    language: str
    code: str
    reason: str | None = None
    silent: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Link:
    """A link, and the line that it is in."""

    line: int
    target: str


def blocks(text: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page, those in these languages or all."""
    found = [
        Block(
            line=text.count("\n", 0, match.start("code")),
            language=match["language"].strip(),
            code=match["code"],
            reason=match["reason"],
            silent=match["silent"],
            file=match["file"],
        )
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def prose(text: str) -> str:
    """Return a page with its blocks and inline code blanked out, line by line in place."""
    text = _BLOCK.sub(lambda match: "\n" * match.group().count("\n"), text)
    return re.sub(r"`[^`\n]+`", "``", text)


def links(text: str) -> Iterator[Link]:
    """Yield the links of a page."""
    text = prose(text)
    for match in _LINK.finditer(text):
        yield Link(text.count("\n", 0, match.start()) + 1, match["target"] or match["url"])


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs makes them."""
    text = _BLOCK.sub("", text)
    return {match["id"] or _slug(match["text"]) for match in _HEADING.finditer(text)}


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def tables(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of a page: each a list of rows, which map a column's heading to the cell."""
    found: list[list[dict[str, str]]] = []
    lines = _BLOCK.sub("", text).splitlines()
    for number, line in enumerate(lines[:-1]):
        if line.startswith("|") and re.fullmatch(r"\|(?: *:?-+:? *\|)+", lines[number + 1]):
            found.append(_rows(_cells(line), lines[number + 2 :]))
    return found


def _rows(headings: list[str], lines: list[str]) -> list[dict[str, str]]:
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(headings, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
