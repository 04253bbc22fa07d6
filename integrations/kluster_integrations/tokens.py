"""Numbers of tokens without a tokenizer: an estimate, and a number that a text surely reaches.

Kluster.ai serves models with five different vocabularies, none of which can be had without a download.
"""

from __future__ import annotations

import re

__all__ = ["at_least", "estimate"]

_WORD = re.compile(r"\S{1,16}")


def estimate(text: str) -> int:
    """Return about how many tokens a text has: a quarter of its UTF-8 bytes, the usual rule for English."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def at_least(text: str) -> int:
    """Return a number of tokens that a text has at the least: a token holds no more than one word, or part of one.

    Used to refuse a prompt that cannot fit; it must not refuse one that does, so it counts low.
    """
    return sum(1 for _ in _WORD.finditer(text))
