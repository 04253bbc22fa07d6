"""Every link of the pages leads somewhere. Other sites are listed, not asked."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .pages import PAGES, ROOT, anchors, links

EXTERNAL = {
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org/spec/v2.0.0.html",
    "https://www.kluster.ai",
}
"""Each address on another site that a page may link to, looked at by hand."""


def _rendered(target: Path) -> str:
    return target.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page.read_text("utf-8")):
        url = urlsplit(link.target)
        if url.scheme:
            if link.target not in EXTERNAL:
                wrong.append(f"line {link.line}: {link.target} is not among the known addresses")
            continue
        target = (page.parent / url.path).resolve() if url.path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            wrong.append(f"line {link.line}: no file {url.path}")
        elif url.fragment and url.fragment not in anchors(_rendered(target)):
            wrong.append(f"line {link.line}: no heading #{url.fragment} in {url.path or page.name}")
        elif page.is_relative_to(ROOT / "docs") and not target.is_relative_to(ROOT / "docs"):
            wrong.append(f"line {link.line}: {url.path} is not part of the site")
    assert wrong == []


def test_no_known_address_is_unused() -> None:
    used = {link.target for page in PAGES for link in links(page.read_text("utf-8"))}
    assert used >= EXTERNAL


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    """A page that is not fails `make docs`: put it into `nav` of mkdocs.yml."""
    named = re.findall(r"^ +- .*?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(named) == sorted(pages)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("See [this](a.md#b).", "a.md#b"),
        ("[`code`](x.md)", "x.md"),
        ('[a](b.md "title")', "b.md"),
        ("<https://example.com/x>", "https://example.com/x"),
    ],
)
def test_links_are_found(text: str, target: str) -> None:
    assert [link.target for link in links(text)] == [target]


def test_anchors_are_those_of_the_site() -> None:
    text = "# A title, with `code`\n\n```python\n# no heading\n```\n\n## Own {#mine}\n\n### Tools: 2 ways — native\n"
    assert anchors(text) == {"a-title-with-code", "mine", "tools-2-ways-native"}
