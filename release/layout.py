"""Look at each page of the built site in Chromium, on a desk, a tablet and a phone, and in dark colors.

layout.js says what is wrong on a page: what is clipped, broken, squeezed, misaligned or hard to read, and what the Copy
buttons copy. Each page has a title and a description of its own, loads nothing from another host, and the search finds
what is typed, all without a server.

`make docs` runs it on `site/`; with a folder as its argument it also writes pictures of four pages there. It exits with
1 and names page, width and text of what it finds.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.emulator.browser import CHROMIUM, Browser
from tests.pages import ROOT

__all__: list[str] = []

SITE = ROOT / "site"
WIDTHS = (1400, 820, 390)
SHOWN = ("index.html", "langchain.html", "reference/core.html", "limits-and-prices.html")
FIND = (ROOT / "release" / "layout.js").read_text("utf-8")
HEAD = """["title: " + document.title, "description: " + document.querySelector("meta[name=description]").content]"""
SEARCH = """[...document.querySelectorAll("*")].map((one) => one.shadowRoot?.querySelector("dialog")).find(Boolean)"""
LOADED = """performance.getEntriesByType("resource").map((one) => one.name).filter((name) => name.startsWith("http"))"""


def looked_at(browser: Browser, pages: list[Path], pictures: Path | None) -> Iterator[str]:
    """Yield what is wrong on the pages, at each width in light colors, and at the first one in dark colors."""
    heads: dict[str, list[str]] = defaultdict(list)
    for width, scheme in [*((width, "light") for width in WIDTHS), (WIDTHS[0], "dark")]:
        browser.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 1200 if width > 600 else 844}
        browser.do("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=width < 600)
        for page in pages:
            where = page.relative_to(SITE).as_posix()
            if scheme == "dark" and where not in SHOWN:  # the colors are the same on all pages
                continue
            browser.open(page.as_uri())
            for text in browser.js(FIND):
                yield f"{where} at {width} pixels in {scheme} colors: {text}"
            if pictures and where in SHOWN:
                name = where.replace("/", "-").removesuffix(".html")
                browser.screenshot(pictures / f"{name}-{width}-{scheme}.png")
            if (width, scheme) == (WIDTHS[0], "light"):
                yield from (f"{where} loads {address}" for address in browser.js(LOADED))
                for head in browser.js(HEAD):
                    heads[head].append(where)
    yield from (f"{', '.join(names)} have the same head: {head}" for head, names in heads.items() if len(names) > 1)


def search(browser: Browser) -> None:
    """Type two words into the search of the first page.

    Raises:
        AssertionError: If a page is not among those that it finds for a word.
    """
    for word, page in (("BudgetExceededError", "concepts/budget.html"), ("--replies", "emulator.html")):
        browser.open((SITE / "index.html").as_uri())
        browser.until(SEARCH)
        browser.js("document.querySelector('.md-search__button').click()")
        browser.until("document.activeElement.shadowRoot?.activeElement?.tagName === 'INPUT'")
        browser.do("Input.insertText", text=word)
        browser.until(f"[...{SEARCH}.querySelectorAll('a')].some((link) => link.href.includes('/{page}?'))")


def main(pictures: Path | None) -> int:
    if CHROMIUM is None:
        print("Chromium is not installed: the pages are not looked at.")
        return 1 if os.environ.get("CI") else 0
    pages = sorted(path for path in SITE.rglob("*.html") if path.name != "404.html")
    found = 0
    with Browser() as browser:
        for text in looked_at(browser, pages, pictures):
            found += 1
            print(text)
        search(browser)
    print(f"{len(pages)} pages at {', '.join(map(str, WIDTHS))} pixels: {found or 'no'} faults.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
