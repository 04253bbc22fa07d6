"""Numbers of tokens without a tokenizer: an estimate, and a number that a text surely reaches.

Kluster.ai serves models with five different vocabularies, none of which can be had without a download.
"""

from __future__ import annotations

import re

__all__ = ["at_least", "estimate"]

_LONGEST = 48  # characters; vocabularies hold few longer words
_LETTER = re.compile(r"[\w\u2e80-\U0010ffff]")


def estimate(text: str) -> int:
    """Return about how many tokens a text has: a quarter of its UTF-8 bytes, the usual rule for English."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def at_least(text: str) -> int:
    """Return a number of tokens that a text has at the least: a token holds no more than one word.

    Rules such as `=====` count nothing, for a hundred signs may be one token. Used to refuse a prompt that cannot fit;
    it must not refuse one that does, so it counts low.
    """
    return sum(-(-len(word) // _LONGEST) for word in text.split() if _LETTER.search(word))
