"""Somebody else's text: what of it may go to a terminal, and the code in a Markdown answer."""

from __future__ import annotations

import re
import sys
from typing import TextIO

__all__ = ["CONTROL", "extract", "plain"]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, without tab and line feed: a terminal takes some of them for commands."""
# In a list the block is indented.
_FENCED = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^`\n]*\n(.*?)^[ \t]*\2[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)


def plain(text: str, to: TextIO | None = None) -> str:
    """Return somebody else's text as it may be printed: it must not steer a terminal; in a file it stays what it is.

    Args:
        text: A model's, or a server's.
        to: Where it goes; None is stdout.
    """
    return CONTROL.sub("", text) if (to or sys.stdout).isatty() else text


def extract(text: str) -> str:
    """Return the first fenced block of a Markdown text, without its fences; the whole text if there is none."""
    found = _FENCED.search(text)
    return re.sub(f"^{found[1]}", "", found[3].rstrip("\n"), flags=re.MULTILINE) if found else text
