"""Look at each page of the built site in Chromium: nothing is clipped, wider than the window, or broken within a word.

The Copy button of a block of commands copies the commands alone.

`make docs` runs it on `site/`; with a folder as its argument it also writes pictures of four pages there. It exits with
1 and names page, width and text of what it finds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.emulator.browser import CHROMIUM, Browser
from tests.pages import ROOT

__all__: list[str] = []

SITE = ROOT / "site"
WIDTHS = (1400, 390)
SHOWN = ("index.html", "langchain.html", "reference/core.html", "limits-and-prices.html")
# A block of Python scrolls on a phone, and so does a table; at 1400 pixels all of a block is there to see. Code may
# break within a word only where it has no space and is wider than the column.
FIND = r"""(() => {
  const found = [], wide = innerWidth > 600
  const name = (element) => element.textContent.trim().slice(0, 60)
  if (document.documentElement.scrollWidth > innerWidth + 1) {
    const culprit = [...document.querySelectorAll(".md-content *")].find(
      (one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest("pre, table"))
    found.push(`wider than the window: ${culprit ? culprit.tagName + " " + name(culprit) : "?"}`)
  }
  for (const code of document.querySelectorAll(".md-content pre > code"))
    if (code.scrollWidth > code.clientWidth + 1 && (wide || code.closest(".output, .highlight:has(.gp)"))) {
      const over = code.textContent.split("\n").sort((a, b) => b.length - a.length)[0]
      found.push(`clipped: ${over}`)
    }
  const copied = (text) => {
    if (text.split("\n").some((line) => !line || line.startsWith("$ "))) found.push(`the Copy button copies: ${text}`)
    return Promise.resolve()
  }
  Object.defineProperty(navigator, "clipboard", { value: { writeText: copied, write: copied }, configurable: true })
  for (const button of document.querySelectorAll(".highlight:has(.gp) button[data-md-type=copy]")) button.click()
  for (const code of document.querySelectorAll(".md-content :not(pre) > code")) {
    if (!code.getClientRects().length || code.getClientRects().length < 2) continue
    const column = code.closest("p, li, td, th, h1, h2, h3, h4, dd, dt, div").clientWidth
    const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT)
    const rects = (node, word, start) => {
      const range = document.createRange()
      range.setStart(node, start + word.index)
      range.setEnd(node, start + word.index + word[0].length)
      return [...range.getClientRects()]
    }
    for (let node; (node = walker.nextNode()); ) for (const whole of node.data.matchAll(/\S+/g)) {
      if (rects(node, whole, 0).reduce((sum, rect) => sum + rect.width, 0) > 0.9 * column) continue
      for (const word of whole[0].matchAll(/\w+/g))
        if (new Set(rects(node, word, whole.index).map((rect) => Math.round(rect.top))).size > 1)
          found.push(`a word is broken: ${word[0]} in ${name(code)}`)
    }
  }
  return [...new Set(found)]
})()"""


def main(pictures: Path | None) -> int:
    if CHROMIUM is None:
        print("Chromium is not installed: the pages are not looked at.")
        return 1 if os.environ.get("CI") else 0
    pages = sorted(path for path in SITE.rglob("*.html") if path.name != "404.html")
    found = 0
    with Browser() as browser:
        for width in WIDTHS:
            size = {"width": width, "height": 1200 if width > 600 else 844}
            browser.do("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=width < 600)
            for page in pages:
                browser.open(page.as_uri())
                where = page.relative_to(SITE).as_posix()
                for text in browser.js(FIND):
                    found += 1
                    print(f"{where} at {width} pixels: {text}")
                if pictures and where in SHOWN:
                    browser.screenshot(pictures / f"{where.replace('/', '-').removesuffix('.html')}-{width}.png")
    print(
        f"{len(pages)} pages at {' and '.join(map(str, WIDTHS))} pixels: {found or 'no'} lines clipped or words broken."
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
